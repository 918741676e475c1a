"""The file of a round of sealed tallies: its owners, and what is counted.

Every statement of the round names the digest of this file. So whoever changes it makes another
round, which nobody has joined.
"""

import json
import re
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, ValidationError

from device.manifest import ManifestError, read_bounded
from device.manifest.reading import each_key_once, parse_json
from device.manifest.signature import fingerprint, read_key
from toolchain.config import Frozen
from toolchain.errors import ConfigError
from toolchain.files import write_whole
from toolchain.signing import SigningKey

LEAST = 5
"""Least number of owners whose sum may be opened, unless a round says another."""
DAYS = 7
"""Days until a round closes, unless it says another number."""
MOST_DAYS = 3650
LOWEST = 3
# Of two owners, each knows the other's counters when it knows the sum.
MAX_OWNERS = 1 << 16
MAX_ROUND_BYTES = 16 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9@._-]{0,63}")
_FILE_HINT = "demitasse tally ROUND.json --owners KEYS begins a round"
_KEYS_HINT = "one public SSH key a line, with the owner's name behind it, as in a .pub file"
Hex = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Round(Frozen):
    """A round: who takes part, and what is counted."""

    tally: Literal[1] = 1
    id: Hex
    """Random: two rounds of the same owners differ."""
    least: Annotated[int, Field(ge=LOWEST, le=MAX_OWNERS)]
    counters: Annotated[tuple[Annotated[str, Field(max_length=80)], ...], Field(min_length=1)]
    owners: Annotated[dict[str, str], Field(max_length=MAX_OWNERS)]
    """Owner → SSH public key, its kind and its base64."""
    closes: AwareDatetime
    """Until when owners join and seal."""
    # A file that comes late to a round that was given up would open its sum. Less the sum of the
    # round in its place, that is one owner's counters.

    @property
    def digest(self) -> str:
        """What every statement of this round names."""
        content = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return sha256(content.encode()).hexdigest()


def begin(path: Path, owners: Path, counters: Sequence[str], least: int, days: int) -> Round:
    """Write the file of a new round of the owners whose public SSH keys a file has, one a line."""
    if path.exists():
        raise ConfigError(f"{path}: there is a round already", hint="name another file")
    if path.suffix != ".json":
        raise ConfigError(f"{path}: a round is a .json file", hint="name it tally.json")
    made = Round(
        id=secrets.token_hex(32),
        least=least,
        counters=tuple(counters),
        owners=_owners_in(owners),
        closes=(now() + timedelta(days=days)).replace(microsecond=0),
    )
    _check(path, made)
    try:
        write_whole(path, json.dumps(made.model_dump(mode="json"), indent=1) + "\n")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
    return made


def read_round(path: Path) -> Round:
    """Return a round; raise ConfigError for a file that is none."""
    content = read_bounded(path, MAX_ROUND_BYTES)
    if content is None:
        raise ConfigError(f"{path}: cannot be read", hint=_FILE_HINT)
    try:
        # Whoever looks into the file sees the first of two owners of one name, JSON the last.
        plain = parse_json(content, pairs=each_key_once)
        found = Round.model_validate_json(json.dumps(plain), strict=True)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part)[:40] for part in problem["loc"]) or "round"
        raise ConfigError(
            f"{path.name}: `{where}`: {problem['msg'][:1].lower()}{problem['msg'][1:]}",
            hint=_FILE_HINT,
        ) from error
    except ValueError as error:
        said = str(error)[:100]
        raise ConfigError(f"{path.name}: not JSON: {said}", hint=_FILE_HINT) from error
    _check(path, found)
    return found


def now() -> datetime:
    """Return the time by this computer's clock."""
    return datetime.now(UTC)


def refuse_closed(path: Path, asked: Round) -> None:
    """Raise ConfigError for a round that has closed."""
    if now() > asked.closes:
        raise ConfigError(
            f"{path.name}: the round closed at {asked.closes.isoformat()}",
            hint="begin another round",
        )


def owner_of(asked: Round, key: SigningKey) -> str:
    """Return the owner whose key it is; raise ConfigError if the round does not name it."""
    for owner, line in asked.owners.items():
        if key_of(line) == key.key:
            return owner
    raise ConfigError(
        f"the round does not name the key {key.fingerprint}",
        hint="--sign KEY signs with the one that it names",
    )


def key_of(line: str) -> bytes:
    """Return the public key in the first two words of a line; raise ConfigError."""
    kind, _, text = line.partition(" ")
    try:
        return read_key(kind, text)
    except ManifestError as error:
        raise ConfigError(f"`{line[:60]}`: {error}", hint=_KEYS_HINT) from error


def fingerprint_of(line: str) -> str:
    """Return the fingerprint of an owner's key, as ssh-keygen prints it."""
    return fingerprint(key_of(line))


def _owners_in(file: Path) -> dict[str, str]:
    """Return owner → key of a file with a public key a line."""
    try:
        content = read_bounded(file, MAX_ROUND_BYTES) or b""
        if len(content) > MAX_ROUND_BYTES:
            raise ConfigError(f"{file}: more than {MAX_ROUND_BYTES:,} bytes", hint=_KEYS_HINT)
        lines = content.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: cannot be read", hint=_KEYS_HINT) from error
    if not lines:
        raise ConfigError(f"{file}: cannot be read, or is empty", hint=_KEYS_HINT)
    owners: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        words = line.split()
        if not words or line.startswith("#"):
            continue
        if len(words) != 3:
            raise ConfigError(f"{file.name}:{number}: not a key and a name", hint=_KEYS_HINT)
        if words[2] in owners:
            raise ConfigError(f"{file.name}:{number}: `{words[2]}` is there twice")
        owners[words[2]] = f"{words[0]} {words[1]}"
    return owners


def _check(path: Path, made: Round) -> None:
    """Raise ConfigError for a round that must not be: too few owners, or one of them twice."""
    if len(made.owners) < made.least:
        raise ConfigError(
            f"{path.name}: {len(made.owners)} owners, and a sum needs {made.least}",
            hint=f"--least says how many are enough: {LOWEST} or more",
        )
    wrong = next((name for name in made.owners if not _NAME.fullmatch(name)), None)
    if wrong is not None:
        raise ConfigError(
            f"{path.name}: `{wrong[:60]}` is no owner's name",
            hint="letters, digits and `@._-`, at most 64",
        )
    keys = [key_of(line) for line in made.owners.values()]
    if len(set(keys)) < len(keys) or len({name.lower() for name in made.owners}) < len(keys):
        raise ConfigError(f"{path.name}: an owner is there twice", hint="one key and name each")
    if len(set(made.counters)) < len(made.counters):
        raise ConfigError(f"{path.name}: a counter is there twice")
