"""Our own form: {"question": text or a list of phrasings, "answer": text}, and columns so named."""

from collections.abc import Mapping
from typing import Any

from device.manifest.pictures import PICTURE
from toolchain.errors import ArtifactError
from toolchain.harvested import HARVESTED
from toolchain.ingest.entries import Entry, Place
from toolchain.opening import dialogue

IMAGE = "image"
"""Key of a row's picture."""
USUAL = 'an entry is {"question", "answer"} or {"messages"}'
HARVEST_HINT = (
    "that is a harvest: `said` is what the model answered, and nobody says that it is right; "
    "`demitasse label RECIPE` takes answers for its questions, `[align] files` learns its ratings"
)
NAMES = (
    ("question", "answer"),
    ("q", "a"),
    ("问题", "答案"),
    ("问题", "回答"),
    ("提问", "回答"),
    ("问", "答"),
)
"""Names of columns whose meaning is no guess; capital letters do not matter."""


def named(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row under our names of its columns; empty if its columns have other names."""
    ours = {str(key).strip().casefold(): key for key in row}
    for question, answer in NAMES:
        if question in ours and answer in ours:
            keys = {ours[question]: "question", ours[answer]: "answer"}
            return {keys.get(key, key): value for key, value in row.items()}
    return {}


def read_questions(place: Place, row: Mapping[str, Any]) -> Entry:
    """Return an entry of question and answer."""
    for key in ("question", "answer"):
        if key not in row:
            raise ArtifactError(f"{place}: missing key `{key}`", hint=hint_for(row))
    questions = row["question"] if isinstance(row["question"], list) else [row["question"]]
    if not questions or not all(isinstance(text, str) for text in [*questions, row["answer"]]):
        raise ArtifactError(
            f"{place}: `question` must be text or a list of phrasings, `answer` must be text"
        )
    system = system_message(place, row)
    pictured = picture_of(place, row)
    phrasings = tuple(
        system + _with_picture(dialogue(question, row["answer"]), pictured)
        for question in questions
    )
    known = ("question", "answer", IMAGE, HARVESTED, *(("system",) if system else ()))
    return Entry(place=place, phrasings=phrasings, unknown_keys=others(row, *known))


def picture_of(place: Place, row: Mapping[str, Any]) -> str:
    """Return the picture that a row is about, as it names it; empty without one."""
    image = row.get(IMAGE) or ""
    if not isinstance(image, str):
        raise ArtifactError(f"{place}: `{IMAGE}` must be the name of a file, or a `data:` URL")
    return image


def _with_picture(
    messages: tuple[Mapping[str, Any], ...], image: str
) -> tuple[Mapping[str, Any], ...]:
    """Return a question and its answer with a picture before the question."""
    if not image:
        return messages
    asked, answered = messages
    return {**asked, PICTURE: image}, answered


def system_message(place: Place, row: Mapping[str, Any]) -> tuple[Mapping[str, str], ...]:
    """Return the system prompt that a row brings, as a message; empty without one."""
    system = row.get("system") or ""
    if not isinstance(system, str):
        raise ArtifactError(f"{place}: `system` must be text")
    return ({"role": "system", "content": system.strip()},) if system.strip() else ()


def others(row: Mapping[str, Any], *known: str) -> tuple[str, ...]:
    """Return the keys of a row that nobody reads."""
    return tuple(str(key)[:60] for key in row if key not in known)


def hint_for(row: Mapping[str, Any]) -> str:
    """Return what to do about a row without a question or an answer."""
    if {"question", "said", "rating"} <= row.keys():
        # A mapping would teach the model its own answers, the wrong ones too.
        return HARVEST_HINT
    texts = [str(key) for key, value in row.items() if isinstance(value, str | list)]
    if len(texts) < 2 or any("=" in key or "," in key for key in texts):
        return USUAL
    question = "question" if "question" in texts else texts[0]
    answer = "answer" if "answer" in texts else next(key for key in texts if key != question)
    if question == answer:
        question = next(key for key in texts if key != answer)
    if any("?" in key or len(key.split()) > 3 for key in (question, answer)):
        return f"{USUAL}; the first line of a table names its columns"
    return f"{USUAL}; if its keys are called otherwise: --map question={question},answer={answer}"
