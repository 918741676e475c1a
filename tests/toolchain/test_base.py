"""A GGUF file as the base of a recipe: the way to a bundle, its records, and a proof that fails."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from device.manifest import read_manifest
from tests.fakes.facts import QUESTIONS
from tests.fakes.models import tiny_llama
from tests.fakes.tiny_gguf import in_parts
from toolchain import recipe, runtime, target
from toolchain.artifacts import Artifact, Checkpoint, external
from toolchain.errors import ArtifactError
from toolchain.line.walk import Settings, walk
from toolchain.models.gguf_proof import prove_logits
from toolchain.models.weights import open_weights
from toolchain.models.weights_write import write_weights
from toolchain.progress import Silent
from toolchain.quantize.contents import read_contents
from toolchain.quantize.gguf import ModelLabel, quantize
from toolchain.recipe import QuantizeSpec

RECIPE = """
title = "a model from a file"
targets = ["x86-64"]
stages = ["ingest", "tune", "quantize", "evaluate", "package"]
[model]
base = "{base}"
[data]
files = ["facts.jsonl"]
[tune]
epochs = 1
batch_size = 8
learning_rate = 1e-3
questions = 1
[quantize]
scheme = "Q8_0"
[evaluate]
questions = 2
kl_tokens = 100
max_tokens = 8
[evaluate.gate]
max_kl = 0.1
min_agreement = 0.5
min_eos_rate = 0
[package]
context = 256
"""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a quantized model file and text to learn."""
    folder = tmp_path_factory.mktemp("desk")
    made = external(tiny_llama(folder / "model", layers=2))
    spec = QuantizeSpec(scheme="Q8_0")
    file = quantize(made, spec, ModelLabel(name="tiny"), folder / "out", Silent()).file
    shutil.copyfile(file, folder / "tiny.gguf")
    rows = (json.dumps(row, ensure_ascii=False) + "\n" for row in QUESTIONS)
    (folder / "facts.jsonl").write_text("".join(rows))
    return folder


@pytest.fixture(scope="module")
def proved(desk: Path) -> Path:
    """The checkpoint that was read from the file, whose logits are those of the file."""
    from toolchain.models.from_gguf import write_checkpoint
    from toolchain.models.origin import Origin

    base = desk / "proved"
    shutil.copytree(desk / "model", base)
    write_checkpoint(Origin(file=desk / "tiny.gguf", name="tiny"), base, Silent())
    runs = runtime.for_this_computer()
    assert prove_logits(desk / "tiny.gguf", base, runs, {"Q8_0"}).agreement > 0.9
    return base


def run(desk: Path, out: Path, *, until: str = "", base: str = "tiny.gguf") -> dict[str, Artifact]:
    (desk / "mine.toml").write_text(RECIPE.format(base=base))
    settings = Settings(out=out, target=target.find("x86-64"), report=Silent(), offline=True)
    steps = walk(recipe.load(desk / "mine.toml"), settings, until=until)
    return {step.stage: step.artifact for step in steps if step.artifact}


@pytest.mark.slow
def test_a_file_is_tuned_quantized_gated_and_packaged_and_every_paper_says_what_it_was(
    desk: Path, tmp_path: Path
) -> None:
    made = run(desk, tmp_path)
    record = json.loads((tmp_path / "base" / "record.json").read_text())
    figures = record["figures"]
    assert (record["stage"], figures["file"]) == ("base", "tiny.gguf")
    assert figures["quantization"] == "weights of 8.52 bits (Q8_0 100%)"
    assert figures["proof_rms_delta"] <= figures["proof_rms_bound"]
    assert figures["proof_max_delta"] <= figures["proof_max_bound"]

    said = "tiny.gguf (weights of 8.52 bits (Q8_0 100%))"
    package = made["package"].path
    manifest = read_manifest(package)
    assert manifest.provenance["base"] == said
    assert [stage["stage"] for stage in manifest.provenance["stages"]][:3] == [
        "ingest",
        "base",
        "tune",
    ]
    assert f"- base: {said}\n" in (package / "MODEL_CARD.md").read_text()
    assert read_contents(package / manifest.model).base == said


@pytest.mark.slow
def test_an_unchanged_file_is_not_read_again_and_a_changed_one_is(
    desk: Path, tmp_path: Path
) -> None:
    run(desk, tmp_path, until="tune")
    written = (tmp_path / "base" / "model.safetensors").stat().st_mtime_ns
    again = run(desk, tmp_path, until="tune")
    assert not again["tune"].fresh
    assert (tmp_path / "base" / "model.safetensors").stat().st_mtime_ns == written
    run(desk, tmp_path, until="tune", base="./tiny.gguf")
    assert (tmp_path / "base" / "model.safetensors").stat().st_mtime_ns != written


