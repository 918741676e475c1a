"""Inventories: a TOML file, what Ansible lists, and names alone."""

import json
import os
import stat
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from toolchain.cli import app
from toolchain.errors import ArtifactError, ConfigError, ToolError
from toolchain.fleet.inventory import open_fleet

SHOP = """
[[boards]]
address = "pi@till-1"
tags = ["till"]

[[boards]]
address = "pi@till-2"
tags = ["till", "new"]

[[boards]]
address = "kitchen"

[rollout]
waves = [1, "50%", "100%"]
soak = "90s"
"""


def write(folder: Path, text: str) -> str:
    file = folder / "shop.toml"
    file.write_text(text, encoding="utf-8")
    return str(file)


def test_a_file_names_the_boards_and_how_they_are_served(tmp_path: Path) -> None:
    fleet = open_fleet(write(tmp_path, SHOP))
    assert [board.address for board in fleet.boards] == ["pi@till-1", "pi@till-2", "kitchen"]
    assert fleet.waves() == [1, 2, 3]
    assert fleet.journal == tmp_path / "shop.journal.jsonl"


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("virtual:NONSENSE", "unknown target `NONSENSE`"),
        ("virtual:", "unknown target ``"),
        ("virtual:rpi-4b-4gb:99", "`99` is not a Debian release"),
    ],
)
def test_a_virtual_board_that_cannot_be_is_found_before_the_first_wave(
    tmp_path: Path, address: str, problem: str
) -> None:
    shop = SHOP + f'\n[[boards]]\naddress = "{address}"\n'
    with pytest.raises(ConfigError) as caught:
        open_fleet(write(tmp_path, shop))
    assert problem in caught.value.message


def test_a_tag_or_an_address_chooses_boards_and_waves_count_those_alone(tmp_path: Path) -> None:
    fleet = open_fleet(write(tmp_path, SHOP), only="till")
    assert [board.address for board in fleet.boards] == ["pi@till-1", "pi@till-2"]
    assert fleet.waves() == [1, 2]
    assert len(open_fleet(write(tmp_path, SHOP), only="kitchen").boards) == 1
    with pytest.raises(ConfigError, match="--only: `tils` is neither a tag nor a board") as caught:
        open_fleet(write(tmp_path, SHOP), only="tils")
    assert caught.value.hint == "did you mean `till`?"


@pytest.mark.parametrize(
    ("waves", "boards", "sizes"),
    [
        ('[1, "10%", "100%"]', 25, [1, 3, 25]),
        ('["100%"]', 3, [3]),
        ("[1, 1, 2]", 5, [1, 2]),
        ('["1%", "100%"]', 3, [1, 3]),
        ("[9]", 2, [2]),
    ],
)
def test_waves_say_how_many_boards_have_it_afterwards(
    tmp_path: Path, waves: str, boards: int, sizes: list[int]
) -> None:
    rows = "".join(f'[[boards]]\naddress = "pi@b{n}"\n' for n in range(boards))
    fleet = open_fleet(write(tmp_path, f"{rows}[rollout]\nwaves = {waves}\n"))
    assert fleet.waves() == sizes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "shop.toml: missing key `boards`"),
        ("boards = []", "boards: tuple should have at least 1 item"),
        ('[[boards]]\naddress = "a"\n[[boards]]\naddress = "a"', "`a` stands there twice"),
        ('[[boards]]\nadress = "a"', "unknown key `adress`|missing key `address`"),
        ('[[boards]]\naddress = "a"\n[rollout]\nwaves = ["many"]', "`many` is neither a number"),
        ('[[boards]]\naddress = "a"\n[rollout]\nwaves = [0]', "at least one board"),
        ('[[boards]]\naddress = "a"\n[rollout]\nwaves = ["120%"]', "`120%` is neither"),
        ('[[boards]]\naddress = "a"\n[rollout]\nsoak = "soon"', "`soon` is no duration"),
        ('[[boards]]\naddress = "a"\n[rollout]\nsoak = "999999h"', "longer than 720h"),
        ('[[boards]]\naddress = "a"\n[rollout]\nsoak = "١s"', "is no duration"),
        ('[[boards]]\naddress = "a"\n[rollout]\nwaves = ["١%"]', "is neither"),
        ('[[boards]]\naddress = "a"\n[[boards]]\naddress = "b c"', "not an address of a board"),
        ('[[boards]]\naddress = "-oProxyCommand=id"', "not an address of a board"),
        ('[[boards]]\naddress = "http://a"', "an endpoint, not a board"),
        ('[[boards]]\naddress = "a"\n[rollout]\nparallel = 0', "greater than or equal to 1"),
        ('[[boards]]\naddress = "a"\n[rollout]\nsoak = 60', "`60` is no duration such as `90s`"),
        ('[[boards]]\naddress = "a"\n[rollout]\nwaves = ["100%", 1]', "`1` behind `100%`: each"),
        ('[[boards]]\naddress = "a"\n[rollout]\nwaves = ["50%", "10%"]', "`10%` behind `50%`"),
        ('[[boards]]\naddress = "a"\n[rollout]\nwaves = [5, 2]', "`2` behind `5`"),
        ('[[boards]]\naddress = "a"\n[rollout]\nmax_first_token = "0s"', "within no time"),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        open_fleet(write(tmp_path, text))


def test_what_is_no_toml_file_says_how_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("hosts.ini").write_text("[tills]\nt1 ansible_host=10.0.0.4\n", encoding="utf-8")
    for text, hint in (
        ("hosts.ini", "an Ansible inventory: --fleet ansible:hosts.ini"),
        ("pi@till-1", "boards by their names of ~/.ssh/config: --fleet ssh:NAME,NAME"),
    ):
        with pytest.raises(ConfigError) as caught:
            open_fleet(text)
        assert caught.value.hint == hint
    with pytest.raises(ConfigError, match="`ansible:` names no inventory"):
        open_fleet("ansible:")


