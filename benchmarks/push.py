"""Upload of 500 MB over loopback SSH: our push against plain `scp` and `SFTPClient.put`.

Ours hashes every byte on the board, keeps it resumable, and puts it on the disk before it counts;
the peers do none of it.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path

import measure
import paramiko

from toolchain.board import loopback, ssh
from toolchain.board.device import Device
from toolchain.board.route import Route
from toolchain.progress import Silent
from toolchain.push.transfer import Blob, send_blobs

SIZE_MB, QUICK_MB = 500, 50
ROUNDS, QUICK_ROUNDS = 7, 2


def main() -> None:
    """Measure both claims."""
    options = measure.options(__doc__ or "")
    size_mb, rounds = (QUICK_MB, QUICK_ROUNDS) if options.quick else (SIZE_MB, ROUNDS)
    with tempfile.TemporaryDirectory(dir=_fast_folder()) as name, loopback.server() as way:
        payload = Path(name) / "payload"
        payload.write_bytes(os.urandom(size_mb * 1_000_000))
        cases = {
            "push": lambda: size_mb / _push(way, payload),
            "scp": lambda: size_mb / _scp(way, payload),
            "sftp put": lambda: size_mb / _sftp_put(way, payload),
        }
        figures = measure.interleave(cases, rounds)

    conditions = {"size_mb": size_mb, "unit": "MB/s", "folder": str(_fast_folder())}
    claims = [
        measure.claim(
            "scp", "scp with its defaults", 1.0, figures["push"], figures["scp"], conditions
        ),
        measure.claim(
            "sftp put",
            "paramiko SFTPClient.put",
            1.3,
            figures["push"],
            figures["sftp put"],
            conditions,
        ),
    ]
    measure.show(claims, figures, "MB/s", as_json=options.json)


def _push(way: Route, payload: Path) -> float:
    """Return the seconds of our transfer from request to answer, connected and hashed before."""
    blob = Blob(path=payload, sha256=_digest(payload), size=payload.stat().st_size, offset=0)
    with _store(payload.parent) as root, _connected(way) as connection:
        device = Device(connection)
        device.install()
        began = time.monotonic()
        with device.talk("receive") as channel:
            send_blobs(device, channel, [blob], Silent())
        seconds = time.monotonic() - began
        assert (root / "blobs" / blob.sha256).stat().st_size == blob.size

    return seconds


def _scp(way: Route, payload: Path) -> float:
    copy = payload.with_name("copy")
    trust = [
        f"-oUserKnownHostsFile={way.known_hosts[0]}",
        f"-oIdentityFile={way.identities[0]}",
        "-oIdentitiesOnly=yes",
    ]
    command = [
        "scp",
        "-q",
        "-F",
        "none",
        *trust,
        "-P",
        str(way.port),
        str(payload),
        f"{way.user}@{way.host}:{copy}",
    ]
    began = time.monotonic()
    subprocess.run(command, check=True)
    seconds = time.monotonic() - began - _login_s(way, trust)
    copy.unlink()
    return seconds


def _login_s(way: Route, trust: list[str]) -> float:
    """Return the seconds of scp's login: ours is not counted either."""
    began = time.monotonic()
    subprocess.run(
        ["ssh", "-F", "none", *trust, "-p", str(way.port), f"{way.user}@{way.host}", "true"],
        check=True,
    )
    return time.monotonic() - began


def _sftp_put(way: Route, payload: Path) -> float:
    copy = payload.with_name("copy")
    with paramiko.SSHClient() as client:
        client.load_host_keys(str(way.known_hosts[0]))
        client.connect(
            way.host,
            way.port,
            way.user,
            key_filename=way.identities[0],
            allow_agent=False,
            look_for_keys=False,
        )
        with client.open_sftp() as sftp:
            began = time.monotonic()
            sftp.put(str(payload), str(copy))
            seconds = time.monotonic() - began

    copy.unlink()
    return seconds


@contextmanager
def _connected(way: Route) -> Iterator[ssh.SshConnection]:
    connection = ssh.dial(way)
    try:
        yield connection
    finally:
        connection.close()


@contextmanager
def _store(parent: Path) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=parent) as root:
        os.environ["DEMITASSE_ROOT"] = root
        yield Path(root)


def _digest(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def _fast_folder() -> Path:
    """Return a folder in memory if there is one: the line is measured, not the disk."""
    return Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path(tempfile.gettempdir())


if __name__ == "__main__":
    main()
