"""A model file opened for use: its engine, its chat template and what its bundle says about answering."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device import tuned
from device.engine import load
from device.engine.base import Engine, Settings, memory_bytes
from device.engine.escape import Escape
from device.engine.states import common
from device.errors import DeviceError
from device.manifest import TEMPLATE, Manifest
from device.manifest.memory import fitting_context, fitting_slots, shelf_bytes
from device.manifest.opening import Messages, begins, opened

if TYPE_CHECKING:
    from device.engine.chat import ChatTemplate

_LEAST_LEAD = 16
"""Tokens that are worth a batch of their own."""
_MOST_LEADS = 16


@dataclass(frozen=True)
class Prompt:
    """A conversation as the engine takes it."""

    tokens: list[int]
    lead: int = 0
    """Of these, the ones before the first question: what other conversations begin with too."""


@dataclass(frozen=True)
class Model:
    """What score, check, bench and serve work with."""

    engine: Engine
    template: "ChatTemplate | None"
    stop_ids: tuple[int, ...] = ()
    opening: Messages = ()
    """What conversations begin with, unless they bring instructions of their own."""
    slots: int = 1
    """Answers that there is memory for at the same time."""
    escape: "Escape | None" = None
    """What breaks up control tokens in the texts of clients; None where they are parsed."""
    _leads: dict[str, tuple[int, ...]] = field(default_factory=dict, repr=False, compare=False)
    _states: dict[tuple[int, ...], bytes] = field(default_factory=dict, repr=False, compare=False)
    """The saved state of the last lead that `forget` took back."""

    def render(self, messages: Messages, now: "datetime | None" = None) -> str:
        """Return the prompt of a conversation as text, with its opening, rendered at `now` or by the clock."""
        if self.template is None:
            raise DeviceError(
                "no_template",
                "this model has no chat template",
                hint="use /v1/completions",
                status=400,
            )
        return self.template.render(self._escaped(opened(messages, self.opening)), now)

    def _escaped(self, messages: Messages) -> Messages:
        """Return messages without control tokens; the opening is the owner's and stays as it was signed."""
        if self.escape is None:
            return messages
        known = len(self.opening) if begins(messages, self.opening) else 0
        return [*messages[:known], *self.escape.messages(messages[known:])]

    def prompt(self, messages: Messages, now: "datetime | None" = None) -> Prompt:
        """Return the prompt of a conversation as token ids, and how many of them are its lead."""
        tokens = self.engine.tokenize(self.render(messages, now))
        lead = self.lead(messages, now)
        return Prompt(
            tokens,
            len(lead) if len(lead) < len(tokens) and tuple(tokens[: len(lead)]) == lead else 0,
        )

    def lead(self, messages: Messages = (), now: "datetime | None" = None) -> tuple[int, ...]:
        """Return the tokens that others begin with too, which open as this conversation does; none where they are few."""
        beginning = self._beginning(opened(messages, self.opening))
        # A template may name the day: a lead that was kept yesterday is not how today's prompts begin.
        key = json.dumps([str(now or datetime.now().date()), beginning])
        if key not in self._leads:
            while len(self._leads) >= _MOST_LEADS:
                del self._leads[next(iter(self._leads))]
            self._leads[key] = self._lead(beginning, now)
        return self._leads[key]

    def beside(self) -> "Model | None":
        """Return the same model for another thread; None where its engine has none. It is closed before this one is."""
        engine = self.engine.beside()
        return replace(self, engine=engine, _leads={}, _states={}) if engine else None

    def forget(self, now: "datetime | None" = None) -> None:
        """Forget all conversations, but not what they begin with: that is read once and taken back, as a service does it."""
        lead = self.lead(now=now)
        state = self._state_of(lead)
        self.engine.forget()
        if state:
            self.engine.restore(lead, state)

    def _state_of(self, lead: tuple[int, ...]) -> bytes:
        if lead not in self._states:
            self._states.clear()
            usable = self.engine.state_kind and 0 < len(lead) < self.engine.context
            self._states[lead] = self.engine.save(lead) if usable else b""
        return self._states[lead]

    def _beginning(self, messages: Messages) -> list[Mapping[str, Any]]:
        """Return the messages that come before a conversation's own first question."""
        known = len(self.opening) if begins(messages, self.opening) else 0
        return [
            *messages[:known],
            *takewhile(lambda message: message.get("role") == "system", messages[known:]),
        ]

    def _lead(self, beginning: list[Mapping[str, Any]], now: "datetime | None") -> tuple[int, ...]:
        """Compare two conversations that have nothing but their beginning in common."""
        try:
            one, other = (
                self.engine.tokenize(self.render([*beginning, _asked(text)], now))
                for text in ("0", "Why?")
            )
        except DeviceError:
            return ()
        same = one[: common(one, other)]
        return tuple(same) if len(same) >= _LEAST_LEAD else ()


def _asked(text: str) -> Mapping[str, Any]:
    return {"role": "user", "content": text}


def bundle_settings(folder: Path, manifest: Manifest) -> Settings:
    """Return how a bundle's model is loaded: by its manifest, with no more context and no more slots than there is memory for."""
    adapter = folder / manifest.adapter if manifest.adapter else None
    usual = Settings(context=manifest.context, kv_type=manifest.kv_type, adapter=adapter)
    available = memory_bytes("MemAvailable")
    if available is None:
        return usual
    spare = available - shelf_bytes(memory_bytes("MemTotal"))
    return replace(
        usual, context=fitting_context(manifest, spare), slots=fitting_slots(manifest, spare)
    )


def open_bundle(folder: Path, manifest: Manifest, threads: int = 0) -> Model:
    """Open a bundle's model as its manifest and this board's calibration say; raise DeviceError."""
    settings = tuned.apply(folder, bundle_settings(folder, manifest))
    return open_with(
        folder,
        manifest,
        replace(settings, threads=threads, threads_batch=0) if threads else settings,
    )


def open_with(folder: Path, manifest: Manifest, settings: Settings) -> Model:
    """Open a bundle's model with settings of one's own; raise DeviceError."""
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
    """Open a model file by itself, with the template that lies beside it; raise DeviceError."""
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
    template = ChatTemplate(source, engine.special_tokens()) if source else None
    return Model(engine, template, stop_ids, opening)


def _template(folder: Path) -> str:
    file = folder / TEMPLATE
    return file.read_text(encoding="utf-8") if file.is_file() else ""
