"""The update module, called as Mender's documents say, on a store of its own."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from device import mender
from tests.fakes.disks import CrashModel, Recorder, build
from tests.fakes.leaving import Box, Publisher
from tests.fakes.mender import MenderClient

CLIENT = os.environ.get("DEMITASSE_MENDER", "")


@pytest.fixture(scope="module")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> Publisher:
    return Publisher(tmp_path_factory.mktemp("publisher"))


@pytest.fixture(scope="module")
def first(publisher: Publisher) -> Path:
    return publisher.update("mender", 1, with_runtime=True).path


@pytest.fixture(scope="module")
def box(
    publisher: Publisher, first: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Box]:
    """A board on which release 1 was installed and committed."""
    folder = tmp_path_factory.mktemp("box")
    board = Box(folder / "home", first / "demitasse", trusts=publisher.key)
    device = client(board)
    assert device.install(artifact(first)), device.log
    assert device.commit(), device.log
    yield board
    board.off()


@pytest.fixture
def device(box: Box) -> Iterator[MenderClient]:
    """Mender's client on a board that runs release 1, before and after the test."""
    assert box.running == "1"
    yield client(box)
    assert box.running == "1"


@pytest.fixture
def new_box(publisher: Publisher, first: Path, tmp_path: Path) -> Iterator[Box]:
    board = Box(tmp_path / "home", first / "demitasse", trusts=publisher.key)
    yield board
    board.off()


def artifact(folder: Path) -> Path:
    return next(folder.glob("*.mender"))


def update(
    publisher: Publisher, version: int, *, payload: bytes = b"weights", **moods: str
) -> Path:
    folder = publisher.folder / f"mender-{version}-False" / "mender"
    if not folder.exists():
        publisher.update("mender", version, payload=payload, **moods)
    return artifact(folder)


def client(box: Box) -> MenderClient:
    return MenderClient(box.program, box.environment)


def test_questions_are_answered_and_unknown_states_are_not_ours(first: Path) -> None:
    def said(*words: str) -> str:
        done = subprocess.run(
            [first / "demitasse", *words], capture_output=True, text=True, check=True
        )
        return done.stdout

    assert said("SupportsRollback") == "Yes\n"
    assert said("NeedsArtifactReboot") == "No\n"
    assert said("SupportsAugmentedArtifacts") == ""
    assert said("SomethingNewer", "/nowhere") == ""


def test_the_note_of_what_ran_before_outlives_the_loss_of_all_that_no_fsync_covers(
    tmp_path: Path,
) -> None:
    (tmp_path / "disk" / "tmp").mkdir(parents=True)
    record = Recorder(tmp_path / "disk")
    with record.recording():
        mender._write_note(mender._open_note(tmp_path / "disk" / "tmp"), None)

    woken = list(CrashModel(record, window=4).states(record.count))
    assert woken
    for number, tree in enumerate(woken):
        build(tree, tmp_path / f"woken{number}")
        assert mender._read_note(tmp_path / f"woken{number}" / "tmp") == {}


def test_an_update_needs_a_runtime_that_is_there(new_box: Box, publisher: Publisher) -> None:
    device = client(new_box)
    assert not device.install(update(publisher, 2))
    assert device.log.startswith("missing_runtime: tiny 2 needs runtime ")
    assert "which is neither on this board nor in the update" in device.log
    assert "hint: send an update that was made with --with-runtime" in device.log


@pytest.mark.slow
def test_the_way_back_of_the_first_update_is_a_stop(new_box: Box, first: Path) -> None:
    device = client(new_box)
    assert device.install(artifact(first)), device.log
    assert device.calls == [
        "ProvidePayloadFileSizes",
        "Download",
        "ArtifactInstall",
        "NeedsArtifactReboot",
    ]
    assert device.provides["rootfs-image.demitasse.version"] == "tiny 1"
    device.roll_back()
    assert new_box.running == ""
    assert new_box.agent("status")["service"]["stopped"]


@pytest.mark.slow
def test_a_bad_release_is_refused_and_the_one_before_runs(
    device: MenderClient, publisher: Publisher
) -> None:
    assert not device.install(update(publisher, 3, check="refuse"))
    assert "unhealthy: the check failed: golden 3 differs; tiny 1 runs again" in device.log
    assert device.calls[-4:] == [
        "SupportsRollback",
        "ArtifactRollback",
        "ArtifactFailure",
        "Cleanup",
    ]


@pytest.mark.slow
def test_what_was_installed_can_be_taken_back(
    device: MenderClient, box: Box, publisher: Publisher
) -> None:
    assert device.install(update(publisher, 2)), device.log
    assert box.running == "2"
    device.roll_back()


@pytest.mark.slow
def test_a_second_install_of_what_runs_is_taken_back_to_itself(
    device: MenderClient, first: Path
) -> None:
    assert device.install(artifact(first)), device.log
    device.roll_back()


@pytest.mark.slow
def test_a_service_that_was_stopped_is_not_committed(
    device: MenderClient, box: Box, publisher: Publisher
) -> None:
    assert device.install(update(publisher, 2)), device.log
    box.agent("stop")
    assert not device.commit()
    assert "unhealthy: release" in device.log


