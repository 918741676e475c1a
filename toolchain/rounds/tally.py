"""Sealed tallies: what boards of several owners have counted, of which only the sum can be read.

    tally.json            the round: its owners' SSH keys, the counters, the least number of owners
    tally.OWNER.joined    an owner's key for this round, signed
    tally.OWNER.sealed    an owner's counters under masks (rounds/masks.py), signed

All files may lie where anybody reads and changes them. A secret never leaves its owner's computer,
and masks one vector. The rule to keep: an owner seals for exactly the round that it joined, and
only where every other owner has joined the same one.
"""

from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal

import platformdirs
from pydantic import Field

from toolchain.config import Frozen
from toolchain.errors import ArtifactError, BoardError, ConfigError, TrustError
from toolchain.files import kept_secret, sync_folder, write_whole
from toolchain.rounds import masks
from toolchain.rounds.round_file import Hex, Round, key_of, owner_of, read_round, refuse_closed
from toolchain.rounds.statements import read_signed, write_signed
from toolchain.signing import SigningKey

MAX_COUNT = 1 << 20
"""An owner's counter is smaller. So a sum is below 2^36, and noise modulo 2^64 is not."""
JOINED: Literal["joined"] = "joined"
SEALED: Literal["sealed"] = "sealed"
_SHOWN = 5


class Joined(Frozen):
    """An owner takes part in exactly this round."""

    kind: Literal["joined"] = JOINED
    round: Hex
    owner: str
    public: Annotated[str, Field(max_length=64)]


class Sealed(Frozen):
    """An owner's counters under masks."""

    kind: Literal["sealed"] = SEALED
    round: Hex
    roster: Hex
    """Digest of the keys with which it was masked."""
    owner: str
    values: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """The sum over all owners of a round."""

    owners: tuple[str, ...]
    counters: dict[str, int]


def join(path: Path, key: SigningKey) -> tuple[str, Path]:
    """Take part in a round: keep a secret here, and write its public half, signed, beside it.

    Return the owner's name and the file.
    """
    asked, owner, secret_file = _part_in(path, key)

    secret_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    secret = kept_secret(secret_file, masks.new_secret)
    if len(secret) != masks.KEY_BYTES:
        raise ArtifactError(f"{secret_file}: a damaged secret", hint="begin another round")

    statement = Joined(
        round=asked.digest, owner=owner, public=b64encode(masks.public_of(secret)).decode()
    )
    out = file_of(path, owner, JOINED)
    write_signed(statement, key, out)
    return owner, out


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """An owner's place in a round that all have joined."""

    path: Path
    round: Round
    owner: str
    keys: dict[str, bytes]
    """Owner → its key for this round."""


def seat_in(path: Path, key: SigningKey) -> Seat:
    """Return the place of a key's owner; raise before anything is counted if it cannot seal."""
    asked, owner, secret_file = _part_in(path, key)
    if not secret_file.exists():
        raise ConfigError(
            f"{path.name}: `{owner}` has not joined this round here",
            hint=f"demitasse tally {path} --join; a round that changed after that is another one",
        )
    absent = [name for name in asked.owners if not file_of(path, name, JOINED).exists()]
    if absent:
        raise ConfigError(
            f"{path.name}: not joined yet: {_named(absent)}",
            hint="wait for them, or begin another round without them",
        )
    keys = {name: _key_of(path, asked, name) for name in asked.owners}
    if keys[owner] != masks.public_of(secret_file.read_bytes()):
        raise TrustError(
            f"{path.name}: `{owner}` joined with another key than the one here",
            hint="begin another round, and find out who signs with your key",
        )
    return Seat(path=path, round=asked, owner=owner, keys=keys)


def seal(seat: Seat, values: Sequence[int], key: SigningKey) -> Path:
    """Write an owner's counters under masks, signed, and return the file.

    The secret is gone before: the same masks on two vectors would tell their difference.
    """
    _refuse_wrong(seat, values)
    secret = _take(_secret_file(seat.round, seat.owner), seat)
    roster = _roster(seat.keys)
    context = bytes.fromhex(seat.round.digest) + bytes.fromhex(roster)
    try:
        hidden = masks.masked(values, seat.owner, secret, seat.keys, context)
    except ValueError as error:
        raise TrustError(
            f"{seat.path.name}: an owner joined with a key that keeps no secret",
            hint="begin another round without that owner",
        ) from error
    statement = Sealed(
        round=seat.round.digest,
        roster=roster,
        owner=seat.owner,
        values=b64encode(masks.to_bytes(hidden)).decode(),
    )
    out = file_of(seat.path, seat.owner, SEALED)
    write_signed(statement, key, out)
    return out


