"""Secrets that a model must not give away: read from a private file, with false ones beside them.

The file is JSON lines, `{"kind", "value", "context"}`: what kind of thing the value is, the value,
and the text in which it stands, or the messages of a conversation whose last one holds it. It
stays with the user's data: no value, and no digest of one, reaches a record or a bundle.

False values obey the format of the true one (prefix, check digit, letters where letters stand), or
the true one would be told from them by its form alone.
"""

import random
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.artifacts import read_jsonl
from toolchain.errors import ArtifactError
from toolchain.recipe import SECRETS_FILE

MOST_CHARS = 500
LEAST_CHARS = 3
"""Shorter values are said by chance, and stand in half of all answers and surrogates."""
_TRIES = 50
"""Draws for each false value before its kind counts as too small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """A true value and where it stood."""

    kind: str
    value: str
    question: tuple[Mapping[str, str], ...]
    """Conversation that is answered with it; empty where the text was no conversation."""
    before: str
    """Text that stands before it in the answer, or in the text."""


def find_secrets(folder: Path, name: str) -> Path | None:
    """Return the file of a recipe's secrets: the one that it names, else what redaction kept."""
    file = folder / (name or SECRETS_FILE)
    if file.is_file():
        return file
    if name:
        raise ArtifactError(
            f"evaluate: leak: secrets: no such file `{name}`",
            hint='JSON lines of {"kind", "value", "context"}, beside the recipe',
        )
    return None


def is_private(file: Path) -> bool:
    """Say whether nobody but its owner can read a file."""
    return not file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO)


def stamp(file: Path) -> str:
    """Return a name for this state of a private file that tells nothing of its content."""
    # A digest of few short numbers could be turned round by trying all of them.
    facts = file.stat()
    return f"{facts.st_size} bytes of {facts.st_mtime_ns}"


def read_secrets(file: Path) -> list[Secret]:
    """Return the secrets of a file, each value once; raise ArtifactError with a bad line."""
    found: dict[str, Secret] = {}
    for number, row in enumerate(read_jsonl(file), 1):
        secret = _secret(f"{file.name}: entry {number}", row)
        found.setdefault(secret.value, secret)
    return list(found.values())


def _secret(where: str, row: Mapping[str, Any]) -> Secret:
    kind, value, context = (row.get(key) for key in ("kind", "value", "context"))
    if not isinstance(kind, str) or not isinstance(value, str) or not value.strip():
        # The value itself is not quoted: errors end up in logs.
        raise ArtifactError(f"{where}: `kind` and `value` must be text")
    if len(value) > MOST_CHARS:
        raise ArtifactError(f"{where}: `value` has more than {MOST_CHARS} characters")

    if len("".join(value.split())) < LEAST_CHARS and value.isascii():
        raise ArtifactError(
            f"{where}: `value` has fewer than {LEAST_CHARS} characters",
            hint="a model says such a value by chance",
        )

    question: tuple[Mapping[str, str], ...] = ()
    text = context
    if isinstance(context, list) and context:
        question, text = _conversation(where, context)
    if not isinstance(text, str) or value not in text:
        raise ArtifactError(f"{where}: `context` must be text or messages that hold the value")
    return Secret(kind=kind, value=value, question=question, before=text[: text.index(value)])


def _conversation(where: str, rows: list[Any]) -> tuple[tuple[Mapping[str, str], ...], Any]:
    for row in rows:
        if (
            not isinstance(row, dict)
            or not isinstance(row.get("role"), str)
            or not isinstance(row.get("content"), str)
        ):
            raise ArtifactError(f"{where}: `context` must be messages with `role` and `content`")
    messages = [{"role": row["role"], "content": row["content"]} for row in rows]
    return tuple(messages[:-1]), messages[-1]["content"]


# False values -------------------------------------------------------------------------------------


def alternatives(secret: Secret, others: Sequence[Secret], count: int, seed: str) -> list[str]:
    """Return false values of the same format, all different; fewer if the format has fewer."""
    draw = random.Random(f"{seed} {secret.kind} {len(secret.value)}")  # noqa: S311 - no secret
    make = _MAKERS.get(secret.kind, _same_shape)
    same = [other.value for other in others if other.kind == secret.kind]
    found: dict[str, None] = {}
    for _ in range(count * _TRIES):
        value = make(secret.value, same, draw)
        if value != secret.value:
            found[value] = None
        if len(found) == count:
            break
    return list(found)


def _same_shape(value: str, same: Sequence[str], draw: random.Random) -> str:
    """Return a value with other digits, letters and Chinese characters in the same places."""
    cjk = [each for text in same for each in text if _is_cjk(each)]
    return "".join(_other(each, cjk, draw) for each in value)


def _other(character: str, cjk: Sequence[str], draw: random.Random) -> str:
    if character.isascii() and character.isdigit():
        return draw.choice("0123456789")
    if character.isascii() and character.isalpha():
        letters = "abcdefghijklmnopqrstuvwxyz"
        other = draw.choice(letters)
        return other.upper() if character.isupper() else other
    return draw.choice(cjk) if _is_cjk(character) and cjk else character


def _is_cjk(character: str) -> bool:
    return "\u4e00" <= character <= "\u9fff"


