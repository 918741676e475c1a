"""A GGUF file read as a checkpoint: families, tokenizers, missing keys, and refusals by name."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device.manifest.gguf import read_header
from tests.fakes.families import FAMILIES, tiny_family
from tests.fakes.models import tiny_llama
from tests.toolchain.quantize.conftest import (
    Quantized,
    Recorder,
    hugging_face_logits,
    llama_cpp_logits,
    tensors,
)
from toolchain.errors import ArtifactError
from toolchain.models import architecture, tokenizer
from toolchain.models.from_gguf import write_checkpoint
from toolchain.models.gguf_read import GgufFile
from toolchain.models.origin import Origin
from toolchain.models.tokenizer_proof import prove_file
from toolchain.models.weights import open_weights, read_json
from toolchain.progress import Silent

Family = Callable[[str], Path]
TEXT = "How hot is too hot? Don't WE'LL 12345 树莓派 🙂 def f(x):\n\t\treturn  x\n<|im_start|>user"


def read_back(file: Path, out: Path, report: Any = None) -> Path:
    """Write the checkpoint of a model file to `out`, as the first part of `unpack` does it."""
    out.mkdir(parents=True, exist_ok=True)
    write_checkpoint(Origin(file=file, name=file.name), out, report or Silent())
    return out


def rewritten(
    file: Path,
    out: Path,
    *,
    says: Mapping[str, Any] | None = None,
    drop: tuple[str, ...] = (),
    extra: Mapping[str, np.ndarray] | None = None,
) -> Path:
    """Copy a model file with the gguf package and change metadata (None removes) and tensors."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter

    reader, changes = GGUFReader(file), dict(says or {})
    fields = {key: field for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    name = changes.pop("general.architecture", fields["general.architecture"].contents())
    writer = GGUFWriter(out, name)
    for key, field in fields.items():
        if key == "general.architecture" or key in changes:
            continue
        inner = field.types[1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(key, field.contents(), field.types[0], inner)
    for key, value in changes.items():
        if value is not None:
            kind, inner = _kind(value)
            writer.add_key_value(key, value, kind, inner)
    for tensor in reader.tensors:
        if tensor.name not in drop and tensor.name not in (extra or {}):
            writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    for tensor_name, values in (extra or {}).items():
        writer.add_tensor(tensor_name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def _kind(value: Any) -> Any:
    from gguf import GGUFValueType as Kind

    kinds = {bool: Kind.BOOL, int: Kind.UINT32, float: Kind.FLOAT32, str: Kind.STRING}
    if isinstance(value, list):
        return Kind.ARRAY, Kind.INT32 if isinstance(value[0], int) else kinds[type(value[0])]
    return kinds[type(value)], None


def loaded(folder: Path) -> dict[str, np.ndarray]:
    with open_weights(folder) as weights:
        return {
            name: weights.rows(name, 0, tensor.rows).reshape(tensor.shape)
            for name, tensor in weights.tensors.items()
        }


def understood(folder: Path) -> architecture.Model:
    with open_weights(folder) as weights:
        return architecture.read_architecture(folder, weights)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_sixteen_bit_file_gives_back_the_weights_that_it_was_made_from(
    family: Family, quantized: Quantized, tmp_path: Path, name: str
) -> None:
    out = read_back(quantized(family(name), "F16").file, tmp_path / "base")
    ours, theirs = loaded(out), loaded(family(name))
    tied = understood(family(name)).tied
    theirs = {key: value for key, value in theirs.items() if not (tied and key == "lm_head.weight")}
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        # what is added to one is told from the sum: a float32 near one ends at 2^-24
        np.testing.assert_allclose(ours[key], value, rtol=0, atol=2**-24, err_msg=key)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_checkpoint_says_of_itself_what_the_file_says(
    family: Family, quantized: Quantized, tmp_path: Path, name: str
) -> None:
    out = read_back(quantized(family(name), "F16").file, tmp_path / "base")
    ours, theirs = understood(out), understood(family(name))
    assert (ours.family.name, ours.tied) == (theirs.family.name, theirs.tied)
    assert ours.sizes == theirs.sizes
    assert ours.metadata.keys() == theirs.metadata.keys()
    for key, value in theirs.metadata.items():
        expected = pytest.approx(value, rel=1e-6) if isinstance(value, float) else value
        assert ours.metadata[key] == expected, key
    for mine, other in zip(ours.tensors, theirs.tensors, strict=True):
        assert mine.name == other.name
        if other.values is not None and mine.values is not None:
            np.testing.assert_allclose(mine.values, other.values, rtol=1e-5)


@pytest.mark.sampled(14)
@pytest.mark.parametrize("name", FAMILIES)
def test_transformers_gives_llama_cpps_logits_for_the_file(
    family: Family, quantized: Quantized, tmp_path: Path, name: str
) -> None:
    file = quantized(family(name), "F16").file
    tokens = np.random.default_rng(3).integers(3, 500, 200).tolist()
    ours = hugging_face_logits(read_back(file, tmp_path / "base"), tokens)
    assert np.abs(ours - llama_cpp_logits(file, tokens)).max() <= 2e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_quantized_file_is_written_again_byte_by_byte(
    family: Family, quantized: Quantized, tmp_path: Path, name: str
) -> None:
    first = quantized(family(name), "Q8_0").file.rename(tmp_path / "first.gguf")
    again = quantized(read_back(first, tmp_path / "base"), "Q8_0").file
    assert _tensor_bytes(again) == _tensor_bytes(first)


def _tensor_bytes(file: Path) -> dict[str, tuple[str, bytes]]:
    raw = file.read_bytes()
    return {
        tensor.name: (tensor.type, raw[tensor.offset : tensor.offset + tensor.size])
        for tensor in read_header(file).tensors
        if not tensor.name.startswith("rope_")
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_tokenizer_cuts_text_as_the_original_does(
    family: Family, quantized: Quantized, tmp_path: Path, name: str
) -> None:
    from transformers import AutoTokenizer

    out = read_back(quantized(family(name), "F16").file, tmp_path / "base")
    ours, theirs = (AutoTokenizer.from_pretrained(folder) for folder in (out, family(name)))
    chat = [{"role": "user", "content": TEXT}, {"role": "assistant", "content": "It stops at 85."}]
    for tokens in (False, True):
        assert ours(TEXT, add_special_tokens=tokens).input_ids == (
            theirs(TEXT, add_special_tokens=tokens).input_ids
        )
    assert ours.apply_chat_template(chat, tokenize=False) == (
        theirs.apply_chat_template(chat, tokenize=False)
    )
    ids = ours(TEXT, add_special_tokens=False).input_ids
    assert ours.decode(ids).strip() == theirs.decode(ids).strip()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["F16", "BF16", "Q8_0", "Q4_K_M", "Q4_0", "IQ4_NL"])
def test_weights_are_those_that_the_gguf_package_reads(
    family: Family, quantized: Quantized, tmp_path: Path, scheme: str
) -> None:
    from gguf import GGUFReader, dequantize

    file = quantized(family("qwen2.5"), scheme).file
    ours = loaded(read_back(file, tmp_path / "base"))
    for tensor in GGUFReader(file).tensors:
        expected = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        source = {"token_embd.weight": "model.embed_tokens.weight"}.get(tensor.name)
        if tensor.name.endswith("ffn_down.weight"):
            source = f"model.layers.{tensor.name.split('.')[1]}.mlp.down_proj.weight"
        if source:
            np.testing.assert_array_equal(ours[source].ravel(), expected.ravel())


TYPES = {"F16": "F16", "BF16": "BF16", "Q8_0": "F32"}


@pytest.mark.slow
@pytest.mark.parametrize("scheme", TYPES)
def test_sixteen_bits_stay_sixteen_and_quantized_weights_become_float32(
    make: Callable[..., Path], quantized: Quantized, tmp_path: Path, scheme: str
) -> None:
    dtype = {"F16": "float16", "BF16": "bfloat16"}.get(scheme, "float32")
    out = read_back(quantized(make(dtype=dtype), scheme).file, tmp_path / "base")
    with open_weights(out) as weights:
        assert {tensor.dtype for tensor in weights.tensors.values()} == {TYPES[scheme]}
    assert read_json(out / "config.json")["dtype"] == dtype


@pytest.mark.slow
def test_norms_that_sixteen_bits_do_not_hold_keep_all_weights_in_float32(
    make: Callable[..., Path], quantized: Quantized, tmp_path: Path
) -> None:
    out = read_back(quantized(make(dtype="float32"), "F16").file, tmp_path / "base")
    assert read_json(out / "config.json")["dtype"] == "float32"


@pytest.mark.slow
def test_biases_untied_heads_and_rows_that_no_token_has_come_back(
    quantized: Quantized, tmp_path: Path
) -> None:
    folder = tiny_llama(tmp_path / "model", attention_bias=True, mlp_bias=True, dtype="float16")
    grow = tensors(
        lambda found: found.update(
            {
                key: np_to_torch(found[key], 8)
                for key in ("model.embed_tokens.weight", "lm_head.weight")
            }
        )
    )
    grow(folder)
    config = json.loads((folder / "config.json").read_text())
    config["vocab_size"] += 8
    (folder / "config.json").write_text(json.dumps(config))
    file = quantized(folder, "F16").file
    out = read_back(file, tmp_path / "base")
    ours, theirs = loaded(out), loaded(folder)
    assert ours.keys() == theirs.keys()
    assert all(np.array_equal(ours[key], value) for key, value in theirs.items())
    words = json.loads((out / "tokenizer.json").read_text())["model"]["vocab"]
    assert not [word for word in words if word.startswith("[PAD")]


def np_to_torch(tensor: Any, rows: int) -> Any:
    import torch

    return torch.cat([tensor, tensor[:rows] * 0.5])


ROPES = {
    "8192 and 32": {
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "8192 and 8": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "other bounds": {
        "factor": 4.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 8.0,
        "original_max_position_embeddings": 1000,
    },
    "bounds of another scale": {
        "factor": 16.0,
        "low_freq_factor": 2.0,
        "high_freq_factor": 6.0,
        "original_max_position_embeddings": 4096,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("case", ROPES)
def test_the_settings_of_a_llama3_rope_are_told_from_its_factors(
    quantized: Quantized, tmp_path: Path, case: str
) -> None:
    rope = {"rope_type": "llama3", "rope_theta": 500000.0, **ROPES[case]}
    folder = tiny_llama(tmp_path / "model", hidden=512, rope_parameters=rope)
    out = read_back(quantized(folder, "F16").file, tmp_path / "base")
    found = read_json(out / "config.json")["rope_parameters"]
    assert found["factor"] == rope["factor"]
    scale = rope["low_freq_factor"]
    assert found["high_freq_factor"] == pytest.approx(rope["high_freq_factor"] / scale, rel=1e-3)
    assert found["original_max_position_embeddings"] == pytest.approx(
        rope["original_max_position_embeddings"] / scale, abs=1
    )


LEFT_OUT = {
    "what follows from the rest": ("llama 2", ("llama.vocab_size", "llama.rope.dimension_count")),
    "the usual rotary base": ("smollm2", ("llama.rope.freq_base",)),
    "the local rotary base": ("gemma 3", ("gemma3.rope.freq_base_swa",)),
    "soft caps": ("gemma 2", ("gemma2.attn_logit_softcapping", "gemma2.final_logit_softcapping")),
    "begin and end": ("llama 2", ("tokenizer.ggml.add_bos_token", "tokenizer.ggml.add_eos_token")),
    "key heads, as many as heads": ("every head", ("llama.attention.head_count_kv",)),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", LEFT_OUT)
def test_what_a_file_leaves_out_is_what_llama_cpp_takes_then(
    family: Family, quantized: Quantized, tmp_path: Path, case: str
) -> None:
    name, keys = LEFT_OUT[case]
    folder = tmp_path / "model"
    if name == "every head":
        tiny_family("llama 2", folder, num_key_value_heads=4)
    whole = quantized(folder if folder.is_dir() else family(name), "F16").file
    file = rewritten(whole, tmp_path / "sparse.gguf", says=dict.fromkeys(keys))
    tokens = np.random.default_rng(4).integers(3, 500, 100).tolist()
    ours = hugging_face_logits(read_back(file, tmp_path / "base"), tokens)
    assert np.abs(ours - llama_cpp_logits(file, tokens)).max() <= 2e-3


PRE = {
    "llama3": "llama 3.2",
    "falcon3": "falcon 3",
    "refact": "granite 3",
    "deepseek-r1-qwen": "qwen3",
    "dbrx": "smollm3",
}


@pytest.mark.slow
@pytest.mark.parametrize("pre", PRE)
def test_other_names_of_a_known_way_to_cut_text_are_known(
    family: Family, quantized: Quantized, tmp_path: Path, pre: str
) -> None:
    says = {"tokenizer.ggml.pre": pre}
    file = rewritten(quantized(family(PRE[pre]), "F16").file, tmp_path / "a.gguf", says=says)
    out = read_back(file, tmp_path / "base")
    assert (out / "tokenizer.json").is_file()


@pytest.mark.slow
def test_every_token_at_which_llama_cpp_stops_ends_an_answer(
    family: Family, quantized: Quantized, tmp_path: Path
) -> None:
    file = quantized(family("phi-3"), "F16").file
    out = read_back(file, tmp_path / "base")
    ids = json.loads((out / "tokenizer.json").read_text())["model"]["vocab"]
    ends = {ids[text] for text in ("</s>", "<|end|>", "<|endoftext|>")}
    assert set(read_json(out / "generation_config.json")["eos_token_id"]) == ends
    assert set(tokenizer.read_vocabulary(out, len(ids)).stop_ids) == ends


@pytest.mark.slow
def test_what_was_read_is_said_with_the_types_it_was_made_of(
    family: Family, quantized: Quantized, tmp_path: Path
) -> None:
    report = Recorder()
    file = quantized(family("qwen2.5"), "Q8_0").file
    out = tmp_path / "base"
    out.mkdir()
    figures = write_checkpoint(Origin(file=file, name="x"), out, report)
    assert figures["quantization"].startswith("weights of 8.5")
    assert "(Q8_0 100%)" in figures["quantization"]
    assert math.isclose(sum(figures["types"].values()), 1.0, abs_tol=1e-4)
    assert f"{file.name}: {figures['quantization']}, taken as float32" in report.notes


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "an unknown family": (
        "llama 2",
        {"says": {"general.architecture": "mamba", "mamba.block_count": 3}},
        "models of the family `mamba` are not known",
    ),
    "an adapter": (
        "llama 2",
        {"says": {"general.type": "adapter"}},
        "holds no model, but `adapter`",
    ),
    "a part": ("llama 2", {"says": {"split.count": 3}}, "is one of 3 parts of a model"),
    "experts": (
        "llama 2",
        {"says": {"llama.expert_count": 8}},
        "metadata `llama.expert_count` is `8`, which has no place in a checkpoint",
    ),
    "a key that nobody knows": (
        "qwen2.5",
        {"says": {"qwen2.attention.temperature": 2.0}},
        "metadata `qwen2.attention.temperature` is `2.0`, which has no place",
    ),
    "another rotary embedding": (
        "qwen2.5",
        {"says": {"qwen2.rope.scaling.type": "yarn", "qwen2.rope.scaling.factor": 4.0}},
        "rope scaling `yarn` is not known",
    ),
    "a window in a family without": (
        "smollm2",
        {"says": {"llama.attention.sliding_window": 64}},
        "metadata `llama.attention.sliding_window` is `64`",
    ),
    "heads by layer": (
        "llama 2",
        {"says": {"llama.attention.head_count_kv": [2, 2, 1]}},
        "metadata `llama.attention.head_count_kv` is `(2, 2, 1)`, not a count",
    ),
    "heads of two sizes": (
        "qwen3",
        {"says": {"qwen3.attention.value_length": 32}},
        "metadata `qwen3.attention.value_length` is `32`",
    ),
    "no heads": (
        "llama 2",
        {"says": {"llama.attention.head_count": None}},
        "metadata `llama.attention.head_count` is `0`, not a count",
    ),
    "no template": ("llama 2", {"says": {"tokenizer.chat_template": None}}, "no chat template"),
    "a template that cannot be": (
        "llama 2",
        {"says": {"tokenizer.chat_template": "{% for %}"}},
        "chat template: cannot be rendered",
    ),
    "an unknown kind of tokenizer": (
        "llama 2",
        {"says": {"tokenizer.ggml.model": "t5"}},
        "a tokenizer of the kind `t5` is not known",
    ),
    "an unknown way to cut": (
        "qwen2.5",
        {"says": {"tokenizer.ggml.pre": "deepseek-llm"}},
        "a tokenizer cut as `deepseek-llm` is not known",
    ),
    "no way to cut": (
        "qwen2.5",
        {"says": {"tokenizer.ggml.pre": None}},
        "a tokenizer cut as `default` is not known",
    ),
    "no scores": ("llama 2", {"says": {"tokenizer.ggml.scores": None}}, "no scores for its"),
    "a missing tensor": (
        "qwen2.5",
        {"drop": ("blk.1.attn_k.bias",)},
        "tensor `blk.1.attn_k.bias` is missing",
    ),
    "no embedding": (
        "qwen2.5",
        {"drop": ("token_embd.weight",)},
        "tensor `token_embd.weight` is missing",
    ),
    "a tensor too many": (
        "qwen2.5",
        {"extra": {"blk.0.attn_q_norm.weight": np.ones(32, np.float32)}},
        "tensor `blk.0.attn_q_norm.weight` has no place in a checkpoint",
    ),
    "a tensor of another shape": (
        "qwen2.5",
        {"extra": {"blk.0.attn_q.bias": np.ones(64, np.float32)}},
        "tensor `blk.0.attn_q.bias`: shape [64], its metadata asks for [128]",
    ),
    "factors of no known rope": (
        "llama 3.2",
        {"extra": {"rope_freqs.weight": np.linspace(1, 9, 32, dtype=np.float32) ** 2}},
        "tensor `rope_freqs.weight`: factors of an unknown rope scaling",
    ),
    "heads of an odd size": (
        "llama 2",
        {"says": {"llama.attention.key_length": 33, "llama.attention.value_length": 33}},
        "tensor `blk.0.attn_q.weight`: shape [128, 128], its metadata asks for [132, 128]",
    ),
    "half of the long factors": (
        "phi-4-mini",
        {"drop": ("rope_factors_short.weight",)},
        "tensor `rope_factors_short.weight` is missing",
    ),
}


@pytest.mark.sampled(8)
@pytest.mark.parametrize("case", REFUSED)
def test_what_no_checkpoint_can_say_is_refused_by_name(
    family: Family, quantized: Quantized, tmp_path: Path, case: str
) -> None:
    name, changes, problem = REFUSED[case]
    file = rewritten(quantized(family(name), "F16").file, tmp_path / "other.gguf", **changes)
    with pytest.raises(ArtifactError) as caught:
        read_back(file, tmp_path / "base")
    message = caught.value.message.removeprefix("other.gguf: ")
    assert message.startswith(problem)


@pytest.mark.slow
def test_scores_of_another_order_give_the_tokens_that_llama_cpp_gives(
    family: Family, quantized: Quantized, tmp_path: Path
) -> None:
    file = quantized(family("llama 2"), "F16").file
    with GgufFile(file) as found:
        scores = found.numbers("tokenizer.ggml.scores")
        texts = found.strings("tokenizer.ggml.tokens")
    assert scores is not None
    worst = [
        float(len(text)) if len(text) == 2 else float(score)
        for text, score in zip(texts, scores, strict=True)
    ]
    other = rewritten(file, tmp_path / "other.gguf", says={"tokenizer.ggml.scores": worst})
    out = read_back(other, tmp_path / "base")
    assert prove_file(other, out, tokenizer.read_vocabulary(out, len(texts))) > 1000


@pytest.mark.sampled(3)
@pytest.mark.parametrize("cut", [100, 5000, -1000])
def test_a_file_that_is_cut_short_is_refused(
    family: Family, quantized: Quantized, tmp_path: Path, cut: int
) -> None:
    file = tmp_path / "cut.gguf"
    file.write_bytes(quantized(family("llama 2"), "F16").file.read_bytes()[:cut])
    with pytest.raises(ArtifactError, match=r"^cut\.gguf: "):
        read_back(file, tmp_path / "base")
