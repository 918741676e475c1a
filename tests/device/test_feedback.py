"""The ring of feedback: its bound, what a cut or a flipped bit costs, and its two verbs."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from device import disk
from device.errors import DeviceError
from device.feedback import FOLDER, MAX_ROW_BYTES, PARTS, Ring, ring_of
from device.harvest import forget, harvest
from tests.fakes.disks import CrashModel, PowerCutError, Recorder, build, cut_after

MB = 1 << 20


@pytest.fixture
def ring(tmp_path: Path) -> Ring:
    return Ring(tmp_path / FOLDER, MB)


def questions(ring: Ring, after: int = 0) -> list[str]:
    return [row["question"] for row in ring.rows(after)]


def fill(ring: Ring, count: int, first: int = 1) -> None:
    for number in range(first, first + count):
        assert ring.append({"question": f"question {number}"}) == number


def printed(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_rows_come_back_in_their_order_and_behind_a_number(ring: Ring) -> None:
    fill(ring, 5)
    assert questions(ring) == [f"question {number}" for number in range(1, 6)]
    assert questions(ring, after=3) == ["question 4", "question 5"]
    assert questions(ring, after=5) == []


def test_it_never_takes_more_than_its_size_and_loses_the_oldest(ring: Ring, tmp_path: Path) -> None:
    long = "x" * (MAX_ROW_BYTES // 2)
    for number in range(1, 101):
        assert ring.append({"question": f"{number}{long}"}) == number
        held = sum(file.stat().st_size for file in (tmp_path / FOLDER).glob("*.jsonl"))
        assert held <= MB
    numbers = [row["n"] for row in ring.rows()]
    assert numbers == list(range(numbers[0], 101)), "the newest rows stand, without a gap"
    assert len(numbers) * len(long) > MB * (PARTS - 2) // PARTS


def test_a_smaller_ring_of_the_next_release_gives_the_room_back(ring: Ring, tmp_path: Path) -> None:
    for _ in range(25):
        ring.append({"question": "x" * 30_000})
    smaller = Ring(tmp_path / FOLDER, MB // 4)
    smaller.append({"question": "the last"})
    assert ring.size_bytes() <= MB // 4
    assert questions(ring)[-1] == "the last"


def test_a_row_that_is_too_long_is_refused_and_the_rest_stays(ring: Ring) -> None:
    fill(ring, 1)
    with pytest.raises(DeviceError) as refused:
        ring.append({"question": "x" * MAX_ROW_BYTES})
    assert (refused.value.code, refused.value.status) == ("too_large", 413)
    fill(ring, 1, first=2)


def test_a_torn_line_is_cut_off_and_costs_only_its_own_row(ring: Ring, tmp_path: Path) -> None:
    fill(ring, 2)
    (part,) = (tmp_path / FOLDER).glob("*.jsonl")
    part.write_bytes(part.read_bytes() + b'{"n": 3, "question": "to')
    assert questions(ring) == ["question 1", "question 2"]
    fill(ring, 1, first=3)
    assert questions(ring) == ["question 1", "question 2", "question 3"]


def test_a_flipped_bit_costs_only_its_own_row(ring: Ring, tmp_path: Path) -> None:
    fill(ring, 3)
    (part,) = (tmp_path / FOLDER).glob("*.jsonl")
    content = part.read_bytes()
    part.write_bytes(content.replace(b"question 2", b"question 3", 1))
    assert questions(ring) == ["question 1", "question 3"]
    fill(ring, 1, first=4)


@pytest.mark.parametrize("what", ["link", "fifo", "folder"])
def test_what_is_no_file_of_ours_is_never_read(ring: Ring, tmp_path: Path, what: str) -> None:
    fill(ring, 1)
    strange = tmp_path / FOLDER / "000000000009.jsonl"
    if what == "link":
        strange.symlink_to("/etc/passwd")
    elif what == "fifo":
        os.mkfifo(strange)
    else:
        strange.mkdir()
    (tmp_path / FOLDER / "notes.jsonl").write_text("mine\n")
    assert questions(ring) == ["question 1"]


@pytest.mark.slow
def test_after_a_power_cut_at_any_change_no_confirmed_row_is_lost(tmp_path: Path) -> None:
    for cut in range(1, 60):
        ring, confirmed = Ring(tmp_path / str(cut), MB // 8), 0
        with pytest.MonkeyPatch.context() as patch, suppress(PowerCutError):
            cut_after(cut, patch)
            for number in range(1, 9):
                ring.append({"question": f"{number}" + "x" * 7000})
                confirmed = number
        numbers = [row["n"] for row in ring.rows()]
        assert set(range(1, confirmed + 1)) <= set(numbers)
        assert ring.append({"question": "the next"}) > confirmed
        assert len(list(ring.rows())) == len({row["n"] for row in ring.rows()})


def woken(tmp_path: Path, live: Callable[[Ring], object], *, within: bool = False) -> list[Ring]:
    """Return the rings that are found after a power cut that loses unsynced writes.

    The board went off when `live` was done, or somewhere `within` it; five rows were there before.
    """
    (tmp_path / "disk").mkdir()
    record = Recorder(tmp_path / "disk")
    with record.recording():
        ring = Ring(tmp_path / "disk" / FOLDER, MB // 8)
        for number in range(1, 6):
            ring.append({"question": f"{number}" + "x" * 7000})
        before = record.count
        live(ring)

    model = CrashModel(record, window=4)
    places = range(before if within else record.count, record.count + 1)
    trees = [tree for place in places for tree in model.states(place)]
    for number, tree in enumerate(trees):
        build(tree, tmp_path / f"woken{number}")
    assert trees
    return [Ring(tmp_path / f"woken{number}" / FOLDER, MB // 8) for number in range(len(trees))]


@pytest.mark.slow
@pytest.mark.parametrize("more", [0, 1, 4])
def test_a_row_that_was_confirmed_outlives_the_loss_of_all_that_no_fsync_covers(
    tmp_path: Path, more: int
) -> None:
    def live(ring: Ring) -> None:
        for number in range(more):
            ring.append({"question": f"more {number}" + "x" * 7000})

    for ring in woken(tmp_path, live):
        assert [row["n"] for row in ring.rows()] == list(range(1, 6 + more))


@pytest.mark.slow
@pytest.mark.parametrize("through", [None, 1, 3])
def test_what_was_forgotten_stays_so_whatever_unsynced_write_is_lost(
    tmp_path: Path, through: int | None
) -> None:
    for ring in woken(tmp_path, lambda ring: ring.forget(through)):
        assert [row["n"] for row in ring.rows()] == list(range((through or 5) + 1, 6))


@pytest.mark.slow
@pytest.mark.parametrize("through", [None, 1, 3])
def test_no_number_is_given_twice_wherever_forgetting_is_cut_off(
    tmp_path: Path, through: int | None
) -> None:
    for ring in woken(tmp_path, lambda ring: ring.forget(through), within=True):
        assert ring.append({"question": "the next"}) == 6


@pytest.mark.slow
def test_a_cut_while_it_forgets_leaves_each_row_whole_or_gone(tmp_path: Path) -> None:
    for through in (5, None):
        for cut in range(1, 16):
            ring = Ring(tmp_path / f"{through}-{cut}", MB // 8)
            for number in range(1, 9):
                ring.append({"question": f"{number}" + "x" * 7000})
            with pytest.MonkeyPatch.context() as patch, suppress(PowerCutError):
                cut_after(cut, patch)
                ring.forget(through)
            left = [row["n"] for row in ring.rows()]
            assert set(left) >= (set(range(6, 9)) if through else set())
            assert ring.append({"question": "the next"}) == 9, "numbers never go back"


def test_a_full_disk_is_said_and_leaves_no_piece_of_a_row(
    ring: Ring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(ring, 1)
    real = disk.write

    def full(descriptor: int, content: Any) -> int:
        real(descriptor, bytes(content)[:5])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(disk, "write", full)
        with pytest.raises(DeviceError) as refused:
            ring.append({"question": "lost"})
    assert refused.value.code == "disk_full"
    (part,) = (tmp_path / FOLDER).glob("*.jsonl")
    assert part.read_bytes().endswith(b"\n")
    fill(ring, 1, first=2)


def test_what_is_forgotten_is_no_more_on_the_disk_and_numbers_go_on(
    ring: Ring, tmp_path: Path
) -> None:
    fill(ring, 3)
    assert ring.forget() == 3
    assert b"question" not in b"".join(
        file.read_bytes() for file in (tmp_path / FOLDER).iterdir() if file.is_file()
    )
    assert (questions(ring), ring.last()) == ([], 3)
    fill(ring, 1, first=4)


def test_only_the_rows_up_to_a_number_are_forgotten(ring: Ring) -> None:
    for number in range(1, 21):
        ring.append({"question": f"{number}" + "x" * 30_000})
    assert ring.forget(through=13) == 13
    assert [row["n"] for row in ring.rows()] == list(range(14, 21))
    assert ring.append({"question": "next"}) == 21


def test_a_bundle_outside_of_a_store_and_a_release_without_it_have_no_ring(tmp_path: Path) -> None:
    release = tmp_path / "releases" / ("0" * 64)
    assert ring_of(tmp_path / "bundle", MB) is None
    assert ring_of(release, 0) is None
    assert ring_of(release, MB) is not None


class TestVerbs:
    def test_a_harvest_goes_on_behind_the_last_row_of_the_same_ring(
        self, ring: Ring, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        fill(ring, 3)
        harvest(["--root", str(tmp_path)])
        head, *rows, end = printed(capsys)
        assert head == {"ring": ring.name(), "after": 0, "last": 3}
        assert [each["row"]["n"] for each in rows] == [1, 2, 3]
        assert end == {"ok": True}

        harvest(["--root", str(tmp_path), "--ring", ring.name(), "--after", "2"])
        assert [each["row"]["n"] for each in printed(capsys)[1:-1]] == [3]
        harvest(["--root", str(tmp_path), "--ring", "another", "--after", "2"])
        assert len(printed(capsys)) == 5, "numbers of another ring mean other rows"

    def test_a_board_without_feedback_has_none(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        harvest(["--root", str(tmp_path)])
        forget(["--root", str(tmp_path)])
        assert printed(capsys) == [
            {"ring": "", "after": 0, "last": 0},
            {"ok": True},
            {"forgotten": 0},
        ]
        assert list(tmp_path.iterdir()) == [], "a look writes nothing"

    def test_rows_are_forgotten_up_to_a_number_of_the_same_ring(
        self, ring: Ring, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        fill(ring, 3)
        forget(["--root", str(tmp_path), "--ring", "another", "--through", "2"])
        forget(["--root", str(tmp_path), "--ring", ring.name(), "--through", "2"])
        assert printed(capsys) == [{"forgotten": 0}, {"forgotten": 2}]
        assert questions(ring) == ["question 3"]
