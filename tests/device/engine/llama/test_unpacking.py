"""The child that decodes pictures: what strangers send ends it at most, never the service."""

import contextlib
import io
import os
import random
import signal
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator

import pytest

from device.engine.llama import unpacking
from device.engine.llama.unpacking import Unpacker
from device.errors import DeviceError
from device.manifest.pictures import Size
from device.pictures import checked
from tests.fakes.eyes import can_see, picture

pytestmark = pytest.mark.skipif(not can_see(), reason="llama-cpp-python without libmtmd: make")


@pytest.fixture
def unpacker() -> Iterator[Unpacker]:
    made = Unpacker()
    yield made
    made.close()


def decoded(unpacker: Unpacker, image: bytes) -> bytes:
    """Check and decode a picture, as the engine does."""
    return unpacker.rgb(image, checked(image))


def pillow(image: bytes) -> bytes:
    from PIL import Image

    return Image.open(io.BytesIO(image)).convert("RGB").tobytes()


def png(width: int, height: int, rows: bytes) -> bytes:
    """Return a PNG of 8-bit RGB whose header and data need not fit together."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(rows, 9))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data + chunk(b"IEND", b"")


def test_pixels_are_those_that_pillow_reads(unpacker: Unpacker) -> None:
    for seed in range(5):
        assert decoded(unpacker, picture(seed)) == pillow(picture(seed))
    lossy = picture(1, side=40, kind="JPEG")
    ours, theirs = decoded(unpacker, lossy), pillow(lossy)
    assert len(ours) == len(theirs)
    # The two libraries round colours a little differently.
    assert sum(abs(a - b) for a, b in zip(ours, theirs, strict=True)) / len(ours) < 3
    assert unpacker.started == 1


def test_a_picture_is_squeezed_into_a_tile_where_one_is_asked_for(unpacker: Unpacker) -> None:
    from PIL import Image

    shown = picture(2, side=90)
    theirs = Image.frombytes("RGB", (90, 90), pillow(shown)).resize((32, 32), 2).tobytes()
    ours = unpacker.rgb(shown, checked(shown), 32)
    assert len(ours) == len(theirs)
    assert max(abs(one - other) for one, other in zip(ours, theirs, strict=True)) <= 1
    with pytest.raises(DeviceError, match="the picture cannot be decoded"):
        unpacker.rgb(shown[:80], checked(shown), 32)
    assert unpacker.started == 1


def test_a_broken_picture_is_said_to_be_and_the_child_goes_on(unpacker: Unpacker) -> None:
    whole = picture(1)
    with pytest.raises(DeviceError, match="the picture cannot be decoded") as caught:
        decoded(unpacker, whole[:60])
    assert (caught.value.code, caught.value.status) == ("bad_picture", 400)
    assert decoded(unpacker, whole) == pillow(whole)
    assert unpacker.started == 1


def test_a_child_that_died_is_replaced(unpacker: Unpacker) -> None:
    decoded(unpacker, picture(1))
    assert unpacker._child
    os.kill(unpacker._child.pid, signal.SIGKILL)
    unpacker._child.wait()
    with pytest.raises(DeviceError, match="the picture cannot be decoded"):
        decoded(unpacker, picture(1))
    assert decoded(unpacker, picture(1)) == pillow(picture(1))
    assert unpacker.started == 2


def test_a_child_that_is_late_is_ended(unpacker: Unpacker, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded(unpacker, picture(1))
    unpacker.close()
    monkeypatch.setattr(unpacking, "DEADLINE_S", 0.3)
    unpacker._start()
    assert unpacker._child
    child = unpacker._child
    os.kill(child.pid, signal.SIGSTOP)
    with pytest.raises(DeviceError, match="the picture cannot be decoded"):
        decoded(unpacker, picture(1))
    assert child.poll() is not None


def test_a_child_that_answers_a_byte_at_a_time_has_one_deadline_for_all_of_them(
    unpacker: Unpacker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deadline of each part would never come."""
    monkeypatch.setattr(unpacking, "DEADLINE_S", 0.5)
    ours, theirs = socket.socketpair()
    size = Size(64, 64)

    def trickle() -> None:
        theirs.sendall(struct.pack("<II", size.width, size.height))
        with contextlib.suppress(OSError):
            for _ in range(100):
                theirs.sendall(bytes(100))
                time.sleep(0.05)

    unpacker._line = ours
    speaker = threading.Thread(target=trickle)
    speaker.start()
    began = time.monotonic()
    with pytest.raises(DeviceError, match="the picture cannot be decoded"):
        unpacker.rgb(picture(1), size)
    taken_s = time.monotonic() - began
    speaker.join()
    theirs.close()
    assert 0.4 < taken_s < 4


def test_a_picture_that_unpacks_without_end_takes_no_more_than_its_room(
    unpacker: Unpacker,
) -> None:
    """A PNG of 64 pixels whose data are 600 MB of zeros in 600 kB."""
    bomb = png(8, 8, bytes(600 << 20))
    assert len(bomb) < 1 << 20
    with pytest.raises(DeviceError, match="the picture cannot be decoded"):
        decoded(unpacker, bomb)
    assert decoded(unpacker, picture(2)) == pillow(picture(2))


def test_a_size_that_is_not_the_headers_is_refused(unpacker: Unpacker) -> None:
    with pytest.raises(DeviceError, match="the picture cannot be decoded"):
        unpacker.rgb(picture(1), Size(63, 64))
    assert decoded(unpacker, picture(1)) == pillow(picture(1))


def hostile(seed: int) -> bytes:
    """Return a picture that was tampered with."""
    random_ = random.Random(seed)
    kind = random_.choice(("PNG", "JPEG"))
    image = bytearray(picture(seed % 50, side=random_.choice((8, 33, 64)), kind=kind))
    for _ in range(random_.choice((1, 2, 8, 64))):
        way = random_.randrange(4)
        at = random_.randrange(len(image))
        if way == 0:
            image[at] = random_.randrange(256)
        elif way == 1:
            image[at:at] = random_.randbytes(random_.randrange(1, 9))
        elif way == 2:
            del image[at : at + random_.randrange(1, 9)]
        else:
            image[at : at + 4] = random_.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff"))
    return bytes(image)


def _attacked(unpacker: Unpacker, count: int) -> tuple[int, int]:
    """Return how many of these pictures were decoded, and how many were refused."""
    good = bad = 0
    for seed in range(count):
        try:
            image = hostile(seed)
            size = checked(image)
            assert len(unpacker.rgb(image, size)) == size.width * size.height * 3
            good += 1
        except DeviceError as error:
            assert error.code == "bad_picture"
            bad += 1
    assert decoded(unpacker, picture(1)) == pillow(picture(1))
    return good, bad


def test_hostile_pictures_end_nothing_but_the_child(unpacker: Unpacker) -> None:
    good, bad = _attacked(unpacker, 300)
    assert good + bad == 300
    assert min(good, bad) > 20


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_hostile_pictures_end_nothing_but_the_child(
    unpacker: Unpacker,
) -> None:
    good, bad = _attacked(unpacker, 10_000)
    assert good + bad == 10_000
    assert min(good, bad) > 1000