def test_a_list_of_names_says_that_each_is_a_table(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        open_fleet(write(tmp_path, 'boards = ["pi@a"]'))
    assert caught.value.hint == "each is a table with keys of its own, below a line [[boards]]"
    with pytest.raises(ConfigError) as caught:
        open_fleet(write(tmp_path, '[[boards]]\naddress = "a"\ntags = [1]'))
    assert caught.value.hint == 'put it in quotes: "1"'


def test_one_wrong_entry_is_one_sentence_and_no_list_that_is_too_short(tmp_path: Path) -> None:
    text = '[[boards]]\naddress = "a"\n[rollout]\nwaves = ["0%"]'
    with pytest.raises(ConfigError) as caught:
        open_fleet(write(tmp_path, text))
    assert caught.value.message.startswith("shop.toml: rollout.waves: 0: `0%` is neither")
    assert caught.value.others == ()


def test_names_of_ssh_are_boards_and_each_stands_once() -> None:
    fleet = open_fleet("ssh:till-1, till-2")
    assert [board.address for board in fleet.boards] == ["till-1", "till-2"]
    with pytest.raises(ConfigError, match="`till-1` stands there twice"):
        open_fleet("ssh:till-1,till-1")
    with pytest.raises(ConfigError, match="`ssh:` names no board"):
        open_fleet("ssh:")


# What ansible-inventory 2.19.14 prints for HOSTS.
HOSTS = """
t3

[tills]
t1 ansible_host=10.0.0.4 ansible_user=pi
t2 ansible_port=2222

[shop:children]
tills
"""
LISTED = {
    "_meta": {
        "hostvars": {
            "t1": {"ansible_host": "10.0.0.4", "ansible_user": "pi"},
            "t2": {"ansible_port": 2222},
        },
        "profile": "inventory_legacy",
    },
    "all": {"children": ["ungrouped", "shop"]},
    "shop": {"children": ["tills"]},
    "tills": {"hosts": ["t1", "t2"]},
    "ungrouped": {"hosts": ["t3"]},
}


@pytest.fixture
def inventory(tmp_path: Path) -> Path:
    file = tmp_path / "hosts.ini"
    file.write_text("[tills]\nt1\nt2\n", encoding="utf-8")
    return file


def program(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a program called `ansible-inventory` first on the path."""
    tool = folder / "bin" / "ansible-inventory"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    tool.chmod(tool.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")


def test_ansibles_hosts_are_boards_with_their_groups_as_tags(
    tmp_path: Path, inventory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, monkeypatch, f"cat <<'END'\n{json.dumps(LISTED)}\nEND")
    fleet = open_fleet(f"ansible:{inventory}")
    assert [(board.address, board.tags) for board in fleet.boards] == [
        ("pi@10.0.0.4", ("shop", "tills")),
        ("t2:2222", ("shop", "tills")),
        ("t3", ()),
    ]
    assert fleet.journal == tmp_path / "hosts.journal.jsonl"
    assert len(open_fleet(f"ansible:{inventory}", only="shop").boards) == 2


def test_what_ansible_cannot_read_is_said_with_its_words(
    tmp_path: Path, inventory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, monkeypatch, "echo 'ERROR! no such plugin' >&2; exit 5")
    with pytest.raises(ArtifactError, match="cannot read it: ERROR! no such plugin"):
        open_fleet(f"ansible:{inventory}")
    with pytest.raises(ConfigError, match="no such inventory"):
        open_fleet(f"ansible:{tmp_path / 'nothing.ini'}")


def test_without_ansible_its_inventories_are_refused(
    tmp_path: Path, inventory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="`ansible-inventory` is not installed"):
        open_fleet(f"ansible:{inventory}")


@pytest.mark.parametrize("verb", [["push", "bundle"], ["status"], ["bench"], ["rollback"]])
def test_an_empty_tag_is_not_the_whole_fleet(tmp_path: Path, verb: list[str]) -> None:
    answer = CliRunner().invoke(app, [*verb, "--fleet", str(tmp_path / "shop.toml"), "--only", ""])
    assert isinstance(answer.exception, ConfigError)
    assert answer.exception.message == "--only: no tag is given"


ANSIBLE = os.environ.get("DEMITASSE_ANSIBLE", "")


def test_a_template_of_ansible_is_no_address(
    tmp_path: Path, inventory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hostvars = {"t1": {"ansible_user": "{{ lookup('env', 'USER') }}"}}
    listed = {"_meta": {"hostvars": hostvars}, "ungrouped": {"hosts": ["t1"]}}
    program(tmp_path, monkeypatch, f"cat <<'END'\n{json.dumps(listed)}\nEND")
    with pytest.raises(ArtifactError, match=r"hosts.ini: t1: `ansible_user` is a template, which"):
        open_fleet(f"ansible:{inventory}")


@pytest.mark.slow
@pytest.mark.skipif(not ANSIBLE, reason="DEMITASSE_ANSIBLE names no folder with Ansible's programs")
def test_what_was_recorded_is_what_ansible_prints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{ANSIBLE}:{os.environ['PATH']}")
    inventory = tmp_path / "hosts.ini"
    inventory.write_text(HOSTS, encoding="utf-8")
    done = subprocess.run(
        ["ansible-inventory", "-i", inventory, "--list"], capture_output=True, check=True
    )
    assert json.loads(done.stdout) == LISTED
    fleet = open_fleet(f"ansible:{inventory}")
    assert [board.address for board in fleet.boards] == ["pi@10.0.0.4", "t2:2222", "t3"]
