"""push: look, plan, act, through the real protocol on a board that is a folder."""

import dataclasses
import json
import os
import platform
import random
import shutil
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from device import facts as board_facts
from device.manifest import read_manifest, read_runtime
from device.manifest.gguf import read_header
from tests.fakes.board import FakeConnection
from tests.fakes.bundles import make_bundle, make_runtime
from tests.fakes.datasets import Recorder
from tests.fakes.updates import make_update
from toolchain.artifacts import Action, Bundle
from toolchain.board import open_board
from toolchain.board.device import Device
from toolchain.errors import (
    ArtifactError,
    BoardError,
    FitError,
    HealthError,
    ToolchainError,
    TrustError,
)
from toolchain.progress import Silent
from toolchain.push import note_other_target, push, refuse_unfit

PI_4 = {
    "model": "Raspberry Pi 4 Model B Rev 1.5",
    "machine": "aarch64",
    "userland_bits": 64,
    "cpu_features": ["fp", "asimd", "crc32"],
    "glibc": "2.36",
    "python": "3.11.2",
    "memory_total_mb": 1849,
    "disk_free_bytes": 20 << 30,
    "disk_folder": "/home/pi",
    "disk_noexec": False,
    "disk_writable": True,
}


push_unsigned = partial(push, allow_unsigned=True)
"""As onto this computer; how a board asks for signatures is in tests/toolchain/test_signing.py."""


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    return make_runtime(tmp_path / "runtime", machine=platform.machine())


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This computer keeps what it sent in a folder of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "demitasse" / "models"


@pytest.fixture
def board(tmp_path: Path) -> Iterator[FakeConnection]:
    (tmp_path / "home").mkdir()
    made = FakeConnection(tmp_path / "home")
    yield made
    made.cut_after = None
    if (made.home / "store").is_dir():
        Device(made).call("stop")


def test_a_push_sends_installs_and_serves(
    board: FakeConnection, runtime: Path, tmp_path: Path, port: int
) -> None:
    deployment = push_unsigned(
        make_bundle(tmp_path / "b"), runtime, Device(board), Silent(), port=port
    )
    assert (deployment.name, deployment.version, deployment.address, deployment.port) == (
        "tiny",
        "1.0",
        "local",
        port,
    )
    assert deployment.bytes_sent == sum(action.size_bytes for action in deployment.actions)
    status = Device(board).call("status")
    assert status["release"]["release"] == deployment.release
    assert status["service"]["healthy"] is True


LONGEST = {"--check-timeout": "900", "--health-timeout": "300"}


@pytest.mark.slow
@pytest.mark.parametrize(("address", "limits"), [("local", {}), ("virtual:rpi-4b-2gb", LONGEST)])
def test_only_an_emulated_board_gets_the_longest_times_whatever_a_release_weighs(
    board: FakeConnection,
    runtime: Path,
    tmp_path: Path,
    port: int,
    address: str,
    limits: dict[str, str],
) -> None:
    named = FakeConnection(board.home, address=address)
    push_unsigned(make_bundle(tmp_path / "b"), runtime, Device(named), Silent(), port=port)
    words = next(list(command) for command in named.commands if "activate" in command)
    assert {
        word: words[number + 1] for number, word in enumerate(words) if word.endswith("-timeout")
    } == limits


@pytest.mark.slow
def test_the_same_release_again_sends_no_byte(
    board: FakeConnection, runtime: Path, tmp_path: Path, port: int
) -> None:
    bundle = make_bundle(tmp_path / "b")
    push_unsigned(bundle, runtime, Device(board), Silent(), port=port)
    again = push_unsigned(bundle, runtime, Device(board), Silent(), port=port)
    assert again.bytes_sent == 0
    assert [action.verb for action in again.actions] == ["activate"]


@pytest.mark.slow
def test_the_next_release_sends_only_what_changed(
    board: FakeConnection, runtime: Path, tmp_path: Path, port: int
) -> None:
    push_unsigned(
        make_bundle(tmp_path / "b", payload=b"x" * 100_000),
        runtime,
        Device(board),
        Silent(),
        port=port,
    )
    second = make_bundle(tmp_path / "c", version="2", payload=b"x" * 100_000, counter=2)
    deployment = push_unsigned(second, runtime, Device(board), Silent(), port=port)
    assert deployment.bytes_sent == (second.path / "manifest.json").stat().st_size


