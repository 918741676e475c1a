"""Adapters: merged is base + scale · B·A, all else is unchanged, and wrong ones are refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.fakes.datasets import Recorder
from tests.fakes.models import SMALL, tiny_llama, tiny_qwen2
from toolchain import artifacts
from toolchain.artifacts import Checkpoint
from toolchain.errors import ArtifactError
from toolchain.models.checkpoints import load_model
from toolchain.models.lora import CONFIG, WEIGHTS
from toolchain.progress import Silent
from toolchain.tune import merge

pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)


def adapter_for(base: Path, folder: Path, **settings: Any) -> Path:
    """Write an adapter with random weights for a base, as peft writes it."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(
        **{
            "r": 4,
            "lora_alpha": 12,
            "target_modules": ["q_proj", "down_proj"],
            "task_type": "CAUSAL_LM",
        }
        | settings
    )
    model = get_peft_model(load_model(base), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    return folder


def merged(base: Checkpoint, adapter: Path, out: Path, **named: str) -> dict[str, torch.Tensor]:
    merge(base, adapter, out, Silent(), **named)
    return load_file(out / "model.safetensors")


def test_merged_is_the_base_plus_the_scaled_product(base: Checkpoint, tmp_path: Path) -> None:
    adapter = adapter_for(base.path, tmp_path / "adapter")
    delta, before, after = (
        load_file(adapter / WEIGHTS),
        load_file(base.path / "model.safetensors"),
        merged(base, adapter, tmp_path / "out"),
    )
    touched = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(touched) == 4
    assert all("q_proj" in name or "down_proj" in name for name in touched)
    for name in touched:
        module = f"base_model.model.{name.removesuffix('.weight')}"
        a, b = delta[f"{module}.lora_A.weight"].double(), delta[f"{module}.lora_B.weight"].double()
        torch.testing.assert_close(
            after[name].double(), before[name].double() + 12 / 4 * b @ a, atol=1e-5, rtol=0
        )


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        {"alpha_pattern": {"q_proj": 3}},
        {"rank_pattern": {"layers.1.mlp.down_proj": 2}},
        {"target_modules": "all-linear"},
    ],
)
def test_the_merge_is_that_of_peft(
    base: Checkpoint, tmp_path: Path, settings: dict[str, Any]
) -> None:
    from peft import PeftModel

    adapter = adapter_for(base.path, tmp_path / "adapter", **settings)
    merge(base, adapter, tmp_path / "out", Silent())
    theirs = (
        PeftModel.from_pretrained(load_model(base.path), adapter).merge_and_unload().state_dict()
    )
    for name, ours in load_model(tmp_path / "out").state_dict().items():
        torch.testing.assert_close(ours, theirs[name], atol=1e-5, rtol=0)


def test_sixteen_bits_are_rounded_once(tmp_path: Path) -> None:
    base = artifacts.external(tiny_qwen2(tmp_path / "base", **SMALL, dtype="bfloat16"))
    adapter = adapter_for(base.path, tmp_path / "adapter", target_modules=["v_proj"])
    delta, before, after = (
        load_file(adapter / WEIGHTS),
        load_file(base.path / "model.safetensors"),
        merged(base, adapter, tmp_path / "out"),
    )
    name, module = (
        "model.layers.0.self_attn.v_proj.weight",
        "base_model.model.model.layers.0.self_attn.v_proj",
    )
    exact = before[name].double() + 3.0 * (
        delta[f"{module}.lora_B.weight"].double() @ delta[f"{module}.lora_A.weight"].double()
    )
    assert torch.equal(after[name], exact.bfloat16())
    assert {tensor.dtype for tensor in after.values()} == {torch.bfloat16}


