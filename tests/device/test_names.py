"""Sixty names that somebody could send, in every place that takes a name: none makes a file outside
of its folder.
"""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from device import service
from device.errors import DeviceError
from device.manifest import ManifestError, checked_digest, checked_path, read_manifest
from device.store import MANIFEST_OF, RELEASES, RUNTIMES, Deployment, Store
from tests.device.test_receive import session
from tests.fakes.bundles import make_bundle, make_runtime

CONTENT = b"evil"
MANIFESTS = ("manifest.json", "manifest.json.sig", "runtime.json", "runtime.json.sig")
"""Taken in a bundle where they are a runtime's, and the other way round."""
NAMES = [
    "",
    ".",
    "..",
    "/",
    "//",
    "./evil",
    "../evil",
    "../../evil",
    "../../../../../../../../../../tmp/evil",
    "a/../../evil",
    "a/..",
    "a/./evil",
    "a//evil",
    "a/",
    "/evil",
    "//evil",
    "{outside}/evil",
    "~/evil/../../evil",
    "..\\evil",
    "..\\..\\evil",
    "C:\\evil",
    "C:/../evil",
    "\\\\server\\evil",
    "%2e%2e/evil/../..",
    "..%2fevil/../../x",
    "..;/evil/../../../x",
    "evil\0",
    "evil\0/../../x",
    "../evil\0.txt",
    "evil\n",
    "evil\r\n",
    "\x1b[2Jevil",
    "\x7f",
    "evil\x85",
    "\u202eevil",
    "\u2028",
    "\ufeffevil",
    "\ud800",
    "a\udcff",
    "．．/evil/../../x",
    "‥/../../evil",
    "..\u2215..\u2215evil/../../x",
    "a" * 256,
    "a/" + "b" * 256,
    "a/" * 600 + "b",
    "é" * 130,
    "manifest.json",
    "manifest.json.sig",
    "runtime.json",
    "runtime.json.sig",
    "model.bin/evil",
    "goldens.jsonl/../../evil",
    "f" * 63,
    "f" * 65,
    "F" * 64,
    "f" * 63 + "g",
    "f" * 64 + "\n",
    "f" * 63 + "/",
    "../" + "f" * 61,
    " " + "f" * 63,
]


def test_there_are_sixty_of_them() -> None:
    assert len(set(NAMES)) == len(NAMES) == 60


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    return tmp_path / "outside"


@pytest.fixture
def store(outside: Path) -> Store:
    return Store(outside / "home" / "board" / "store")


def seen(store: Store, outside: Path) -> set[str]:
    """Return all that lies anywhere but in the store."""
    found = {
        path.relative_to(outside).as_posix()
        for path in outside.rglob("*")
        if store.root not in (path, *path.parents)
    }
    return found | {f"/tmp/{name}" for name in ("evil", "x") if Path("/tmp", name).exists()}


def stage(kind: str) -> Callable[[Store, dict[str, Any]], None]:
    """Return what brings a bundle or a runtime with a changed manifest into a store."""

    def staged(store: Store, fields: dict[str, Any]) -> None:
        content = json.dumps(fields).encode()
        store.stage(kind, hashlib.sha256(content).hexdigest(), content, b"")

    return staged