def open_sum(path: Path, files: Sequence[Path] = ()) -> Tally:
    """Return the sum over all owners of a round, from their sealed files.

    They lie beside the round unless they are named. Raise TrustError or ArtifactError for a file
    that does not belong there, and for fewer owners than the round has: their sum is noise.
    """
    asked = read_round(path)
    beside = [file_of(path, owner, SEALED) for owner in asked.owners]
    vectors: dict[str, list[int]] = {}
    rosters: set[str] = set()
    for file in files or [each for each in beside if each.exists()]:
        sealed, signer = read_signed(file, Sealed)
        _refuse_foreign(file, asked, sealed, signer)
        if sealed.owner in vectors:
            raise ArtifactError(f"{file.name}: `{sealed.owner}` is there twice")
        vectors[sealed.owner] = _values(file, asked, sealed)
        rosters.add(sealed.roster)

    absent = [owner for owner in asked.owners if owner not in vectors]
    if absent:
        raise ArtifactError(
            f"{path.name}: {len(vectors)} of {len(asked.owners)} owners, "
            f"{_named(absent)} not sealed: only the sum of all can be opened",
            hint="wait until it closes; then begin another round without those that did not come",
        )
    total = masks.summed(vectors.values())
    if len(rosters) > 1 or any(value >= MAX_COUNT * len(vectors) for value in total):
        raise ArtifactError(
            f"{path.name}: the masks do not cancel out: not all sealed with the same keys",
            hint="begin another round",
        )
    return Tally(
        owners=tuple(sorted(vectors)),
        counters=dict(zip(asked.counters, total, strict=True)),
    )


def file_of(path: Path, owner: str, what: str) -> Path:
    """Return the path of an owner's file, beside the round."""
    return path.with_name(f"{path.stem}.{owner}.{what}")


def _key_of(path: Path, asked: Round, owner: str) -> bytes:
    """Return an owner's key for a round; raise TrustError unless its owner joined this one."""
    file = file_of(path, owner, JOINED)
    joined, signer = read_signed(file, Joined)
    _refuse_foreign(file, asked, joined, signer)
    public = _decoded(joined.public)
    if joined.owner != owner or len(public) != masks.KEY_BYTES:
        raise ArtifactError(f"{file.name}: not the key of `{owner}`", hint="ask its owner for it")
    return public


def _refuse_foreign(file: Path, asked: Round, said: Joined | Sealed, signer: bytes) -> None:
    """Raise for a statement of another round, or of somebody else."""
    if said.round != asked.digest:
        raise TrustError(
            f"{file.name}: of another round", hint="a round that was changed is another one"
        )
    line = asked.owners.get(said.owner)
    if line is None or signer != key_of(line):
        raise TrustError(
            f"{file.name}: not signed by the key that the round has for `{said.owner[:60]}`",
            hint="ask its owner for the file as demitasse wrote it",
        )


def _values(file: Path, asked: Round, sealed: Sealed) -> list[int]:
    content = _decoded(sealed.values)
    if len(content) != masks.WORD_BYTES * len(asked.counters):
        raise ArtifactError(
            f"{file.name}: not the {len(asked.counters)} counters of the round",
            hint="ask its owner for the file as demitasse wrote it",
        )
    return masks.from_bytes(content)


def _decoded(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except ValueError:
        return b""


def _refuse_wrong(seat: Seat, values: Sequence[int]) -> None:
    """Raise for counters that the round does not have, or that a sum could not hold."""
    if len(values) != len(seat.round.counters):
        raise ConfigError(
            f"{seat.path.name}: {len(values)} counters, the round has {len(seat.round.counters)}"
        )
    for name, value in zip(seat.round.counters, values, strict=True):
        if type(value) is not int or not 0 <= value < MAX_COUNT:
            raise BoardError(
                f"{seat.path.name}: `{name}` is {value}: a counter lies below {MAX_COUNT:,}",
                hint="seal fewer boards at once, or start their services again",
            )


def _roster(keys: dict[str, bytes]) -> str:
    """Return the digest of who takes part with which key."""
    lines = "".join(f"{owner} {keys[owner].hex()}\n" for owner in sorted(keys))
    return sha256(lines.encode()).hexdigest()


def _take(secret_file: Path, seat: Seat) -> bytes:
    """Return a secret that nobody can take again, whatever is cut off after this."""
    spent = _spent(secret_file)
    try:
        secret_file.rename(spent)
    except FileNotFoundError as error:
        raise _sealed_already(seat.path, seat.owner) from error
    sync_folder(spent.parent)
    secret = spent.read_bytes()
    write_whole(spent, "")
    return secret


def _part_in(path: Path, key: SigningKey) -> tuple[Round, str, Path]:
    """Return a round that is open, the key's owner, and where the owner's secret lies.

    Raise if the owner has sealed already.
    """
    asked = read_round(path)
    refuse_closed(path, asked)
    owner = owner_of(asked, key)
    secret_file = _secret_file(asked, owner)
    if _spent(secret_file).exists():
        raise _sealed_already(path, owner)
    return asked, owner, secret_file


def _secret_file(asked: Round, owner: str) -> Path:
    folder = Path(platformdirs.user_state_dir("demitasse")) / "tallies"
    return folder / f"{asked.digest[:32]}.{owner}.secret"


def _spent(secret_file: Path) -> Path:
    return secret_file.with_suffix(".spent")


def _sealed_already(path: Path, owner: str) -> ConfigError:
    return ConfigError(
        f"{path.name}: `{owner}` has sealed its counters already",
        hint="send that file; if it is lost, begin another round",
    )


def _named(owners: Sequence[str]) -> str:
    more = f" and {len(owners) - _SHOWN} more" if len(owners) > _SHOWN else ""
    return ", ".join(owners[:_SHOWN]) + more
