"""A model file opened for use: its engine, its chat template and its bundle's settings."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device import tuned
from device.engine import load
from device.engine.base import Engine, Picture, Settings
from device.engine.escape import Escape
from device.engine.machine import memory_bytes
from device.engine.states import common
from device.errors import DeviceError
from device.facts import gpus
from device.manifest import TEMPLATE, Manifest
from device.manifest.memory import (
    fitting_context,
    fitting_gpu_layers,
    fitting_slots,
    prefix_cache_bytes,
)
from device.manifest.opening import Messages, begins, opened
from device.manifest.pictures import PARTS
from device.pictures import pictures_of

if TYPE_CHECKING:
    from device.engine.chat import ChatTemplate

_LEAST_PREFIX = 16
"""Minimum number of tokens of a prefix: fewer are not worth a batch of their own."""
_MOST_PREFIXES = 16


@dataclass(frozen=True)
class Prompt:
    """A conversation as token ids."""

    tokens: list[int]
    prefix: int = 0
    """Number of the first tokens, before the first question, with which other conversations begin
    too."""
    # With pictures it ends behind the last one: another question about it reads none of it again.
    pictures: tuple[Picture, ...] = ()
    """Pictures that stand in it: held here, they can be evaluated."""


@dataclass(frozen=True)
class Model:
    """A model with everything that score, check, bench and serve need."""

    engine: Engine
    template: "ChatTemplate | None"
    stop_ids: tuple[int, ...] = ()
    opening: Messages = ()
    """Messages that conversations begin with, unless they have instructions of their own."""
    slots: int = 1
    """Number of answers at the same time that the memory allows."""
    escape: "Escape | None" = None
    """Breaks up control tokens in clients' texts; None if they are parsed."""
    _prefixes: dict[str, tuple[int, ...]] = field(default_factory=dict, repr=False, compare=False)
    _states: dict[tuple[int, ...], bytes] = field(default_factory=dict, repr=False, compare=False)
    """Saved state of the last prefix that `forget` restored."""

    def render(
        self, messages: Messages, now: "datetime | None" = None, tools: Messages = ()
    ) -> str:
        """Return the prompt of a conversation as text, with its opening and its tools.

        It is rendered at `now`; None takes the clock.
        """
        if self.template is None:
            raise DeviceError(
                "no_template",
                "this model has no chat template",
                hint="use /v1/completions",
                status=400,
            )
        shown = self.escape.messages(tools) if self.escape else tools
        conversation = self._escaped(opened(messages, self.opening))
        if self._marker:
            shown = self._marker.messages(shown)
            marker = self.engine.picture_marker
            conversation = [_marked(each, marker) for each in self._marker.messages(conversation)]
        return self.template.render(conversation, now, shown)

    @cached_property
    def _marker(self) -> "Escape | None":
        """Breaks up the marker of a picture in texts and tools: only pictures of ours have one.

        None if the engine sees none.
        """
        marker = self.engine.picture_marker
        return Escape((marker,)) if marker else None

    def _escaped(self, messages: Messages) -> Messages:
        """Return messages without control tokens.

        The opening is the owner's and stays as it was signed.
        """
        if self.escape is None:
            return messages
        known = len(self.opening) if begins(messages, self.opening) else 0
        return [*messages[:known], *self.escape.messages(messages[known:])]

    def prompt(
        self, messages: Messages, now: "datetime | None" = None, tools: Messages = ()
    ) -> Prompt:
        """Return the prompt of a conversation as token ids, and the length of its prefix."""
        pictures = [self.engine.see(image) for image in pictures_of(messages)]
        text = self.render(messages, now, tools)
        if pictures:
            return self._with_pictures(text, pictures)
        tokens = self.engine.tokenize(text)
        prefix = self.prefix(messages, now, tools)
        return Prompt(
            tokens,
            len(prefix)
            if len(prefix) < len(tokens) and tuple(tokens[: len(prefix)]) == prefix
            else 0,
        )

    def _with_pictures(self, text: str, pictures: list[Picture]) -> Prompt:
        """Return a rendered conversation with its pictures in the places of their markers."""
        said, *texts = text.split(self.engine.picture_marker)
        if len(texts) != len(pictures):
            message = f"the chat template shows {len(texts)} of {len(pictures)} pictures"
            raise DeviceError("bad_conversation", message, status=400)
        tokens: list[int] = []
        for picture, text_behind in zip(pictures, texts, strict=True):
            tokens += [*self.engine.tokenize(said + picture.before), *picture.tokens]
            said = picture.behind + text_behind
        rest = self.engine.tokenize(said)
        return Prompt([*tokens, *rest], len(tokens) if rest else 0, tuple(pictures))

    def prefix(
        self, messages: Messages = (), now: "datetime | None" = None, tools: Messages = ()
    ) -> tuple[int, ...]:
        """Return the prefix of a conversation: the tokens with which others begin too.

        Empty if they are few. Tools are part of it: another question to the same ones reads none
        of them again.
        """
        beginning = self._beginning(opened(messages, self.opening))
        # A template may name the day: yesterday's prefix is not today's.
        key = json.dumps([str(now or datetime.now().date()), beginning, list(tools)])
        if key not in self._prefixes:
            while len(self._prefixes) >= _MOST_PREFIXES:
                del self._prefixes[next(iter(self._prefixes))]
            self._prefixes[key] = self._prefix(beginning, now, tools)

        return self._prefixes[key]

    def new_context(self) -> "Model | None":
        """Return the same model on a new context, for another thread; None if its engine has none.

        It is closed before this one.
        """
        engine = self.engine.new_context()
        return replace(self, engine=engine, _prefixes={}, _states={}) if engine else None

    def forget(self, now: "datetime | None" = None, tools: Messages = ()) -> None:
        """Empty the memory except for the prefix, which is read once and then restored.

        With `tools` it is that of conversations with these tools.
        """
        prefix = self.prefix(now=now, tools=tools)
        state = self._state_of(prefix)
        self.engine.forget()
        if state:
            self.engine.restore(prefix, state)

    def _state_of(self, prefix: tuple[int, ...]) -> bytes:
        if prefix not in self._states:
            self._states.clear()
            usable = self.engine.state_kind and 0 < len(prefix) < self.engine.context
            self._states[prefix] = self.engine.save(prefix) if usable else b""
        return self._states[prefix]

    def _beginning(self, messages: Messages) -> list[Mapping[str, Any]]:
        """Return the messages before a conversation's own first question."""
        known = len(self.opening) if begins(messages, self.opening) else 0
        return [
            *messages[:known],
            *takewhile(lambda message: message.get("role") == "system", messages[known:]),
        ]

    def _prefix(
        self, beginning: list[Mapping[str, Any]], now: "datetime | None", tools: Messages
    ) -> tuple[int, ...]:
        """Return the common tokens of two conversations that share only their beginning."""
        try:
            one, other = (
                self.engine.tokenize(self.render([*beginning, _asked(text)], now, tools))
                for text in ("0", "Why?")
            )
        except DeviceError:
            return ()

        same = one[: common(one, other)]
        return tuple(same) if len(same) >= _LEAST_PREFIX else ()