def is_current(box: Box, version: str) -> bool:
    """Say whether a release of this version is switched on, whether or not it was committed."""
    try:
        manifest = json.loads((box.store / "current" / "manifest.json").read_bytes())
    except OSError:
        return False
    return bool(manifest["version"] == version)


def has_arrived(box: Box, version: str) -> bool:
    manifests = [
        json.loads(file.read_bytes()) for file in box.store.glob("releases/[0-9a-f]*/manifest.json")
    ]
    return any(manifest["version"] == version for manifest in manifests)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "mood"), [(4, {"check": "hang"}), (5, {"serve": "hang"})], ids=["check", "switch"]
)
def test_a_power_cut_within_the_switch_ends_with_the_release_before(
    device: MenderClient, box: Box, publisher: Publisher, version: int, mood: dict[str, str]
) -> None:
    is_there = is_current if "serve" in mood else has_arrived
    device.install(update(publisher, version, **mood), cut=lambda: is_there(box, str(version)))
    box.off()
    device.roll_back()


@pytest.mark.slow
def test_a_power_cut_between_install_and_commit_ends_with_the_release_before(
    device: MenderClient, box: Box, publisher: Publisher
) -> None:
    assert device.install(update(publisher, 2)), device.log
    box.off()
    device.roll_back()


def changed(source: Path, target: Path, old: bytes, new: bytes) -> Path:
    """Copy an artifact with some bytes of its payload changed, and every checksum made to fit."""
    import hashlib

    assert len(old) == len(new)
    content = source.read_bytes()
    start = content.index(b"data/0000.tar\0")
    head, payload = content[:start], content[start:]
    assert old in payload
    at = payload.index(b"release.cargo\0")
    size = int(payload[at + 124 : at + 136].rstrip(b"\0 "), 8)
    cargo = payload[at + 512 : at + 512 + size]
    other = cargo.replace(old, new)
    sums = (hashlib.sha256(each).hexdigest().encode() for each in (cargo, other))
    target.write_bytes(head.replace(*sums) + payload.replace(cargo, other))
    return target


def test_a_payload_that_was_changed_on_the_way_is_refused_by_mender(
    device: MenderClient, publisher: Publisher, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.mender"
    damaged.write_bytes(update(publisher, 2).read_bytes().replace(b"weights", b"weighty"))
    assert not device.install(damaged)
    assert device.calls == ["ProvidePayloadFileSizes", "Download", "Cleanup"]


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        (b"written", b"rewrote", "wrong_digest"),
        (b'"counter": 7', b'"counter": 9', "wrong_digest"),
        (b'"kind": "release"', b'"kind": "runtime"', "bad_cargo"),
    ],
)
@pytest.mark.slow
def test_a_payload_that_was_changed_with_its_checksums_is_refused_by_the_board(
    device: MenderClient, publisher: Publisher, tmp_path: Path, old: bytes, new: bytes, code: str
) -> None:
    sound = update(publisher, 7, payload=b"written")
    assert not device.install(changed(sound, tmp_path / "a.mender", old, new))
    assert device.log.startswith(f"{code}: "), device.log


@pytest.mark.slow
def test_an_update_of_a_stranger_is_refused(device: MenderClient, tmp_path: Path) -> None:
    stranger = Publisher(tmp_path)
    other = stranger.update("mender", 6, with_runtime=True).path
    assert not device.install(artifact(other))
    assert "unknown_signer: " in device.log


@pytest.mark.slow
@pytest.mark.skipif(not CLIENT, reason="DEMITASSE_MENDER names no client of Mender")
def test_the_real_client_installs_commits_and_rolls_back(
    new_box: Box, first: Path, publisher: Publisher, tmp_path: Path
) -> None:
    """With a client before version 4 (`mender install`), as root, in a container of its own."""
    modules = Path("/usr/share/mender/modules/v3")
    modules.mkdir(parents=True, exist_ok=True)
    shutil.copy(new_box.program, modules / "demitasse")
    Path("/etc/mender").mkdir(exist_ok=True)
    Path("/etc/mender/artifact_info").write_text("artifact_name=base\n")
    (tmp_path / "device_type").write_text("device_type=testbox\n")
    (tmp_path / "mender.conf").write_text('{"DBus": {"Enabled": false}}')

    def mender(*words: str) -> int:
        options = ["--config", str(tmp_path / "mender.conf"), "--data", str(tmp_path)]
        return subprocess.run(
            [CLIENT, *options, "--no-syslog", *words],
            env=new_box.environment,
            check=False,
        ).returncode

    assert mender("install", str(artifact(first))) == 0
    assert mender("commit") == 0
    assert new_box.running == "1"
    assert mender("install", str(update(publisher, 2))) == 0
    assert new_box.running == "2"
    assert mender("rollback") == 0
    assert new_box.running == "1"
    assert mender("install", str(update(publisher, 3, check="refuse"))) != 0
    assert new_box.running == "1"
    shutil.rmtree("/etc/mender")
    (modules / "demitasse").unlink()
