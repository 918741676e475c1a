"""A disk that is too small, fills up, or is read-only: a small file system in memory (needs
root).
"""

import errno
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from device.store import Store
from tests.fakes.updates import make_update
from toolchain.progress import Silent
from toolchain.push.delta import make, old_file

ROOT = Path(__file__).resolve().parents[2]
OLD = b"the release that runs" * 1000
SIZE = 1 << 20
CONTENT = bytes(range(256)) * (SIZE // 256)


@pytest.fixture
def card(tmp_path: Path) -> Iterator[Path]:
    """Yield a file system of 2 MB that holds a blob with a second name, as one of a release."""
    place = tmp_path / "card"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("a file system can only be mounted by root")
    try:
        blob = Store(place).blob(digest(OLD))
        blob.write_bytes(OLD)
        (place / "releases" / ("b" * 64)).mkdir()
        os.link(blob, place / "releases" / ("b" * 64) / "model.gguf")
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def resized(place: Path, free: int) -> None:
    """Leave so many bytes free."""
    disk = os.statvfs(place)
    used = (disk.f_blocks - disk.f_bfree) * disk.f_frsize
    subprocess.run(["mount", "-o", f"remount,size={used + free}", str(place)], check=True)


class Session:
    """A transfer session that is fed step by step."""

    def __init__(self, place: Path) -> None:
        command = [sys.executable, "-m", "device", "receive", "--root", str(place)]
        self._child = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
        )

    def send(self, part: bytes | dict[str, Any]) -> None:
        assert self._child.stdin
        try:
            self._child.stdin.write(
                json.dumps(part).encode() + b"\n" if isinstance(part, dict) else part
            )
            self._child.stdin.flush()
        except BrokenPipeError:
            assert self._child.wait(30) == 1

    def end(self) -> dict[str, Any]:
        assert self._child.stdin and self._child.stdout
        try:
            self._child.stdin.close()
        except BrokenPipeError:
            assert self._child.wait(30) == 1
        with self._child.stdout:
            answer = json.loads(self._child.stdout.read().splitlines()[-1])
        self._child.wait(30)
        return dict(answer.get("error", answer))


def put(content: bytes, offset: int = 0) -> dict[str, Any]:
    return {
        "op": "put",
        "blobs": [{"sha256": digest(content), "size": len(content), "offset": offset}],
    }


def left_over(place: Path) -> dict[str, int]:
    return {
        file.name: file.stat().st_size
        for file in (place / "blobs").iterdir()
        if file.name != digest(OLD)
    }


@pytest.mark.slow
def test_a_blob_comes_whole_or_is_refused_before_its_first_byte_whatever_the_room(
    card: Path,
) -> None:
    outcomes = set()
    for step in range(-10, 11):
        resized(card, SIZE + step * 4096)
        session = Session(card)
        session.send(put(CONTENT))
        session.send(CONTENT)
        answer = session.end()
        outcomes.add(answer.get("code", "kept"))
        if "code" in answer:
            assert answer["message"].startswith(f"the disk is full: {SIZE:,} bytes are to come, ")
            assert left_over(card) == {}
        else:
            assert left_over(card) == {digest(CONTENT): SIZE}
            Store(card).sweep_blobs()
        assert (card / "releases" / ("b" * 64) / "model.gguf").read_bytes() == OLD
    assert outcomes == {"disk_full", "kept"}


def test_a_disk_that_somebody_else_fills_on_the_way_is_left_as_it_was(card: Path) -> None:
    resized(card, SIZE + 65536)
    session = Session(card)
    session.send(put(CONTENT))
    session.send(CONTENT[: SIZE // 2])
    wait_for(card / "blobs" / f".{digest(CONTENT)}.part", SIZE // 2)
    fill(card)
    session.send(CONTENT[SIZE // 2 :])
    answer = session.end()
    assert (answer["code"], answer["message"]) == (
        "disk_full",
        "the disk is full: 0 bytes were free",
    )
    assert left_over(card) == {}
    assert (card / "releases" / ("b" * 64) / "model.gguf").read_bytes() == OLD


@pytest.mark.slow
def test_a_disk_that_fills_while_an_update_is_made_is_left_as_it_was(
    card: Path, tmp_path: Path
) -> None:
    old, new = make_update(tmp_path)
    size = new.stat().st_size
    subprocess.run(["mount", "-o", "remount,size=8m", str(card)], check=True)
    base = Store(card).blob(digest(old.read_bytes()))
    base.write_bytes(old.read_bytes())
    os.link(base, card / "releases" / ("b" * 64) / "old.gguf")
    patch = make(old_file(old, base.name), new, {}, Silent())
    frames, name = list(patch.chunks(patch.frames)), digest(new.read_bytes())
    session = Session(card)
    session.send(
        {"op": "patch", "sha256": name, "size": size, "offset": 0, "checked": 0, "base": base.name}
    )
    half = len(frames) // 2
    session.send(b"".join(frames[:half]))
    wait_for(card / "blobs" / f".{name}.part", sum(frame.made for frame in patch.frames[:half]))
    fill(card)
    session.send(b"".join(frames[half:]))
    assert session.end()["code"] == "disk_full"
    assert left_over(card).keys() == {base.name}
    assert base.read_bytes() == old.read_bytes()


def test_a_read_only_disk_is_named(card: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(card)], check=True)
    session = Session(card)
    session.send(put(CONTENT))
    answer = session.end()
    assert answer == {
        "code": "read_only",
        "message": f"the disk under {card}/lock is read-only",
        "hint": "remount it, or look at dmesg: the card may be dying",
    }
    assert (card / "releases" / ("b" * 64) / "model.gguf").read_bytes() == OLD


def wait_for(file: Path, size: int) -> None:
    """Wait until so much of a file is there."""
    while not file.exists() or file.stat().st_size < size:
        pass


def fill(place: Path) -> None:
    """Write until nothing more goes in."""
    with (place / "other").open("wb", buffering=0) as stream:
        try:
            while True:
                stream.write(bytes(4096))
        except OSError as error:
            assert error.errno == errno.ENOSPC
