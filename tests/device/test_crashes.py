"""Whatever ends a change of the store, and whenever: afterwards a board has the old release or the
new one, whole.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from device.errors import DeviceError
from device.store import RELEASES, RUNTIMES, Store
from tests.conftest import Rounds
from tests.fakes.board_life import NOTHING, Life, make_cargo, without_processes
from tests.fakes.disks import CrashModel, Node, Recorder, build

ROOT = Path(__file__).resolve().parents[2]
SENT_AGAIN = 6
"""The step of a life in which a release comes that is there already."""
STRIDE = 8
"""Rounds in which errors at all changes are gone through."""
WINDOW = 4
"""Number of last changes without fsync that are lost in every combination; earlier ones are lost
one by one and all together."""


class KilledError(BaseException):
    """Ends a step as SIGKILL would: nothing is tidied up."""


class Recorded:
    """A life from its first change to its last, and what may be seen after each."""

    def __init__(self, folder: Path, *, killed_at: int = 0, rots: bool = False) -> None:
        """With `killed_at` the step with that change ends before it, and the next step follows all
        the same.

        With `rots` a file of the last release is damaged, found, and the release sent again.
        """
        self._folder, self.cargo = folder, folder / "cargo"
        shutil.rmtree(folder / "disk", ignore_errors=True)
        (folder / "disk").mkdir()
        if not self.cargo.is_dir():
            make_cargo(self.cargo)
        self.record = Recorder(folder / "disk", killed_at=killed_at, by=KilledError)
        self.may = [{NOTHING}]
        self.promises: list[tuple[int, int, dict[str, Any], dict[str, Any]]] = []
        """From which change to which a session's request and answer are to be believed."""
        with without_processes(), self.record.recording():
            life = Life(self.cargo, folder / "disk" / "store")
            for number, (after, step) in enumerate(life.steps()):
                if rots and number == SENT_AGAIN:
                    self._rot(life.store, life.names["release3"])
                self._live(life, after, step)
        self.names = life.names

    def _rot(self, store: Store, release: str) -> None:
        self.record.rot(store.folder(RELEASES, release) / "model.bin")
        with pytest.raises(DeviceError, match=r"`model.bin` is not what the manifest says"):
            store.verify(RELEASES, release)

    def _live(self, life: Life, after: tuple[str, str], step: Any) -> None:
        before, told = set(self.may[-1]), []
        life.told = lambda request, answer: told.append((self.record.count, request, answer))
        try:
            step()
        except KilledError:
            after = next(iter(before))
        self.may += [{*before, after}] * (self.record.count - len(self.may))
        self.may.append({after})
        self.promises += [
            (since, self.record.count, request, answer) for since, request, answer in told
        ]

    def fault(self, place: int, tree: Node) -> str:
        """Return what is wrong with a disk after a cut at a change, "" if nothing is."""
        root = self._folder / "woken"
        build(tree, root)
        try:
            life = Life(self.cargo, root / "store")
            self._keeps_its_promises(life.store, place)
            before, serves = life.is_sound()[0], life.serves()
            assert before in {may[0] for may in self.may[place]}, f"`current` is {before}"
            assert serves in self.may[place], f"{serves} instead of {self.may[place]}"
            return ""
        except (AssertionError, DeviceError, OSError) as error:
            return str(error) or repr(error)
        finally:
            shutil.rmtree(root)

    def expected(self, place: int) -> int:
        """Return a number that two changes share if the same may be seen after both."""
        return hash(
            (
                frozenset(self.may[place]),
                *(since for since, until, *_ in self.promises if since <= place <= until),
            )
        )

    def _keeps_its_promises(self, store: Store, place: int) -> None:
        runtimes = (self.names["runtime1"], self.names["runtime2"])
        for since, until, request, answer in self.promises:
            if since <= place <= until:
                for blob in request.get("blobs", []):
                    assert store.blob(blob["sha256"]).is_file(), "a blob that was kept is gone"
                if staged := answer.get("staged"):
                    store.check(RUNTIMES if staged in runtimes else RELEASES, staged)


def faults(
    recorded: Recorded, places: Sequence[int], *, without: str = "", window: int = WINDOW
) -> Iterator[str]:
    model = CrashModel(recorded.record, window=window, without=without)
    sound = CrashModel(recorded.record, window=window)
    seen: set[tuple[int, int]] = set()
    for place in places:
        known = {tree.name() for tree in sound.states(place)} if without else set()
        for tree in model.states(place):
            if (
                tree.name() not in known
                and (key := (tree.name(), recorded.expected(place))) not in seen
            ):
                seen.add(key)
                if fault := recorded.fault(place, tree):
                    yield f"cut after change {place}: {fault}"


