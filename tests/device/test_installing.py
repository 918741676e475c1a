"""The installer of updates, called by clients of hawkBit's DDI and by hand."""

import json
import os
import pwd
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.conftest import Rounds
from tests.fakes import signers
from tests.fakes.hawkbit import DEVICE, RAUC_CLIENT, TOKEN, Client, serving
from tests.fakes.leaving import Box, Publisher
from tests.fakes.ports import free_port

DDI_PYTHON = os.environ.get("DEMITASSE_DDI_PYTHON", "")


@pytest.fixture(scope="module")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> Publisher:
    return Publisher(tmp_path_factory.mktemp("publisher"))


@pytest.fixture(scope="module")
def first(publisher: Publisher) -> Path:
    return publisher.update("hawkbit", 1, with_runtime=True).path


@pytest.fixture(scope="module")
def box(
    publisher: Publisher, first: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Box]:
    """A board on which release 1 runs, brought by hawkBit."""
    folder = tmp_path_factory.mktemp("box")
    board = Box(folder / "home", first / "demitasse-install", trusts=publisher.key)
    assert polled(board, first, folder)["status"] == {
        "execution": "closed",
        "result": {"finished": "success"},
        "details": [f"tiny 1 runs: release {released(first)}"],
    }
    assert board.running == "1"
    yield board
    board.off()


def released(folder: Path) -> str:
    about = json.loads((folder / "artifacts" / "update.json").read_bytes())
    return str(about["release"])


def polled(box: Box, update: Path, folder: Path) -> dict[str, Any]:
    """Let a device poll once; return the only feedback that the server got."""
    (folder / "download").mkdir()
    with serving(update / "artifacts") as server:
        client = Client(server.address, box.program, box.environment)
        assert client.poll(folder / "download")
        assert server.is_closed
        assert not client.poll(folder / "download")
        (report,) = server.feedback
    return report


def test_hawkbit_announces_the_digests_that_were_written_down(first: Path) -> None:
    with serving(first / "artifacts") as server:
        seen = server.get(f"/DEFAULT/controller/v1/{DEVICE}/deploymentBase/8")
    assert isinstance(seen, dict)
    announced = [
        {name: artifact[name] for name in ("filename", "size", "hashes")}
        for artifact in seen["deployment"]["chunks"][0]["artifacts"]
    ]
    written = json.loads((first / "digests.json").read_bytes())
    assert announced == sorted(written, key=lambda file: file["filename"])


@pytest.mark.slow
def test_a_bad_release_is_reported_with_its_code(
    box: Box, publisher: Publisher, tmp_path: Path
) -> None:
    bad = publisher.update("hawkbit", 2, check="refuse").path
    assert polled(box, bad, tmp_path)["status"] == {
        "execution": "closed",
        "result": {"finished": "failure"},
        "details": ["unhealthy: the check failed: golden 3 differs; tiny 1 runs again"],
    }
    assert box.running == "1"


def test_a_file_that_is_no_update_is_reported_with_its_code(
    box: Box, publisher: Publisher, tmp_path: Path
) -> None:
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "update.json").write_text('{"schema": 1, "release": "../../x"}')
    assert polled(box, tmp_path, tmp_path)["status"] == {
        "execution": "closed",
        "result": {"finished": "failure"},
        "details": ["bad_update: `update.json`: `name` is not a short text"],
    }


@pytest.mark.slow
def test_the_same_update_can_be_installed_again_after_a_cut(
    box: Box, publisher: Publisher, first: Path
) -> None:
    """The cargo was read up to some byte when the power went; what had arrived is not lost."""
    update = publisher.update("hawkbit", 3, payload=b"w" * 300_000).path / "artifacts"
    cargo = (update / "release.cargo").read_bytes()
    (update / "release.cargo").write_bytes(cargo[:-100_000])
    assert "cut: " in installed(box, update, 1)
    assert box.running == "1"
    parts = list((box.store / "blobs").glob(".*.part"))
    assert [part.stat().st_size > 150_000 for part in parts] == [True]

    (update / "release.cargo").write_bytes(cargo)
    installed(box, update, 0)
    assert box.running == "3"
    assert installed(box, update, 0)
    box.agent("rollback")


