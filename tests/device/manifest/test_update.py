"""The description of an update and the first line of a cargo file, both from somebody unknown."""

import json
from typing import Any

import pytest

from device.manifest import ManifestError
from device.manifest.update import (
    MAX_BLOBS,
    CargoLine,
    Update,
    cargo_line,
    read_cargo_line,
    read_update,
    update_bytes,
)

A, B = "a" * 64, "b" * 64
UPDATE = Update(
    release=A, runtime=B, name="help-desk", version="1.0", counter=3, target="rpi-5-4gb"
)
LINE = CargoLine(kind="release", manifest=100, signature=200, blobs=((A, 5), (B, 0)))


def test_what_is_written_is_read() -> None:
    assert read_update(update_bytes(UPDATE)) == UPDATE
    assert read_cargo_line(cargo_line(LINE)) == LINE
    assert LINE.size_bytes == 305


def changed(content: bytes, **fields: Any) -> bytes:
    return json.dumps({**json.loads(content), **fields}).encode()


@pytest.mark.parametrize(
    ("content", "code", "said"),
    [
        (b"", "bad_update", "`update.json` is not JSON"),
        (b"[" * 100 + b"]" * 100, "bad_update", "`update.json` is not JSON"),
        (b"[]", "bad_update", "`update.json` is not a JSON object"),
        (b"x" * 70_000, "bad_update", "`update.json` is larger than 65,536 bytes"),
        (changed(update_bytes(UPDATE), schema=2), "newer_schema", "`update.json` has schema 2"),
        (
            changed(update_bytes(UPDATE), name="a\nb"),
            "bad_update",
            "`update.json`: `name` is not a short text",
        ),
        (
            changed(update_bytes(UPDATE), version="1" * 201),
            "bad_update",
            "`update.json`: `version` is not a short text",
        ),
        (
            changed(update_bytes(UPDATE), counter=True),
            "bad_update",
            "`update.json`: `counter` is not a counter",
        ),
        (
            changed(update_bytes(UPDATE), runtime="../../etc"),
            "bad_digest",
            "not a sha256 in hex: `../../etc`",
        ),
    ],
)
def test_a_wrong_description_is_refused(content: bytes, code: str, said: str) -> None:
    with pytest.raises(ManifestError) as caught:
        read_update(content)
    assert (caught.value.code, str(caught.value)) == (code, said)


@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        ({"cargo": 2}, "bad_cargo", "the file is no cargo of a release or a runtime"),
        ({"kind": "agents"}, "bad_cargo", "the file is no cargo of a release or a runtime"),
        ({"kind": ["release"]}, "bad_cargo", "the file is no cargo of a release or a runtime"),
        ({"blobs": []}, "bad_cargo", "the cargo's list of files is out of range"),
        (
            {"blobs": [[A, 1]] * (MAX_BLOBS + 1)},
            "bad_cargo",
            "the cargo's list of files is out of range",
        ),
        ({"blobs": [[A, 1], [A, 1]]}, "bad_cargo", "the cargo has a file twice"),
        ({"blobs": [A]}, "bad_cargo", "a file of the cargo is not a digest and a size"),
        ({"blobs": [[A, -1]]}, "bad_cargo", "a file of the cargo has a size out of range"),
        ({"blobs": [[A, 1 << 50]]}, "bad_cargo", "a file of the cargo has a size out of range"),
        ({"blobs": [["../x", 1]]}, "bad_digest", "not a sha256 in hex: `../x`"),
        (
            {"manifest": 9 << 20},
            "bad_cargo",
            "the cargo's `manifest` is not between 1 and 8388608",
        ),
        (
            {"signature": 0},
            "bad_cargo",
            "the cargo's `signature` is not between 1 and 8192",
        ),
    ],
)
def test_a_wrong_first_line_is_refused(fields: dict[str, Any], code: str, said: str) -> None:
    with pytest.raises(ManifestError) as caught:
        read_cargo_line(changed(cargo_line(LINE), **fields))
    assert (caught.value.code, str(caught.value)) == (code, said)
