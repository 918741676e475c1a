"""Which boards there are, from a TOML file, an Ansible inventory or names of ~/.ssh/config."""

import math
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, field_validator

from toolchain.board import check_address
from toolchain.config import Frozen, closest, load
from toolchain.errors import ConfigError
from toolchain.recipe import Positive, Text
from toolchain.tools import ansible

ANSIBLE, SSH = "ansible:", "ssh:"
"""Beginnings of `--fleet` that name something else than a TOML file."""
_OF_ANSIBLE = {".ini", ".yml", ".yaml", ".cfg"}
_SHARE = re.compile(r"([0-9]{1,3}(?:\.[0-9]+)?)%")
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)(s|m|h)")
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
MOST_S = 30 * 86400.0
"""Longest duration: a push that waits for longer was mistyped."""


def _wave(value: int | str) -> int | str:
    if isinstance(value, int):
        if value < 1:
            raise ValueError("a wave has at least one board")
        return value
    found = _SHARE.fullmatch(value)
    if not found or not 0 < float(found[1]) <= 100:
        raise ValueError(f'`{value}` is neither a number of boards nor a share such as "10%"')
    return value


def seconds(text: str) -> float:
    """Return the seconds of a duration such as `90s`, `10m` or `2h`; raise ValueError."""
    found = _DURATION.fullmatch(text)
    if not found:
        raise ValueError(f"`{text}` is no duration such as `90s`, `10m` or `2h`")
    value = float(found[1]) * _SECONDS[found[2]]
    if value > MOST_S:
        raise ValueError(f"`{text[:40]}` is longer than {MOST_S / 3600:.0f}h")
    return value


def _duration(text: str) -> str:
    seconds(text)
    return text


def _no_number(value: object) -> object:
    """Return a value; raise ValueError for a number, which has no unit."""
    if isinstance(value, int | float):
        raise ValueError(f"`{value}` is no duration such as `90s`, `10m` or `2h`")
    return value


def _some_time(text: str) -> str:
    if not seconds(text):
        raise ValueError("no answer begins within no time: leave it out for any time")
    return text


Wave = Annotated[int | str, AfterValidator(_wave)]
Duration = Annotated[str, BeforeValidator(_no_number), AfterValidator(_duration)]


class BoardSpec(Frozen):
    """One board of a fleet."""

    address: Text
    tags: tuple[Text, ...] = ()
    """Words by which `--only` chooses boards; for an Ansible inventory its groups."""


class RolloutSpec(Frozen):
    """How a release is brought to the boards of a fleet."""

    waves: tuple[Wave, ...] = Field(
        default=(1, "10%", "100%"),
        min_length=1,
        description="how many boards have the release after each wave, as numbers or shares",
    )
    parallel: Annotated[int, Field(ge=1, le=64)] = 4
    """Boards that are worked on at once."""
    soak: Duration = "1m"
    """Time that the boards of a wave must stay healthy before the next wave begins."""
    stop_after: Positive = 1
    """Failed boards of one wave after which no other board is touched."""
    max_first_token: Annotated[Duration, AfterValidator(_some_time)] | None = None
    """Time to the first token within which nine of ten answers must begin during the soak."""

    @field_validator("waves")
    @classmethod
    def _grow(cls, waves: tuple[int | str, ...]) -> tuple[int | str, ...]:
        """Refuse a wave behind a larger one: it would be none, and all boards would be at once."""
        for before, wave in pairwise(waves):
            if isinstance(before, str) and isinstance(wave, str):
                shrinks = float(wave.rstrip("%")) < float(before.rstrip("%"))
            elif isinstance(before, int) and isinstance(wave, int):
                shrinks = wave < before
            else:
                shrinks = before == "100%"
            if shrinks:
                raise ValueError(f"`{wave}` behind `{before}`: each wave is as large as all so far")
        return waves


