"""The ring of feedback in a board's store: what a push, a rollback and `fit` do with it."""

import dataclasses
import platform
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from device.feedback import ring_of
from device.manifest import BUNDLE_MANIFEST, read_manifest, to_bytes
from tests.fakes.board import FakeConnection
from tests.fakes.bundles import make_bundle, make_runtime
from tests.fakes.ports import free_port
from tests.fakes.tiny_gguf import tiny_bundle
from toolchain.artifacts import Bundle, digest
from toolchain.board.device import Device
from toolchain.cli import app
from toolchain.progress import Silent
from toolchain.push import push
from toolchain.rounds.harvest import harvest, read_harvest


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeConnection]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "home").mkdir()
    made = FakeConnection(tmp_path / "home")
    yield made
    Device(made).call("stop")


def keeping(folder: Path, *, counter: int, feedback_mb: int) -> Bundle:
    """Return a bundle that keeps feedback, of so many megabytes."""
    bundle = make_bundle(folder, version=f"{counter}.0", counter=counter)
    manifest = dataclasses.replace(read_manifest(folder), feedback_mb=feedback_mb)
    (folder / BUNDLE_MANIFEST).write_bytes(to_bytes(manifest))
    record = bundle.record.model_copy(update={"digest": digest(folder)})
    return dataclasses.replace(bundle, record=record)


def rate(board: FakeConnection, release: str, question: str) -> int:
    """Keep a row as the service of a release does, and return its number."""
    folder = board.home / "store" / "releases" / release
    ring = ring_of(folder, read_manifest(folder).feedback_bytes)
    assert ring, "this release keeps feedback"
    row = {"id": f"chatcmpl-{len(question):024x}", "kind": "up", "release": release}
    return ring.append({**row, "question": question, "answer": "a", "rating": 1, "known": None})


@pytest.mark.slow
def test_rows_outlive_a_push_and_a_rollback_and_their_numbers_go_on(
    board: FakeConnection, tmp_path: Path
) -> None:
    runtime = make_runtime(tmp_path / "runtime", machine=platform.machine())
    port = free_port()

    def pushed(counter: int, feedback_mb: int) -> str:
        bundle = keeping(tmp_path / f"b{counter}", counter=counter, feedback_mb=feedback_mb)
        done = push(bundle, runtime, Device(board), Silent(), port=port, allow_unsigned=True)
        return done.release

    def fetched() -> int:
        return harvest(Device(board), out, Silent(), None, delete=False).fetched

    out = tmp_path / "h.jsonl"
    first = pushed(1, feedback_mb=2)
    assert [rate(board, first, "a"), rate(board, first, "ab")] == [1, 2]
    second = pushed(2, feedback_mb=1)
    assert rate(board, second, "abc") == 3
    assert fetched() == 3

    assert Device(board).call("rollback")["release"]["release"] == first
    assert rate(board, first, "abcd") == 4
    pushed(3, feedback_mb=0)
    assert fetched() == 1, "a release that keeps none leaves what there is to be fetched"
    rows = [(row["number"], row["release"]) for row in read_harvest(out)]
    assert rows == [(1, first), (2, first), (3, second), (4, first)]
    assert len({row["ring"] for row in read_harvest(out)}) == 1


def test_fit_of_a_bundle_says_the_room_that_its_feedback_takes(tmp_path: Path) -> None:
    folder = tiny_bundle(tmp_path / "b")

    def said() -> str:
        done = CliRunner().invoke(app, ["fit", str(folder), "--target", "rpi-5-4gb"])
        assert done.exit_code == 0, done.output
        return done.stdout

    assert "feedback" not in said()
    manifest = dataclasses.replace(read_manifest(folder), feedback_mb=16)
    (folder / BUNDLE_MANIFEST).write_bytes(to_bytes(manifest))
    assert "16 MB of disk for feedback" in said()
