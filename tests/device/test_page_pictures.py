"""Files of all kinds on the chat page, in a real browser.

What goes to the board is a JPEG of ours within its bounds, or nothing; no script of the page fails.
"""

import base64
import io
import struct
import zlib
from typing import Any

import pytest

from device.manifest.pictures import Size, check
from tests.device.test_page import (  # noqa: F401
    browser,
    engine,
    in_browser,
    seeing,
    sent,
    tab,
)
from tests.fakes.eyes import picture

pytestmark = in_browser
SVG = (
    b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9">'
    b'<script>document.title = "run"</script><image href="http://127.0.0.1:9/led.png"/></svg>'
)


def saved(kind: str, mode: str = "RGB", side: tuple[int, int] = (40, 30), **options: Any) -> bytes:
    from PIL import Image

    written = io.BytesIO()
    image = Image.new("RGB", side, (200, 30, 30)).convert(mode)
    image.save(written, kind, **options)
    return written.getvalue()


def bomb(side: int) -> bytes:
    """Return a PNG that claims to be very large."""
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + picture(1)[33:]


NONE = {
    "an empty file": b"",
    "a text": b"no picture",
    "a script": SVG,
    "markup": b"<html><script>document.title = 'run'</script></html>",
    "a bomb": bomb(60_000),
    "a header alone": picture(1)[:33],
}
SOME = {
    "WebP with a transparent ground": (saved("WEBP", "RGBA"), Size(40, 30)),
    "GIF": (saved("GIF", "P"), Size(40, 30)),
    "grey PNG": (saved("PNG", "L"), Size(40, 30)),
    "JPEG of four inks": (saved("JPEG", "CMYK"), Size(40, 30)),
    "one pixel": (saved("PNG", side=(1, 1)), Size(1, 1)),
    "a wide one": (saved("PNG", side=(3000, 100)), Size(1024, 34)),
}
LURE = '"><img src=x onerror="document.title=1">.png'


def choose(page: Any, image: bytes) -> None:
    page.locator("#file").set_input_files({"name": LURE, "mimeType": "image/png", "buffer": image})


def asked(page: Any) -> None:
    page.get_by_label("Your question").fill("is it on?")
    page.keyboard.press("Enter")
    page.locator("article.assistant small").filter(has_text="answered in").wait_for()


@pytest.mark.parametrize("name", NONE)
def test_what_is_no_picture_is_said_to_be_none_and_not_sent(
    seeing: Any,  # noqa: F811
    sent: list[dict[str, Any]],  # noqa: F811
    name: str,
) -> None:
    title = seeing.title()
    choose(seeing, NONE[name])
    seeing.locator("article.wrong").wait_for()
    assert "This file is no picture." in seeing.locator("article.wrong").inner_text()
    assert not seeing.locator("#picked").is_visible()
    asked(seeing)
    assert sent[0]["messages"] == [{"role": "user", "content": "is it on?"}]
    assert seeing.title() == title


@pytest.mark.parametrize("name", SOME)
def test_every_picture_goes_as_a_jpeg_within_the_bounds(
    seeing: Any,  # noqa: F811
    sent: list[dict[str, Any]],  # noqa: F811
    name: str,
) -> None:
    image, size = SOME[name]
    title = seeing.title()
    choose(seeing, image)
    seeing.locator("#picked img").wait_for()
    asked(seeing)
    url = sent[0]["messages"][0]["content"][0]["image_url"]["url"]
    assert check(base64.b64decode(url.removeprefix("data:image/jpeg;base64,"))) == size
    assert seeing.title() == title


SLOW = """([slow, fast]) => {
  const real = window.createImageBitmap;
  const file = text => new File([Uint8Array.from(atob(text), c => c.charCodeAt(0))], "a.png");
  window.createImageBitmap = async blob => {
    if (blob.slow) await new Promise(done => setTimeout(done, 300));
    return real(blob); };
  const first = file(slow); first.slow = true;
  const drop = each => { const data = { files: [each] };
    const event = new Event("drop", { bubbles: true, cancelable: true });
    Object.defineProperty(event, "dataTransfer", { value: data });
    document.dispatchEvent(event); };
  drop(first); if (fast) drop(file(fast)); }"""


def test_the_file_that_was_chosen_last_goes_along(
    seeing: Any,  # noqa: F811
    sent: list[dict[str, Any]],  # noqa: F811
) -> None:
    """A large photo takes longer than the small one that replaced it."""
    files = [saved("PNG", side=(60, 40)), saved("PNG", side=(20, 10))]
    seeing.evaluate(SLOW, [base64.b64encode(each).decode() for each in files])
    seeing.wait_for_timeout(600)
    asked(seeing)
    url = sent[0]["messages"][0]["content"][0]["image_url"]["url"]
    jpeg = base64.b64decode(url.removeprefix("data:image/jpeg;base64,"))
    assert check(jpeg) == Size(20, 10)


def test_a_question_does_not_wait_for_a_picture_that_comes_later(
    seeing: Any,  # noqa: F811
    sent: list[dict[str, Any]],  # noqa: F811
) -> None:
    """It is not put to the next question either, which nobody chose it for."""
    seeing.evaluate(SLOW, [base64.b64encode(saved("PNG")).decode(), ""])
    asked(seeing)
    seeing.wait_for_timeout(600)
    assert not seeing.locator("#picked").is_visible()
    assert sent[0]["messages"] == [{"role": "user", "content": "is it on?"}]
