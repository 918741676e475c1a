"""OpenSSH's known_hosts files, as OpenSSH reads them."""

import os
import subprocess
from pathlib import Path

import paramiko
import pytest

from toolchain.board import known_hosts
from toolchain.errors import BoardError
from toolchain.tools import openssh


@pytest.fixture(scope="module")
def key() -> paramiko.PKey:
    return paramiko.ECDSAKey.generate()


def line(name: str, key: paramiko.PKey) -> str:
    return f"{name} {key.get_name()} {key.get_base64()}\n"


def test_a_key_is_trusted_under_its_own_name_only(tmp_path: Path, key: paramiko.PKey) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(
        line("pi.local,192.0.2.1", key) + line("[pi.local]:2222", paramiko.ECDSAKey.generate())
    )
    known = known_hosts.read([file])
    assert known.trusts("pi.local", key)
    assert known.trusts("192.0.2.1", key)
    assert known.knows("[pi.local]:2222")
    assert not known.trusts("[pi.local]:2222", key)
    assert not known.knows("other.local")


def test_hashed_names_are_recognised(tmp_path: Path, key: paramiko.PKey) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(line("pi.local", key))
    subprocess.run(
        [str(openssh.ssh_keygen()), "-q", "-H", "-f", str(file)], check=True, capture_output=True
    )
    assert "pi.local" not in file.read_text()
    assert known_hosts.read([file]).trusts("pi.local", key)


def test_lines_that_mean_nothing_are_passed_over(tmp_path: Path, key: paramiko.PKey) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(
        "# a comment\n\nhalf a-line\npi.local ssh-unheard-of AAAA\n"
        f"pi.local ssh-ed25519 not!base64\n{line('pi.local', key)}"
    )
    assert known_hosts.read([file, tmp_path / "missing"]).trusts("pi.local", key)


@pytest.mark.parametrize(
    "damaged",
    [
        b"pi.local ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE",
        b"pi.local ssh-ed25519 AAAAB3NzaC1yc2EAAAADAQABAAAAAQ==",
        b"pi.local ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAAQI=",
        b"pi.local ssh-ed25519 /////3NzaC1lZDI1NTE5",
        b"pi.local ssh-ed25519 AAAAC/////9lZDI1NTE5",
        b"pi.local ssh-ed25519 AA\xff\xfeAA",
        b"\xe2\x80\xa8\x85\x0c ssh-ed25519 AAAA",
        b"|1| ssh-ed25519 AAAA",
        b"|1|abc|def ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTY=",
        b"|1|!!|?? ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTY=",
        b"@cert-authority",
        b"@cert-authority * ssh-ed25519 AAAAC3NzaC1lZDI1NTE5",
        b"\0" * 4096,
    ],
)
def test_a_damaged_line_is_no_trouble_for_the_others(
    tmp_path: Path, key: paramiko.PKey, damaged: bytes
) -> None:
    file = tmp_path / "known_hosts"
    file.write_bytes(damaged + b"\n" + line("pi.local", key).encode() + damaged)
    known = known_hosts.read([file])
    assert known.trusts("pi.local", key)
    assert not known.trusts("other.local", key)


def test_a_file_that_cannot_be_read_knows_no_host(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "file").touch()
    assert not known_hosts.read([tmp_path / "fifo", tmp_path, tmp_path / "file" / "x"]).lines


def test_an_authority_that_signs_keys_is_not_taken_for_a_key(
    tmp_path: Path, key: paramiko.PKey
) -> None:
    file = tmp_path / "known_hosts"
    file.write_text("@cert-authority " + line("pi.local", key))
    assert not known_hosts.read([file]).knows("pi.local")


def test_a_revoked_key_is_trusted_under_no_name(tmp_path: Path, key: paramiko.PKey) -> None:
    file = tmp_path / "known_hosts"
    file.write_text(line("pi.local", key) + "@revoked " + line("*", key))
    known = known_hosts.read([file])
    assert known.knows("pi.local")
    assert not known.trusts("pi.local", key)


def test_a_pin_does_not_run_into_an_unfinished_line(tmp_path: Path, key: paramiko.PKey) -> None:
    file = tmp_path / ".ssh" / "known_hosts"
    known_hosts.pin(file, "first", key)
    file.write_text(file.read_text().rstrip("\n"))
    known_hosts.pin(file, "second", key)
    known = known_hosts.read([file])
    assert known.trusts("first", key)
    assert known.trusts("second", key)
    assert (file.parent.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o700, 0o600)


def test_a_file_that_cannot_be_written_is_an_error_of_ours(
    tmp_path: Path, key: paramiko.PKey
) -> None:
    (tmp_path / "known_hosts").mkdir()
    with pytest.raises(
        BoardError, match="known_hosts: the host key cannot be kept: Is a directory"
    ):
        known_hosts.pin(tmp_path / "known_hosts", "pi", key)
