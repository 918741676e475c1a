"""Power cuts: what a log of writes gives back, and a store on a board that survives every cut."""

import random
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from math import gcd
from pathlib import Path

import pytest

from device.errors import DeviceError
from device.manifest import ManifestError
from device.store import RELEASES, RUNTIMES, Store
from tests.conftest import Rounds
from tests.fakes.bundles import make_bundle, make_runtime
from toolchain.board import boot, faults, open_board, virtual
from toolchain.board.device import Device
from toolchain.board.recording import Recording
from toolchain.errors import ArtifactError
from toolchain.progress import Silent
from toolchain.push import push
from toolchain.tools import e2fs

SECTOR = 512
FLUSH, FUA, DISCARD = 1, 2, 4
TARGET = "rpi-4b-2gb"


def log_of(*entries: tuple[int, bytes, int]) -> bytes:
    """A log of (sector, content, flags), as QEMU writes it."""
    parts = [struct.pack("<QQQI", 0x6A736677736872, 1, len(entries), SECTOR).ljust(SECTOR, b"\0")]
    for sector, content, flags in entries:
        parts.append(
            struct.pack(
                "<QQQQ", sector, len(content) // SECTOR or bool(flags & DISCARD), flags, 0
            ).ljust(SECTOR, b"\0")
        )
        parts.append(content)
    return b"".join(parts)


def recording(folder: Path, log: bytes) -> Recording:
    made = Recording(base=folder / "base", log=folder / "log")
    made.base.write_bytes(bytes(4 * SECTOR))
    made.log.write_bytes(log)
    return made


A, B, C = (letter * SECTOR for letter in (b"a", b"b", b"c"))


def disk(made: Recording, cut: int, lottery: random.Random | None = None) -> bytes:
    image = made.base.with_name("image")
    made.disk_after(cut, image, lottery)
    content = image.read_bytes()
    assert len(content) == 4 * SECTOR
    return b"".join(
        content[at : at + 1].replace(b"\0", b".") for at in range(0, len(content), SECTOR)
    )


def test_a_disk_without_a_cache_holds_what_was_written_before_the_cut(tmp_path: Path) -> None:
    made = recording(tmp_path, log_of((0, A, 0), (1, B, 0), (0, C, 0)))
    assert [disk(made, cut) for cut in range(4)] == [b"....", b"a...", b"ab..", b"cb.."]


def test_a_cache_loses_only_what_was_not_flushed(tmp_path: Path) -> None:
    made = recording(
        tmp_path, log_of((0, A, 0), (0, b"", FLUSH), (1, B, 0), (2, C, FUA), (3, B, 0))
    )
    seen = {disk(made, 5, random.Random(seed)) for seed in range(32)}
    assert seen == {b"abcb", b"abc.", b"a.cb", b"a.c."}


def test_what_is_discarded_or_cut_off_at_the_logs_end_is_no_write(tmp_path: Path) -> None:
    whole = log_of((1, b"", DISCARD), (0, A, 0), (1, B, 0))
    assert disk(recording(tmp_path, whole[: -SECTOR // 2]), 9) == b"a..."


@pytest.mark.parametrize("content", [b"", b"short", bytes(1024)])
def test_a_file_that_is_no_log_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ArtifactError, match=r"^log: not a log of writes$"):
        recording(tmp_path, content).writes()


# --- the store on a virtual board


@dataclass
class Switch:
    """An activation of a second release, recorded on a disk of the board that holds the store."""

    recording: Recording
    begun: int
    """Writes before the second push."""
    releases: tuple[str, str]
    folder: Path

    def found_after(self, cut: int, lottery: random.Random | None) -> str:
        """Cut the power, start again, and say which release is whole: old or new."""
        image, store_folder = self.folder / "image", self.folder / "found"
        shutil.rmtree(store_folder, ignore_errors=True)
        self.recording.disk_after(cut, image, lottery)
        e2fs.mend(image)
        e2fs.extract(image, ["/store"], store_folder)
        store = Store(store_folder / "store")
        current = store.current()
        if not current:
            return "none"
        try:
            store.verify(RELEASES, current.release)
            store.verify(RUNTIMES, current.runtime)
        except (DeviceError, ManifestError) as error:
            return f"damaged: {error}"
        return ("old", "new")[self.releases.index(current.release)]


@pytest.fixture(scope="module")
def switch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Switch]:
    folder = tmp_path_factory.mktemp("switch")
    runtime = make_runtime(folder / "runtime", machine="aarch64")
    bundles = [
        make_bundle(folder / f"bundle{n}", version=f"{n}", counter=n, payload=b"%d" % n * 200_000)
        for n in (1, 2)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        patch.setenv("DEMITASSE_ROOT", f"{faults.PLUGGED_DISK}/store")
        board = virtual.up(TARGET, Silent())
        try:
            with (
                faults.recorded_disk(board, folder, size_mb=48) as made,
                open_board(board.address) as connection,
            ):
                begun, releases = 0, []
                for bundle in bundles:
                    begun = len(made.writes())
                    releases.append(
                        push(
                            bundle, runtime, Device(connection), Silent(), allow_unsigned=True
                        ).release
                    )
                    connection.run(
                        ["sh", "-c", "sleep 6"]
                    )  # longer than ext4 leaves its journal open
                Device(connection).call("stop")
        finally:
            boot.stop(board.folder)
    yield Switch(recording=made, begun=begun, releases=(releases[0], releases[1]), folder=folder)


@pytest.mark.board
@pytest.mark.timeout(2400)
def test_the_recording_ends_with_the_new_release_and_began_with_the_old_one(switch: Switch) -> None:
    writes = switch.recording.writes()
    assert switch.begun < len(writes) and any(write.flushes for write in writes[switch.begun :])
    assert [switch.found_after(cut, None) for cut in (switch.begun, len(writes))] == ["old", "new"]


@pytest.mark.board
@pytest.mark.soak(row=1, short=40, whole=1500)
def test_a_power_cut_at_any_write_leaves_one_release_whole(switch: Switch, rounds: Rounds) -> None:
    writes = switch.recording.writes()
    span = len(writes) - switch.begun + 1
    step = next(step for step in count(span * 381 // 1000 + 1) if gcd(step, span) == 1)
    seen = set()
    for number in rounds:
        cut = switch.begun + number // 2 * step % span
        lottery = random.Random(number) if number % 2 else None
        found = switch.found_after(cut, lottery)
        assert found in ("old", "new"), f"write {cut} of {len(writes)}, round {number}: {found}"
        rounds.saw(found)
        seen.add(found)
    assert seen == {"old", "new"} or rounds.limit > 1000
