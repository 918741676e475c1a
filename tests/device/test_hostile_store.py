"""A store with foreign things in it: nothing waits for them, and a board comes back all the
same.
"""

import errno
import json
import os
import random
import shutil
import signal
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from device import disk, health, prefixes, processes, service, tuned
from device.counters import COPIES, Counters
from device.engine.base import Settings
from device.errors import DeviceError
from device.facts import stored
from device.signers import PINNED, REVOKED, SIGNERS
from device.signers import state as signers_state
from device.store import STATE_COPIES, Store
from device.supervisor import LOG_LIMIT_BYTES, _bound
from tests.conftest import Rounds
from tests.device.test_activation import Board, wait_until
from tests.fakes.board_life import Life, make_cargo, without_processes
from toolchain.agent import build_agent

DEEP = b"[" * 50_000
SERVED = ("release3", "release2")


def fifo(path: Path) -> None:
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.symlink_to("/dev/zero")


def console(path: Path) -> None:
    path.symlink_to("/dev/tty")


def elsewhere(path: Path) -> None:
    path.symlink_to("/etc/passwd")


def loop(path: Path) -> None:
    path.symlink_to(path.name)


def folder(path: Path) -> None:
    path.mkdir()


def sparse(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


def content(raw: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(raw) and None


STRANGE: dict[str, Callable[[Path], None]] = {
    "fifo": fifo,
    "endless device": endless,
    "console": console,
    "link": elsewhere,
    "loop": loop,
    "folder": folder,
    "empty": content(b""),
    "binary": content(bytes(range(256))),
    "deep list": content(DEEP),
    "deep object": content(b'{"a":' * 50_000),
    "list": content(b"[]"),
    "null": content(b"null"),
    "long number": content(b'{"port": ' + b"9" * 10_000 + b"}"),
    "sparse": sparse,
}
WRONG: list[Any] = [None, True, -1, 2**70, 1.5, "x", [], [[]], {}, {"x": []}]


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a board that went through three releases."""
    made = tmp_path_factory.mktemp("lived")
    with without_processes():
        life = Life(make_cargo(made / "cargo"), made / "store")
        for _, step in life.steps()[:6]:
            step()
    return made


@pytest.fixture
def life(lived: Path, tmp_path: Path) -> Life:
    shutil.copytree(lived / "store", tmp_path / "store", symlinks=True)
    for kind in ("releases", "runtimes"):  # a copy makes files of hard links
        for file in (tmp_path / "store" / kind).rglob("*"):
            blob = tmp_path / "store" / "blobs" / _digest(file)
            if file.is_file() and blob.is_file():
                file.unlink()
                os.link(blob, file)
    return Life(lived / "cargo", tmp_path / "store")


def _digest(file: Path) -> str:
    from device.manifest import sha256_of

    return sha256_of(file) if file.is_file() else ""


def look(store: Store) -> None:
    """Read all that a start and a status read."""
    release = store.current() or store.confirmed()
    bundle = store.root / "releases" / (release.release if release else "0" * 64)
    tuned.apply(bundle, Settings(context=64))
    for file in (store.root / "prefixes").glob("*/*.state"):
        prefixes.is_recorded(file)
    health.refusal(store)
    health.measured(store, release, {"decode_tok_s": 5}, "") if release else None
    run = store.root / "run"
    processes.last_end(run), processes.serving_process(run), processes.is_paused(store)
    Counters(store.root).read()
    store.size_bytes()
    stored(str(store.root))
    try:
        signers_state(store)
    except DeviceError as error:
        assert error.code
    with store.locked():
        store.recover()


def places(store: Store) -> list[Path]:
    """Return every file that a start reads, beside those that a manifest names."""
    release = store.current()
    assert release
    names = [*STATE_COPIES, *COPIES, "stopped", "lock", *trust_files()]
    run = ["service.json", "ended.json", "refused.json", "service.lock", "pause.lock"]
    found = [store.root / name for name in names] + [store.root / "run" / name for name in run]
    return [
        *found,
        store.root / "run" / "service.log",
        store.root / "deployments" / f"{release.release}.json",
        store.root / "tuned" / f"{release.release}.json",
        store.root / "prefixes" / release.release / "x.state",
        store.root / "prefixes" / release.release / "x.json",
        store.root / "agents" / "x.pyz",
        store.root / "blobs" / ("0" * 64),
    ]


def trust_files() -> list[str]:
    return [SIGNERS, REVOKED, PINNED]


@pytest.mark.sampled(5)
@pytest.mark.timeout(120)
@pytest.mark.parametrize("strange", STRANGE)
def test_what_is_no_file_of_ours_holds_nobody_up(life: Life, strange: str) -> None:
    for place in places(life.store):
        kept = place.with_name(place.name + ".kept")
        place.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(place):
            place.rename(kept)
        STRANGE[strange](place)
        look(life.store)
        disk.remove(place)
        if kept.exists():
            kept.rename(place)
    assert life.serves() == SERVED


@pytest.mark.sampled(6)
@pytest.mark.parametrize("copies", [STATE_COPIES, STATE_COPIES[:1], STATE_COPIES[1:]])
@pytest.mark.parametrize("strange", STRANGE)
def test_a_lost_note_of_the_last_commit_takes_no_release_away(
    life: Life, copies: tuple[str, ...], strange: str
) -> None:
    for name in copies:
        (life.root / name).unlink()
        STRANGE[strange](life.root / name)
    assert life.serves() == SERVED


@pytest.mark.sampled(5)
@pytest.mark.parametrize("value", WRONG)
def test_a_value_of_the_wrong_kind_is_as_if_the_file_were_not_there(life: Life, value: Any) -> None:
    for file in [life.root / name for name in STATE_COPIES[:1]] + sorted(
        (life.root / "deployments").iterdir()
    ):
        sound = file.read_bytes()
        fields = json.loads(sound)
        for name in fields:
            spoilt = {key: field for key, field in fields.items() if key != disk.SEAL}
            disk.write_json(file, {**spoilt, name: value})
            look(life.store)
            assert life.is_sound()[0] == SERVED[0] or name in ("port", "unsigned", "service")
            file.write_bytes(sound)
    assert life.serves() == SERVED


@pytest.mark.soak(row=5, short=60, whole=3000)
def test_a_flipped_bit_in_any_note_of_the_store_changes_nothing(life: Life, rounds: Rounds) -> None:
    files = [life.root / name for name in (*STATE_COPIES, *COPIES)]
    files += sorted((life.root / "deployments").iterdir())
    counters = Counters(life.root).read()
    for number in rounds:
        draw, file = random.Random(number), files[number % len(files)]
        sound = file.read_bytes()
        spoilt = bytearray(sound)
        if number % 3:
            spoilt[draw.randrange(len(spoilt))] ^= 1 << draw.randrange(8)
        else:
            del spoilt[draw.randrange(len(spoilt)) :]
        file.write_bytes(spoilt)
        assert life.serves() == SERVED
        current = life.store.current()
        assert current and (current.port, current.unsigned) == (8080, True)
        assert Counters(life.root).read() == counters
        file.write_bytes(sound)
        rounds.saw(f"{'flipped' if number % 3 else 'torn'}: no change")


def test_scrub_names_a_rotten_note_and_mends_it_from_its_copy(
    life: Life, capsys: pytest.CaptureFixture[str]
) -> None:
    from device.scrub import scrub

    agents = life.root / "agents"
    agents.mkdir()
    (agents / f"{'0' * 64}.pyz").write_bytes(b"rotten")
    for name in (STATE_COPIES[0], COPIES[1]):
        raw = bytearray((life.root / name).read_bytes())
        raw[-5] ^= 1
        (life.root / name).write_bytes(raw)
    with without_processes():
        scrub(["--root", str(life.root)])
    said = json.loads(capsys.readouterr().out)["rotten"]
    assert [fault["what"].split("`")[1] for fault in said] == [
        f"{'0' * 64}.pyz",
        STATE_COPIES[0],
        COPIES[1],
    ]
    assert not list(agents.iterdir())
    with without_processes():
        scrub(["--root", str(life.root)])
    assert json.loads(capsys.readouterr().out)["rotten"] == []


def test_a_fifo_among_the_blobs_is_named_and_taken_away(
    life: Life, capsys: pytest.CaptureFixture[str]
) -> None:
    from device.scrub import scrub

    os.mkfifo(life.root / "blobs" / ("0" * 64))
    with without_processes():
        scrub(["--root", str(life.root)])
    capsys.readouterr()
    assert not (life.root / "blobs" / ("0" * 64)).exists()


def test_an_agent_that_has_rotted_counts_as_not_there_so_that_it_is_sent_again(
    tmp_path: Path,
) -> None:
    agent, folder = build_agent(), tmp_path / "agents"
    folder.mkdir()
    shutil.copy(agent, folder)
    assert stored(str(tmp_path))["agents"] == [agent.name]
    content = bytearray(agent.read_bytes())
    content[len(content) // 2] ^= 1
    (folder / agent.name).write_bytes(content)
    os.mkfifo(folder / f"{'0' * 64}.pyz")
    assert stored(str(tmp_path))["agents"] == []


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_only_its_user_may_enter_a_store_whatever_the_umask(
    tmp_path: Path, lived: Path, umask: int
) -> None:
    before = os.umask(umask)
    try:
        (tmp_path / "store").mkdir(mode=0o777)
        with without_processes():
            made = Life(lived / "cargo", tmp_path / "store")
            for _, step in made.steps()[:2]:
                step()
        with made.store.locked():
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE(made.root.stat().st_mode) == 0o700
    for path in made.root.rglob("*"):
        if not path.is_symlink():
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


# With processes -----------------------------------------------------------------------------------


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    made = Board(tmp_path)
    yield made
    made.call("stop")


def supervisor(board: Board) -> int:
    note = json.loads((board.store.root / "run" / "service.json").read_bytes())
    return int(note["group"])


def lives(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@pytest.mark.slow
def test_a_killed_supervisor_is_seen_and_another_takes_over_without_a_pause(board: Board) -> None:
    board.activate(board.add("1"))
    child, first = board.call("status")["service"]["pid"], supervisor(board)
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not lives(first))
    seen = board.call("status")["service"]
    assert "lost its supervisor" in seen["failure"]
    assert (seen["healthy"], seen["pid"]) == (True, child), "what serves goes on"
    seen = board.call("status")["service"]
    assert (seen["failure"], seen["pid"]) == ("", child)
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: board.running() == "1")
    second = supervisor(board)
    assert second != first
    board.call("stop")
    assert not lives(second)


@pytest.mark.slow
def test_a_board_that_lost_everything_but_its_power_serves_again_at_the_next_verb(
    board: Board,
) -> None:
    board.activate(board.add("1"))
    child, first = board.call("status")["service"]["pid"], supervisor(board)
    for pid in (first, child):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not lives(first) and not lives(child))
    assert "lost its supervisor" in board.call("status")["service"]["failure"]
    wait_until(lambda: board.running() == "1")


@pytest.mark.slow
def test_a_lost_supervisor_is_not_replaced_on_a_disk_that_takes_no_byte(
    board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    board.activate(board.add("1"))
    child, first = board.call("status")["service"]["pid"], supervisor(board)
    for pid in (first, child):
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not lives(first) and not lives(child))
    current = board.store.current()
    assert current

    def full(path: Path) -> int:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(disk, "create", full)
        seen = service.revive(board.store, current)
    assert seen == "lost its supervisor, and none can be started: No space left on device"
    assert not processes.supervisor_lives(board.store.root / "run")


@pytest.mark.slow
def test_a_rotten_or_forged_note_ends_no_process_of_somebody_else(board: Board) -> None:
    board.activate(board.add("1"))
    other = os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "600")
    note, first = board.store.root / "run" / "service.json", supervisor(board)
    try:
        for group in (other, os.getpgid(0), 1, 0, -1, "x", None, [other], 2**70):
            note.write_text(json.dumps({"group": group, "child": other, "left": group}))
            processes.groups(board.store.root / "run")
            assert processes.groups(board.store.root / "run") == []
        assert lives(other)
    finally:
        os.kill(other, signal.SIGKILL)
        os.waitpid(other, 0)
        note.write_text(json.dumps({"group": first}))


@pytest.mark.slow
def test_a_release_that_its_owner_stopped_stays_stopped_after_a_refused_one(board: Board) -> None:
    board.activate(board.add("1"))
    assert board.call("stop")["service"]["stopped"] is True
    answer = board.activate(board.add("2", counter=2, check="refuse"))
    assert answer["error"]["message"].endswith("tiny 1 stays stopped")
    time.sleep(1)
    seen = board.call("status")
    assert (seen["service"]["healthy"], seen["service"]["stopped"]) == (False, True)
    assert seen["release"]["version"] == "1"
    assert "error" not in board.activate(board.add("3", counter=3))
    assert board.running() == "3"
    assert board.call("status")["service"]["stopped"] is False


@pytest.mark.slow
def test_a_supervisor_outlives_whatever_lies_in_the_store(board: Board) -> None:
    board.activate(board.add("1"))
    child, first = board.call("status")["service"]["pid"], supervisor(board)
    run = board.store.root / "run"
    for place in (board.store.root / "state.json", run / "service.log", run / "ended.json"):
        disk.remove(place)
        os.mkfifo(place)
    os.kill(child, signal.SIGKILL)
    wait_until(lambda: board.running() == "1")
    assert supervisor(board) == first


def test_a_log_that_has_grown_too_large_keeps_its_last_quarter(tmp_path: Path) -> None:
    log = tmp_path / "supervisor.log"
    log.write_bytes(b"x" * (LOG_LIMIT_BYTES + 1) + b"end")
    _bound(log)
    assert (log.stat().st_size, log.read_bytes()[-3:]) == (LOG_LIMIT_BYTES // 4, b"end")
