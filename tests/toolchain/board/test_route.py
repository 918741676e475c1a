"""Addresses and ~/.ssh/config."""

import getpass
from pathlib import Path

import pytest

from toolchain.board.route import route
from toolchain.errors import ConfigError

CONFIG = """\
Host pi
    HostName raspberrypi.local
    User ada
    Port 2222
    IdentityFile ~/.ssh/board
    IdentitiesOnly yes
    ProxyJump gate
Host gate
    HostName gate.example.org
    User gatekeeper
Host pinned
    HostName 192.0.2.7
    HostKeyAlias The-Board
    UserKnownHostsFile /tmp/known
Host tunnelled
    ProxyCommand nc -X 5 %h %p
Host far
    ProxyJump one,two
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "config"
    file.write_text(CONFIG)
    return file


@pytest.mark.parametrize(
    ("address", "user", "host", "port", "known_as"),
    [
        ("ada@192.0.2.1", "ada", "192.0.2.1", 22, "192.0.2.1"),
        ("ada@Board.Local:2022", "ada", "board.local", 2022, "[board.local]:2022"),
        ("ada@[2001:db8::1]:2022", "ada", "2001:db8::1", 2022, "[2001:db8::1]:2022"),
        ("board.local", getpass.getuser(), "board.local", 22, "board.local"),
        ("pi", "ada", "raspberrypi.local", 2222, "[raspberrypi.local]:2222"),
        ("root@pi:22", "root", "raspberrypi.local", 22, "raspberrypi.local"),
        ("pinned", getpass.getuser(), "192.0.2.7", 22, "the-board"),
    ],
)
def test_an_address_and_the_config_say_where_to_go(
    config: Path, address: str, user: str, host: str, port: int, known_as: str
) -> None:
    way = route(address, config)
    assert (way.user, way.host, way.port, way.known_as) == (user, host, port, known_as)


def test_keys_and_jumps_of_the_config_are_followed(config: Path) -> None:
    way = route("pi", config)
    assert way.identities == (str(Path("~/.ssh/board").expanduser()),)
    assert way.only_identities
    assert way.jump is not None
    assert (way.jump.user, way.jump.host, way.jump.jump) == ("gatekeeper", "gate.example.org", None)


def test_known_hosts_and_proxy_commands_of_the_config_are_followed(config: Path) -> None:
    assert route("pinned", config).known_hosts[0] == Path("/tmp/known")
    assert route("tunnelled", config).proxy_command == "nc -X 5 tunnelled 22"


def test_without_a_config_the_address_is_enough(tmp_path: Path) -> None:
    assert route("ada@pi", tmp_path / "none").host == "pi"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("", ": not an address of a board"),
        ("ada@", "ada@: not an address of a board"),
        ("two words", "two words: not an address of a board"),
        ("serial:/dev/ttyUSB0", "serial:/dev/ttyUSB0: unknown kind of address `serial`"),
        ("ada@pi:ssh", "ada@pi:ssh: not an address of a board"),
    ],
)
def test_what_is_no_address_is_refused(config: Path, address: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        route(address, config)
    assert caught.value.message == message
    assert caught.value.hint.startswith("a board is `user@host[:port]`")


def test_of_several_jumps_each_leads_over_the_one_before_it(config: Path) -> None:
    way = route("far", config)
    assert way.jump is not None
    assert way.jump.jump is not None
    assert (way.jump.host, way.jump.jump.host, way.jump.jump.jump) == ("two", "one", None)
