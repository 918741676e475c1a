"""Squeezing a picture into a tile, with Pillow's bilinear filter as the referee."""

import random

import pytest

from tests.fakes.eyes import can_see

pytestmark = pytest.mark.skipif(not can_see(), reason="llama-cpp-python without libmtmd: make")


@pytest.mark.parametrize(
    ("width", "height", "side"),
    [(64, 48, 32), (100, 333, 64), (20, 30, 64), (1, 32, 16), (64, 63, 64), (300, 10, 48)],
)
def test_pixels_are_those_of_pillow_but_for_a_rounding(width: int, height: int, side: int) -> None:
    from PIL import Image

    from device.engine.llama.scaling import squeezed

    pixels = random.Random(0).randbytes(3 * width * height)
    ours = squeezed(pixels, width, height, side)
    image = Image.frombytes("RGB", (width, height), pixels)
    theirs = image.resize((side, side), Image.Resampling.BILINEAR).tobytes()
    assert len(ours) == len(theirs)
    # Pillow rounds twice, after each direction.
    assert max(abs(one - other) for one, other in zip(ours, theirs, strict=True)) <= 1


def test_a_picture_of_the_tiles_own_size_stays_as_it_is() -> None:
    from device.engine.llama.scaling import squeezed

    pixels = random.Random(1).randbytes(3 * 16 * 16)
    assert squeezed(pixels, 16, 16, 16) == pixels
