"""The Ansible role: run by Ansible itself, on this computer as a board."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fakes.bundles import finished, make_bundle
from tests.fakes.leaving import Box, Publisher
from tests.fakes.ports import free_port
from toolchain import fleet

ANSIBLE = os.environ.get("DEMITASSE_ANSIBLE", "")
ROLES = Path(fleet.__file__).with_name("ansible") / "roles"
ROOT = Path(__file__).resolve().parents[3]
PLAY = """
- hosts: all
  gather_facts: false
  roles:
    - role: demitasse
"""


class Controller:
    """A computer with Ansible, whose only board is itself."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.publisher = folder, Publisher(folder)
        (folder / "play.yml").write_text(PLAY, encoding="utf-8")
        (folder / "hosts.ini").write_text("till ansible_host=10.0.0.4\n", encoding="utf-8")
        self.box = Box(folder / "home", Path("none"), trusts=None)
        self.box.environment |= {
            "ANSIBLE_ROLES_PATH": str(ROLES),
            "ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default",
            "ANSIBLE_HOME": str(folder / "ansible"),
            "ANSIBLE_NOCOLOR": "1",
            "DEMITASSE_RUNTIME": str(self.publisher.runtime),
            "PYTHONPATH": str(ROOT),
            "LC_ALL": "C.UTF-8",
        }
        self.port = free_port()

    def play(self, bundle: Path, *words: str) -> tuple[int, dict[str, str]]:
        """Run the play; return Ansible's exit code and its recap of the board."""
        variables = {
            "demitasse_bundle": str(bundle),
            "demitasse_board": "local",
            "demitasse_command": [sys.executable, "-m", "toolchain"],
            "demitasse_arguments": ["--port", str(self.port)],
            "ansible_python_interpreter": sys.executable,
        }
        done = subprocess.run(
            [
                *(f"{ANSIBLE}/ansible-playbook", "-i", "hosts.ini", "play.yml"),
                *("--extra-vars", json.dumps(variables), *words),
            ],
            cwd=self.folder,
            env=self.box.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        self.said = done.stdout + done.stderr
        recap = done.stdout.rpartition("till ")[2].partition(":")[2].split()
        return done.returncode, dict(word.split("=") for word in recap)


@pytest.mark.slow
@pytest.mark.skipif(not ANSIBLE, reason="DEMITASSE_ANSIBLE names no folder with Ansible's programs")
def test_a_push_is_changed_once_then_ok_and_a_bad_release_is_failed(tmp_path: Path) -> None:
    controller = Controller(tmp_path)
    good = finished(make_bundle(tmp_path / "good")).path
    bad = finished(make_bundle(tmp_path / "bad", version="2", counter=2, check="refuse")).path

    code, recap = controller.play(good, "--check")
    assert (code, recap["changed"]) == (0, "1"), controller.said
    assert not list((controller.box.store / "releases").glob("*"))

    code, recap = controller.play(good)
    assert (code, recap["ok"], recap["changed"], recap["failed"]) == (0, "1", "1", "0")
    code, recap = controller.play(good)
    assert (code, recap["ok"], recap["changed"], recap["failed"]) == (0, "1", "0", "0")
    code, recap = controller.play(good, "--check")
    assert (code, recap["ok"], recap["changed"], recap["failed"]) == (0, "1", "0", "0")

    code, recap = controller.play(bad)
    assert (code, recap["changed"], recap["failed"]) == (2, "0", "1")
    assert "the check failed: golden 3 differs; tiny 1.0 runs again" in controller.said
    assert controller.box.running == "1.0"
    controller.box.off()


@pytest.mark.slow
@pytest.mark.skipif(not ANSIBLE, reason="DEMITASSE_ANSIBLE names no folder with Ansible's programs")
def test_a_host_of_the_inventory_is_the_boards_address(tmp_path: Path) -> None:
    (tmp_path / "hosts.ini").write_text(
        "a ansible_host=10.0.0.4 ansible_user=pi ansible_port=2222\nb\nc ansible_host=fe80::1\n"
        "d ansible_host=fe80::1 ansible_port=22\n",
        encoding="utf-8",
    )
    (tmp_path / "play.yml").write_text(PLAY, encoding="utf-8")
    shutil.copytree(ROLES, tmp_path / "roles")
    words = {"demitasse_command": ["echo"], "ansible_python_interpreter": sys.executable}
    done = subprocess.run(
        [
            *(f"{ANSIBLE}/ansible-playbook", "-v", "-i", "hosts.ini", "play.yml"),
            *("--extra-vars", json.dumps(words)),
        ],
        cwd=tmp_path,
        env={**os.environ, "ANSIBLE_HOME": str(tmp_path / "ansible"), "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
    )
    for address in ("pi@10.0.0.4:2222", '"b"', '"fe80::1"', '"[fe80::1]:22"'):
        assert address in done.stdout, done.stdout
