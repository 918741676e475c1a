"""Pictures as clients send them, and as bundles keep them. Standard library only.

The rule to keep: no address is ever fetched, and a file's header is checked before it is decoded.
"""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from device.errors import DeviceError
from device.manifest import ManifestError, checked_path, read_bounded
from device.manifest.pictures import MAX_BYTES, PARTS, PICTURE, Size, check

_DATA = re.compile(r"data:image/(jpeg|jpg|png);base64,", re.IGNORECASE)


def pictures_of(messages: Sequence[Mapping[str, Any]]) -> list[bytes]:
    """Return the pictures of a conversation, in their order."""
    return [
        part for message in messages for part in message.get(PARTS) or () if isinstance(part, bytes)
    ]


def checked(image: bytes) -> Size:
    """Return the size of a picture within bounds; raise DeviceError `bad_picture` for another."""
    try:
        return check(image)
    except ManifestError as error:
        raise _bad(str(error), "send a smaller JPEG or PNG file") from error


def from_url(url: Any) -> bytes:
    """Return the picture of a `data:` URL; raise DeviceError `bad_picture` for any other."""
    if not isinstance(url, str):
        raise _bad("`url` must be a text")
    found = _DATA.match(url)
    if found is None:
        raise _bad(
            "a picture comes as a `data:` URL of a JPEG or PNG file in base64",
            "boards are offline: no other address is read",
        )
    if len(url) > found.end() + MAX_BYTES * 4 // 3 + 4:
        raise _bad(f"the picture has more than {MAX_BYTES:,} bytes", "make it smaller")
    try:
        image = base64.b64decode(url[found.end() :], validate=True)
    except (binascii.Error, ValueError) as error:
        raise _bad("the picture's base64 is broken") from error
    checked(image)
    return image


def with_pictures(
    messages: Sequence[Mapping[str, Any]], folder: "Path | None" = None
) -> "list[dict[str, Any]]":
    """Return stored messages with the pictures that their parts name.

    A part is a text, or `{"picture": …}`: a `data:` URL, or the name of a file in `folder`. A
    question of data has its picture in a field of its own. Raise DeviceError `bad_picture`.
    """
    return [_with_picture(dict(message), folder) for message in messages]


def _with_picture(message: "dict[str, Any]", folder: "Path | None") -> "dict[str, Any]":
    picture = message.pop(PICTURE, None)
    parts = message.get(PARTS) or ([{PICTURE: picture}, message["content"]] if picture else [])
    if parts:
        message[PARTS] = [_stored(part, folder) for part in parts]
    return message


def _stored(part: Any, folder: "Path | None") -> "str | bytes":
    if isinstance(part, str):
        return part
    named = part.get(PICTURE) if isinstance(part, dict) else None
    if isinstance(named, str) and folder and not named.startswith("data:"):
        image = read_bounded(folder / checked_path(named), MAX_BYTES)
        if image is None:
            raise _bad(f"the picture `{named}` cannot be read")
        checked(image)
        return image
    return from_url(named)


def _bad(problem: str, hint: str = "") -> DeviceError:
    return DeviceError("bad_picture", problem, hint, status=400)