def installed(box: Box, folder: Path, code: int) -> str:
    done = subprocess.run(
        [box.program, folder], env=box.environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    fault = json.loads(done.stdout).get("error", {})
    return f"{fault['code']}: {fault['message']}" if fault else done.stdout


@pytest.mark.parametrize("kind", ["link", "fifo", "folder", "missing"])
def test_a_cargo_that_is_no_plain_file_is_not_opened(
    box: Box, first: Path, tmp_path: Path, kind: str
) -> None:
    shutil.copy(first / "artifacts" / "update.json", tmp_path)
    cargo = tmp_path / "release.cargo"
    if kind == "link":
        cargo.symlink_to(first / "artifacts" / "release.cargo")
    elif kind == "fifo":
        os.mkfifo(cargo)
    elif kind == "folder":
        cargo.mkdir()
    said = installed(box, tmp_path, 1)
    assert said.startswith("missing_file: the update's files cannot be read: ")


def test_an_update_that_the_disk_cannot_hold_is_refused_before_it_is_read(
    box: Box, first: Path, tmp_path: Path
) -> None:
    shutil.copy(first / "artifacts" / "update.json", tmp_path)
    head, _, rest = (first / "artifacts" / "release.cargo").read_bytes().partition(b"\n")
    line = json.loads(head)
    line["blobs"][0] = ["f" * 64, 1 << 40]
    (tmp_path / "release.cargo").write_bytes(json.dumps(line).encode() + b"\n" + rest)
    assert installed(box, tmp_path, 1).startswith("disk_full: the disk is full: 1,099,511,627,776")
    assert box.running == "1"


@pytest.mark.slow
@pytest.mark.soak(row=1, short=2, whole=300)
def test_an_install_may_end_at_any_moment(
    rounds: Rounds, publisher: Publisher, first: Path, tmp_path: Path
) -> None:
    """The power goes at a random moment; the same call then brings what it had begun."""
    board = Box(tmp_path / "home", first / "demitasse-install", trusts=publisher.key)
    began = time.monotonic()
    installed(board, first / "artifacts", 0)
    longest_s, before = 1.2 * (time.monotonic() - began), "1"
    for number in rounds:
        version = 100 + number
        payload = number.to_bytes(4, "big") * 500_000
        update = publisher.update("hawkbit", version, payload=payload).path / "artifacts"
        child = subprocess.Popen(
            [board.program, update], env=board.environment, stdout=subprocess.DEVNULL
        )
        with suppress(subprocess.TimeoutExpired):
            child.wait(timeout=random.Random(number).uniform(0.0, longest_s))
        board.off()
        child.wait()

        running = board.agent("status")["release"]["version"]
        assert running in (before, str(version))
        rounds.saw("the old release" if running == before else "the new one")
        installed(board, update, 0)
        assert board.running == str(version)
        before = str(version)
        shutil.rmtree(update.parent.parent)
    board.off()


@pytest.mark.parametrize(
    ("owner", "said"),
    [
        ("{", "bad_request: {} is broken: `user`, `port` and `unjudged` are its fields"),
        ('{"prot": 8080}', "bad_request: {} is broken: `user`, `port` and `unjudged` are its"),
        ('{"user": "nobody-here"}', "bad_request: the updates' owner `nobody-here` cannot be"),
        ('{"user": "a\\u0000b"}', "bad_request: the updates' owner `a\0b` cannot be taken on"),
    ],
)
def test_a_broken_file_of_the_owner_ends_the_install(
    box: Box, first: Path, tmp_path: Path, owner: str, said: str
) -> None:
    file = tmp_path / "owner.json"
    file.write_text(owner)
    box.environment["DEMITASSE_OWNER"] = str(file)
    try:
        assert installed(box, first / "artifacts", 1).startswith(said.format(file))
    finally:
        box.environment["DEMITASSE_OWNER"] = str(box.owner)


@pytest.mark.slow
@pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/usr/bin/python3").exists(),
    reason="only root can become another user, and that one needs a python3 that all may run",
)
def test_root_opens_the_files_and_the_owner_of_the_store_does_the_rest(
    publisher: Publisher, first: Path, tmp_path: Path
) -> None:
    """Nobody but root may read the update, and nothing in the store is root's."""
    nobody = pwd.getpwnam("nobody")
    with TemporaryDirectory(dir="/var/tmp") as place:
        Path(place).chmod(0o755)
        store, program = Path(place) / "store", Path(place) / "demitasse-install"
        shutil.copy(first / "demitasse-install", program)
        board = Box(tmp_path / "home", program, trusts=None)
        board.store = store
        store.mkdir()
        board.agent("trust", "--signer", signers.public(publisher.key))
        for path in (store, *store.rglob("*")):
            os.chown(path, nobody.pw_uid, nobody.pw_gid)
        update = tmp_path / "update"
        update.mkdir(mode=0o700)
        for file in (first / "artifacts").iterdir():
            shutil.copy(file, update)

        board.owner.write_text(json.dumps({"user": "nobody", "port": free_port()}))
        board.environment |= {"PATH": "/usr/bin:/bin", "DEMITASSE_ROOT": str(store)}
        said = installed(board, update, 0)
        owners = {path.lstat().st_uid for path in store.rglob("*")}
        board.home = store
        board.off()
    assert json.loads(said)["release"] == released(first)
    assert owners == {nobody.pw_uid}


@pytest.mark.slow
@pytest.mark.skipif(not DDI_PYTHON, reason="DEMITASSE_DDI_PYTHON names no Python with rauc_hawkbit")
def test_the_client_of_rauc_brings_an_update(
    publisher: Publisher, first: Path, tmp_path: Path
) -> None:
    board = Box(tmp_path / "home", first / "demitasse-install", trusts=publisher.key)
    (tmp_path / "download").mkdir()
    with serving(first / "artifacts") as server:
        words = [server.address, TOKEN, DEVICE, str(board.program), str(tmp_path / "download")]
        subprocess.run([DDI_PYTHON, "-c", RAUC_CLIENT, *words], env=board.environment, check=True)
        (report,) = server.feedback
    assert report["status"]["result"]["finished"] == "success"
    assert board.running == "1"
    board.off()
