"""Where a finished model lies: names, Ollama's store, a hub's repositories."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.hub import loopback_hub
from tests.fakes.tiny_gguf import tiny_gguf
from toolchain.errors import ArtifactError
from toolchain.finished.source import Source, is_finished, resolve
from toolchain.models.hub import choose_gguf

KIND = "application/vnd.ollama.image."


@pytest.mark.parametrize(
    ("name", "finished"),
    [
        ("x.gguf", True),
        ("X.GGUF", True),
        ("a/b/x.tflite", True),
        ("x.litertlm", True),
        ("ollama:llama3.2", True),
        ("owner/repo", True),
        ("owner/repo:Q4_K_M", True),
        ("here/repo:Q4_K_M", True),
        ("here/repo", False),
        ("here", False),
        ("here/x.toml", False),
        ("x.toml", False),
        ("starter", False),
        ("a/b/c", False),
        ("../repo:Q4_K_M", False),
        ("./repo", False),
        ("named-by-nobody", True),
    ],
)
def test_a_name_is_a_finished_models_or_a_recipes(
    name: str, finished: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    (tmp_path / "named-by-nobody").write_bytes(b"GGUF")
    assert is_finished(name) == finished


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("SmolLM2-135M.Q4_1.gguf", "SmolLM2-135M.Q4_1"),
        ("ollama:llama3.2:1b", "llama3.2-1b"),
        ("ollama:hf.co/owner/repo:Q4_K_M", "repo-Q4_K_M"),
        ("owner/repo/sub/file-Q8_0.gguf", "file-Q8_0"),
        ("mon modèle (final).gguf", "mon-mod-le-final"),
        ("树.gguf", "model"),
    ],
)
def test_a_release_is_named_by_the_users_own_words(said: str, name: str) -> None:
    assert Source(file=Path("x"), said=said).id == name


def test_a_missing_file_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    (tmp_path / "right.gguf").write_bytes(b"GGUF")
    with pytest.raises(ArtifactError) as caught:
        resolve(str(tmp_path / "wrong.gguf"))
    assert caught.value.message.endswith("wrong.gguf: no such file")
    assert caught.value.hint == "model files there: right.gguf"


# Ollama -------------------------------------------------------------------------------------------


def store(root: Path, layers: Mapping[str, Any], name: str = "library/tiny/latest") -> Path:
    """Write a store with one model, as Ollama lays it out."""
    (root / "blobs").mkdir(parents=True, exist_ok=True)
    rows = []
    for kind, value in layers.items():
        content = value if isinstance(value, bytes) else str(value).encode()
        digest = hashlib.sha256(content).hexdigest()
        (root / "blobs" / f"sha256-{digest}").write_bytes(content)
        rows.append({"mediaType": KIND + kind, "digest": f"sha256:{digest}", "size": len(content)})
    manifest = root / "manifests" / "registry.ollama.ai" / name
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": rows}))
    return manifest


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "store"))
    return tmp_path / "store"


def test_a_model_of_ollamas_store_brings_what_a_board_can_honour(
    models: Path, tmp_path: Path
) -> None:
    content = tiny_gguf(tmp_path / "x.gguf").read_bytes()
    parameters = {"num_ctx": 256, "num_predict": 32, "stop": ["<|im_end|>"], "temperature": 0.7}
    turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    layers = {
        "model": content,
        "template": "{{ .Prompt }}",
        "system": "be brief",
        "params": json.dumps(parameters),
        "messages": json.dumps(turns),
        "license": "free for all",
    }
    store(models, layers)
    found = resolve("ollama:tiny")
    assert found.file.read_bytes() == content
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert (found.system, found.context, found.max_tokens) == ("be brief", 256, 32)
    assert (found.stops, found.turns, found.licences) == (
        ("<|im_end|>",),
        tuple(turns),
        ("free for all",),
    )
    assert found.dropped == (
        "Ollama's own template, which is Go's: the one inside the model file is used",
        "its parameters temperature: "
        "a board takes the likeliest token unless a request says otherwise",
    )


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("tiny:1b", "registry.ollama.ai/library/tiny/1b"),
        ("me/tiny", "registry.ollama.ai/me/tiny/latest"),
        ("hf.co/owner/repo:Q4_K_M", "hf.co/owner/repo/Q4_K_M"),
        ("here:5000/ns/tiny:x", "here:5000/ns/tiny/x"),
    ],
)
def test_every_way_to_name_a_model_leads_to_its_manifest(
    models: Path, name: str, place: str
) -> None:
    written = store(models, {"model": b"GGUF"})
    target = models / "manifests" / place
    target.parent.mkdir(parents=True, exist_ok=True)
    written.replace(target)
    assert resolve(f"ollama:{name}").said == f"ollama:{name}"


@pytest.mark.parametrize("name", ["../../etc", "a/b/c/d/e", "", "a b", "x:../../y", "/tiny"])
def test_no_name_leads_out_of_the_store(models: Path, name: str) -> None:
    with pytest.raises(ArtifactError, match="not a name of Ollama's"):
        resolve(f"ollama:{name}")


def test_what_is_missing_or_damaged_in_the_store_is_named(models: Path) -> None:
    manifest = store(models, {"model": b"GGUF" * 9, "adapter": b"GGUF"})
    with pytest.raises(ArtifactError) as caught:
        resolve("ollama:tinny")
    assert (caught.value.message, caught.value.hint) == (
        "ollama:tinny: not in Ollama's store",
        "did you mean `tiny:latest`?",
    )
    blob = resolve("ollama:tiny").file
    blob.write_bytes(b"GGUF")
    with pytest.raises(ArtifactError, match="has 4 bytes of 36"):
        resolve("ollama:tiny")
    blob.unlink()
    with pytest.raises(ArtifactError, match="is missing"):
        resolve("ollama:tiny")
    for content in ("", "[]", '{"layers": 3}', '{"layers": [{}]}', "[" * 100_000):
        manifest.write_text(content)
        with pytest.raises(ArtifactError, match="its manifest cannot be read"):
            resolve("ollama:tiny")
    manifest.write_text(
        json.dumps({"layers": [{"mediaType": KIND + "model", "digest": "../../x", "size": 1}]})
    )
    with pytest.raises(ArtifactError, match="names no digest"):
        resolve("ollama:tiny")


def test_a_pipe_is_no_model_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.gguf")
    with pytest.raises(ArtifactError, match=r"pipe\.gguf: not a plain file$"):
        resolve(str(tmp_path / "pipe.gguf"))


# A hub --------------------------------------------------------------------------------------------

FILES = [
    "README.md",
    "BF16/m-BF16-00001-of-00002.gguf",
    "BF16/m-BF16-00002-of-00002.gguf",
    "m-Q2_K.gguf",
    "m-Q4_K_M.gguf",
    "m-Q8_0.gguf",
    "m.IQ4_XS.gguf",
    "mmproj-m-Q4_K_M.gguf",
]


@pytest.mark.parametrize(
    ("files", "quant", "chosen"),
    [
        (FILES, "", "m-Q4_K_M.gguf"),
        (FILES, "q8_0", "m-Q8_0.gguf"),
        (FILES, "IQ4_XS", "m.IQ4_XS.gguf"),
        (FILES[3:4] + FILES[5:], "", "m-Q8_0.gguf"),
        (FILES[3:4], "", "m-Q2_K.gguf"),
        (["q4_0/m-q4_0.gguf"], "Q4_0", "q4_0/m-q4_0.gguf"),
        (FILES, "BF16", "BF16/m-BF16-00001-of-00002.gguf"),
    ],
)
def test_a_file_of_a_repository_is_chosen_as_llama_cpp_does(
    files: list[str], quant: str, chosen: str
) -> None:
    assert choose_gguf("o/r", files, quant) == chosen


@pytest.mark.parametrize(
    ("files", "quant", "message"),
    [
        (FILES, "Q5_K_M", "model `o/r`: no GGUF file of `Q5_K_M`"),
        (["mmproj-a.gguf", "imatrix.gguf"], "", "model `o/r`: no GGUF file"),
        (FILES, ".*", "model `o/r`: no GGUF file of"),
    ],
)
def test_what_a_repository_does_not_have_is_said_with_what_it_has(
    files: list[str], quant: str, message: str
) -> None:
    with pytest.raises(ArtifactError) as caught:
        choose_gguf("o/r", files, quant)
    assert message in caught.value.message
    assert caught.value.hint


CHILD = """
import json, sys
from toolchain.errors import ToolchainError
from toolchain.finished.source import resolve
try:
    found = resolve(sys.argv[1], offline=sys.argv[2] == "offline")
    print(json.dumps([found.said, found.file.read_bytes()[:4].decode()]))