def test_a_base_in_several_files_stays_in_several_files(base: Checkpoint, tmp_path: Path) -> None:
    sharded = tmp_path / "sharded"
    sharded.mkdir()
    load_model(base.path).save_pretrained(sharded, max_shard_size="100KB")
    (sharded / "tokenizer.json").write_bytes((base.path / "tokenizer.json").read_bytes())
    adapter = adapter_for(sharded, tmp_path / "adapter")
    merge(artifacts.external(sharded), adapter, tmp_path / "out", Silent())
    files = {file.name for file in sharded.glob("model*")}
    assert len(files) > 2
    assert {file.name for file in (tmp_path / "out").glob("model*")} == files
    assert torch.equal(
        load_model(tmp_path / "out").lm_head.weight, load_model(sharded).lm_head.weight
    )


def test_tokenizer_and_settings_of_the_base_are_carried(base: Checkpoint, tmp_path: Path) -> None:
    merge(base, adapter_for(base.path, tmp_path / "adapter"), tmp_path / "out", Silent())
    for name in (
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    ):
        assert (tmp_path / "out" / name).read_bytes() == (base.path / name).read_bytes()


def test_the_chat_template_that_an_adapter_was_trained_with_wins(
    base: Checkpoint, tmp_path: Path
) -> None:
    adapter = adapter_for(base.path, tmp_path / "adapter")
    (adapter / "chat_template.jinja").write_text("{{ messages }}")
    merge(base, adapter, tmp_path / "out", Silent())
    assert (tmp_path / "out" / "chat_template.jinja").read_text() == "{{ messages }}"


def test_a_merge_is_not_done_twice_and_says_what_it_touched(
    base: Checkpoint, tmp_path: Path
) -> None:
    adapter, report = adapter_for(base.path, tmp_path / "adapter"), Recorder()
    first, again = (merge(base, adapter, tmp_path / "out", report) for _ in range(2))
    assert (first.fresh, again.fresh) == (True, False)
    assert first.record.figures == {"merged_tensors": 4, "dtypes": ["F32"]}
    assert report.notes == ["merged 4 tensors onto F32 weights"]


def with_settings(adapter: Path, **settings: Any) -> None:
    config = json.loads((adapter / CONFIG).read_text()) | settings
    (adapter / CONFIG).write_text(json.dumps(config))


def test_an_adapter_for_wider_weights_is_refused(base: Checkpoint, tmp_path: Path) -> None:
    wide = tiny_llama(tmp_path / "wide", **(SMALL | {"hidden": 128}))
    adapter = adapter_for(wide, tmp_path / "adapter")
    with_settings(adapter, base_model_name_or_path="someone/wide")
    with pytest.raises(ArtifactError) as refused:
        merge(base, adapter, tmp_path / "out", Silent())
    assert refused.value.message == (
        f"adapter adapter: made for another base: "
        f"`model.layers.0.mlp.down_proj.weight` is 64 × 64 in `{base.path.name}`, "
        "128 × 64 in the adapter"
    )
    assert refused.value.hint == "it was trained on `someone/wide`"
    assert not list((tmp_path / "out").glob("*.safetensors"))


def test_an_adapter_for_more_layers_is_refused(base: Checkpoint, tmp_path: Path) -> None:
    adapter = adapter_for(
        tiny_llama(tmp_path / "deep", **(SMALL | {"layers": 3})), tmp_path / "adapter"
    )
    with pytest.raises(
        ArtifactError,
        match=r"made for another base: `\S+` has no tensor `model.layers.2.mlp.down_proj.weight`$",
    ):
        merge(base, adapter, tmp_path / "out", Silent())


@pytest.mark.parametrize(
    "trained_on",
    [
        "someone/Tiny-1B",
        "mirror/tiny-1b",
        "/content/tiny-1b",
        "unsloth/tiny-1b-unsloth-bnb-4bit",
        "",
    ],
)
def test_the_same_base_under_its_usual_names_is_accepted(
    base: Checkpoint, tmp_path: Path, trained_on: str
) -> None:
    adapter = adapter_for(base.path, tmp_path / "adapter")
    with_settings(adapter, base_model_name_or_path=trained_on)
    assert (
        merge(
            base, adapter, tmp_path / "out", Silent(), base_name="someone/Tiny-1B"
        ).record.figures["merged_tensors"]
        == 4
    )


