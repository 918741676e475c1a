"""A model file opened for use: its engine, its chat template and what its bundle says about answering."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device.engine import load
from device.engine.base import Engine, Settings
from device.engine.chat import ChatTemplate
from device.errors import DeviceError
from device.manifest import TEMPLATE, Manifest

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Model:
    """What score, check, bench and serve work with."""

    engine: Engine
    template: "ChatTemplate | None"
    stop_ids: tuple[int, ...] = ()
    system: str = ""

    def render(self, messages: Messages) -> str:
        """Return the prompt of a conversation as text; the bundle's system prompt comes first where there is none."""
        if self.template is None:
            raise DeviceError("no_template", "this model has no chat template", hint="use /v1/completions", status=400)
        if self.system and messages and messages[0].get("role") != "system":
            messages = [{"role": "system", "content": self.system}, *messages]
        return self.template.render(messages)

    def prompt(self, messages: Messages) -> list[int]:
        """Return the prompt of a conversation as token ids."""
        return self.engine.tokenize(self.render(messages))


def open_bundle(folder: Path, manifest: Manifest, threads: int = 0) -> Model:
    """Open a bundle's model as its manifest says; raise DeviceError."""
    adapter = folder / manifest.adapter if manifest.adapter else None
    settings = Settings(context=manifest.context, threads=threads, kv_type=manifest.kv_type, adapter=adapter)
    return _opened(folder / manifest.model, settings, manifest.stop_ids, manifest.system)


def open_file(path: Path, settings: Settings) -> Model:
    """Open a model file by itself, with the template that lies beside it; raise DeviceError."""
    return _opened(path, settings)


def _opened(path: Path, settings: Settings, stop_ids: tuple[int, ...] = (), system: str = "") -> Model:
    engine = load(path, settings)
    source = _template(path.parent) or engine.chat_template
    template = ChatTemplate(source, engine.special_tokens()) if source else None
    return Model(engine, template, stop_ids, system)


def _template(folder: Path) -> str:
    file = folder / TEMPLATE
    return file.read_text(encoding="utf-8") if file.is_file() else ""
