"""Models by name: folders win, the Hub is asked through its library, --offline asks nobody."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes.hub import loopback_hub
from toolchain.errors import ArtifactError
from toolchain.models import hub

CHILD = """
import json, sys
from pathlib import Path
from toolchain.models import hub
from toolchain.errors import ToolchainError
try:
    folder = hub.fetch(sys.argv[1], near=Path("."), offline=sys.argv[2] == "offline")
    print(json.dumps(sorted(p.name for p in folder.iterdir())))
except ToolchainError as error:
    print(json.dumps([error.message, error.hint]))
"""
"""The library reads HF_ENDPOINT, HF_HOME and HF_TOKEN at import: each case is a process."""


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "some" / "model"
    folder.mkdir(parents=True)
    for name in (
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "chat_template.jinja",
        "LICENSE",
    ):
        (folder / name).write_text(name)
    (folder / "pytorch_model.bin").write_text("a pickle")
    (folder / "modeling_custom.py").write_text("code")
    return tmp_path / "models"


def fetch(
    tmp_path: Path, endpoint: str, name: str, *, offline: bool = False, token: str = ""
) -> list[str]:
    environment = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": token,
    }
    environment = {key: value for key, value in environment.items() if value}
    argv = [sys.executable, "-c", CHILD, name, "offline" if offline else "online"]
    done = subprocess.run(
        argv, env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    return list(json.loads(done.stdout))


@pytest.fixture
def endpoint(models: Path) -> Iterator[str]:
    with loopback_hub(models) as (address, _):
        yield address


@pytest.mark.slow
def test_a_model_of_the_hub_comes_without_pickles_and_code(tmp_path: Path, endpoint: str) -> None:
    found = fetch(tmp_path, endpoint, "some/model")
    assert found == [
        "LICENSE",
        "chat_template.jinja",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]


@pytest.mark.slow
def test_offline_uses_what_was_fetched_and_asks_nobody(tmp_path: Path, models: Path) -> None:
    with loopback_hub(models) as (address, asked):
        missing = fetch(tmp_path, address, "some/model", offline=True)
        assert missing == ["model `some/model`: not on this computer", "run once without --offline"]
        assert asked == []
        fetch(tmp_path, address, "some/model")
        before = len(asked)
        assert "config.json" in fetch(tmp_path, address, "some/model", offline=True)
        assert len(asked) == before


@pytest.mark.slow
def test_an_unknown_model_is_named(tmp_path: Path, endpoint: str) -> None:
    said = fetch(tmp_path, endpoint, "some/modle")
    assert said == [
        "model `some/modle`: not found on the hub",
        "check the spelling; a private model needs HF_TOKEN",
    ]


@pytest.mark.slow
def test_the_token_is_sent(tmp_path: Path, models: Path) -> None:
    with loopback_hub(models, token="secret") as (address, _):
        assert (
            fetch(tmp_path, address, "some/model")[0] == "model `some/model`: not found on the hub"
        )
        assert "config.json" in fetch(tmp_path, address, "some/model", token="secret")


@pytest.mark.slow
def test_a_hub_that_is_down_is_said_so(tmp_path: Path) -> None:
    said = fetch(tmp_path, "http://127.0.0.1:9", "some/model")
    assert said == [
        "model `some/model`: the hub cannot be reached",
        "check the network, or give a folder instead",
    ]


def test_a_folder_wins_and_a_missing_folder_is_not_looked_up(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert hub.fetch("mine", near=tmp_path) == tmp_path / "mine"
    with pytest.raises(ArtifactError, match=r"^model `\./other`: no such folder$"):
        hub.fetch("./other", near=tmp_path)
