"""Mirrors and settings, from what apt on a computer says of itself."""

from pathlib import Path

import pytest

from toolchain.tools import apt

LISTED = """\
Debian main http://mirror.example/debian/
Debian contrib http://mirror.example/debian/
Debian-Security main http://security.example/debian-security/
Somebody main https://other.example/apt/
Debian main http://second.example/debian/
"""


def test_the_first_mirror_of_this_computer_is_used_for_any_suite() -> None:
    assert apt.sources_from(LISTED, "trixie") == [
        "deb http://mirror.example/debian/ trixie main",
        "deb http://mirror.example/debian/ trixie-updates main",
        "deb http://security.example/debian-security/ trixie-security main",
    ]


@pytest.mark.parametrize("listed", ["", "Ubuntu main http://ubuntu.example/\n", "broken\n"])
def test_a_computer_without_a_debian_mirror_names_none(listed: str) -> None:
    assert apt.sources_from(listed, "bookworm") == []


def test_a_computer_without_apt_names_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert apt.sources("bookworm") == []
    assert apt.settings() == 'Acquire::Languages "none";\n'


def test_settings_without_a_value_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "apt-config"
    program.write_text(
        "#!/bin/sh\necho 'Acquire::http \"\";'\n"
        "echo 'Acquire::http::Proxy \"http://proxy.example\";'\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert (
        apt.settings()
        == 'Acquire::Languages "none";\nAcquire::http::Proxy "http://proxy.example";\n'
    )
