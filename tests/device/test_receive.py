"""A transfer session through a real pipe: whole blobs, cut ones, wrong ones, and senseless
requests.
"""

import hashlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device.manifest import delta
from device.store import Store
from toolchain.push import coding

ROOT = Path(__file__).resolve().parents[2]


def session(store: Path, *parts: bytes | dict[str, Any]) -> tuple[list[dict[str, Any]], int]:
    """Hold one session and return the answers and the exit status."""
    sent = b"".join(
        json.dumps(part).encode() + b"\n" if isinstance(part, dict) else part for part in parts
    )
    command = [sys.executable, "-m", "device", "receive", "--root", str(store)]
    done = subprocess.run(
        command, input=sent, capture_output=True, check=False, cwd=ROOT, timeout=60
    )
    assert done.stderr == b""
    return [json.loads(line) for line in done.stdout.splitlines()], done.returncode


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def entry(content: bytes, offset: int = 0, size: int | None = None) -> dict[str, Any]:
    return {
        "sha256": sha256(content),
        "size": len(content) if size is None else size,
        "offset": offset,
    }


def test_several_blobs_come_in_one_request_and_are_kept_by_name(tmp_path: Path) -> None:
    contents = [b"first", b"", b"third" * 100_000]
    answers, code = session(
        tmp_path, {"op": "put", "blobs": [entry(content) for content in contents]}, *contents
    )
    assert (answers, code) == ([{"kept": 3}], 0)
    assert [Store(tmp_path).blob(sha256(content)).read_bytes() for content in contents] == contents


def test_a_cut_blob_goes_on_at_the_byte(tmp_path: Path) -> None:
    content = bytes(range(256)) * 1000
    answers, code = session(tmp_path, {"op": "put", "blobs": [entry(content)]}, content[:100_001])
    assert (answers[0]["error"]["code"], code) == ("cut", 1)
    part = Store(tmp_path).part(sha256(content))
    assert part.read_bytes() == content[:100_001]
    answers, _ = session(
        tmp_path, {"op": "put", "blobs": [entry(content, offset=100_001)]}, content[100_001:]
    )
    assert answers == [{"kept": 1}]
    assert Store(tmp_path).blob(sha256(content)).read_bytes() == content
    assert not part.exists()


def test_a_blob_may_be_sent_again_from_an_earlier_byte(tmp_path: Path) -> None:
    content = b"abcdefgh"
    session(tmp_path, {"op": "put", "blobs": [entry(content)]}, content[:6])
    answers, _ = session(tmp_path, {"op": "put", "blobs": [entry(content, offset=2)]}, content[2:])
    assert answers == [{"kept": 1}]


def test_bytes_that_are_not_what_their_name_says_are_thrown_away(tmp_path: Path) -> None:
    answers, code = session(tmp_path, {"op": "put", "blobs": [entry(b"right")]}, b"wrong")
    assert (answers[0]["error"]["code"], code) == ("wrong_digest", 1)
    assert list((tmp_path / "blobs").iterdir()) == []


BLOB = {"sha256": "a" * 64, "size": 5, "offset": 0}


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("request_line", "code", "message"),
    [
        (b"not json\n", "bad_request", "not a JSON line"),
        (b"[]\n", "bad_request", "not a JSON object"),
        ({"op": "delete"}, "bad_request", "unknown operation `delete`"),
        (
            {"op": "put", "blobs": ["x"]},
            "bad_request",
            "a blob needs `sha256`, `size` and `offset`",
        ),
        (
            {"op": "put", "blobs": [{**BLOB, "offset": 6}]},
            "bad_request",
            "a blob needs an offset between 0 and its size",
        ),
        (
            {"op": "put", "blobs": [{**BLOB, "size": -1}]},
            "bad_request",
            "a blob needs an offset between 0 and its size",
        ),
        (
            {"op": "put", "blobs": [{**BLOB, "sha256": "../x"}]},
            "bad_digest",
            "not a sha256 in hex: `../x`",
        ),
        (
            {"op": "put", "blobs": [{**BLOB, "offset": 3}]},
            "wrong_offset",
            "blob aaaaaaaaaaaa has 0 bytes, not 3",
        ),
        (
            {"op": "release", "size": 9_000_000},
            "bad_request",
            "`size` is not between 0 and 8388608",
        ),
        ({"op": "release", "size": 9}, "cut", "the session ended within a message"),
    ],
)
def test_a_request_that_breaks_the_rules_ends_the_session(
    tmp_path: Path, request_line: Any, code: str, message: str
) -> None:
    answers, status = session(tmp_path, request_line)
    assert status == 1
    assert (answers[0]["error"]["code"], answers[0]["error"]["message"]) == (code, message)


