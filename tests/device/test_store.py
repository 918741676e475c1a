"""The store: names come after bytes, damage is found, what nobody needs goes."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from device.errors import DeviceError
from device.manifest import ManifestError
from device.store import MANIFEST_OF, RELEASES, RUNTIMES, Deployment, Store
from device.verify import verify
from tests.fakes.bundles import make_bundle, make_runtime

ROOT = Path(__file__).resolve().parents[2]


def put(store: Store, content: bytes) -> str:
    digest = hashlib.sha256(content).hexdigest()
    store.part(digest).write_bytes(content)
    store.keep_blobs([digest])
    return digest


def add(store: Store, kind: str, folder: Path) -> str:
    """Bring a bundle or a runtime into the store as `receive` does."""
    manifest = (folder / MANIFEST_OF[kind]).read_bytes()
    for file in json.loads(manifest)["files"]:
        put(store, (folder / file["path"]).read_bytes())
    name = hashlib.sha256(manifest).hexdigest()
    store.stage(kind, name, manifest, b"")
    return name


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "root")


@pytest.fixture
def runtime(store: Store, tmp_path: Path) -> str:
    return add(store, RUNTIMES, make_runtime(tmp_path / "runtime"))


def release(store: Store, folder: Path, version: str, counter: int = 1) -> str:
    return add(
        store, RELEASES, make_bundle(folder / version, version=version, counter=counter).path
    )


def deployment(release: str, runtime: str) -> Deployment:
    return Deployment(release=release, runtime=runtime, port=8080, service="supervised")


def switch_on(store: Store, wanted: Deployment) -> None:
    store.switch(wanted, store.current())
    store.commit(wanted)


def test_a_release_is_links_to_blobs_and_takes_no_room_of_its_own(
    store: Store, tmp_path: Path
) -> None:
    name = release(store, tmp_path, "1")
    model = store.folder(RELEASES, name) / "model.bin"
    assert model.samefile(store.blob(hashlib.sha256(model.read_bytes()).hexdigest()))


def test_a_release_whose_blob_did_not_come_is_refused(store: Store, tmp_path: Path) -> None:
    manifest = (make_bundle(tmp_path / "b").path / "manifest.json").read_bytes()
    name = hashlib.sha256(manifest).hexdigest()
    with pytest.raises(DeviceError, match=r"`goldens\.jsonl` did not arrive") as caught:
        store.stage(RELEASES, name, manifest, b"")
    assert caught.value.code == "missing_blob"
    assert not store.folder(RELEASES, name).exists()
    store.sweep_staging()
    assert list((store.root / RELEASES).iterdir()) == []


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "", "a" * 63, "A" * 64, "a" * 63 + "/", "a" * 64 + "\n"]
)
def test_no_name_but_a_sha256_reaches_the_disk(store: Store, name: str) -> None:
    for ask in (store.blob, store.part, lambda text: store.folder(RELEASES, text)):
        with pytest.raises(ManifestError, match="not a sha256 in hex"):
            ask(name)


def test_a_manifest_that_names_a_file_outside_its_folder_is_refused(
    store: Store, tmp_path: Path
) -> None:
    manifest = json.loads((make_bundle(tmp_path / "b").path / "manifest.json").read_bytes())
    manifest["files"][0]["path"] = "../escaped"
    content = json.dumps(manifest).encode()
    with pytest.raises(ManifestError, match="not a plain relative path"):
        store.stage(RELEASES, hashlib.sha256(content).hexdigest(), content, b"")
    assert not (store.root / RELEASES / "escaped").exists()


def test_a_signature_is_kept_beside_the_manifest(store: Store, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "b").path
    manifest = (bundle / "manifest.json").read_bytes()
    for file in json.loads(manifest)["files"]:
        put(store, (bundle / file["path"]).read_bytes())
    name = hashlib.sha256(manifest).hexdigest()
    store.stage(RELEASES, name, manifest, b"SIGNED")
    store.verify(RELEASES, name)
    assert (store.folder(RELEASES, name) / "manifest.json.sig").read_bytes() == b"SIGNED"


def test_a_damaged_file_is_found_and_forgotten_so_that_it_is_sent_again(
    store: Store, tmp_path: Path
) -> None:
    name = release(store, tmp_path, "1")
    model = store.folder(RELEASES, name) / "model.bin"
    blob = store.blob(hashlib.sha256(model.read_bytes()).hexdigest())
    content = bytearray(model.read_bytes())
    content[-1] ^= 1
    model.write_bytes(content)
    with pytest.raises(DeviceError, match=r"`model.bin` is not what the manifest says") as caught:
        store.verify(RELEASES, name)
    assert (caught.value.code, caught.value.hint) == ("wrong_digest", "push it again")
    assert not blob.exists()
    assert not store.folder(RELEASES, name).exists()


def test_a_file_too_many_is_found(store: Store, tmp_path: Path) -> None:
    name = release(store, tmp_path, "1")
    (store.folder(RELEASES, name) / "more").write_text("")
    with pytest.raises(DeviceError, match="`more` is not in the manifest"):
        store.verify(RELEASES, name)


@pytest.mark.parametrize("kind", [RELEASES, RUNTIMES])
def test_what_is_too_much_in_what_runs_is_taken_away_when_it_is_found(
    store: Store, tmp_path: Path, runtime: str, kind: str
) -> None:
    running = deployment(release(store, tmp_path, "1"), runtime)
    switch_on(store, running)
    name = running.release if kind == RELEASES else running.runtime
    (store.folder(kind, name) / "more.py").write_text("")
    (store.folder(kind, name) / "away").symlink_to(tmp_path)
    with pytest.raises(DeviceError):
        store.verify(kind, name)
    store.verify(kind, name)
    assert store.current() == running


def test_switching_keeps_the_way_back(store: Store, tmp_path: Path, runtime: str) -> None:
    first, second = (
        deployment(release(store, tmp_path, "1"), runtime),
        deployment(release(store, tmp_path, "2"), runtime),
    )
    switch_on(store, first)
    switch_on(store, second)
    assert (store.current(), store.previous(), store.confirmed()) == (second, first, second)


def test_a_switch_without_commit_shows(store: Store, tmp_path: Path, runtime: str) -> None:
    first, second = (
        deployment(release(store, tmp_path, "1"), runtime),
        deployment(release(store, tmp_path, "2"), runtime),
    )
    switch_on(store, first)
    store.switch(second, first)
    assert store.current() == second
    assert store.confirmed() == first


def test_two_releases_are_kept_and_the_rest_is_swept(
    store: Store, tmp_path: Path, runtime: str
) -> None:
    names = [release(store, tmp_path, str(number)) for number in range(4)]
    for name in names:
        switch_on(store, deployment(name, runtime))
    put(store, b"nobody's")
    store.part("a" * 64).write_bytes(b"half")
    store.sweep()
    assert {folder.name for folder in (store.root / RELEASES).iterdir()} == set(names[2:])
    assert {record.stem for record in (store.root / "deployments").iterdir()} == set(names[2:])
    assert all(blob.stat().st_nlink > 1 for blob in (store.root / "blobs").iterdir())
    store.verify(RELEASES, names[3])
    store.verify(RUNTIMES, runtime)


def test_sweeping_spares_what_is_about_to_be_activated(
    store: Store, tmp_path: Path, runtime: str
) -> None:
    coming = deployment(release(store, tmp_path, "1"), runtime)
    store.sweep(coming)
    store.verify(RELEASES, coming.release)


@pytest.mark.parametrize("broken", ["counters.json", "counters.copy.json"])
def test_the_counter_survives_one_broken_copy(
    store: Store, tmp_path: Path, runtime: str, broken: str
) -> None:
    switch_on(store, deployment(release(store, tmp_path, "1", counter=7), runtime))
    (store.root / broken).write_bytes(b'{"tiny": 7')
    assert store.lowest_counter("tiny") == 7


def test_the_counter_never_goes_down(store: Store, tmp_path: Path, runtime: str) -> None:
    for version, counter in (("1", 5), ("2", 3)):
        switch_on(store, deployment(release(store, tmp_path, version, counter), runtime))
    assert store.lowest_counter("tiny") == 5


def test_two_changes_at_once_are_refused(store: Store) -> None:
    with (
        store.locked(),
        pytest.raises(DeviceError, match="another push or activation is under way") as caught,
        store.locked(),
    ):
        pass
    assert caught.value.code == "busy"


def test_verify_says_that_there_is_nothing(store: Store) -> None:
    with pytest.raises(DeviceError, match="there is no release on this board"):
        verify(["--root", str(store.root)])


KILLED_AT = """
import os, sys
from pathlib import Path
from device.store import Deployment, Store

