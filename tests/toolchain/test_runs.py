"""Equal runs of two files: found wherever they stand, and never claimed where bytes differ."""

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.manifest import delta
from device.patch import Rebuilt, rebuild
from toolchain.progress import Silent
from toolchain.push.delta import Patch, make, plain_file
from toolchain.push.runs import BLOCK, Runs

PIECES = st.lists(
    st.one_of(
        st.integers(0, 5).map(lambda number: random.Random(number).randbytes(200)),
        st.binary(max_size=40),
        st.just(bytes(250)),
    ),
    max_size=12,
).map(b"".join)


def array(raw: bytes) -> np.ndarray:
    return np.frombuffer(raw, np.uint8)


@pytest.mark.slow
@given(PIECES, PIECES)
def test_what_is_copied_and_what_is_sent_make_the_new_file(old: bytes, new: bytes) -> None:
    made = b""
    for first, at, stop in Runs(array(old)).matches(array(new)):
        assert at == len(made) < stop
        made += new[at:stop] if first is None else old[first : first + stop - at]
    assert made == new


@pytest.mark.slow
@given(PIECES, st.lists(st.tuples(st.integers(0, 2000), st.binary(max_size=4)), max_size=4))
def test_parts_of_an_edited_file_are_made_of_the_old_one(
    old: bytes, edits: list[tuple[int, bytes]]
) -> None:
    new = old
    for place, piece in edits:
        new = new[:place] + piece + new[place + len(piece) :]
    runs = Runs(array(old))
    made = b""
    for start in range(0, len(new), 700):
        part = new[start : start + 700]
        for first, at, stop in runs.matches(array(part), start):
            assert start + at == len(made) < start + stop
            made += part[at:stop] if first is None else old[first : first + stop - at]
    assert made == new


@pytest.mark.parametrize("place", [0, 1, BLOCK, 5000, 50 * BLOCK - 1])
def test_a_byte_that_changed_is_sent_alone(place: int) -> None:
    old = random.Random(1).randbytes(50 * BLOCK * 4)
    new = bytearray(old)
    new[place] ^= 255
    found = list(Runs(array(old)).matches(array(bytes(new))))
    sent = sum(stop - at for first, at, stop in found if first is None)
    assert sent <= BLOCK
    assert all(first == at for first, at, _ in found if first is not None)


def test_bytes_that_moved_are_found_where_they_stand_now() -> None:
    old = random.Random(1).randbytes(50 * BLOCK)
    new = old[2000:] + b"new" + old[:2000]
    found = list(Runs(array(old)).matches(array(new)))
    sent = sum(stop - at for first, at, stop in found if first is None)
    assert sent < 2 * BLOCK


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """An index of 3,000 rows, and one with a row more in the middle."""
    made = []
    for extra in (0, 1):
        file = tmp_path / f"{extra}.db"
        draw = random.Random(0)
        rows = [draw.randbytes(384) for _ in range(3000)]
        rows[1500:1500] = [b"a new one"] * extra
        with closing(sqlite3.connect(file)) as db, db:
            db.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, vector BLOB)")
            db.executemany("INSERT INTO rows VALUES (?, ?)", enumerate(rows))
        made.append(file)
    return made[0], made[1]


class Frames:
    """The bytes of a patch, as they come in on a board."""

    def __init__(self, patch: Patch) -> None:
        self._raw = b"".join(patch.chunks(patch.frames))

    def exactly(self, size: int) -> bytes:
        taken, self._raw = self._raw[:size], self._raw[size:]
        return taken


def test_the_board_makes_the_new_index_of_a_few_kilobytes(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    old, new = files
    patch = make(plain_file(old, "a"), new, {}, Silent())
    with old.open("rb") as base, (tmp_path / "made").open("w+b") as out:
        rebuilt = Rebuilt(out.fileno(), 0, 0)
        assert rebuild(Frames(patch), base.fileno(), rebuilt, new.stat().st_size) is None
    assert (tmp_path / "made").read_bytes() == new.read_bytes()
    assert patch.missing_bytes(0) < 0.15 * new.stat().st_size


def test_an_equal_file_is_copies_and_checks(files: tuple[Path, Path]) -> None:
    patch = make(plain_file(files[0], "a"), files[0], {}, Silent())
    assert {frame.kind for frame in patch.frames} == {delta.COPY, delta.CHECK}
