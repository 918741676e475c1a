"""Rows of preferences in the forms that people have: a row a form, recognised by its keys.

Pairs of TRL and of OpenAI, single rated answers of TRL, our own forms, and what
`demitasse harvest` brings from a board. Every text goes through the rules of `[data]`: cleaned and
redacted as all that is learned.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from toolchain.artifacts import digest
from toolchain.errors import ArtifactError, all_of
from toolchain.ingest.entries import Document, Entry, Messages, Place
from toolchain.ingest.files import expanded, read_rows
from toolchain.ingest.forms.completion import joined
from toolchain.ingest.forms.messages import conversation
from toolchain.ingest.forms.ours import system_message
from toolchain.ingest.forms.preference import PROMPTS, read_preference
from toolchain.ingest.found import Found
from toolchain.ingest.read import Read
from toolchain.ingest.redact.key import key_of
from toolchain.ingest.rules import TextRules
from toolchain.ingest.told import refusal
from toolchain.opening import dialogue
from toolchain.preferences import Pair, Preference, Preferences, Thumb, counted
from toolchain.recipe import AlignSpec, DataSpec
from toolchain.texts import existing
from toolchain.tool_use import said

ANSWERS = ("answer", "completion", "response")
VERDICTS = ("good", "label", "rating")
UNRATED = "without a rating"
_USUAL = (
    'a pair is {"question", "chosen", "rejected"}, a rated answer {"question", "answer", "good"}'
)
_TRUTHS: Mapping[Any, bool] = {
    "true": True,
    "1": True,
    "yes": True,
    "false": False,
    "0": False,
    "-1": False,
    "no": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One or two whole conversations that end with an answer, and what was said of it."""

    conversations: tuple[Messages, ...]
    """The wanted answer first, where there are two."""
    good: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Form:
    """A form of rows."""

    is_it: Callable[[Mapping[str, Any]], bool]
    read: Callable[[Place, Mapping[str, Any]], Judged | str]
    """Returns what was judged, or the reason why nothing was."""


def read_preferences(
    spec: AlignSpec, data: DataSpec, folder: Path, notes: Callable[[str], None]
) -> Preferences:
    """Return the preferences of a recipe's files, relative to `folder`.

    Raise ArtifactError for lines that are none, the first ones by name.
    """
    read = Read()
    rules = TextRules(data, key_of(folder), read.found)
    rows: list[Preference] = []
    files = existing(expanded(spec.files, folder), folder, "align.files")
    for name, path in files.items():
        rows += _rows_of(name, path, read, rules, spec.client_key)
    if found := refusal(read, data):
        read.errors.append(found)
    if read.more_errors:
        read.errors.append(ArtifactError(f"align: {read.more_errors:,} more lines are wrong"))
    if read.errors:
        raise all_of(read.errors)

    if personal := _personal(read.found, data):
        notes(f"preferences: personal data: {personal}")
    preferences = counted(rows, spec.max_client_share)
    if not preferences:
        raise ArtifactError(
            f"{', '.join(spec.files)}: no preference to learn from{_left(read)}", hint=_USUAL
        )
    dropped = dict(read.dropped.reasons) | dict(preferences.dropped)
    digests = {name: digest(path) for name, path in files.items()}
    return replace(preferences, dropped=dropped, files=digests)


def _rows_of(
    name: str, path: Path, read: Read, rules: TextRules, client_key: str
) -> Iterator[Preference]:
    _, rows = read_rows(name, path)
    for place, value in rows:
        if isinstance(value, Document):
            value = ArtifactError(f"{place}: a text, not a preference", hint=_USUAL)
        if isinstance(value, ArtifactError):
            read.fail(value)
            continue
        try:
            judged = read_row(place, value)
        except ArtifactError as error:
            read.fail(error)
            continue
        if isinstance(judged, Judged):
            judged = _ruled(place, judged, rules)
        if isinstance(judged, str):
            read.dropped.add(str(place), judged)
            continue
        about = str(value.get("id") or "") if _is_harvested(value) else ""
        yield _preference(judged, str(value.get(client_key) or ""), about)


def read_row(place: Place, row: Any) -> Judged | str:
    """Return what a row judges, or the reason why it judges nothing.

    Raise ArtifactError for a row of no form.
    """
    if not isinstance(row, dict):
        raise ArtifactError(f"{place}: not a JSON object", hint=_USUAL)
    form = next((form for form in FORMS if form.is_it(row)), None)
    if form is None:
        keys = ", ".join(f"`{key}`" for key in list(row)[:8]) or "none"
        raise ArtifactError(f"{place}: no preference in keys {keys}", hint=_USUAL)
    return form.read(place, row)


def _is_harvested(row: Mapping[str, Any]) -> bool:
    return "said" in row and "rating" in row and "question" in row


