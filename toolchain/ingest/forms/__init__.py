"""The forms in which tools write conversations: a row a form, recognised by the keys of a row.

What was recognised is said in the record and shown by a dry run. A row that no form fits is an
error with its line: which key is the question is not guessed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from toolchain.errors import ArtifactError
from toolchain.ingest.entries import Entry, Place
from toolchain.ingest.forms.alpaca import read_alpaca
from toolchain.ingest.forms.completion import completion_keys, read_completion
from toolchain.ingest.forms.messages import read_messages
from toolchain.ingest.forms.ours import named, read_questions
from toolchain.ingest.forms.preference import read_preference
from toolchain.ingest.forms.sharegpt import read_sharegpt

OURS = "questions and answers"
Reading = Entry | str
"""An entry, or the reason why a row is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A form of rows."""

    name: str
    is_it: Callable[[Mapping[str, Any]], bool]
    """Says by the keys whether a row has this form."""
    read: Callable[[Place, Mapping[str, Any]], Reading]
    note: str = ""
    """Part of such rows that nothing is learned from; empty if there is none."""


def _has(*keys: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda row: all(key in row for key in keys)


FORMS: tuple[Form, ...] = (
    Form(name="messages", is_it=_has("messages"), read=read_messages),
    Form(name=OURS, is_it=_has("question", "answer"), read=read_questions),
    Form(
        name="preferences (DPO)",
        is_it=_has("chosen", "rejected"),
        read=read_preference,
        note="chosen answers are learned, rejected ones are not read",
    ),
    Form(name="ShareGPT", is_it=_has("conversations"), read=read_sharegpt),
    Form(name="Alpaca", is_it=_has("instruction", "output"), read=read_alpaca),
    Form(
        name="prompts and completions",
        is_it=lambda row: bool(completion_keys(row)),
        read=read_completion,
    ),
    Form(
        name="named columns",
        is_it=lambda row: bool(named(row)),
        read=lambda place, row: read_questions(place, named(row)),
    ),
)
"""Forms in the order in which they are tried: a row with `messages` and `prompt` is the first."""
_UNKNOWN = Form(name=OURS, is_it=lambda row: True, read=read_questions)


def read_row(place: Place, value: Any, names: Mapping[str, str]) -> tuple[Form, Reading]:
    """Return the form of a row and what it says; raise ArtifactError for a row of no form.

    `names` maps our keys to the row's own, as `[data] map` does.
    """
    if not isinstance(value, dict):
        hint = 'an entry is a JSON object, such as {"question": …, "answer": …}'
        raise ArtifactError(f"{place}: not a JSON object", hint=hint)
    if names:
        names = {ours: _own_key(value, theirs) for ours, theirs in names.items()}
    if names and not _is_another(value, names):
        return _MAPPED[_mapped_form(names)], _read_mapped(place, value, names)
    form = next((form for form in FORMS if form.is_it(value)), _UNKNOWN)
    return form, form.read(place, value)


def _own_key(row: Mapping[str, Any], name: str) -> str:
    """Return the key of a row that a name of `map` means; capital letters matter if both are there.

    A table calls its column `Frage`, and a file of JSON lines beside it `frage`.
    """
    if name in row:
        return name
    same = [key for key in row if key.strip().casefold() == name.casefold()]
    return same[0] if len(same) == 1 else name


def _is_another(row: Mapping[str, Any], names: Mapping[str, str]) -> bool:
    """Say whether a row has none of the keys that `map` names, and a form that is known."""
    return not (set(names.values()) & row.keys()) and any(form.is_it(row) for form in FORMS)


_MAPPED = {
    name: replace(form, name=f"{form.name}, by `map`")
    for name, form in (("messages", FORMS[0]), ("question", _UNKNOWN))
}


def _mapped_form(names: Mapping[str, str]) -> str:
    return "messages" if "messages" in names else "question"


def _read_mapped(place: Place, value: Mapping[str, Any], names: Mapping[str, str]) -> Reading:
    missing = next((key for key in names.values() if key not in value), "")
    if missing:
        keys = ", ".join(f"`{key}`" for key in list(value)[:8])
        raise ArtifactError(
            f"{place}: missing key `{missing}`, which `map` names", hint=f"it has {keys or 'none'}"
        )
    own = {ours: value[theirs] for ours, theirs in names.items()}
    others = {key: each for key, each in value.items() if key not in {*names.values(), *own}}
    return _MAPPED[_mapped_form(names)].read(place, others | own)
