"""OpenSSH's programs: found, or named with the line that installs them."""

from pathlib import Path

import pytest

from toolchain.errors import ToolError
from toolchain.tools import openssh


@pytest.mark.parametrize(
    ("find", "name", "package"),
    [("sshd", "sshd", "openssh-server"), ("ssh_keygen", "ssh-keygen", "openssh-client")],
)
def test_a_program_that_is_missing_is_named_with_its_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, find: str, name: str, package: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(openssh, "_FOLDERS", (str(tmp_path),))
    with pytest.raises(ToolError) as caught:
        getattr(openssh, find)()
    assert caught.value.message == f"`{name}` is not installed"
    assert caught.value.hint == f"sudo apt-get install --no-install-recommends {package}"


def test_the_servers_version_is_read() -> None:
    major, _, minor = openssh.version().partition(".")
    assert int(major) >= 8
    assert minor


def test_a_program_that_is_no_ssh_server_is_told_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "sshd").write_text("#!/bin/sh\necho something else\n")
    (tmp_path / "sshd").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(ToolError, match="not an OpenSSH server"):
        openssh.version()


def test_a_key_is_made_once(tmp_path: Path) -> None:
    openssh.make_key(tmp_path / "keys" / "user", "a comment")
    made = (tmp_path / "keys" / "user").read_bytes()
    openssh.make_key(tmp_path / "keys" / "user", "a comment")
    assert (tmp_path / "keys" / "user").read_bytes() == made
    assert (tmp_path / "keys" / "user.pub").read_text().startswith("ssh-ed25519 ")
    assert sorted(file.name for file in (tmp_path / "keys").iterdir()) == ["user", "user.pub"]


def test_a_configuration_that_sshd_refuses_is_told_in_its_words(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("NoSuchOption yes\n")
    with pytest.raises(ToolError, match="NoSuchOption"):
        openssh.check_server(tmp_path / "config")


def test_a_command_in_the_configuration_that_waits_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(openssh, "RUN_S", 1.0)
    (tmp_path / "config").write_text('Match exec "sleep 30"\n Port 7\n')
    with pytest.raises(ToolError, match=r"^ssh: no end within 1 s$") as caught:
        openssh.client_settings("pi", config=tmp_path / "config")
    assert "Match exec" in caught.value.hint