@pytest.mark.slow
def test_a_dry_run_shows_the_bytes_and_writes_nothing(
    board: FakeConnection, runtime: Path, tmp_path: Path, port: int
) -> None:
    planned = push_unsigned(
        make_bundle(tmp_path / "b"), runtime, Device(board), Silent(), port=port, dry_run=True
    )
    assert planned.bytes_sent == 0
    assert [action.what.split()[0] for action in planned.actions] == [
        "agent",
        "runtime",
        "release",
        "tiny",
    ]
    assert all(action.size_bytes > 0 for action in planned.actions[:-1])
    assert not (board.home / "store").exists()
    carried_out = push_unsigned(
        make_bundle(tmp_path / "again"), runtime, Device(board), Silent(), port=port
    )
    assert carried_out.actions == planned.actions
    assert isinstance(planned.actions[0], Action)


@pytest.fixture
def updated(board: FakeConnection, runtime: Path, tmp_path: Path, port: int) -> Bundle:
    """A bundle with a re-tuned model, for a board that runs the one before."""
    old, new = make_update(tmp_path)
    push_unsigned(
        make_bundle(tmp_path / "b", gguf=old), runtime, Device(board), Silent(), port=port
    )
    return make_bundle(tmp_path / "c", version="2", counter=2, gguf=new)


@pytest.mark.slow
def test_a_retuned_model_travels_as_what_changed(
    board: FakeConnection, runtime: Path, tmp_path: Path, port: int, updated: Bundle
) -> None:
    planned = push_unsigned(updated, runtime, Device(board), Silent(), port=port, dry_run=True)
    deployment = push_unsigned(updated, runtime, Device(board), Silent(), port=port)
    ways = planned.actions[0].ways
    assert planned.actions == deployment.actions
    assert (
        deployment.bytes_sent
        == planned.actions[0].size_bytes
        < 0.07 * (updated.path / "tiny.gguf").stat().st_size
    )
    assert list(ways) == ["tiny.gguf as a delta", "tiny.gguf in whole tensors", "tiny.gguf whole"]
    assert (
        ways["tiny.gguf as a delta"]
        < 0.12 * ways["tiny.gguf in whole tensors"]
        < 0.07 * ways["tiny.gguf whole"]
    )
    assert ways["tiny.gguf whole"] == (updated.path / "tiny.gguf").stat().st_size
    assert Device(board).call("verify") == {"verified": deployment.release}


@pytest.mark.slow
def test_a_changed_index_travels_as_what_changed(
    board: FakeConnection, runtime: Path, tmp_path: Path, port: int
) -> None:
    old, new = tmp_path / "old.db", tmp_path / "new.db"
    for file, text in ((old, "hold the button"), (new, "hold the button for seven seconds")):
        rows = [random.Random(number).randbytes(400) for number in range(2000)]
        rows[1000] = text.encode()
        with closing(sqlite3.connect(file)) as db, db:
            db.execute("CREATE TABLE rows (id INTEGER PRIMARY KEY, vector BLOB)")
            db.executemany("INSERT INTO rows VALUES (?, ?)", enumerate(rows))
    push_unsigned(
        make_bundle(tmp_path / "b", index=old), runtime, Device(board), Silent(), port=port
    )
    changed = make_bundle(tmp_path / "c", version="2", counter=2, index=new)
    deployment = push_unsigned(changed, runtime, Device(board), Silent(), port=port)
    ways = deployment.actions[0].ways
    assert list(ways) == ["tiny.db as a delta", "tiny.db whole"]
    assert deployment.bytes_sent == deployment.actions[0].size_bytes < 0.1 * ways["tiny.db whole"]
    assert Device(board).call("verify") == {"verified": deployment.release}


@pytest.mark.slow
def test_from_another_computer_whole_tensors_travel(
    board: FakeConnection, runtime: Path, tmp_path: Path, port: int, updated: Bundle, cache: Path
) -> None:
    shutil.rmtree(cache)
    deployment = push_unsigned(updated, runtime, Device(board), Silent(), port=port)
    ways = deployment.actions[0].ways
    assert 0 < ways["tiny.gguf as a delta"] - ways["tiny.gguf in whole tensors"] < 100_000
    assert ways["tiny.gguf in whole tensors"] == 2 * 1024 * 1024 // 32 * 18
    assert Device(board).call("verify") == {"verified": deployment.release}


