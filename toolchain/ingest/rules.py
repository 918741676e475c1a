"""The rules that every text of a recipe goes through: cleaned, then redacted.

Entries, documents, the system prompt, the opening's documents and its turns: nothing that is
learned or shipped goes past them. They come before the split, which hashes the questions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from toolchain.ingest.clean import dirt_in
from toolchain.ingest.entries import Document, Entry, Messages, Place
from toolchain.ingest.found import Change, Finding, Found
from toolchain.ingest.redact import Hit, Redactor, replaced
from toolchain.ingest.redact.kept import Replaced
from toolchain.language import language_of
from toolchain.recipe import DataSpec

PARTS: Mapping[str, str] = {
    "user": "question",
    "assistant": "answer",
    "system": "system",
    "tool": "result",
}


class _Text(NamedTuple):
    place: Place
    part: str
    text: str
    asked: Messages = ()
    """Messages before an answer, after the rules."""


LOST = "lost bytes"
"""Kind of dirt that nobody can mend, and the reason why an entry is dropped."""


class TextRules:
    """Rules of one recipe; what they find goes into `found`."""

    def __init__(self, spec: DataSpec, key: bytes, found: Found) -> None:
        self._spec = spec
        self._found = found
        self._redactor = Redactor(spec.redact, key)
        self._cleans, self._mends = spec.clean.mode != "off", spec.clean.mode == "mend"
        self._has_lost = False
        """Whether the entry that is looked at has a text with lost bytes."""
        self._redacts, self._replaces = spec.redact.mode != "off", spec.redact.mode == "replace"

    def entry(self, entry: Entry) -> Entry | str:
        """Return an entry after the rules, or the reason why it is dropped."""
        if not self._cleans and not self._redacts:
            return entry
        # Phrasings share their answer: it is looked at once, and counted once.
        done: dict[tuple[str, str], str] = {}
        self._has_lost = False
        phrasings = tuple(self._messages(entry.place, each, done) for each in entry.phrasings)
        if self._has_lost and self._mends:
            return LOST  # nobody knows what stood there, and a model would learn the garble
        entry = replace(entry, phrasings=phrasings)
        return self._of_language(entry) if self._cleans else entry

    def document(self, document: Document) -> Document:
        """Return a document after the rules."""
        return replace(document, text=self.text(document.place, "text", document.text))

    def key(self, key: str) -> str:
        """Return a key that nobody reads as records may name it: without personal data."""
        if not self._redacts:
            return key
        return replaced(key, self._redactor.hits(key))

    def text(self, place: Place, part: str, text: str, asked: Messages = ()) -> str:
        """Return a text after the rules; `asked` are the messages before an answer."""
        given = _Text(place, part, text, asked)
        cleaned = self._cleaned(given) if self._cleans else text
        result = self._redacted(given._replace(text=cleaned)) if self._redacts else cleaned
        if result != text and part == "answer":
            self._found.changed_answers += 1
        return result

    def _messages(
        self, place: Place, messages: Messages, done: dict[tuple[str, str], str]
    ) -> Messages:
        changed: list[Mapping[str, Any]] = []
        for message in messages:
            key = (message["role"], message["content"])
            if key not in done:
                asked = tuple(changed) if message["role"] == "assistant" else ()
                done[key] = self.text(place, PARTS[message["role"]], message["content"], asked)
            more = {}
            if calls := message.get("tool_calls"):
                more["tool_calls"] = self._values(place, calls, tuple(changed))
            changed.append({**message, "content": done[key], **more})
        return tuple(changed)

    def _values(self, place: Place, calls: Sequence[Any], asked: Messages) -> list[Any]:
        """Return calls whose arguments went through the rules, as the question did."""

        def ruled(value: Any) -> Any:
            """Return a value of JSON with the rules applied to every text in it."""
            if isinstance(value, dict):
                return {key: ruled(each) for key, each in value.items()}
            if isinstance(value, list):
                return [ruled(each) for each in value]
            return self.text(place, "answer", value, asked) if isinstance(value, str) else value

        return [
            {
                **call,
                "function": {
                    **call["function"],
                    "arguments": ruled(call["function"]["arguments"]),
                },
            }
            for call in calls
        ]

    def _cleaned(self, given: _Text) -> str:
        asked = "\n".join(each["content"] for each in given.asked if each["role"] == "user")
        text, dirt = dirt_in(given.text, html=self._spec.clean.html, mend=self._mends, asked=asked)
        for each in dirt:
            is_lost = each.kind == LOST and given.part in PARTS.values()
            self._has_lost |= is_lost
            done = "dropped" if is_lost else "found" if each.mended is None else "mended"
            self._add(given, each.kind, each.rule, done if self._mends else "found")
            if each.mended is not None:
                self._show(given, each.mended)
        return text

    def _redacted(self, given: _Text) -> str:
        hits = self._redactor.hits(given.text)
        if not hits:
            return given.text
        for hit in hits:
            done = "replaced" if self._replaces else "found"
            self._add(given, hit.kind, hit.rule, done if hit.surrogate else "kept")
            if self._replaces and hit.surrogate:
                self._keep(given, hit, hits)
        after = replaced(given.text, hits)
        if after != given.text:
            self._show(given, after)
        return after if self._replaces else given.text

    def _keep(self, given: _Text, hit: Hit, hits: Sequence[Hit]) -> None:
        before = replaced(given.text[: hit.start], [each for each in hits if each.end <= hit.start])
        value = given.text[hit.start : hit.end]
        self._found.keep(Replaced(hit.kind, value, before, given.asked))

    def _of_language(self, entry: Entry) -> Entry | str:
        messages = entry.phrasings[0] if entry.phrasings else ()
        asked = [message["content"] for message in messages if message["role"] != "system"]
        language = language_of("\n".join(asked))
        if not language:
            return entry
        self._found.languages[entry.place.file, language] += 1
        if not self._spec.clean.languages or language in self._spec.clean.languages:
            return entry
        given = _Text(entry.place, "entry", "")
        self._add(given, "language", language, "dropped" if self._mends else "found")
        return f"another language: {language}" if self._mends else entry

    def _add(self, given: _Text, kind: str, rule: str, done: str) -> None:
        self._found.add(
            Finding(place=given.place, part=given.part, kind=kind, rule=rule, done=done)
        )

    def _show(self, given: _Text, after: str) -> None:
        self._found.show(Change(place=given.place, part=given.part, before=given.text, after=after))