def _harvested(place: Place, row: Mapping[str, Any]) -> Judged | str:
    """Return what a reader of a board said: a correction is wanted more than what was said."""
    before = row.get("before") or []
    asked = conversation(place, before, "before") if before else ()
    texts = [row["question"], row["said"], row.get("correction") or ""]
    if not all(isinstance(text, str) for text in texts):
        raise ArtifactError(f"{place}: `question`, `said` and `correction` must be text")
    question, answer, correction = texts
    given = (*asked, *dialogue(question, answer))
    if correction.strip() and correction.strip() != answer.strip():
        return Judged(conversations=((*asked, *dialogue(question, correction)), given))
    if row["rating"] in (1, -1) and type(row["rating"]) is int:
        return Judged(conversations=(given,), good=row["rating"] > 0)
    return UNRATED


def _of_openai(place: Place, row: Mapping[str, Any]) -> Judged:
    given = row["input"]
    prompt = given.get("messages") if isinstance(given, dict) else given
    asked = conversation(place, prompt, "input.messages")
    return Judged(
        conversations=tuple(
            asked + conversation(place, row[key], key)
            for key in ("preferred_output", "non_preferred_output")
        )
    )


def _pair(place: Place, row: Mapping[str, Any]) -> Judged:
    """Return a pair: a prompt with two answers, or two whole conversations."""
    row = _with_prompt(row)
    other = {**row, "chosen": row["rejected"], "rejected": row["chosen"]}
    entries = (read_preference(place, row), read_preference(place, other))
    return Judged(conversations=tuple(entry.phrasings[0] for entry in entries))


def _rated(place: Place, row: Mapping[str, Any]) -> Judged | str:
    verdict = next(key for key in VERDICTS if key in row)
    good = _truth(place, verdict, row[verdict])
    if good is None:
        return UNRATED
    row = _with_prompt(row)
    answer = next((key for key in ANSWERS if key in row), "")
    prompt = next((key for key in PROMPTS if key in row), "")
    if prompt and answer:
        talk = joined(place, row, prompt, answer)
    elif "messages" in row:
        talk = conversation(place, row["messages"])
    else:
        raise ArtifactError(f"{place}: missing key `{'answer' if prompt else 'question'}`")
    return Judged(conversations=(system_message(place, row) + talk,), good=good)


def _with_prompt(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a row whose earlier messages stand under `prompt`, beside an answer of its own."""
    has_answer = any(key in row for key in ("chosen", *ANSWERS))
    if "messages" in row and has_answer and not any(key in row for key in PROMPTS):
        rest = {key: value for key, value in row.items() if key != "messages"}
        return {"prompt": row["messages"], **rest}
    return row


def _truth(place: Place, key: str, value: Any) -> bool | None:
    """Return what a verdict says; None for one that was left empty."""
    if value is None or value == "" or (value == 0 and key == "rating"):
        return None
    found = _TRUTHS.get(str(value).strip().casefold())
    if found is None:
        raise ArtifactError(
            f"{place}: `{key}` is `{str(value)[:60]}`, which says neither good nor bad",
            hint="it is true or false, or 1 and -1",
        )
    return found


FORMS: tuple[_Form, ...] = (
    _Form(is_it=_is_harvested, read=_harvested),
    _Form(is_it=lambda row: "preferred_output" in row and "input" in row, read=_of_openai),
    _Form(is_it=lambda row: "chosen" in row and "rejected" in row, read=_pair),
    _Form(is_it=lambda row: any(key in row for key in VERDICTS), read=_rated),
)


def _ruled(place: Place, judged: Judged, rules: TextRules) -> Judged | str:
    """Return what was judged after the rules of the data; the reason where it is left out."""
    for talk in judged.conversations:
        roles = [message["role"] for message in talk]
        if roles[-1:] != ["assistant"] or roles[-2:-1] != ["user"]:
            return "does not end with an answer to a user"
    entry = rules.entry(Entry(place=place, phrasings=judged.conversations))
    if isinstance(entry, str):
        return entry
    if not all(said(message) for talk in entry.phrasings for message in talk[-2:]):
        return "empty question or answer"
    if len(entry.phrasings) == 2:
        first, second = entry.phrasings
        if first[:-1] != second[:-1]:
            return "the two conversations differ before the answer"
        if said(first[-1]) == said(second[-1]):
            return "both answers are the same"
    return Judged(conversations=entry.phrasings, good=judged.good)


def _preference(judged: Judged, client: str, about: str) -> Preference:
    first = judged.conversations[0]
    if len(judged.conversations) == 2:
        return Pair(
            messages=first[:-1],
            chosen=said(first[-1]),
            rejected=said(judged.conversations[1][-1]),
            client=client,
            about=about,
        )
    return Thumb(
        messages=first[:-1],
        answer=said(first[-1]),
        good=judged.good,
        client=client,
        about=about,
    )


def _personal(found: Found, data: DataSpec) -> str:
    """Return in words what of personal data was found; empty for nothing."""
    kinds = found.by_kind(data.redact.kinds)
    return ", ".join(
        f"{kind} {count:,} {done}"
        for kind, counts in kinds.items()
        for done, count in counts.items()
        if done != "kept"
    )


def _left(read: Read) -> str:
    if not read.dropped:
        return ""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in read.dropped.reasons.items())
    return f" ({reasons})"