@pytest.mark.slow
def test_a_base_that_rotted_on_the_board_costs_one_tensor_more(
    board: FakeConnection, runtime: Path, tmp_path: Path, port: int, updated: Bundle
) -> None:
    old = read_manifest(tmp_path / "b").file("tiny.gguf").sha256
    with (board.home / "store" / "blobs" / old).open("r+b") as stream:
        stream.seek(1_500_000)
        stream.write(b"rot")
    report = Recorder()
    hurt = next(
        tensor
        for tensor in read_header(updated.path / "tiny.gguf").tensors
        if tensor.name == "blk.1.ffn_up.weight"
    )
    deployment = push_unsigned(updated, runtime, Device(board), report, port=port)
    assert [note for note in report.notes if "damaged" in note] == [
        "local: tiny.gguf: the file before is damaged on the board; "
        f"sent whole from byte {hurt.offset:,}"
    ]
    assert hurt.size < deployment.bytes_sent < hurt.size + 2 * deployment.actions[0].size_bytes
    assert Device(board).call("verify") == {"verified": deployment.release}


@pytest.mark.slow
def test_a_base_that_is_another_file_on_this_computer_is_found_out(
    board: FakeConnection, runtime: Path, tmp_path: Path, port: int, updated: Bundle, cache: Path
) -> None:
    """Every tensor turns out wrong: after three of them the rest is sent as it is."""
    (kept,) = cache.iterdir()
    foreign = bytearray(kept.read_bytes())
    for at in range(400_000, len(foreign), 100_000):
        foreign[at] ^= 1
    kept.unlink()
    kept.write_bytes(foreign)
    report = Recorder()
    deployment = push_unsigned(updated, runtime, Device(board), report, port=port)
    assert len([note for note in report.notes if "damaged" in note]) == 3
    assert Device(board).call("verify") == {"verified": deployment.release}


@pytest.mark.slow
def test_a_base_that_is_broken_here_is_asked_of_the_board_and_one_that_is_broken_there_is_none(
    board: FakeConnection, runtime: Path, tmp_path: Path, port: int, updated: Bundle, cache: Path
) -> None:
    (kept,) = cache.iterdir()
    digest = kept.name
    kept.unlink()
    kept.write_bytes(b"GGUF")
    by_digests = push_unsigned(updated, runtime, Device(board), Silent(), port=port, dry_run=True)
    assert (
        0
        < by_digests.actions[0].ways["tiny.gguf in whole tensors"]
        < by_digests.actions[0].ways["tiny.gguf whole"]
    )
    with (board.home / "store" / "blobs" / digest).open("r+b") as stream:
        stream.write(b"rot")
    deployment = push_unsigned(updated, runtime, Device(board), Silent(), port=port)
    assert (
        deployment.actions[0].ways,
        deployment.bytes_sent > (updated.path / "tiny.gguf").stat().st_size,
    ) == ({}, True)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_a_cut_delta_goes_on_at_the_frame(
    board: FakeConnection, runtime: Path, tmp_path: Path, port: int, updated: Bundle, share: float
) -> None:
    whole = (
        push_unsigned(updated, runtime, Device(board), Silent(), port=port, dry_run=True)
        .actions[0]
        .size_bytes
    )
    board.cut_after, board.sent = board.sent + int(share * whole), board.sent
    with pytest.raises(BoardError, match="local: connection lost at byte"):
        push_unsigned(updated, runtime, Device(board), Silent(), port=port)
    board.cut_after = None
    assert (
        share * whole
        + push_unsigned(updated, runtime, Device(board), Silent(), port=port).bytes_sent
        < whole + 140_000
    )
    assert Device(board).call("verify")


