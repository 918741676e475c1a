"""Every field of a manifest with every wrong value: the same error, a listed code, and no other
file was read.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from device.manifest import (
    Manifest,
    ManifestError,
    RuntimeManifest,
    codes,
    read_manifest,
    read_runtime,
)
from device.manifest.fields import rules_of
from tests.fakes.bundles import make_bundle, make_runtime

DEEP: Any = []
for _ in range(40):
    DEEP = [DEEP]
WRONG: list[Any] = [
    None,
    True,
    -1,
    -(2**63),
    2**53,
    2**70,
    10**400,
    0.5,
    float("nan"),
    float("inf"),
    "\ud800",
    "x" * (2 << 20),
    "",
    [],
    [None],
    [[]],
    [{}],
    [-1],
    [2**70],
    ["\ud800"],
    ["x"],
    {},
    {"": None},
    {"x": -1},
    {"x": 2**70},
    {"x": "y"},
    DEEP,
]
READERS: dict[str, tuple[Callable[[Path], Any], type, str]] = {
    "bundle": (read_manifest, Manifest, "manifest.json"),
    "runtime": (read_runtime, RuntimeManifest, "runtime.json"),
}
CODES = {
    "bad_manifest",
    "bad_path",
    "bad_digest",
    "missing_file",
    "duplicate_file",
    "newer_schema",
    "manifest_too_large",
}


def made(kind: str, folder: Path) -> Path:
    return make_bundle(folder).path if kind == "bundle" else make_runtime(folder)


def outcome(kind: str, folder: Path, content: dict[str, Any]) -> str:
    """Return `read`, or the code with which a manifest is refused; any other error is a fault."""
    read, _, name = READERS[kind]
    (folder / name).write_text(json.dumps(content))
    try:
        manifest = read(folder)
    except ManifestError as error:
        return error.code
    dataclasses.asdict(manifest)
    return "read"


@pytest.mark.parametrize("kind", READERS)
def test_every_field_has_a_rule(kind: str) -> None:
    rules = rules_of(READERS[kind][1])
    named = {field.name for field in dataclasses.fields(READERS[kind][1])}
    assert set(rules) == named - {"extra"}
    assert all(rules.values())


@pytest.mark.slow
@pytest.mark.parametrize("kind", READERS)
def test_a_wrong_value_in_any_field_is_a_manifest_error_or_harmless(
    tmp_path: Path, kind: str
) -> None:
    folder = made(kind, tmp_path / "made")
    sound = json.loads((folder / READERS[kind][2]).read_bytes())
    assert outcome(kind, folder, sound) == "read"
    for name in rules_of(READERS[kind][1]):
        seen = {outcome(kind, folder, {**sound, name: value}) for value in WRONG}
        assert seen <= {"read", *CODES}, name
        assert outcome(kind, folder, {**sound, name: None}) == "bad_manifest"
        assert outcome(kind, folder, {**sound, name: DEEP}) == "bad_manifest"
        assert outcome(kind, folder, {**sound, name: 2**70}) == "bad_manifest"


def test_the_codes_are_listed() -> None:
    assert codes.CODES.keys() >= CODES


@pytest.mark.parametrize("kind", READERS)
def test_a_wrong_field_is_refused_before_any_other_file_is_read(tmp_path: Path, kind: str) -> None:
    read, manifest, name = READERS[kind]
    sound = json.loads((made(kind, tmp_path / "made") / name).read_bytes())
    for field in rules_of(manifest):
        (tmp_path / name).write_text(json.dumps({**sound, field: None}))
        with pytest.raises(ManifestError, match=f"`{field}`") as caught:
            read(tmp_path)
        assert caught.value.code == "bad_manifest"


@pytest.mark.parametrize("kind", READERS)
def test_a_newer_schema_is_told_before_its_fields_are_judged(tmp_path: Path, kind: str) -> None:
    folder = made(kind, tmp_path / "made")
    sound = json.loads((folder / READERS[kind][2]).read_bytes())
    changed = {**dict.fromkeys(sound, "of another kind"), "schema": 2}
    assert outcome(kind, folder, changed) == "newer_schema"


NUMBERS = ["counter", "context", "max_tokens", "slots"]


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [True, -1, 2**53, 2**70, 0.5, "1", None, [1]])
def test_a_number_that_is_none_is_refused_by_its_name(
    tmp_path: Path, name: str, value: Any
) -> None:
    folder = made("bundle", tmp_path / "made")
    content = json.loads((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_text(json.dumps({**content, name: value}))
    with pytest.raises(ManifestError) as caught:
        read_manifest(folder)
    assert caught.value.code == "bad_manifest"
    assert f"`{name}` is of the wrong kind or out of bounds" in str(caught.value)


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize(
    "entry",
    [
        5,
        None,
        {},
        {"path": 5, "sha256": "0" * 64, "size": 1},
        {"path": "a", "sha256": 5, "size": 1},
        {"path": "a", "sha256": [], "size": 1},
        {"path": "a", "sha256": "0" * 64, "size": -1},
        {"path": "a", "sha256": "0" * 64, "size": True},
        {"path": "a", "sha256": "0" * 64, "size": 2**70},
        {"path": "a", "sha256": "0" * 64, "size": "1"},
    ],
)
def test_a_file_entry_that_is_none_is_refused(tmp_path: Path, kind: str, entry: Any) -> None:
    folder = made(kind, tmp_path / "made")
    sound = json.loads((folder / READERS[kind][2]).read_bytes())
    assert outcome(kind, folder, {**sound, "files": [*sound["files"], entry]}) in CODES


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"null",
        b"[]",
        b'"x"',
        b"[" * 100_000,
        b'{"schema":' * 100_000,
        b'{"schema": true}',
        b'{"schema": 1e999}',
        b'{"schema": ' + b"9" * 5000 + b"}",
        b'{"schema": 1, "schema": 1}',
    ],
)
def test_a_manifest_that_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    for kind, (read, _, name) in READERS.items():
        folder = made(kind, tmp_path / kind)
        (folder / name).write_bytes(content)
        with pytest.raises(ManifestError) as caught:
            read(folder)
        assert caught.value.code in ("bad_manifest", "duplicate_key")


@pytest.mark.parametrize(
    "ledger",
    [
        {"sources": {}},
        {"sources": ["x"]},
        {"sources": [{"name": 5}]},
        {"sources": [{"licence": "x" * 3000}]},
        {"sources": [{"rows": -1}]},
        {"sources": [{"rows": True}]},
        {"sources": [{}] * (1 << 15)},
        {"found": {"phone": -1}},
        {"found": {"phone": "many"}},
        {"replaced": []},
        {"done": [5]},
        {"terms": []},
        {"terms": {"result": 5}},
        {"terms": {"unknown": "x"}},
        {"terms": {"conditions": [None]}},
    ],
)
def test_a_ledger_that_is_none_is_refused(tmp_path: Path, ledger: dict[str, Any]) -> None:
    folder = made("bundle", tmp_path / "made")
    content = json.loads((folder / "manifest.json").read_bytes())
    (folder / "manifest.json").write_text(json.dumps({**content, "ledger": ledger}))
    with pytest.raises(ManifestError, match="`ledger`") as caught:
        read_manifest(folder)
    assert caught.value.code == "bad_manifest"


def test_a_ledger_of_a_newer_version_keeps_its_fields(tmp_path: Path) -> None:
    folder = made("bundle", tmp_path / "made")
    content = json.loads((folder / "manifest.json").read_bytes())
    ledger = {"sources": [{"name": "a", "colour": "blue"}], "moon": 1}
    (folder / "manifest.json").write_text(json.dumps({**content, "ledger": ledger}))
    assert read_manifest(folder).ledger == ledger
