"""A board's answers, laid out for people: what it serves, since when, how fast, what to do next.

Used by `status`, `rollback`, `stop`, `scrub` and `trust`; `--json` prints the answer itself.
The rule to keep: an answer comes from a board, and nobody has checked the types of most fields. A
field that is missing or of another type is left out; it never ends the command.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from device.manifest import ANSWERS
from toolchain.show.words import size

Answer = Mapping[str, Any]
Row = tuple[str, str]
_DAY_S = 86_400
_FIRST_PLAUSIBLE_S = 1_600_000_000
"""Unix time before which no release was made: a clock that says less was never set."""


def lines(address: str, answer: Answer) -> list[str]:
    """Return a board's answer as lines of text; which verb was called shows in its fields."""
    if "rotten" in answer:
        return _scrubbed(address, answer)
    if "signers" in answer:
        return _trusted(address, answer)
    return _status(address, answer)


def _status(address: str, answer: Answer) -> list[str]:
    release, service = _table(answer, "release"), _table(answer, "service")
    text = [_headline(address, release, service), ""]
    text += _aligned([*_service_rows(answer), *_release_rows(answer), *_store_rows(answer)])

    if refused := _table(answer, "refused"):
        text += ["", f"the last push was refused: {_named(refused)}: {_word(refused, 'reason')}"]
    if hint := _word(service, "hint"):
        text += ["", f"hint: {hint}"]
    commands = _next_commands(address, release, service, _table(answer, "previous"))
    return [*text, "", "next:", *(f"  {command}" for command in commands)]


def _headline(address: str, release: Answer, service: Answer) -> str:
    if not release:
        return f"{address} has no release"
    name = _named(release)
    if service.get("stopped") is True:
        return f"{address}: {name} is stopped"
    if service.get("starting") is True:
        return f"{address}: {name} is starting on port {_word(release, 'port')}"
    if service.get("healthy") is not True:
        return f"{address}: {name} does NOT answer on port {_word(release, 'port')}"
    return f"{address} serves {name} on port {_word(release, 'port')}"


def _service_rows(answer: Answer) -> Iterator[Row]:
    """Yield what the running service is: since when, how fast, by which engine."""
    service = _table(answer, "service")
    health, speed = _table(service, "health"), _table(answer, "speed")
    if failure := _word(service, "failure"):
        yield "fault", f"the service {failure}"
    if other := _table(answer, "measuring"):
        verb, pid, seconds = (_word(other, name) for name in ("verb", "pid", "seconds"))
        yield "measured", f"by `{verb}` (process {pid}) for {seconds} s: answers are slow meanwhile"
    if other := _table(answer, "changing"):
        verb, pid, seconds = (_word(other, name) for name in ("verb", "pid", "seconds"))
        yield "busy", f"with `{verb}` (process {pid}) for {seconds} s: other changes wait"
    since = _since(answer.get("since"))
    if since and service.get("stopped") is not True:
        yield "since", since
    if speed:
        yield "speed", _speed(speed)
    if health:
        engine = f"{_word(health, 'engine')} {_word(health, 'engine_version')}, "
        yield "engine", engine + _word(health, "model_type")
        shape = [
            _count(health.get("context"), "token") + " of context",
            _count(health.get("threads"), "thread"),
            _count(health.get("slots"), "question") + " at once",
        ]
        yield "settings", ", ".join(shape)
    if documents := _table(health, "documents"):
        yield "documents", _documents(documents)
    if isinstance(degrees := health.get("temperature_c"), int | float):
        yield "heat", f"{degrees:.1f} °C"


def _release_rows(answer: Answer) -> Iterator[Row]:
    """Yield what the release is: who signed it, and what a rollback would bring back."""
    release, previous = _table(answer, "release"), _table(answer, "previous")
    if not release:
        return
    made_for, counter = _word(release, "target"), _word(release, "counter")
    yield "release", f"{_word(release, 'release')[:12]}, made for {made_for}, counter {counter}"
    yield "signature", _signature(release)
    if licences := _words(release.get("licences")):
        yield "terms", licences
    for label, field in (("names", "host_names"), ("origins", "cors_origins")):
        if allowed := _words(release.get(field)):
            yield label, allowed
    if answer.get("confirmed") is False:
        yield "trial", "not confirmed yet: it was never seen healthy"
    if previous:
        yield "rollback to", f"{_named(previous)}, release {_word(previous, 'release')[:12]}"
    else:
        yield "rollback to", "nothing: no release came before"
    service = _table(answer, "service")
    if isinstance(survives := service.get("survives_reboot"), bool):
        yield "after a reboot", "starts by itself" if survives else "stays off"


def _store_rows(answer: Answer) -> Iterator[Row]:
    free, used = answer.get("disk_free_bytes"), answer.get("store_bytes")
    if isinstance(free, int) and isinstance(used, int):
        yield "disk", f"{size(used)} in {_word(answer, 'root')}, {size(free)} free"