WRONG = {
    "rows of q in the file's order": ("model.layers.0.self_attn.q_proj.weight", "regroup"),
    "heads exchanged": ("model.layers.1.self_attn.k_proj.weight", "roll"),
    "a norm with one too much": ("model.layers.1.input_layernorm.weight", "add"),
    "gate and up exchanged": ("model.layers.0.mlp.gate_proj.weight", "negate"),
    "a shifted embedding": ("model.embed_tokens.weight", "shift"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", WRONG)
def test_a_checkpoint_that_is_another_model_is_refused(
    desk: Path, proved: Path, tmp_path: Path, case: str
) -> None:
    base = tmp_path / "base"
    shutil.copytree(proved, base)
    weights = load_file(base / "model.safetensors")
    name, how = WRONG[case]
    weights[name] = np.ascontiguousarray(_spoiled(weights[name], how))
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        ArtifactError, match=r"^tiny\.gguf: the checkpoint that was read from it is"
    ):
        prove_logits(desk / "tiny.gguf", base, runtime.for_this_computer(), {"Q8_0"})


def _spoiled(weight: np.ndarray, how: str) -> np.ndarray:
    match how:
        case "regroup":
            return weight.reshape(4, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
        case "roll":
            return np.roll(weight, len(weight) // 2, axis=0)
        case "add":
            return weight + 1
        case "negate":
            return -weight
    return np.roll(weight, 1, axis=0)


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
def test_weights_written_in_several_files_are_read_as_from_one(tmp_path: Path, dtype: str) -> None:
    draw = np.random.default_rng(0)
    tensors = {
        f"layer.{n}": draw.normal(size=(8, 16)).astype(np.float16).astype(np.float32)
        for n in range(5)
    }
    if dtype == "BF16":
        tensors = {
            name: (value.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
            for name, value in tensors.items()
        }
    shapes = {name: value.shape for name, value in tensors.items()}
    write_weights(
        tmp_path,
        shapes,
        dtype,
        lambda name: iter([tensors[name][:3], tensors[name][3:]]),
        shard_bytes=1100,
    )
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 1
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "tokenizer.json").write_text("{}")
    with open_weights(tmp_path) as weights:
        for name, value in tensors.items():
            np.testing.assert_array_equal(weights.rows(name, 0, 8), value)


def test_a_disk_without_room_is_said_so(tmp_path: Path) -> None:
    def full(name: str):
        raise OSError(28, "No space left on device")
        yield

    with pytest.raises(ArtifactError, match=r"^no room for a checkpoint of 0 MB: No space left"):
        write_weights(tmp_path, {"a": (2, 2)}, "F32", full)


def test_a_checkpoint_that_no_disk_holds_is_refused_before_a_weight_is_read(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"^no room for a checkpoint of 4000000000 MB: "):
        write_weights(tmp_path, {"a": (10**9, 10**6)}, "F32", lambda name: iter(()))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_base_of_a_run_is_a_checkpoint_like_any_other(desk: Path, tmp_path: Path) -> None:
    from toolchain.models.from_gguf import unpack
    from toolchain.models.origin import find

    found = find("tiny.gguf", desk)
    assert found is not None
    made = unpack(found, runtime.for_this_computer(), tmp_path / "base", Silent())
    assert isinstance(made, Checkpoint)
    again = unpack(found, runtime.for_this_computer(), tmp_path / "base", Silent())
    assert (again.fresh, again.digest) == (False, made.digest)


@pytest.mark.slow
def test_a_base_in_parts_is_the_same_checkpoint(desk: Path, tmp_path: Path) -> None:
    from toolchain.models.from_gguf import unpack
    from toolchain.models.origin import find

    in_parts(desk / "tiny.gguf", desk / "parts")
    made = {}
    for name in ("tiny.gguf", "parts/m-00001-of-00003.gguf", "parts/m-00002-of-00003.gguf"):
        found = find(name, desk)
        assert found is not None
        base = unpack(found, runtime.for_this_computer(), tmp_path / name, Silent()).path
        assert not list(base.glob("*.gguf"))
        made[name] = (base / "model.safetensors").read_bytes()
    assert len(set(made.values())) == 1