@pytest.mark.slow
def test_progress_is_told_while_it_sends_and_before_it_switches(
    board: FakeConnection, runtime: Path, tmp_path: Path, port: int
) -> None:
    report = Recorder()
    push_unsigned(make_bundle(tmp_path / "b"), runtime, Device(board), report, port=port)
    assert report.bars == {"send"}
    assert report.notes == [
        "local: tiny 1.0: load, goldens, switch",
        "local: 8 goldens, equal token for token",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("cut_after", [1_000, 100_000, 300_000, 1_500_000, 3_100_000])
def test_a_cut_push_goes_on_where_it_stopped(
    board: FakeConnection, runtime: Path, tmp_path: Path, port: int, cut_after: int
) -> None:
    bundle = make_bundle(tmp_path / "b", payload=os.urandom(3_000_000))
    whole = sum(
        action.size_bytes
        for action in push_unsigned(
            bundle, runtime, Device(board), Silent(), port=port, dry_run=True
        ).actions
    )
    board.cut_after, board.sent = cut_after, 0
    with pytest.raises(BoardError, match=f"local: connection lost at byte {cut_after:,}"):
        push_unsigned(bundle, runtime, Device(board), Silent(), port=port)
    store = board.home / "store"
    there = sum(
        file.stat().st_size for folder in ("agents", "blobs") for file in store.glob(f"{folder}/*")
    )
    board.cut_after = None
    assert (
        push_unsigned(bundle, runtime, Device(board), Silent(), port=port).bytes_sent
        == whole - there
    )
    assert Device(board).call("status")["service"]["healthy"] is True


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("bundle", "kind", "message"),
    [
        (
            {"check": "refuse"},
            HealthError,
            "local: the check failed: golden 3 differs; nothing runs: there was no release before",
        ),
        (
            {"check": "illegal"},
            HealthError,
            "local: the check died by signal 4 (illegal instruction); "
            "nothing runs: there was no release before",
        ),
        (
            {"serve": "exit"},
            HealthError,
            "local: the service ended with exit status 3; "
            "nothing runs: there was no release before",
        ),
    ],
)
def test_what_fails_on_the_board_is_an_error_of_ours(
    board: FakeConnection,
    runtime: Path,
    tmp_path: Path,
    port: int,
    bundle: dict[str, str],
    kind: type[ToolchainError],
    message: str,
) -> None:
    with pytest.raises(kind) as caught:
        push_unsigned(
            make_bundle(tmp_path / "b", **bundle), runtime, Device(board), Silent(), port=port
        )  # type: ignore[arg-type]
    assert caught.value.message == message


@pytest.mark.slow
def test_a_downgrade_is_a_matter_of_trust(
    board: FakeConnection, runtime: Path, tmp_path: Path, port: int
) -> None:
    push_unsigned(
        make_bundle(tmp_path / "b", counter=5), runtime, Device(board), Silent(), port=port
    )
    with pytest.raises(TrustError) as caught:
        push_unsigned(
            make_bundle(tmp_path / "c", version="0.9", counter=4),
            runtime,
            Device(board),
            Silent(),
            port=port,
        )
    assert caught.value.message == "local: tiny 0.9 has counter 4, this board had 5 already"
    assert caught.value.exit_code == 8


@pytest.mark.slow
def test_a_second_push_at_the_same_time_is_refused(
    board: FakeConnection, runtime: Path, tmp_path: Path, port: int
) -> None:
    with Device(board).talk("receive") as channel:
        channel.send(b'{"op": "release", "size": 1}\n')
        lock = board.home / "store" / "lock"
        while not lock.exists():
            pass
        with pytest.raises(
            BoardError, match="local: another push or activation is under way on this board"
        ):
            push_unsigned(make_bundle(tmp_path / "b"), runtime, Device(board), Silent(), port=port)


@pytest.mark.slow
def test_names_of_a_push_reach_the_boards_status(
    board: FakeConnection, runtime: Path, port: int, tmp_path: Path
) -> None:
    names = ("--host-name", "kitchen-pi.local", "--cors-origin", "http://pi.example:3000")
    push_unsigned(
        make_bundle(tmp_path / "b"), runtime, Device(board), Silent(), port=port, names=names
    )
    release = Device(board).call("status")["release"]
    assert release["host_names"] == ["kitchen-pi.local"]
    assert release["cors_origins"] == ["http://pi.example:3000"]


