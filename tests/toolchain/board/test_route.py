"""Addresses and ~/.ssh/config."""

import getpass
import os
import pwd
from pathlib import Path

import pytest

from toolchain.board.route import parse, route
from toolchain.errors import ConfigError, ToolError

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
        ("ada@pi:0", "ada@pi:0: not an address of a board"),
        ("ada@pi:65536", "ada@pi:65536: not an address of a board"),
        ("-oProxyCommand=x", "-oProxyCommand=x: not an address of a board"),
        ("ada@-x", "ada@-x: not an address of a board"),
        ("@pi", "@pi: not an address of a board"),
        ("ssh://", "ssh://: unknown kind of address `ssh`"),
        ("http://pi", "http://pi: an endpoint, not a board"),
        ("ftp://pi", "ftp://pi: unknown kind of address `ftp`"),
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


@pytest.mark.parametrize(
    ("address", "user", "host", "port"),
    [
        ("ssh://ada@pi:2022", "ada", "pi", 2022),
        ("ssh://ada%40home@pi/", "ada@home", "pi", 0),
        ("ssh://[2001:db8::1]:22", "", "2001:db8::1", 22),
        ("ada@home@pi", "ada@home", "pi", 0),
        ("fe80::1%eth0", "", "fe80::1%eth0", 0),
        ("ada@[fe80::1%eth0]:22", "ada", "fe80::1%eth0", 22),
        ("2001:db8::1", "", "2001:db8::1", 0),
    ],
)
def test_urls_and_ipv6_zones_are_addresses(address: str, user: str, host: str, port: int) -> None:
    parts = parse(address)
    assert (parts.user, parts.host, parts.port) == (user, host, port)


DIALECT: dict[str, tuple[str, dict[str, object]]] = {
    "a comment behind a value": (
        "Host b # x\n HostName 127.0.0.1 # the kitchen\n Port 2222 # not 22\n",
        {"host": "127.0.0.1", "port": 2222},
    ),
    "equals signs and quotes": (
        'Host = b\n HostName="pi.example"\n User="ada lovelace"\n',
        {"host": "pi.example", "user": "ada lovelace"},
    ),
    "Include": ("Include {folder}/*.conf\n", {"host": "included.example"}),
    "Match": ("Match host b user eve\n Port 1\nMatch host b\n Port 3\n", {"port": 3}),
    "Match final": ("Match final\n Port 4\nHost b\n HostName x.example\n", {"port": 4}),
    "an escape": ("Host b\n HostName fe80::1%%lo\n", {"host": "fe80::1%lo"}),
    "the name in a name": ("Host b\n HostName %h.example\n", {"host": "b.example"}),
    "negation": ("Host !b *\n Port 5\nHost *\n Port 6\n", {"port": 6}),
    "the first value": ("Host b\n Port 7\nHost *\n Port 8\n", {"port": 7}),
    "canonical names": (
        "CanonicalizeHostname yes\nCanonicalDomains invalid\nHost b\n Port 9\n",
        {"port": 9},
    ),
    "a token in a file": (
        "Host b\n IdentityFile %d/keys/%n-%r-%p\n User ada\n",
        {"identities": ("{home}/keys/b-ada-22",)},
    ),
    "a variable in a file": (
        "Host b\n IdentityFile ${{KEYS}}/x\n",
        {"identities": ("/keys/x",)},
    ),
    "a name with a space": (
        'Host b\n IdentityFile "~/my keys/x"\n UserKnownHostsFile "/k h/a" /b\n',
        {"identities": ("{home}/my keys/x",)},
    ),
    "no key file": ("Host b\n IdentityFile none\n", {"identities": ()}),
    "no agent": ("Host b\n IdentityAgent none\n", {"agent": ""}),
    "an agent of its own": ("Host b\n IdentityAgent /run/%u/a\n", {"agent": "/run/{me}/a"}),
    "no jump": ("Host b\n ProxyJump none\nHost *\n ProxyJump gate\n", {"jump": None}),
}


@pytest.mark.parametrize(("text", "expected"), DIALECT.values(), ids=DIALECT)
def test_a_configuration_means_what_openssh_says(
    text: str, expected: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KEYS", "/keys")
    monkeypatch.setenv("SSH_AUTH_SOCK", "/agent")
    (tmp_path / "a.conf").write_text("Host b\n HostName included.example\n")
    config = tmp_path / "config"
    config.write_text(text.format(folder=tmp_path))
    way = route("b", config)
    me = pwd.getpwuid(os.getuid()).pw_name
    for name, value in expected.items():
        filled = (
            tuple(part.format(home=tmp_path) for part in value)
            if isinstance(value, tuple)
            else value
        )
        filled = filled.format(me=me) if isinstance(filled, str) else filled
        assert getattr(way, name) == filled


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Host b\n Foo bar\n", "line 2: Bad configuration option: foo"),
        ('Host b\n HostName x"y\n', "line 2: invalid quotes"),
        ("Host b\n Port 99999\n", "line 2: Bad port '99999'."),
        ("Host b\n ProxyJump b\n", "jumphost loop via b"),
    ],
)
def test_what_openssh_does_not_take_is_told_in_its_words(
    text: str, said: str, tmp_path: Path
) -> None:
    config = tmp_path / "config"
    config.write_text(text)
    with pytest.raises(ConfigError) as caught:
        route("b", config)
    assert caught.value.message.startswith("b: ssh cannot say how to get there: ")
    assert said in caught.value.message


def test_a_jump_that_leads_back_over_another_host_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.write_text("Host a\n ProxyJump b\nHost b\n ProxyJump a\n")
    with pytest.raises(ConfigError, match="ProxyJump leads over more than 8 hosts"):
        route("a", config)


def test_without_an_ssh_client_an_address_is_enough_where_there_is_no_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    way = route("ada@pi:2022")
    assert (way.user, way.host, way.port) == ("ada", "pi", 2022)
    assert str(tmp_path / ".ssh" / "id_ed25519") in way.identities
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text("Host pi\n Port 2222\n")
    with pytest.raises(ToolError) as caught:
        route("ada@pi")
    assert caught.value.message.endswith(
        "only OpenSSH's client can read it: `ssh` is not installed"
    )
    assert caught.value.hint == "sudo apt-get install --no-install-recommends openssh-client"
