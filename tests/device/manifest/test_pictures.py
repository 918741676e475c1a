"""The bounds of pictures are read in their headers, whatever the header claims."""

import io
import random
from pathlib import Path

import pytest

from device.manifest import ManifestError
from device.manifest.pictures import MAX_BYTES, MAX_PIXELS, Size, check, digest_of
from tests.fakes.eyes import picture


def jpeg(side: tuple[int, int], **options: object) -> bytes:
    from PIL import Image

    written = io.BytesIO()
    Image.new("RGB", side, (200, 30, 30)).save(written, "JPEG", **options)
    return written.getvalue()


def frame(image: bytes) -> int:
    """Return where the frame of a JPEG begins."""
    return next(
        at for at in range(2, len(image)) if image[at : at + 2] in (b"\xff\xc0", b"\xff\xc2")
    )


@pytest.mark.parametrize("side", [(1, 1), (640, 480), (17, 500)])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"comment": b"\xff\xc0" * 9}])
def test_the_size_of_a_jpeg_is_that_of_its_frame(
    side: tuple[int, int], options: dict[str, object]
) -> None:
    assert check(jpeg(side, **options)) == Size(*side)


def test_the_size_of_a_png_is_that_of_its_first_chunk() -> None:
    assert check(picture(1, side=48)) == Size(48, 48)


def test_more_bytes_or_pixels_than_are_read_are_refused() -> None:
    with pytest.raises(ManifestError, match="has 2,097,153 bytes, at most 2,097,152 are read"):
        check(picture(1) + bytes(MAX_BYTES + 1 - len(picture(1))))
    image = bytearray(jpeg((8, 8)))
    at = frame(bytes(image))
    image[at + 5 : at + 9] = b"\xff\xff\xff\xff"
    with pytest.raises(ManifestError, match="65535 × 65535 pixels, at most 4,194,304 are read"):
        check(bytes(image))
    assert MAX_PIXELS == 2048 * 2048


def test_a_picture_too_narrow_for_a_tile_is_refused() -> None:
    assert check(jpeg((2, 64))) == Size(2, 64)
    for side in ((1, 4000), (4000, 1), (2, 65)):
        with pytest.raises(ManifestError, match="one side is more than 32 times the other"):
            check(jpeg(side))


BROKEN = {
    "nothing": b"",
    "a text": b"hello",
    "a GIF": b"GIF89a" + bytes(40),
    "a WebP": b"RIFF\x24\0\0\0WEBPVP8 " + bytes(40),
    "a PNG without a header": b"\x89PNG\r\n\x1a\n" + b"\0\0\0\x04IDAT" + bytes(40),
    "half a PNG header": picture(1)[:20],
    "a JPEG that ends before its frame": jpeg((8, 8))[:40],
    "a JPEG with a segment that ends before it begins": b"\xff\xd8\xff\xe0\0\0" + bytes(20),
    "a JPEG of no marker": b"\xff\xd8\xff\xe0\0\x02\0\0\0\0",
    "a lossless JPEG": jpeg((8, 8)).replace(b"\xff\xc0", b"\xff\xc3", 1),
    "an arithmetic-coded JPEG": jpeg((8, 8)).replace(b"\xff\xc0", b"\xff\xc9", 1),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_whole_picture_is_refused(name: str) -> None:
    with pytest.raises(ManifestError, match="not a whole JPEG or PNG file") as caught:
        check(BROKEN[name])
    assert caught.value.code == "bad_picture"


def test_a_second_frame_cannot_hide_behind_the_first() -> None:
    image = jpeg((8, 8))
    at = frame(image)
    length = 2 + int.from_bytes(image[at + 2 : at + 4], "big")
    twice = image[: at + length] + image[at : at + length] + image[at + length :]
    with pytest.raises(ManifestError, match="not a whole JPEG or PNG file"):
        check(twice)


def test_no_picture_of_no_pixels() -> None:
    image = bytearray(picture(1))
    image[16:24] = bytes(8)
    with pytest.raises(ManifestError, match="0 × 0 pixels"):
        check(bytes(image))


def test_garbage_is_refused_and_never_fails_otherwise() -> None:
    random_ = random.Random(0)
    for _ in range(2000):
        image = bytearray(jpeg((16, 16)) if random_.random() < 0.5 else picture(3))
        for _ in range(random_.randrange(1, 20)):
            image[random_.randrange(len(image))] = random_.randrange(256)
        cut = bytes(image[: random_.randrange(len(image))])
        for each in (bytes(image), cut, random_.randbytes(60)):
            try:
                size = check(each)
                assert 0 < size.width * size.height <= MAX_PIXELS
            except ManifestError as error:
                assert error.code == "bad_picture"


def test_a_picture_is_known_by_its_bytes(tmp_path: Path) -> None:
    assert len(digest_of(picture(1))) == 64
    assert digest_of(picture(1)) != digest_of(picture(2))


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_a_jpeg_that_was_cut_behind_its_header_is_refused(options: dict[str, object]) -> None:
    """Its decoder would answer with a grey rest; training, which reads by Pillow, refuses it."""
    from PIL import Image

    written = io.BytesIO()
    Image.effect_noise((64, 48), 80).save(written, "JPEG", **options)
    whole = written.getvalue()
    assert check(whole + b"\0 what a camera adds") == Size(64, 48)
    for length in (len(whole) - 1, len(whole) - 2, len(whole) * 9 // 10):
        with pytest.raises(ManifestError, match="cut short: the JPEG file has no end") as caught:
            check(whole[:length])
        assert caught.value.code == "bad_picture"
