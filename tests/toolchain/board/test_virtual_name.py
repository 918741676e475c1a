"""Names of virtual boards, read without the modules that start one."""

import subprocess
import sys

import pytest

from toolchain.board.virtual_name import parse
from toolchain.errors import ConfigError


@pytest.mark.parametrize("name", ["rpi-4b-2gb", "virtual:rpi-4b-2gb"])
def test_a_name_is_a_target_and_a_debian(name: str) -> None:
    assert parse(name) == ("rpi-4b-2gb", 12)
    assert parse(f"{name}:13") == ("rpi-4b-2gb", 13)


@pytest.mark.parametrize("release", ["99", "x", "-1", "\u0663"])
def test_another_debian_is_refused_with_those_there_are(release: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(f"virtual:rpi-4b-2gb:{release}")
    assert (
        caught.value.message == f"virtual:rpi-4b-2gb:{release}: `{release}` is not a Debian release"
    )
    assert caught.value.hint == "a board may have Debian 12 or 13: virtual:rpi-4b-2gb:13"


def test_an_address_is_checked_without_the_modules_that_start_a_board() -> None:
    program = (
        "import sys\nfrom toolchain.board import check_address\n"
        "check_address('virtual:rpi-4b-2gb:13')\n"
        "sys.exit('toolchain.board.virtual' in sys.modules)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
