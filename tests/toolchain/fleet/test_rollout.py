"""Roll-outs over boards that are folders: real commands, the real protocol, no SSH."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Rounds
from tests.fakes.fleet import Shop
from toolchain.errors import ArtifactError
from toolchain.fleet.boards import roll_back
from toolchain.fleet.journal import Journal
from toolchain.fleet.rollout import Rollout


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = Shop.make(tmp_path, ["pi@a", "pi@b", "pi@c"])
    yield made
    made.off = set()
    made.stop()


def seen(result: Rollout) -> dict[str, str]:
    return {each.address: each.state for each in result.outcomes}


@pytest.mark.slow
def test_boards_that_are_off_wait_and_the_next_run_finishes_them_alone(shop: Shop) -> None:
    shop.off = {"pi@b"}
    bundle = shop.bundle(1)
    first = shop.push(bundle)
    assert (seen(first), first.exit_code) == (
        {"pi@a": "done", "pi@b": "waiting", "pi@c": "done"},
        0,
    )
    shop.off = set()
    second = shop.push(bundle)
    assert seen(second) == {"pi@a": "same", "pi@b": "done", "pi@c": "same"}
    assert [each.bytes_sent for each in second.outcomes if each.state == "same"] == [0, 0]
    assert set(shop.serves().values()) == {"1"}


@pytest.mark.slow
def test_a_bad_release_touches_one_board_which_takes_it_back(shop: Shop) -> None:
    shop.push(shop.bundle(1))
    result = shop.push(shop.bundle(2, check="refuse"))
    assert seen(result) == {"pi@a": "failed", "pi@b": "untouched", "pi@c": "untouched"}
    assert result.exit_code == 9
    assert "golden 3 differs" in result.outcomes[0].message
    assert set(shop.serves().values()) == {"1"}
    assert result.stopped == "1 of 1 board failed in wave 1"


@pytest.mark.slow
def test_a_board_that_is_off_proves_nothing_and_the_next_takes_its_place(shop: Shop) -> None:
    shop.push(shop.bundle(1))
    shop.off = {"pi@a"}
    result = shop.push(shop.bundle(2, check="refuse"))
    assert seen(result) == {"pi@a": "waiting", "pi@b": "failed", "pi@c": "untouched"}
    shop.off = set()
    assert set(shop.serves().values()) == {"1"}


@pytest.mark.slow
def test_what_the_last_push_brought_is_taken_back_once(shop: Shop) -> None:
    shop.push(shop.bundle(1))
    shop.push(shop.bundle(2), only="pi@a")
    assert shop.serves() == {"pi@a": "2", "pi@b": "1", "pi@c": "1"}
    for _ in range(2):
        after = roll_back(shop.fleet(), shop.open)
        assert [state is None for state in after.values()][1:] == [True, True]
        assert set(shop.serves().values()) == {"1"}


def test_a_dry_run_asks_each_board_and_changes_nothing(shop: Shop) -> None:
    result = shop.push(shop.bundle(1), dry_run=True)
    assert set(seen(result).values()) == {"done"}
    assert all(each.message.startswith("would get ") for each in result.outcomes)
    assert not shop.fleet().journal.exists()
    assert not (shop.folder / "homes" / "pi@a" / "store").exists()


@pytest.mark.parametrize(
    "line",
    [
        '{"event": "soaked", "release": "one", "boards": 5}',
        '{"event": "soaked", "release": "one", "boards": null}',
        "[" * 100_000,
    ],
)
def test_a_line_of_the_journal_that_nobody_here_wrote_is_left_out(
    tmp_path: Path, line: str
) -> None:
    journal = Journal(tmp_path / "shop.journal.jsonl")
    journal.file.write_text(line + "\n", encoding="utf-8")
    journal.note("soaked", release="one", boards=["pi@a", "a\u2028b"])
    assert journal.soaked("one") == {"pi@a", "a\u2028b"}


def test_a_journal_that_is_no_file_is_refused(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "shop.journal.jsonl")
    os.mkfifo(journal.file)
    with pytest.raises(ArtifactError, match=r"cannot be read: not a plain file"):
        journal.last_release()
    with pytest.raises(ArtifactError, match=r"cannot be written: not a plain file"):
        journal.note("begin")


def test_the_journal_survives_a_line_that_was_torn(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "shop.journal.jsonl")
    assert (journal.last_release(), journal.soaked("one")) == ("", set())
    journal.note("begin", release="one")
    journal.note("soaked", release="one", boards=["pi@a"])
    with journal.file.open("ab") as stream:
        stream.write(b'{"event": "begin", "rele')
    journal.note("begin", release="two")
    assert journal.last_release() == "two"
    assert journal.soaked("one") == {"pi@a"}
    assert [json.loads(line)["event"] for line in _whole_lines(journal.file)] == [
        "begin",
        "soaked",
        "begin",
    ]


def _whole_lines(file: Path) -> list[str]:
    lines = file.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.endswith("}")]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.soak(row=26, short=0, whole=200)
def test_of_many_boards_a_bad_release_reaches_one_at_most(shop: Shop, rounds: Rounds) -> None:
    shop.push(shop.bundle(1))
    for number in rounds:
        bad = ("refuse", "hang up", "illegal", "killed", "segfault", "exit")[number % 6]
        verb = "serve" if bad == "hang up" else "check"
        mood = "refuse" if bad == "hang up" else bad
        result = shop.push(shop.bundle(2 + number, **{verb: mood}))
        touched = [each for each in result.outcomes if each.state != "untouched"]
        assert [(each.state, each.wave) for each in touched] == [("failed", 1)]
        assert set(shop.serves().values()) == {"1"}
        rounds.saw("bad releases, each on one board, which took it back")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.soak(row=26, short=1, whole=1000)
def test_a_host_that_is_killed_breaks_no_board_and_sends_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounds: Rounds
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names = [f"pi@board-{number}" for number in range(8 if rounds.limit > 1 else 2)]
    shop = Shop.make(tmp_path, names, 'soak = "0s"\nparallel = 8\nwaves = ["100%"]')
    shop.bundle(1)
    try:
        took = pushed(shop, 1, None)[1]
        for number in rounds:
            version = 2 + number
            shop.bundle(version)
            before = shop.serves()
            pushed(shop, version, random.Random(number).uniform(0.3, 1.0) * took)
            between = shop.serves()
            assert set(between.values()) <= {str(version - 1), str(version)}
            finished = {name for name, seen in between.items() if seen == str(version)}
            outcomes, _ = pushed(shop, version, None)
            again = {each["address"]: each["bytes_sent"] for each in outcomes}
            assert {again[name] for name in finished} <= {0}
            assert set(shop.serves().values()) == {str(version)}
            changed = sum(between[name] != before[name] for name in names)
            rounds.saw("kills, no board broken")
            rounds.saw("boards that were done when it was killed, 0 bytes sent again", changed)
    finally:
        shop.stop()


def pushed(shop: Shop, version: int, kill_after_s: float | None) -> tuple[list[Any], float]:
    """Push in a process of its own, killed after a while; return what it printed and its time."""
    words = [sys.executable, "-m", "tests.fakes.fleet", str(shop.folder), str(version)]
    began = time.monotonic()
    child = subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True)
    try:
        said, _ = child.communicate(timeout=kill_after_s)
    except subprocess.TimeoutExpired:
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
        return [], time.monotonic() - began
    assert child.returncode == 0
    return json.loads(said), time.monotonic() - began


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.soak(row=26, short=0, whole=5)
def test_of_twenty_five_boards_those_that_are_off_are_finished_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounds: Rounds
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for number in rounds:
        folder = tmp_path / str(number)
        folder.mkdir()
        shop = Shop.make(folder, [f"pi@board-{n}" for n in range(25)])
        try:
            shop.off = set(random.Random(number).sample(shop.names, 3))
            first = shop.push(shop.bundle(1))
            assert Counter(seen(first).values()) == {"done": 22, "waiting": 3}
            assert first.exit_code == 0
            shop.off = set()
            second = shop.push(shop.bundle(1))
            assert Counter(seen(second).values()) == {"same": 22, "done": 3}
            rounds.saw("fleets of 25 boards, 3 of them off at first")
        finally:
            shop.off = set()
            shop.stop()