class Inventory(Frozen):
    """A fleet: its boards, in the order in which they are served, and how."""

    boards: tuple[BoardSpec, ...] = Field(min_length=1)
    rollout: RolloutSpec = RolloutSpec()

    @field_validator("boards")
    @classmethod
    def _each_once(cls, boards: tuple[BoardSpec, ...]) -> tuple[BoardSpec, ...]:
        seen: set[str] = set()
        for board in boards:
            if board.address in seen:
                raise ValueError(f"`{board.address}` stands there twice")
            seen.add(board.address)
        return boards


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """The boards that are meant by `--fleet` and `--only`."""

    name: str
    boards: tuple[BoardSpec, ...]
    rollout: RolloutSpec
    journal: Path
    """File in which is noted what was done, beside the inventory."""

    def waves(self) -> list[int]:
        """Return how many boards are to have the release after each wave, each more than before."""
        counts: list[int] = []
        for wave in self.rollout.waves:
            after = _boards_after(wave, len(self.boards))
            if after > (counts[-1] if counts else 0):
                counts.append(after)
        return counts


def open_fleet(text: str, only: str = "") -> Fleet:
    """Return the fleet that `--fleet` names, or of it the boards that `--only` names by a tag or an
    address; raise ConfigError if there are none, or for a text that is no address.
    """
    if text.startswith(SSH):
        inventory = _inventory(text, _of_names(text.removeprefix(SSH)))
        journal = Path("ssh.journal.jsonl")
    elif text.startswith(ANSIBLE):
        if not text.removeprefix(ANSIBLE):
            raise ConfigError("--fleet: `ansible:` names no inventory")
        source = Path(text.removeprefix(ANSIBLE))
        found = ansible.hosts(source)
        boards = tuple(BoardSpec(address=host.address, tags=host.groups) for host in found)
        inventory, journal = _inventory(text, boards), _beside(source)
    else:
        _refuse_other_kind(Path(text))
        inventory, journal = load(Path(text), Inventory), _beside(Path(text))

    boards = inventory.boards
    if only:
        boards = tuple(board for board in boards if only in (board.address, *board.tags))
    if not boards:
        words = {word for board in inventory.boards for word in (board.address, *board.tags)}
        raise ConfigError(
            f"--only: `{only}` is neither a tag nor a board of {text}",
            hint=closest(only, sorted(words)),
        )
    for board in boards:
        # Here, and not in the wave of the board: then others have the release already.
        check_address(board.address)
    return Fleet(name=text, boards=boards, rollout=inventory.rollout, journal=journal)


def _refuse_other_kind(file: Path) -> None:
    """Raise ConfigError for what is no TOML file by its name, with what may have been meant."""
    if file.suffix.lower() in _OF_ANSIBLE and file.is_file():
        raise ConfigError(
            f"{file}: not a TOML file", hint=f"an Ansible inventory: --fleet {ANSIBLE}{file}"
        )
    if "@" in str(file) and not file.exists():
        raise ConfigError(
            f"{file}: no such file",
            hint="boards by their names of ~/.ssh/config: --fleet ssh:NAME,NAME",
        )


def _beside(source: Path) -> Path:
    return source.with_name(f"{source.stem}.journal.jsonl")


def _of_names(text: str) -> tuple[BoardSpec, ...]:
    return tuple(BoardSpec(address=name.strip()) for name in text.split(",") if name.strip())


def _inventory(text: str, boards: tuple[BoardSpec, ...]) -> Inventory:
    if not boards:
        raise ConfigError(f"--fleet: `{text}` names no board")
    try:
        return Inventory(boards=boards)
    except ValueError as error:
        twice = next(b.address for n, b in enumerate(boards) if b in boards[:n])
        raise ConfigError(f"--fleet: `{text}`: `{twice}` stands there twice") from error


def _boards_after(wave: int | str, boards: int) -> int:
    """Return how many of all boards have the release after a wave."""
    if isinstance(wave, int):
        return min(wave, boards)
    return math.ceil(boards * float(wave.rstrip("%")) / 100)