def test_an_old_python_is_named_before_anything_is_sent(runtime: Path, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (tmp_path / "home").mkdir()
    seen = {
        "facts": {**board_facts.read(str(tmp_path)), "python": "3.9.2"},
        "stored": board_facts.stored(str(tmp_path)),
    }
    (programs / "seen.json").write_text(json.dumps(seen))
    (programs / "python3").write_text(f"#!/bin/sh\ncat >/dev/null\ncat {programs}/seen.json\n")
    (programs / "python3").chmod(0o755)
    old = FakeConnection(tmp_path / "home", address="pi@old", path=f"{programs}:/usr/bin:/bin")
    with pytest.raises(BoardError) as caught:
        push_unsigned(make_bundle(tmp_path / "b"), runtime, Device(old), Silent())
    assert caught.value.message == "pi@old: Python 3.9.2 is too old, the oldest that works is 3.10"
    assert caught.value.hint.startswith("put a newer image on the board: Raspberry Pi OS 12")
    assert not (tmp_path / "home" / "store").exists()


def test_a_board_without_python_is_told_how_to_get_it(runtime: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "empty").mkdir()
    bare = FakeConnection(tmp_path / "home", address="pi@bare", path=f"{tmp_path}/empty")
    bare.environment["PATH"] = f"{tmp_path}/empty"
    with pytest.raises(BoardError) as caught:
        push_unsigned(make_bundle(tmp_path / "b"), runtime, Device(bare), Silent())
    assert (caught.value.message, caught.value.hint) == (
        "pi@bare: python3 is not installed",
        "sudo apt-get install python3",
    )


@pytest.mark.parametrize(
    ("facts", "runtime_fields", "needs", "kind", "message"),
    [
        (
            {"machine": "armv7l"},
            {},
            {},
            FitError,
            "pi: no runtime is built for `armv7l`",
        ),
        ({"userland_bits": 32}, {}, {}, FitError, "pi: the board's system is 32-bit"),
        (
            {"disk_noexec": True},
            {},
            {},
            BoardError,
            "pi: `/home/pi` is mounted noexec: a runtime's libraries cannot be loaded there",
        ),
        (
            {"disk_writable": False},
            {},
            {},
            BoardError,
            "pi: `/home/pi` cannot be written, the store is to be there",
        ),
        (
            {},
            {"features": ("asimd", "asimddp")},
            {},
            FitError,
            "pi: the runtime needs `asimddp`, which the board's processor lacks",
        ),
        (
            {"glibc": "2.31"},
            {"glibc": "2.34"},
            {},
            FitError,
            "pi: the runtime needs glibc 2.34, the board has 2.31",
        ),
        ({"glibc": None}, {}, {}, FitError, "pi: the runtime needs glibc 2.17, the board has none"),
        (
            {"page_size_bytes": 65536},
            {},
            {},
            FitError,
            "pi: the runtime is for pages of at most 16384 bytes, the board has 65536",
        ),
        ({"l4t": "35.4.1"}, {}, {}, FitError, "pi: the Jetson has L4T 35.4.1, JetPack 6 has 36"),
        (
            {"python": "3.9.2"},
            {},
            {},
            BoardError,
            "pi: Python 3.9.2 is too old, the oldest that works is 3.10",
        ),
        (
            {"disk_free_bytes": 40 << 20},
            {},
            {},
            BoardError,
            "pi: disk full: 42 MB are needed, 40 MB are free",
        ),
    ],
)
def test_what_would_not_run_is_refused_with_the_number(
    tmp_path: Path,
    facts: dict[str, object],
    runtime_fields: dict[str, object],
    needs: dict[str, int],
    kind: type[ToolchainError],
    message: str,
) -> None:
    manifest = read_manifest(make_bundle(tmp_path / "b", needs=needs).path)
    described = dataclasses.replace(
        read_runtime(make_runtime(tmp_path / "r", machine="aarch64")), **runtime_fields
    )  # type: ignore[arg-type]
    with pytest.raises(kind) as caught:
        refuse_unfit("pi", manifest, described, {**PI_4, **facts}, 10 << 20)
    assert caught.value.message == message


def test_the_room_for_feedback_is_counted_before_anything_is_sent(tmp_path: Path) -> None:
    manifest = read_manifest(make_bundle(tmp_path / "b").path)
    described = read_runtime(make_runtime(tmp_path / "r", machine="aarch64"))
    facts = {**PI_4, "disk_free_bytes": 50 << 20}
    refuse_unfit("pi", manifest, described, facts, 10 << 20)
    keeping = dataclasses.replace(manifest, feedback_mb=16)
    with pytest.raises(BoardError, match="disk full: 58 MB are needed, 50 MB are free"):
        refuse_unfit("pi", keeping, described, facts, 10 << 20)


def test_a_model_that_does_not_fit_in_memory_is_refused_with_its_parts(tmp_path: Path) -> None:
    needs = {"weights_bytes": 1500 << 20, "kv_bytes": 200 << 20, "compute_bytes": 100 << 20}
    manifest = read_manifest(make_bundle(tmp_path / "b", needs=needs).path)
    described = read_runtime(make_runtime(tmp_path / "r", machine="aarch64"))
    with pytest.raises(
        FitError, match="pi: tiny does not fit in memory: it takes 1900 MB"
    ) as caught:
        refuse_unfit("pi", manifest, described, PI_4, 0)
    assert caught.value.exit_code == 5
    refuse_unfit(
        "pi",
        manifest,
        described,
        {**PI_4, "model": "Raspberry Pi 4 Model B Rev 1.4", "memory_total_mb": 7819},
        0,
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda bundle: (bundle / "model.bin").write_bytes(b"other"),
            "b: `model.bin` has 5 bytes, the manifest says 60",
        ),
        (lambda bundle: (bundle / "model.bin").unlink(), "b: `model.bin` is missing"),
        (lambda bundle: (bundle / "manifest.json").unlink(), "b: manifest.json cannot be read"),
    ],
)
def test_a_spoilt_bundle_is_refused_on_the_host(
    board: FakeConnection, runtime: Path, tmp_path: Path, spoil, message: str
) -> None:  # type: ignore[no-untyped-def]
    bundle: Bundle = make_bundle(tmp_path / "b")
    spoil(bundle.path)
    with pytest.raises(ArtifactError) as caught:
        push_unsigned(bundle, runtime, Device(board), Silent())
    assert (caught.value.message, caught.value.hint) == (message, "package it again")
    assert board.commands == []


