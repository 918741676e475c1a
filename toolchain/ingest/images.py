"""Pictures that rows of data name: read, checked as a board checks them, and put into the row.

A data set holds its pictures, so that later stages need no other file and its digest covers them.
"""

import base64
import io
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from device.manifest import ManifestError, read_bounded
from device.manifest.pictures import MAX_BYTES, PICTURE, check, to_url
from toolchain.errors import ArtifactError
from toolchain.ingest.entries import Entry, Place

_INLINE = ("data:image/png;base64,", "data:image/jpeg;base64,", "data:image/jpg;base64,")


def with_pictures(entry: Entry, folder: Path | None) -> Entry:
    """Return an entry with its pictures in it; `folder` is where rows name them.

    Raise ArtifactError, with the line, for a picture that is missing or that no board reads, and
    for one beside tools.
    """
    if not any(PICTURE in message for each in entry.phrasings for message in each):
        return entry
    if entry.tools:
        raise ArtifactError(
            f"{entry.place}: a row has tools or an `image`, not both: none is learned with both",
            hint='"tools": [] in the row leaves the tools of `[data]` out',
        )
    phrasings = tuple(
        tuple(_with_picture(entry.place, message, folder) for message in each)
        for each in entry.phrasings
    )
    return replace(entry, phrasings=phrasings)


def _with_picture(
    place: Place, message: Mapping[str, Any], folder: Path | None
) -> Mapping[str, Any]:
    if PICTURE not in message:
        return message
    return {**message, PICTURE: to_url(_bytes_of(place, str(message[PICTURE]), folder))}


def _bytes_of(place: Place, name: str, folder: Path | None) -> bytes:
    """Return the bytes of a picture within a board's bounds."""
    content = _inline(place, name) if name.startswith("data:") else _file(place, name, folder)
    try:
        check(content)
    except ManifestError as error:
        raise ArtifactError(f"{place}: `image`: {error}", hint="save it smaller") from error
    _check_pixels(place, content)
    return content


def _check_pixels(place: Place, content: bytes) -> None:
    """Raise ArtifactError for a picture that training cannot read as a board does."""
    from PIL import Image

    hint = "save it again as JPEG or PNG with 8 bits"
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()
            mode = image.mode
    except Exception as error:  # a decoder raises anything
        text = f"{place}: `image`: the picture cannot be decoded"
        raise ArtifactError(text, hint=hint) from error
    # Pillow cuts grey of 16 bits off at 255, where a board takes the upper 8 bits.
    if mode.startswith("I"):
        raise ArtifactError(f"{place}: `image`: the picture is grey of 16 bits", hint=hint)


def _inline(place: Place, url: str) -> bytes:
    head = next((each for each in _INLINE if url.startswith(each)), "")
    try:
        return base64.b64decode(url[len(head) :], validate=True) if head else b""
    except ValueError as error:  # binascii.Error is one
        raise ArtifactError(f"{place}: `image`: its base64 is broken") from error


def _file(place: Place, name: str, folder: Path | None) -> bytes:
    if folder is None:
        raise ArtifactError(
            f"{place}: `image` names `{name[:80]}`, but not in which folder",
            hint='[data] images = "FOLDER", relative to the recipe',
        )
    path = PurePosixPath(name)
    outside = path.is_absolute() or ".." in path.parts
    content = None if outside else read_bounded(folder / path, MAX_BYTES)
    if content is None:
        raise ArtifactError(f"{place}: `image`: there is no `{name[:80]}` in {folder.name}")
    return content