store, left = Store(Path(sys.argv[1])), int(sys.argv[4])

def count(event, arguments):
    global left
    changes = event in ("os.rename", "os.symlink", "os.remove", "os.link", "os.mkdir")
    if changes or (event == "open" and arguments[1] == "wb"):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), 9)

sys.addaudithook(count)
old, new = (
    Deployment(release=name, runtime=sys.argv[5], port=8080, service="supervised")
    for name in sys.argv[2:4]
)
store.switch(new, old)
store.commit(new)
store.sweep()
"""
"""Kills itself at the n-th change of a switch, before the change is made."""


@pytest.mark.slow
def test_a_kill_before_any_change_of_a_switch_leaves_the_old_or_the_new_release(
    tmp_path: Path,
) -> None:
    seen, ended = [], []
    for number in range(1, 40):
        store = Store(tmp_path / f"root{number}")
        runtime = add(store, RUNTIMES, make_runtime(tmp_path / f"runtime{number}"))
        old, new = (release(store, tmp_path / str(number), version) for version in ("1", "2"))
        switch_on(store, deployment(old, runtime))
        arguments = [str(store.root), old, new, str(number), runtime]
        done = subprocess.run(
            [sys.executable, "-c", KILLED_AT, *arguments],
            cwd=ROOT,
            capture_output=True,
            timeout=60,
            check=False,
        )
        current = store.current()
        assert current is not None
        store.verify(RELEASES, current.release)
        store.verify(RUNTIMES, current.runtime)
        seen.append(current.release == new)
        ended.append(done.returncode)
        if done.returncode == 0:
            break
    assert ended == [-9] * (len(ended) - 1) + [0]
    assert seen == sorted(seen), "old first, then new, and nothing else"
    assert 0 < seen.count(False) < len(seen) - 1
