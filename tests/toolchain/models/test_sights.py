"""Families of models that see: their defaults are transformers', their names are all known."""

from pathlib import Path

import pytest

from tests.fakes.eyes import tiny_smolvlm
from tests.fakes.gemma_eyes import tiny_gemma3
from tests.fakes.models import tiny_llama
from toolchain.models.checkpoints import load_tokenizer
from toolchain.models.sights import (
    GEMMA3,
    IDEFICS3,
    Sight,
    eyes_name,
    language_name,
    plain_name,
    sight_of_tokenizer,
)


@pytest.mark.parametrize(
    ("sight", "kind"), [(IDEFICS3, "SmolVLMVisionConfig"), (GEMMA3, "SiglipVisionConfig")]
)
def test_defaults_are_those_of_transformers(sight: Sight, kind: str) -> None:
    import transformers

    default = getattr(transformers, kind)()
    assert {key: getattr(default, key) for key in sight.defaults} == sight.defaults


def test_widths_are_those_of_transformers() -> None:
    from transformers import Gemma3TextConfig, LlamaConfig

    assert Gemma3TextConfig().hidden_size == GEMMA3.width
    assert LlamaConfig().hidden_size == IDEFICS3.width


LAYER = "layers.3.self_attn.q_proj.weight"
NAMES = [
    (f"model.text_model.{LAYER}", f"model.{LAYER}", ""),
    (f"language_model.model.{LAYER}", f"model.{LAYER}", ""),
    (f"model.language_model.{LAYER}", f"model.{LAYER}", ""),
    ("lm_head.weight", "lm_head.weight", ""),
    ("language_model.lm_head.weight", "lm_head.weight", ""),
    (f"model.{LAYER}", "", ""),
    ("model.connector.a.weight", "", "model.connector.a.weight"),
    ("vision_tower.vision_model.a", "", "vision_tower.vision_model.a"),
    ("vision_tower.a", "", "vision_tower.vision_model.a"),
    ("model.vision_tower.a", "", "vision_tower.vision_model.a"),
    ("model.multi_modal_projector.b", "", "multi_modal_projector.b"),
    ("vision_tower.head.probe", "", ""),
    ("vision_tower.vision_model.head.probe", "", ""),
]


@pytest.mark.parametrize(("tensor", "language", "eyes"), NAMES)
def test_names_of_every_writer_are_one(tensor: str, language: str, eyes: str) -> None:
    assert (language_name(tensor), eyes_name(tensor)) == (language, eyes)
    assert plain_name(tensor) == (language or tensor)


def test_a_tokenizer_tells_its_family_by_the_token_of_a_position(tmp_path: Path) -> None:
    def found(folder: Path) -> Sight | None:
        return sight_of_tokenizer(load_tokenizer(folder))

    assert found(tiny_smolvlm(tmp_path / "smol")) is IDEFICS3
    assert found(tiny_gemma3(tmp_path / "gemma", layers=1)) is GEMMA3
    assert found(tiny_llama(tmp_path / "text")) is None