def _marked(message: Mapping[str, Any], marker: str) -> Mapping[str, Any]:
    """Return a message as one text, with the marker in the places of its pictures."""
    parts = message.get(PARTS)
    if not parts:
        return message
    text = "".join(part if isinstance(part, str) else marker for part in parts)
    return {**{name: value for name, value in message.items() if name != PARTS}, "content": text}


def _asked(text: str) -> Mapping[str, Any]:
    return {"role": "user", "content": text}


def bundle_settings(folder: Path, manifest: Manifest) -> Settings:
    """Return the settings of a bundle's model, with the context and slots that memory allows."""
    adapter = folder / manifest.adapter if manifest.adapter else None
    projector = folder / manifest.projector if manifest.projector else None
    usual = Settings(
        context=manifest.context, kv_type=manifest.kv_type, adapter=adapter, projector=projector
    )
    usual = replace(usual, gpu_layers=fitting_gpu_layers(manifest, _free_on_card()))
    available = memory_bytes("MemAvailable")
    if available is None:
        return usual

    spare = available - prefix_cache_bytes(memory_bytes("MemTotal"))
    return replace(
        usual, context=fitting_context(manifest, spare), slots=fitting_slots(manifest, spare)
    )


def _free_on_card() -> "int | None":
    """Return the free bytes of the first graphics card; None if it does not say, or is none."""
    free_mb = next((card["memory_free_mb"] for card in gpus()), None)
    return None if free_mb is None else int(free_mb) << 20


def open_bundle(folder: Path, manifest: Manifest, threads: int = 0) -> Model:
    """Open a bundle's model with the manifest's settings and this board's calibration.

    Raise DeviceError.
    """
    settings = tuned.apply(folder, bundle_settings(folder, manifest))
    return open_with(
        folder,
        manifest,
        replace(settings, threads=threads, threads_batch=0) if threads else settings,
    )


def open_with(folder: Path, manifest: Manifest, settings: Settings) -> Model:
    """Open a bundle's model with other settings; raise DeviceError."""
    model = _opened(folder / manifest.model, settings, manifest.stop_ids, manifest.opening)
    return replace(_escaping(model) if manifest.escapes else model, slots=settings.slots)


def open_file(
    path: Path,
    settings: Settings,
    opening: Messages = (),
    stop_ids: tuple[int, ...] = (),
    *,
    escapes: bool = False,
) -> Model:
    """Open a model file alone, with the template beside it; raise DeviceError."""
    model = _opened(path, settings, stop_ids, opening)
    return _escaping(model) if escapes else model


def _escaping(model: Model) -> Model:
    return replace(model, escape=Escape(model.engine.control_tokens()))


def _opened(path: Path, settings: Settings, stop_ids: tuple[int, ...], opening: Messages) -> Model:
    engine = load(path, settings)
    from device.engine.chat import (
        ChatTemplate,
    )  # its library is imported while others wait for the model anyway

    source = _template(path.parent) or engine.chat_template
    tokens, marker = engine.special_tokens(), engine.picture_marker
    template = ChatTemplate(source, tokens, marker) if source else None
    return Model(engine, template, stop_ids, opening)


def _template(folder: Path) -> str:
    file = folder / TEMPLATE
    return file.read_text(encoding="utf-8") if file.is_file() else ""