def _speed(speed: Answer) -> str:
    """Return how fast the release was when it was checked, and what that figure is worth."""
    rate = speed.get("decode_tok_s")
    if not isinstance(rate, int | float) or not rate:
        return "not measured by its check"
    text = f"{rate:.4g} tokens/s when it was checked"
    if isinstance(expected := speed.get("expected_tok_s"), int | float):
        return f"{text}, {expected:.4g} expected"
    if reason := _word(speed, "unjudged"):
        return f"{text} (not judged: {reason})"
    return text


def _documents(documents: Answer) -> str:
    """Return how many passages questions are answered from, and who words the answers."""
    words = ANSWERS.get(_word(documents, "answer"), "")
    return ", ".join(filter(None, (_count(documents.get("passages"), "passage"), words)))


def _signature(release: Answer) -> str:
    if release.get("unsigned") is True:
        return "none: this release runs unsigned"
    return _word(release, "signed_by") or "none"


def _next_commands(
    address: str, release: Answer, service: Answer, previous: Answer
) -> Iterator[str]:
    """Yield the commands that make sense in this state, the most useful one first."""
    if not release:
        yield f"demitasse push BUNDLE {address}"
        return
    if service.get("stopped") is True:
        yield f"demitasse push BUNDLE {address}    # the same bundle starts it again"
        return
    if service.get("healthy") is True:
        yield f'demitasse ask {address} "…"'
        yield f"demitasse bench {address}"
    else:
        yield f"demitasse logs {address}"
        yield f"demitasse doctor {address}"
    if previous:
        yield f"demitasse rollback {address}"


def _scrubbed(address: str, answer: Answer) -> list[str]:
    read = answer.get("read_bytes")
    amount = f", {size(read)}" if isinstance(read, int) else ""
    faults = answer["rotten"] if isinstance(answer["rotten"], list) else []
    checked = f"{_count(answer.get('blobs'), 'file')} read{amount}"
    if not faults:
        return [f"{address}: {checked}; every byte is as it was sent"]

    text = [f"{address}: {checked}; {len(faults)} DAMAGED", ""]
    tables = [fault for fault in faults if isinstance(fault, Mapping)]
    text += _aligned(
        [
            (f"{_word(fault, 'kind')} {_word(fault, 'in')[:12]}", _word(fault, "what"))
            for fault in tables
        ]
    )
    hint = _word(answer, "hint")
    return [*text, "", f"hint: {hint}"] if hint else text


def _trusted(address: str, answer: Answer) -> list[str]:
    text = [f"{address} runs what these keys have signed:", ""]
    signers = answer["signers"] if isinstance(answer["signers"], list) else []
    rows = []
    for signer in signers:
        if not isinstance(signer, Mapping):
            continue
        models = _words(signer.get("names")) or _word(signer, "names")
        comment = _word(signer, "comment")
        rows.append((_word(signer, "key"), ", ".join(filter(None, (f"models {models}", comment)))))
    text += _aligned(rows) or ["  none yet: the key of the first push is pinned"]

    if revoked := _words(answer.get("revoked")):
        text += ["", f"revoked for ever: {revoked}"]
    target = _word(answer, "target")
    return [*text, "", f"bundles made for: {target or 'any board'}"]


def _since(moment: object) -> str:
    """Return a Unix time in local time and how long ago it was; "" if the time is not plausible."""
    if not isinstance(moment, int) or isinstance(moment, bool) or moment < _FIRST_PLAUSIBLE_S:
        return ""
    try:
        local = time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))
    except (OSError, OverflowError, ValueError):
        return ""
    ago = int(time.time()) - moment
    if ago < 0:
        return f"{local} by the board's clock"
    return f"{local} ({_duration(ago)})"


def _duration(seconds: int) -> str:
    if seconds >= 2 * _DAY_S:
        return f"{seconds // _DAY_S} days"
    if seconds >= 2 * 3600:
        return f"{seconds // 3600} hours"
    return f"{max(1, seconds // 60)} min"


def _aligned(rows: Sequence[Row]) -> list[str]:
    width = max((len(label) for label, _ in rows), default=0)
    return [f"  {label:<{width}}  {text}" for label, text in rows]


def _named(release: Answer) -> str:
    return f"{_word(release, 'name')} {_word(release, 'version')}".strip() or "a release"


def _table(answer: Answer, name: str) -> Answer:
    value = answer.get(name)
    return value if isinstance(value, Mapping) else {}


def _word(answer: Answer, name: str) -> str:
    value = answer.get(name)
    return str(value) if isinstance(value, str | int) else ""


def _words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else ""


def _count(value: object, noun: str) -> str:
    if not isinstance(value, int):
        return f"? {noun}s"
    return f"{value:,} {noun}" if value == 1 else f"{value:,} {noun}s"
