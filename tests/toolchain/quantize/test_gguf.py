"""The stage: one file with its origin and companions, figures, progress, and refusals."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device.manifest.gguf import read_header, tensor_digests
from tests.toolchain.quantize.conftest import Make, Quantized, Recorder, config, tensors
from toolchain.errors import ArtifactError, ConfigError


def test_float32_weights_are_quantized_without_a_detour(make: Make, quantized: Quantized) -> None:
    import gguf
    from safetensors.numpy import load_file

    folder = make("qwen2")
    name = "model.layers.1.mlp.up_proj.weight"
    expected = gguf.quants.quantize(
        load_file(folder / "model.safetensors")[name], gguf.GGMLQuantizationType.Q8_0
    )
    file = quantized(folder, "Q8_0").file
    found = next(
        tensor for tensor in read_header(file).tensors if tensor.name == "blk.1.ffn_up.weight"
    )
    assert file.read_bytes()[found.offset : found.offset + found.size] == expected.tobytes()


def test_shards_give_the_same_bytes_as_one_file(
    make: Make, quantized: Quantized, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    folder = make()
    whole = quantized(folder, "Q4_K_M").file.read_bytes()
    AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="2MB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    next((tmp_path / "out").glob("Q4_K_M*/record.json")).unlink()
    assert quantized(folder, "Q4_K_M").file.read_bytes() == whole


def test_what_is_written_passes_the_boards_own_check(make: Make, quantized: Quantized) -> None:
    model = quantized(make(), "Q4_K_M")
    header = read_header(model.file)
    assert header.size == model.record.figures["size_bytes"]
    assert sum(tensor.size for tensor in header.tensors) == model.record.figures["weights_bytes"]
    assert len(tensor_digests(model.file)) == len(header.tensors) == 21


def test_the_file_carries_its_origin(make: Make, quantized: Quantized) -> None:
    metadata = read_header(quantized(make(), "Q5_K_M").file).metadata
    expected = {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": "tiny model",
        "general.version": "1.0",
        "general.size_label": "1.4M",
        "general.license": "Apache-2.0",
        "general.description": "A test.",
        "general.base_model.count": 1,
        "general.base_model.0.name": "tiny",
        "general.base_model.0.organization": "someone",
        "general.file_type": 17,
        "general.quantization_version": 2,
    }
    assert {key: metadata.get(key) for key in expected} == expected


def test_the_name_of_the_file_follows_the_convention(make: Make, quantized: Quantized) -> None:
    assert quantized(make(), "Q8_0").file.name == "tiny-model-1.4M-v1.0-Q8_0.gguf"


def test_the_figures_say_what_a_board_needs(make: Make, quantized: Quantized) -> None:
    figures = quantized(make(), "Q8_0").record.figures
    expected = {
        "scheme": "Q8_0",
        "nominal_bpw": 8.5,
        "parameters": 1443072,
        "context": 512,
        "stop_ids": [2],
        "kv_bytes_per_token": 2 * 2 * 2 * 2 * 64,
        "n_vocab": 512,
        "fallbacks": [],
    }
    assert {key: figures[key] for key in expected} == expected
    assert figures["real_bpw"] == pytest.approx(figures["weights_bytes"] * 8 / 1443072, abs=1e-4)
    assert 8.5 < figures["real_bpw"] < 8.6


def test_tokenizer_template_and_stop_ids_lie_beside_the_file(
    make: Make, quantized: Quantized
) -> None:
    folder = make()
    out = quantized(folder, "Q8_0").path
    for name in ("tokenizer.json", "chat_template.jinja", "generation_config.json"):
        assert (out / name).read_bytes() == (folder / name).read_bytes()
    assert not list(out.glob(".*"))


def test_progress_is_told_in_bytes_to_the_end(make: Make, quantized: Quantized) -> None:
    report = Recorder()
    model = quantized(make(), "Q8_0", report)
    assert report.steps[-1] == (
        model.record.figures["weights_bytes"],
        model.record.figures["weights_bytes"],
        "B",
    )
    assert [done for done, _, _ in report.steps] == sorted({done for done, _, _ in report.steps})
    assert (
        report.notes[-1] == "tiny-model-1.4M-v1.0-Q8_0.gguf: 1.6 MB; "
        "Q8_0 has nominally 8.50 bits per weight, here 8.52"
    )


def test_a_fallback_is_named_before_anything_is_written(make: Make, quantized: Quantized) -> None:
    report = Recorder()
    model = quantized(make(hidden=320, heads=5, kv_heads=1), "Q4_K_M", report)
    assert report.notes[0] == (
        "Q4_K_M: 14 tensors fall back: rows of 320 do not fit Q4_K's blocks, Q5_0 instead;"
        " rows of 320 do not fit Q6_K's blocks, Q8_0 instead"
    )
    assert len(model.record.figures["fallbacks"]) == 14
    assert model.record.figures["fallbacks"][0] == {
        "tensor": "output.weight",
        "row": 320,
        "wanted": "Q6_K",
        "type": "Q8_0",
    }


@pytest.mark.parametrize(
    ("shape", "scheme", "message", "hint"),
    [
        (
            {"hidden": 192, "intermediate": 192, "heads": 3, "kv_heads": 1},
            "Q4_K_M",
            "Q4_K_M: rows of 192 are not divisible by 256",
            "use `Q4_0` or `Q8_0`, whose blocks are 32 weights long",
        ),
        (
            {"hidden": 192, "intermediate": 96, "heads": 3, "kv_heads": 1},
            "Q6_K",
            "Q6_K: rows of 96 and 192 are not divisible by 256",
            "use `Q4_0` or `Q8_0`, whose blocks are 32 weights long",
        ),
        (
            {"hidden": 48, "intermediate": 48, "heads": 3, "kv_heads": 1},
            "Q4_0",
            "Q4_0: rows of 48 are not divisible by 32",
            "use `F16` or `BF16`, which have no blocks",
        ),
    ],
)
def test_a_scheme_that_fits_no_row_is_refused(
    make: Make, quantized: Quantized, shape: dict[str, Any], scheme: str, message: str, hint: str
) -> None:
    with pytest.raises(ArtifactError) as caught:
        quantized(make(**shape), scheme)
    assert (caught.value.message, caught.value.hint) == (message, hint)


def test_an_unknown_scheme_is_refused(make: Make, quantized: Quantized) -> None:
    with pytest.raises(ConfigError) as caught:
        quantized(make(), "Q4_KM")
    assert (caught.value.message, caught.value.hint) == (
        "quantize: unknown scheme `Q4_KM`",
        "did you mean `Q4_K_M`?",
    )


def poke(name: str, value: float) -> Callable[[dict[str, np.ndarray]], None]:
    def change(found: dict[str, np.ndarray]) -> None:
        found[name][0, 5] = value

    return change


UP = "model.layers.1.mlp.up_proj.weight"
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0}
REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "architecture": (
        config(architectures=["BertModel"]),
        "config.json: architecture `BertModel` is not known",
    ),
    "no architecture": (
        config(architectures=None),
        "config.json: architecture `none` is not known",
    ),
    "no size": (config(hidden_size=None), "config.json: `hidden_size` is `None`, not a count"),
    "activation": (
        config(hidden_act="gelu"),
        "config.json: `hidden_act` is `gelu`, which has no place in the model file",
    ),
    "quantized": (
        config(quantization_config={"bits": 4}),
        "config.json: `quantization_config` is `{'bits': 4}`, which has no place in the model file",
    ),
    "rope type": (config(rope_parameters=YARN), "config.json: rope type `yarn` is not known"),
    "rope setting": (
        config(rope_parameters={"rope_type": "linear"}),
        "config.json: rope setting `factor` is `None`, not a positive number",
    ),
    "missing tensor": (
        tensors(lambda found: found.pop(UP)),
        f"llama-model: tensor `{UP}` is missing",
    ),
    "another tensor": (
        tensors(lambda found: found.update(extra=found[UP][0].clone())),
        "model.safetensors: tensor `extra` has no place in the model file",
    ),
    "shape against config": (
        config(intermediate_size=768),
        "model.safetensors: tensor `model.layers.0.mlp.gate_proj.weight`: shape [512, 256], "
        "config.json asks for [768, 256]",
    ),
    "NaN": (
        tensors(poke(UP, float("nan"))),
        f"model.safetensors: tensor `{UP}`: a weight is NaN or infinite",
    ),
    "too large": (
        tensors(poke(UP, 1e30)),
        f"model.safetensors: tensor `{UP}`: a weight is too large for Q8_0",
    ),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("case", REFUSED)
def test_a_checkpoint_that_cannot_be_carried_whole_is_refused(
    make: Make, quantized: Quantized, tmp_path: Path, case: str
) -> None:
    spoil, message = REFUSED[case]
    folder = make()
    spoil(folder)
    with pytest.raises(ArtifactError) as caught:
        quantized(folder, "Q8_0")
    assert caught.value.message == message
    assert not list(tmp_path.rglob("*.gguf*"))


def sharded(spoil: Callable[[Path], Any]) -> Callable[[Path], None]:
    """Save the model again in shards, then spoil them."""

    def change(folder: Path) -> None:
        from transformers import AutoModelForCausalLM

        AutoModelForCausalLM.from_pretrained(folder).save_pretrained(folder, max_shard_size="2MB")
        (folder / "model.safetensors").unlink(missing_ok=True)
        spoil(folder)

    return change


def cut(folder: Path) -> None:
    file = last_shard(folder)
    file.write_bytes(file.read_bytes()[:-1000])


def last_shard(folder: Path) -> Path:
    return sorted(folder.glob("model-*.safetensors"))[-1]


def tokenizer(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def rewrite(folder: Path) -> None:
        fields = json.loads((folder / "tokenizer.json").read_text())
        change(fields)
        (folder / "tokenizer.json").write_text(json.dumps(fields))

    return rewrite


def four_bits(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    found = load_file(folder / "model.safetensors")
    save_file(found | {UP: found[UP].char()}, folder / "model.safetensors")


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut shard": (
        sharded(cut),
        r"model-0000\d-of-0000\d\.safetensors: cut short, \d+ of \d+ bytes are there",
    ),
    "missing shard": (
        sharded(lambda folder: last_shard(folder).unlink()),
        r"model\.safetensors\.index\.json: shard `model-0000\d-of-0000\d\.safetensors` is missing",
    ),
    "wrong type": (
        four_bits,
        rf"model\.safetensors: tensor `{UP}`: weights of type `I8`, not F32, F16 or BF16",
    ),
    "token added twice": (
        tokenizer(
            lambda fields: fields["added_tokens"].append(fields["added_tokens"][2] | {"id": 300})
        ),
        r"tokenizer\.json: two tokens have the text `<\|im_end\|>`",
    ),
    "more tokens than rows": (
        tokenizer(
            lambda fields: fields["added_tokens"].append(
                fields["added_tokens"][2] | {"id": 512, "content": "<|new|>"}
            )
        ),
        r"tokenizer\.json: token 512 \(`<\|new\|>`\) has no row "
        r"in `model\.embed_tokens\.weight` of 512",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_input_is_named_and_leaves_nothing(
    make: Make, quantized: Quantized, tmp_path: Path, case: str
) -> None:
    spoil, message = BROKEN[case]
    folder = make()
    spoil(folder)
    with pytest.raises(ArtifactError, match=f"^{message}$"):
        quantized(folder, "Q8_0")
    assert not list(tmp_path.rglob("*.gguf*"))


def test_padded_embeddings_are_normal(make: Make, quantized: Quantized) -> None:
    folder = make(vocab_size=544)
    model = quantized(folder, "Q8_0")
    assert model.record.figures["n_vocab"] == 544


def test_a_second_run_is_skipped_and_a_new_scheme_is_not(make: Make, quantized: Quantized) -> None:
    folder = make()
    assert quantized(folder, "Q8_0").fresh
    assert not quantized(folder, "Q8_0").fresh
    assert quantized(folder, "Q4_0").fresh


def test_a_run_that_is_interrupted_leaves_no_file(
    make: Make, quantized: Quantized, tmp_path: Path
) -> None:
    class Interrupting(Recorder):
        def step(
            self, name: str, done: float, total: float, unit: str = "", figures: str = ""
        ) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantized(make(), "Q8_0", Interrupting())
    assert not list(tmp_path.rglob("*.gguf*"))
    assert quantized(make(), "Q8_0").fresh
