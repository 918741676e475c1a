"""A release to 8 boards whose lines carry 10 MB/s each: all at once against one after the other.

The boards are folders of this computer with real commands and the real protocol; each line is a
token bucket. What is measured is the line: a board's own work (hashing, the check, the start of the
service) is done by this computer for all of them, which a fleet of real boards would share out.
"""

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import measure

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.fakes.board import FakeChannel, FakeConnection
from tests.fakes.bundles import finished, make_bundle
from tests.fakes.fleet import Shop
from tests.fakes.forking import forking
from toolchain.agent import build_agent
from toolchain.artifacts import Bundle

BOARDS, RATE_MB_S = 8, 10
SIZE_MB, QUICK_MB = 48, 2
ROUNDS, QUICK_ROUNDS = 5, 1
BURST_BYTES = 1 << 20
"""Bytes that may pass at once after a silence: a tenth of a second, what sockets hold."""
PIECE_BYTES = 64 << 10


def main() -> None:
    """Measure the claim."""
    options = measure.options(__doc__ or "")
    size_mb, rounds = (QUICK_MB, QUICK_ROUNDS) if options.quick else (SIZE_MB, ROUNDS)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=_fast_folder())))
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        fleets = {
            "at once": _fleet(folder / "at-once", parallel=BOARDS),
            "one after the other": _fleet(folder / "in-turn", parallel=1),
        }
        for shop in fleets.values():
            stack.enter_context(forking(shop.folder, build_agent()))
            stack.callback(shop.stop)
            _push(shop, size_mb)  # the runtime and the agent travel before the clock runs
        cases = {name: lambda shop=shop: _push(shop, size_mb) for name, shop in fleets.items()}
        figures = measure.interleave(cases, rounds)

    conditions = {"boards": BOARDS, "line_mb_s": RATE_MB_S, "size_mb": size_mb, "unit": "s"}
    faster = measure.claim(
        "8 boards at once",
        "the same boards, one after the other",
        6.0,
        figures["one after the other"],
        figures["at once"],
        conditions,
    )
    measure.show([faster], figures, "s", as_json=options.json)


def _fleet(folder: Path, parallel: int) -> "_Slow":
    folder.mkdir()
    names = [f"pi@board-{number}" for number in range(BOARDS)]
    rollout = f'soak = "0s"\nparallel = {parallel}\nwaves = ["100%"]'
    made = _Slow.make(folder, names, rollout)
    assert isinstance(made, _Slow)
    return made


def _push(shop: Shop, size_mb: int) -> float:
    """Bring a release that no board has any byte of to all of them; return the seconds."""
    version = sum(1 for _ in shop.folder.glob("bundle-*")) + 1
    bundle = _bundle(shop, version, size_mb)
    began = time.monotonic()
    result = shop.push(bundle)
    seconds = time.monotonic() - began
    wrong = [each.message for each in result.outcomes if each.state != "done"]
    assert not wrong, wrong
    (bundle.path / "model.bin").unlink()
    return seconds


def _bundle(shop: Shop, version: int, size_mb: int) -> Bundle:
    """Return a release whose bytes nobody can foretell, for a processor of this computer."""
    made = make_bundle(
        shop.folder / f"bundle-{version}",
        version=str(version),
        counter=version,
        payload=os.urandom(size_mb * 1_000_000),
    )
    return finished(made)


class _Slow(Shop):
    """A fleet whose lines carry so many bytes a second and no more."""

    @contextmanager
    def open(self, address: str) -> Iterator[FakeConnection]:
        with super().open(address) as connection:
            yield _Line(connection)


class _Line(FakeConnection):
    """The line to one board."""

    def __init__(self, plain: FakeConnection) -> None:
        super().__init__(plain.home, address=plain.address, python=plain.python)
        self._free_at = 0.0

    def open(self, argv: "list[str] | tuple[str, ...]") -> FakeChannel:  # type: ignore[override]
        channel = super().open(argv)
        real = channel.send

        def send(chunk: bytes | memoryview) -> None:
            view = memoryview(chunk)
            for start in range(0, len(view), PIECE_BYTES):
                piece = view[start : start + PIECE_BYTES]
                self._wait_for(len(piece))
                real(piece)

        channel.send = send  # type: ignore[method-assign]
        return channel

    def _wait_for(self, count: int) -> None:
        """Let so many bytes pass when the bucket has them."""
        now = time.monotonic()
        self._free_at = max(self._free_at, now - BURST_BYTES / (RATE_MB_S * 1e6))
        self._free_at += count / (RATE_MB_S * 1e6)
        time.sleep(max(0.0, self._free_at - now))


def _fast_folder() -> Path:
    """Return a folder in memory if there is one: the line is measured, not the disk."""
    return Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path(tempfile.gettempdir())


if __name__ == "__main__":
    main()