@pytest.mark.slow
def test_a_push_over_real_ssh_serves_sends_nothing_twice_and_can_be_asked(
    runtime: Path, tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEMITASSE_ROOT", str(tmp_path / "store"))
    bundle = make_bundle(tmp_path / "b", payload=os.urandom(1_000_000))
    with open_board("local") as board:
        assert (
            push_unsigned(bundle, runtime, Device(board), Silent(), port=port).bytes_sent
            > 1_000_000
        )
        assert push_unsigned(bundle, runtime, Device(board), Silent(), port=port).bytes_sent == 0
        device = Device(board)
        assert device.call("status")["service"]["healthy"] is True
        assert device.call("stop")["service"]["healthy"] is False


OTHER = (
    "pi: the bundle was packaged for `x86-64`, the board is `rpi-4b-2gb`: "
    "`demitasse package RECIPE --target rpi-4b-2gb` makes one for it"
)


def test_a_bundle_for_another_board_is_said_to_be_so(tmp_path: Path) -> None:
    manifest = read_manifest(make_bundle(tmp_path / "b").path)
    report = Recorder()
    note_other_target("pi", manifest, PI_4, report)
    assert report.notes == [f"{OTHER}; it fits here, with its context of 64"]
    own = dataclasses.replace(manifest, target="rpi-4b-2gb")
    unknown = PI_4 | {"model": "A Board of Nobody's"}
    for known, facts in ((own, PI_4), (manifest, unknown)):
        note_other_target("pi", known, facts, report)
    assert len(report.notes) == 1


def test_a_bundle_for_another_board_that_does_not_fit_comes_with_the_command(
    tmp_path: Path,
) -> None:
    needs = {"weights_bytes": 1 << 30, "kv_bytes": 1 << 30, "compute_bytes": 1 << 20}
    manifest = read_manifest(make_bundle(tmp_path / "b", needs=needs).path)
    described = read_runtime(make_runtime(tmp_path / "r", machine="aarch64"))
    with pytest.raises(FitError) as caught:
        refuse_unfit("pi", manifest, described, PI_4, 0)
    assert caught.value.message.startswith("pi: tiny does not fit in memory: it takes")
    assert caught.value.hint.endswith(OTHER.removeprefix("pi: "))