def in_a_file(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda fields: fields["files"].append(
        {"path": name, "sha256": hashlib.sha256(CONTENT).hexdigest(), "size": 4}
    )


def in_a_digest(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda fields: fields["files"].append({"path": "more", "sha256": name, "size": 4})


@pytest.mark.slow
@pytest.mark.parametrize("kind", [RELEASES, RUNTIMES])
def test_no_name_in_a_manifest_makes_a_file_elsewhere(
    store: Store, outside: Path, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    folder = (
        make_bundle(tmp_path / "made").path if kind == RELEASES else make_runtime(tmp_path / "made")
    )
    for content in (CONTENT, *(file.read_bytes() for file in folder.rglob("*") if file.is_file())):
        digest = hashlib.sha256(content).hexdigest()
        store.part(digest).write_bytes(content)
        store.keep_blobs([digest])
    before, taken = seen(store, outside), set()
    places: dict[str, Callable[[str], Callable[[dict[str, Any]], Any]]] = {
        "file": in_a_file,
        "digest": in_a_digest,
    }
    if kind == RELEASES:
        places["model"] = lambda name: lambda fields: fields.update(model=name)
        places["adapter"] = lambda name: lambda fields: fields.update(adapter=name)
    for name in (name.replace("{outside}", str(outside)) for name in NAMES):
        for place, put in places.items():
            fields = json.loads((folder / MANIFEST_OF[kind]).read_bytes())
            put(name)(fields)
            try:
                stage(kind)(store, fields)
                taken.add((place, name))
            except (ManifestError, DeviceError) as error:
                assert error.code in (
                    "bad_path",
                    "bad_digest",
                    "missing_file",
                    "bad_manifest",
                    "missing_blob",
                )
            assert seen(store, outside) == before, name
    kept = {path.name for path in (store.root / kind).iterdir() if not path.name.startswith(".")}
    assert all(checked_digest(name) for name in kept)
    odd = {("file", name) for name in NAMES if set(name) <= set("fFg ") and name}
    assert taken >= odd, "a name that is only odd is a file inside"
    assert {name for place, name in taken - odd} <= {"", "model.bin/evil", *MANIFESTS}


def test_a_manifest_that_names_a_file_outside_is_not_even_read(tmp_path: Path) -> None:
    folder = make_bundle(tmp_path / "made").path
    written = json.loads((folder / MANIFEST_OF[RELEASES]).read_bytes())
    for name in ("../evil", "/etc/passwd", "a/../../evil", "a\\b", "a\0b", "./evil", "a//b"):
        fields = json.loads(json.dumps(written))
        in_a_file(name)(fields)
        (folder / MANIFEST_OF[RELEASES]).write_text(json.dumps(fields))
        with pytest.raises(ManifestError) as caught:
            read_manifest(folder)
        assert caught.value.code == "bad_path", name


def test_no_name_of_a_blob_a_release_or_a_runtime_leads_elsewhere(
    store: Store, outside: Path
) -> None:
    before = seen(store, outside)
    for name in (name.replace("{outside}", str(outside)) for name in NAMES):
        deployment = Deployment(release="f" * 64, runtime=name, port=1, service="supervised")
        asked: list[Callable[[], object]] = [
            lambda name=name: store.blob(name),
            lambda name=name: store.part(name),
            lambda name=name: store.folder(RELEASES, name),
            lambda name=name: store.folder(RUNTIMES, name),
            lambda name=name: store.read_release(name),
            lambda name=name: store.verify(RUNTIMES, name),
            lambda name=name: store.switch(
                Deployment(release=name, runtime="f" * 64, port=1, service="supervised"), None
            ),
            lambda deployment=deployment: service.serve_command(store, deployment),
        ]
        for ask in asked:
            with pytest.raises(ManifestError) as caught:
                ask()
            assert caught.value.code == "bad_digest"
        if name and "\0" not in name and name.isprintable() and len(name) < 256:
            (store.root / "current").symlink_to(name)
            assert store.current() is None
            (store.root / "current").unlink()
        assert seen(store, outside) == before, name


@pytest.mark.slow
def test_no_name_in_a_transfer_session_makes_a_file_elsewhere(store: Store, outside: Path) -> None:
    before = seen(store, outside)
    for name in NAMES[::6]:
        blob = {"sha256": name.replace("{outside}", str(outside)), "size": 4, "offset": 0}
        answers, code = session(store.root, {"op": "put", "blobs": [blob]}, CONTENT)
        assert (answers[-1]["error"]["code"], code) == ("bad_digest", 1)
    assert seen(store, outside) == before
    assert list((store.root / "blobs").iterdir()) == []


def test_a_link_in_the_place_of_a_blob_is_not_followed(store: Store, outside: Path) -> None:
    target, digest = outside / "precious", hashlib.sha256(CONTENT).hexdigest()
    target.write_bytes(b"precious")
    store.part(digest).symlink_to(target)
    answers, code = session(
        store.root, {"op": "put", "blobs": [{"sha256": digest, "size": 4, "offset": 0}]}, CONTENT
    )
    assert (answers[-1], code) == ({"kept": 1}, 0)
    assert not store.blob(digest).is_symlink()
    assert target.read_bytes() == b"precious"


@pytest.mark.parametrize(
    "name",
    ["model.gguf", "a/b/c.json", "chat_template.jinja", "Ünïcode 模型.gguf", "a" * 255, "-rf", "~"],
)
def test_plain_names_are_taken(name: str) -> None:
    assert checked_path(name) == name