def test_more_than_the_disk_holds_is_refused_before_it_comes(tmp_path: Path) -> None:
    answers, _ = session(
        tmp_path, {"op": "put", "blobs": [{"sha256": "a" * 64, "size": 1 << 60, "offset": 0}]}
    )
    assert answers[0]["error"]["code"] == "disk_full"
    assert answers[0]["error"]["message"].startswith(
        "the disk is full: 1,152,921,504,606,846,976 bytes are to come, "
    )


def test_a_disk_that_fills_up_on_the_way_is_left_clean(tmp_path: Path) -> None:
    """A file size limit of the session stands for the full disk: both end a write halfway."""
    content = b"x" * 3_000_000
    request = json.dumps({"op": "put", "blobs": [entry(content)]}).encode() + b"\n"
    program = (
        "import resource, signal, sys; from device.__main__ import main;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000000, 1000000));"
        "sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "receive", "--root", str(tmp_path)]
    done = subprocess.run(
        command, input=request + content, capture_output=True, check=False, cwd=ROOT, timeout=60
    )
    assert json.loads(done.stdout)["error"]["code"] == "disk_full"
    assert list((tmp_path / "blobs").iterdir()) == []


@pytest.mark.sampled(2)
@pytest.mark.parametrize("size", [1_000_000, 30_000_000])
def test_a_transfer_writes_hardly_more_than_what_came(tmp_path: Path, size: int) -> None:
    """By the kernel's count of what the session wrote; cards wear out by being written."""
    content = bytes(range(256)) * (size // 256)
    child = subprocess.Popen(
        [sys.executable, "-m", "device", "receive", "--root", str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdin and child.stdout
    with child.stdin, child.stdout:
        child.stdin.write(
            json.dumps({"op": "put", "blobs": [entry(content)]}).encode() + b"\n" + content
        )
        child.stdin.flush()
        assert json.loads(child.stdout.readline()) == {"kept": 1}
        counts = dict(
            line.split(": ") for line in Path(f"/proc/{child.pid}/io").read_text().splitlines()
        )
    assert child.wait(30) == 0
    assert len(content) < int(counts["wchar"]) < 1.05 * len(content)


@pytest.mark.slow
def test_an_update_is_made_in_little_memory_and_written_once(tmp_path: Path) -> None:
    """64 MB that are copied and a frame of differences at its largest, by the kernel's count of
    memory and bytes written.
    """
    base, blocks = bytes(64 << 20), delta.FRAME_BYTES // 18 * 18
    draw = np.random.default_rng(1)
    fresh = draw.integers(0, 256, blocks, np.uint8)
    new = base + fresh.tobytes()
    old = Store(tmp_path).blob(sha256(base))
    old.write_bytes(base)
    payload = coding.difference(np.zeros(blocks, np.uint8), fresh, 2)
    frames = (
        delta.FRAME.pack(delta.COPY, 0, 0, len(base), 0)
        + delta.FRAME.pack(delta.ADD, 2, len(payload), blocks, 0)
        + payload
        + delta.FRAME.pack(delta.CHECK, 0, 32, 0, 0)
        + hashlib.sha256(new).digest()
    )
    request = {
        "op": "patch",
        "sha256": sha256(new),
        "size": len(new),
        "offset": 0,
        "checked": 0,
        "base": old.name,
    }
    child = subprocess.Popen(
        [sys.executable, "-m", "device", "receive", "--root", str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdin and child.stdout
    with child.stdin, child.stdout:
        child.stdin.write(json.dumps(request).encode() + b"\n" + frames)
        child.stdin.flush()
        assert json.loads(child.stdout.readline()) == {"kept": 1}
        counts = dict(
            line.split(": ") for line in Path(f"/proc/{child.pid}/io").read_text().splitlines()
        )
        memory = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{child.pid}/status").read_text().splitlines()
            if ":\t" in line
        )
    assert child.wait(30) == 0
    assert Store(tmp_path).blob(sha256(new)).read_bytes() == new
    assert int(counts["wchar"]) < 1.05 * len(new)
    assert int(memory["VmHWM"].split()[0]) < 64 << 10
