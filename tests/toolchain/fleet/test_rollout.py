"""Roll-outs over boards that are folders: real commands, the real protocol, no SSH."""

import json
import os
import random
import shutil
import socket
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import Rounds
from tests.fakes.fleet import Host, Shop
from tests.fakes.forking import forking
from tests.fakes.ports import keep_ports
from toolchain.agent import build_agent
from toolchain.artifacts import Deployment
from toolchain.board.device import Device
from toolchain.errors import ArtifactError, BusyError
from toolchain.fleet import rollout
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


DEPLOYED = Deployment(
    release="f" * 64,
    name="tiny",
    version="1",
    address="pi@a",
    port=8080,
    bytes_sent=0,
    seconds=0.0,
    actions=(),
    goldens="",
    unchanged=False,
)


def told(result: Rollout) -> str:
    """Return what became of each board, for a test that fails."""
    rows = (f"{each.address}: {each.state}: {each.message}" for each in result.outcomes)
    return "\n".join([result.stopped, *rows])


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
    with forking(shop.folder, build_agent()):
        shop.push(shop.bundle(1))
        for number in rounds:
            bad = ("refuse", "hang up", "illegal", "killed", "segfault", "exit")[number % 6]
            verb = "serve" if bad == "hang up" else "check"
            mood = "refuse" if bad == "hang up" else bad
            result = shop.push(shop.bundle(2 + number, **{verb: mood}))
            touched = [each for each in result.outcomes if each.state != "untouched"]
            assert [(each.state, each.wave) for each in touched] == [("failed", 1)], told(result)
            assert set(shop.serves().values()) == {"1"}, told(result)
            shutil.rmtree(shop.folder / f"bundle-{2 + number}")
            rounds.saw("bad releases, each on one board, which took it back")


KILLS = 8
"""Kills before a push to all boards is let end."""


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.soak(row=26, short=2, whole=1000)
def test_a_host_that_is_killed_breaks_no_board_and_sends_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounds: Rounds
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    names = [f"pi@board-{number}" for number in range(8 if rounds.limit > 2 else 2)]
    shop = Shop.make(tmp_path, names, 'soak = "0s"\nparallel = 8\nwaves = ["100%"]')
    host = Host(tmp_path)
    try:
        with forking(tmp_path, build_agent()):
            shop.bundle(1)
            _, events = host.push(1)
            version = 1
            for kills, number in enumerate(rounds):
                if kills % KILLS == 0:
                    version += 1
                    shop.bundle(version)
                # Later and later, so that most kills come before all boards have the release.
                last = events * (kills % KILLS + 1) // KILLS
                left = _kill(shop, host, version, random.Random(number).randint(1, last))
                rounds.saw("kills, no board broken")
                rounds.saw("kills while boards were still to get it", bool(left))
                if kills % KILLS == KILLS - 1:
                    again = _finished(shop, host, version)
                    rounds.saw("boards that had it before the rerun, 0 bytes sent again", again)
            _finished(shop, host, version)
    finally:
        host.close()
        shop.stop()


def _kill(shop: Shop, host: Host, version: int, at: int) -> int:
    """Kill a push at an event and look at the boards; return how many had not got it before."""
    before = shop.names_on_disk()
    # Of boards that are done a push sees less: so late an event may not come.
    while host.push(version, at)[1]:
        at = (at + 1) // 2
    may_be = {str(version - 1), str(version)}
    for name, there in shop.names_on_disk().items():
        assert there in may_be, f"{name}: `{there}`"
    return sum(there != str(version) for there in before.values())


def _finished(shop: Shop, host: Host, version: int) -> int:
    """Push to the end; return how many boards had the release before, and were sent nothing."""
    before = shop.serves()
    outcomes, _ = host.push(version)
    sent = {each["address"]: each["bytes_sent"] for each in outcomes}
    said = json.dumps(outcomes, indent=1)
    had_it = [name for name, seen in before.items() if seen == str(version)]
    assert {name: sent[name] for name in had_it} == dict.fromkeys(had_it, 0), said
    assert shop.serves() == dict.fromkeys(shop.names, str(version)), said
    assert shop.names_on_disk() == dict.fromkeys(shop.names, str(version)), said
    return len(had_it)


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
            assert Counter(seen(first).values()) == {"done": 22, "waiting": 3}, told(first)
            assert first.exit_code == 0
            shop.off = set()
            second = shop.push(shop.bundle(1))
            assert Counter(seen(second).values()) == {"same": 22, "done": 3}, told(second)
            rounds.saw("fleets of 25 boards, 3 of them off at first")
        finally:
            shop.off = set()
            shop.stop()


def test_boards_of_a_fleet_have_ports_of_their_own_which_nobody_else_is_given() -> None:
    kept = keep_ports(500)
    ports = {each.getsockname()[1] for each in kept}
    assert len(ports) == 500
    with socket.create_server(("127.0.0.1", min(ports))) as service:
        assert service.getsockname()[1] == min(ports)
    for each in kept:
        each.close()


def test_another_push_that_is_under_way_on_a_board_is_waited_for(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout, "BUSY_PAUSE_S", 0.0)
    answers: list[Deployment | BusyError] = [BusyError("pi@a: busy"), BusyError("pi@a: busy")]
    answers.append(DEPLOYED)

    def send(_: Device) -> Deployment:
        answer = answers.pop(0)
        if isinstance(answer, BusyError):
            raise answer
        return answer

    result = rollout.roll_out("f" * 64, send, shop.fleet("pi@a"), shop.report, opener=shop.open)
    assert seen(result) == {"pi@a": "done"}, told(result)
    assert shop.report.notes.count("pi@a: busy: it is waited for") == 2


def test_a_board_that_is_busy_for_ever_has_failed(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rollout, "BUSY_S", 0.0)

    def send(_: Device) -> Deployment:
        raise BusyError("pi@a: another push is under way")

    result = rollout.roll_out("f" * 64, send, shop.fleet("pi@a"), shop.report, opener=shop.open)
    assert [(each.state, each.message) for each in result.outcomes] == [
        ("failed", "pi@a: another push is under way")
    ]


def test_a_board_that_ran_the_release_after_all_is_not_called_done(shop: Shop) -> None:
    result = rollout.roll_out(
        "f" * 64,
        lambda _: replace(DEPLOYED, unchanged=True),
        shop.fleet("pi@a"),
        shop.report,
        opener=shop.open,
    )
    assert seen(result) == {"pi@a": "same"}, told(result)