def killed_then_cut(folder: Path, recorded: Recorded) -> tuple[Recorded, Sequence[int]]:
    """A push is killed when its release has a name but no fsync.

    The next push finds and activates it.
    """
    renamed = [told[0] for told in recorded.promises if "staged" in told[3]]
    again = Recorded(folder, killed_at=renamed[3])
    return again, range(renamed[3], again.record.count + 1)


def rotten_then_cut(folder: Path) -> tuple[Recorded, Sequence[int]]:
    """A release has rotted, and was sent again."""
    again = Recorded(folder, rots=True)
    return again, range(again.promises[-1][0], again.record.count + 1)


def scenarios(folder: Path) -> list[tuple[Recorded, Sequence[int]]]:
    whole = Recorded(folder)
    return [
        (whole, range(whole.record.count + 1)),
        killed_then_cut(folder, whole),
        rotten_then_cut(folder),
    ]


@pytest.mark.slow
def test_no_crash_leaves_neither_the_old_nor_the_new_release(memory: Path) -> None:
    for scenario in scenarios(memory):
        assert next(faults(*scenario, window=2), "") == ""


@pytest.mark.slow
@pytest.mark.soak(row=2, short=3, whole=600)
def test_no_crash_at_any_change_with_more_combinations_of_what_is_lost(
    rounds: Rounds, memory: Path
) -> None:
    points = [(recorded, place) for recorded, places in scenarios(memory) for place in places]
    for number in rounds:
        if number < len(points):
            recorded, place = points[number]
            model = CrashModel(recorded.record, window=10)
            found = [recorded.fault(place, tree) for tree in model.states(place)]
            assert [fault for fault in found if fault] == []
            rounds.saw("states of the disk, none bad", len(found))
            rounds.saw("points in time")


@pytest.mark.slow
def test_every_fsync_is_needed(memory: Path) -> None:
    """Without the fsyncs of any one line there is a cut after which something is lost."""
    lived = scenarios(memory)
    lines = {
        line for recorded, _ in lived for fsync in recorded.record.fsyncs for line in fsync.lines
    }
    assert len(lines) > 8
    needless = [
        line
        for line in sorted(lines)
        if not any(True for s in lived for _ in faults(*s, without=line, window=1))
    ]
    assert needless == []


def ends(folder: Path, how: str, numbers: range) -> Iterator[dict[str, Any]]:
    """Yield how a life ended at each number, and what was left (tests/fakes/killer.py).

    Assert that it is sound.
    """
    if not (folder / "cargo").is_dir():
        make_cargo(folder / "cargo")
    (folder / "empty").mkdir(exist_ok=True)
    bounds = map(str, (numbers.start, numbers.stop, numbers.step))
    command = [
        sys.executable,
        "-m",
        "tests.fakes.killer",
        str(folder / "cargo"),
        str(folder / "empty"),
        how,
        *bounds,
    ]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as killer:
        assert killer.stdout
        for line in killer.stdout:
            end = json.loads(line)
            assert "fault" not in end, f"{how} {end['number']}: {end['fault']}"
            assert end["serves"] in end["may"], f"{how} {end['number']}: {end}"
            assert end["later"] == "release3"
            yield end
    assert killer.returncode == 0


@pytest.mark.slow
def test_a_kill_at_every_change_of_the_disk_leaves_the_old_or_the_new_release(memory: Path) -> None:
    changes = Recorded(memory).record.count
    seen = list(ends(memory, "change", range(1, changes + 2)))
    ended = [end["ended"] for end in seen]
    assert ended == sorted(ended)
    assert set(ended) == {-9, 0}, "each change is where it ends, and then there are no more"
    assert {tuple(end["serves"]) for end in seen if end["finished"] == 3} == {
        ("release1", ""),
        ("release2", "release1"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("how", ["once", "ever"])
@pytest.mark.soak(row=1, short=1, whole=STRIDE)
def test_an_error_at_a_change_of_the_disk_leaves_the_old_or_the_new_release(
    rounds: Rounds, memory: Path, how: str
) -> None:
    changes = Recorded(memory).record.count
    for number in rounds:
        for end in ends(memory, how, range(1 + number, changes + 1, STRIDE)):
            assert end["ended"] in (0, 3)
            rounds.saw("errors of the disk, 0 bad")


@pytest.mark.slow
@pytest.mark.soak(row=1, short=2, whole=200)
def test_a_kill_at_a_random_moment_leaves_the_old_or_the_new_release(
    rounds: Rounds, memory: Path
) -> None:
    for number in rounds:
        for end in ends(memory, "moment", range(number * 10, number * 10 + 10)):
            rounds.saw(
                f"kills that left the {'old' if end['serves'] == end['may'][0] else 'new'} "
                "release, 0 bad"
            )