def test_a_base_of_another_name_is_refused(base: Checkpoint, tmp_path: Path) -> None:
    adapter = adapter_for(base.path, tmp_path / "adapter")
    with_settings(adapter, base_model_name_or_path="someone/tiny-1B")
    with pytest.raises(ArtifactError) as refused:
        merge(base, adapter, tmp_path / "out", Silent(), base_name="someone/tiny-1B-Instruct")
    expected = (
        "adapter adapter: made for another base: trained on `someone/tiny-1B`, "
        "not on `someone/tiny-1B-Instruct`"
    )
    assert refused.value.message == expected


def test_a_quantised_base_is_refused_with_the_reason(base: Checkpoint, tmp_path: Path) -> None:
    adapter = adapter_for(base.path, tmp_path / "adapter")
    folder = tiny_llama(tmp_path / "four-bit", **SMALL)
    config = json.loads((folder / "config.json").read_text()) | {
        "quantization_config": {"quant_method": "bitsandbytes"}
    }
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError) as refused:
        merge(artifacts.external(folder), adapter, tmp_path / "out", Silent())
    expected = (
        "four-bit: a quantised base (bitsandbytes): "
        "an adapter is merged onto 16-bit or 32-bit weights only"
    )
    assert refused.value.message == expected
    assert "transformers#31293" in refused.value.hint


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peft_type": "IA3"}, "adapter: adapters of kind `IA3` are not merged"),
        ({"use_dora": True}, "adapter: an adapter with `use_dora` is not merged"),
        (
            {"modules_to_save": ["lm_head"]},
            "adapter: an adapter with `modules_to_save` is not merged",
        ),
    ],
)
def test_other_kinds_of_adapter_are_refused(
    base: Checkpoint, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    adapter = adapter_for(base.path, tmp_path / "adapter")
    with_settings(adapter, **settings)
    with pytest.raises(ArtifactError) as refused:
        merge(base, adapter, tmp_path / "out", Silent())
    assert refused.value.message == message
    assert (
        refused.value.hint
        == "merge it with peft's `merge_and_unload` and give the merged folder as the base"
    )


def break_pair(adapter: Path) -> None:
    save_file(dict(list(load_file(adapter / WEIGHTS).items())[1:]), adapter / WEIGHTS)


def add_embedding(adapter: Path) -> None:
    tensors = load_file(adapter / WEIGHTS)
    save_file(
        {**tensors, "base_model.model.embed.lora_embedding_A": torch.zeros(4, 9)}, adapter / WEIGHTS
    )


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_pair, "adapter: adapter_model.safetensors: a LoRA pair is missing"),
        (
            add_embedding,
            "adapter: tensor `base_model.model.embed.lora_embedding_A` "
            "is not LoRA on a linear layer",
        ),
        (
            lambda adapter: (adapter / WEIGHTS).rename(adapter / "adapter_model.bin"),
            "adapter: `adapter_model.bin` is a pickle, which can run code when it is loaded",
        ),
        (lambda adapter: (adapter / WEIGHTS).unlink(), "adapter: no `adapter_model.safetensors`"),
        (lambda adapter: (adapter / CONFIG).unlink(), "adapter: no `adapter_config.json`"),
    ],
)
def test_a_broken_adapter_is_refused(
    base: Checkpoint, tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    adapter = adapter_for(base.path, tmp_path / "adapter")
    damage(adapter)
    with pytest.raises(ArtifactError) as refused:
        merge(base, adapter, tmp_path / "out", Silent())
    assert refused.value.message == message


def test_a_tokenizer_that_grew_in_training_is_refused(base: Checkpoint, tmp_path: Path) -> None:
    adapter = adapter_for(base.path, tmp_path / "adapter")
    from tokenizers import AddedToken, Tokenizer

    grown = Tokenizer.from_file(str(base.path / "tokenizer.json"))
    grown.add_tokens([AddedToken("<new>")])
    grown.save(str(adapter / "tokenizer.json"))
    with pytest.raises(
        ArtifactError,
        match=r"^adapter adapter: its tokenizer has 513 tokens, the base has room for 512$",
    ):
        merge(base, adapter, tmp_path / "out", Silent())