except ToolchainError as error:
    print(json.dumps([error.message, error.hint]))
"""


def fetched(tmp_path: Path, endpoint: str, name: str, *, offline: bool = False) -> list[str]:
    environment = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
    }
    argv = [sys.executable, "-c", CHILD, name, "offline" if offline else "online"]
    done = subprocess.run(
        argv, env=environment, capture_output=True, text=True, check=True, timeout=240
    )
    return list(json.loads(done.stdout))


@pytest.mark.slow
def test_a_file_of_a_hub_is_fetched_once_and_found_offline(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "some" / "model-GGUF"
    folder.mkdir(parents=True)
    for name in ("m-Q4_K_M.gguf", "m-Q8_0.gguf", "mmproj.gguf"):
        (folder / name).write_bytes(b"GGUF")
    with loopback_hub(tmp_path / "models") as (address, asked):
        before = fetched(tmp_path, address, "some/model-GGUF:Q8_0", offline=True)
        assert before == [
            "model `some/model-GGUF`: not on this computer",
            "run once without --offline",
        ]
        assert asked == []
        assert fetched(tmp_path, address, "some/model-GGUF:Q8_0") == [
            "some/model-GGUF/m-Q8_0.gguf",
            "GGUF",
        ]
        count = len(asked)
        assert fetched(tmp_path, address, "some/model-GGUF:Q8_0", offline=True)[1] == "GGUF"
        assert len(asked) == count
        assert not [line for line in asked if "Q4_K_M" in line and "resolve" in line]


@pytest.mark.slow
def test_all_parts_of_a_model_of_a_hub_are_fetched(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "some" / "model-GGUF"
    folder.mkdir(parents=True)
    names = [f"m-Q8_0-{number:05}-of-00003.gguf" for number in (1, 2, 3)]
    for name in names:
        (folder / name).write_bytes(b"GGUF")
    with loopback_hub(tmp_path / "models") as (address, asked):
        for offline in (False, True):
            found = fetched(tmp_path, address, "some/model-GGUF:Q8_0", offline=offline)
            assert found == [f"some/model-GGUF/{names[0]}", "GGUF"]
        assert [name for name in names if any(name in line for line in asked)] == names


@pytest.mark.slow
def test_a_hub_that_is_down_or_has_no_such_model_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with loopback_hub(tmp_path / "models") as (address, _):
        assert fetched(tmp_path, address, "some/model:Q8_0")[0] == (
            "model `some/model`: not found on the hub"
        )
    assert fetched(tmp_path, "http://127.0.0.1:9", "some/model:Q8_0")[0] == (
        "model `some/model`: the hub cannot be reached"
    )