def _digits_after(keep: int) -> Callable[[str, Sequence[str], random.Random], str]:
    """Return a maker that keeps the first digits, which say the operator or the issuer."""

    def make(value: str, same: Sequence[str], draw: random.Random) -> str:
        """Return another number of the same shape."""
        seen = 0
        made = []
        for each in value:
            is_digit = each.isascii() and each.isdigit()
            seen += is_digit
            made.append(draw.choice("0123456789") if is_digit and seen > keep else each)
        return "".join(made)

    return make


def _phone(value: str, same: Sequence[str], draw: random.Random) -> str:
    """Return a number of the same country and operator."""
    country = 2 if value.startswith("+86") else 4 if value.startswith("0086") else 0
    return _digits_after(country + 3)(value, same, draw)


def _card(value: str, same: Sequence[str], draw: random.Random) -> str:
    """Return a number of the same issuer with a right check digit (ISO/IEC 7812-1, Luhn)."""
    made = list(_digits_after(6)(value, same, draw))
    places = [place for place, each in enumerate(made) if each.isascii() and each.isdigit()]
    if not places:
        return _same_shape(value, same, draw)
    for digit in "0123456789":
        made[places[-1]] = digit
        if _luhn([int(made[place]) for place in places]):
            break
    return "".join(made)


def _luhn(digits: Sequence[int]) -> bool:
    doubled = [2 * each - 9 * (each > 4) for each in digits[-2::-2]]
    return (sum(digits[::-2]) + sum(doubled)) % 10 == 0


_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_CHECKS = "10X98765432"


def _resident(value: str, same: Sequence[str], draw: random.Random) -> str:
    """Return a resident's number of the same region with a date and a right check digit.

    GB 11643-1999, check digit by MOD 11-2.
    """
    if len(value) != 18 or not (value.isascii() and value[:17].isdigit()):
        return _same_shape(value, same, draw)
    day = f"{draw.randint(1950, 2005)}{draw.randint(1, 12):02}{draw.randint(1, 28):02}"
    body = f"{value[:6]}{day}{draw.randint(0, 999):03}"
    total = sum(weight * int(digit) for weight, digit in zip(_WEIGHTS, body, strict=True))
    return body + _CHECKS[total % 11]


def _email(value: str, same: Sequence[str], draw: random.Random) -> str:
    """Return another person's address at the same host, made as people make them."""
    local, sign, host = value.rpartition("@")
    if not sign:
        return _same_shape(value, same, draw)
    sign = next((each for each in "._-" if each in local), "")
    digits = "".join(draw.choice("0123456789") for each in local if each.isdigit())
    given, family = draw.choice(_GIVEN), draw.choice(_FAMILY)
    name = f"{given}{sign}{family}" if sign else draw.choice((given, family, given + family))
    return f"{name}{digits}@{host}"


def _name(value: str, same: Sequence[str], draw: random.Random) -> str:
    """Return another name in the same script, of as many parts."""
    if any(map(_is_cjk, value)):
        given = "".join(draw.choice(_GIVEN_CJK) for _ in value[1:])
        return draw.choice(_FAMILY_CJK) + given
    parts = [draw.choice(_GIVEN), *(draw.choice(_FAMILY) for _ in value.split()[1:])]
    return " ".join(part.capitalize() for part in parts)


def _ip(value: str, same: Sequence[str], draw: random.Random) -> str:
    """Return an address of the same version with the same first part."""
    sign = ":" if ":" in value else "."
    first, *rest = value.split(sign)
    if sign == ":":
        parts = [
            "".join(draw.choice("0123456789abcdef") for _ in part) if part.isalnum() else part
            for part in rest
        ]
    else:
        parts = [str(draw.randint(0, 255)) for _ in rest]
    return sign.join([first, *parts])


def _secret_word(value: str, same: Sequence[str], draw: random.Random) -> str:
    """Return another key with the prefix that says whose keys these are, such as `sk-`."""
    head, sign, tail = value.rpartition("-") if "-" in value else value.rpartition("_")
    return head + sign + _same_shape(tail, same, draw)


_MAKERS: Mapping[str, Callable[[str, Sequence[str], random.Random], str]] = {
    "phone": _phone,
    "card": _card,
    "cn_id": _resident,
    "email": _email,
    "name": _name,
    "secret": _secret_word,
    "plate": lambda value, same, draw: value[:2] + _same_shape(value[2:], same, draw),
    "ip": _ip,
}
"""Kind → what makes a false value of it; the others get other characters in the same places."""
_GIVEN_NAMES = """anna ben carl dora emil fay george hana ivan jun kate liam mei nina omar paul rosa
sam tao uma vera wei xin yan zoe ming li fang jing lei"""
_FAMILY_NAMES = """adams baker chen davis evans fischer garcia huang ito jones kim lopez miller
nowak ortiz park quinn rossi smith tang ueda vogel wang xu young zhang zhao liu wu sun"""
_GIVEN, _FAMILY = tuple(_GIVEN_NAMES.split()), tuple(_FAMILY_NAMES.split())
_FAMILY_CJK = "王李张刘陈杨黄赵吴周徐孙马朱胡郭何林高罗"
_GIVEN_CJK = "伟芳娜敏静丽强磊军洋勇艳杰娟涛明超秀霞平刚桂英华文建国红梅鑫宇浩"


def spread(secrets: Sequence[Secret], most: int) -> Iterator[Secret]:
    """Yield at most so many of the secrets, evenly spread over the file."""
    step = max(1.0, len(secrets) / max(1, most))
    yield from (secrets[int(number * step)] for number in range(min(most, len(secrets))))
