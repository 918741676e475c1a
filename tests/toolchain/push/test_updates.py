"""Updates: of a model or an index that changed only what changed travels."""

import random
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from device.manifest import read_manifest
from device.manifest.gguf import read_header
from tests.fakes.board import FakeConnection
from tests.fakes.bundles import make_bundle
from tests.fakes.datasets import Recorder
from tests.fakes.updates import make_update
from tests.toolchain.push.conftest import push_unsigned
from toolchain.artifacts import Bundle
from toolchain.board.device import Device
from toolchain.errors import (
    BoardError,
)
from toolchain.progress import Silent


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
