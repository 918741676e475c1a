"""Models that see: what their language model and their eyes are, and who is refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import gemma_eyes
from tests.fakes.eyes import POSITIONS, tiny_smolvlm
from toolchain.errors import ArtifactError
from toolchain.models import vision
from toolchain.models.config_defaults import read_config
from toolchain.models.weights import open_eyes, open_weights, read_json


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_smolvlm(tmp_path_factory.mktemp("smolvlm"))


def eyes(folder: Path, config: dict[str, Any] | None = None) -> vision.Eyes:
    """Return the eyes of a folder, with another config.json if one is given."""
    with open_eyes(folder) as weights:
        shapes = {name: tensor.shape for name, tensor in weights.tensors.items()}
    return vision.read_eyes(folder, config or read_json(folder / "config.json"), shapes)


def test_language_and_eyes_have_every_tensor_between_them(model: Path) -> None:
    from safetensors import safe_open

    with safe_open(model / "model.safetensors", "pt") as file:
        every = set(file.keys())
    with open_weights(model) as text, open_eyes(model) as seeing:
        assert len(text.tensors) + len(seeing.tensors) == len(every)
        assert set(seeing.tensors) < every
        assert {"model.embed_tokens.weight", "lm_head.weight"} < set(text.tensors)
    config = read_config(model)
    assert (config["architectures"], config["hidden_size"]) == (["LlamaForCausalLM"], 64)


def test_each_tensor_has_the_name_that_llama_cpps_own_table_gives_it(model: Path) -> None:
    import gguf

    found = eyes(model)
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, 2)
    for name, origin in found.origins.items():
        assert table.get_name(origin, try_suffixes=(".weight", ".bias")) == name
    assert found.tokens == POSITIONS


def test_blip_2_is_refused_by_name_with_the_reason_and_a_successor() -> None:
    with pytest.raises(ArtifactError, match="BLIP-2 has a Q-Former and a language model") as caught:
        vision.sight_of({"model_type": "blip-2"})
    assert caught.value.hint and "SmolVLM-256M-Instruct" in caught.value.hint


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"hidden_act": "gelu"}, "`hidden_act` is `gelu`, which has no place"),
    ({"num_channels": 4}, "`num_channels` is `4`, which has no place"),
    ({"image_size": 65}, "`image_size` is `65`, which has no place"),
    ({"num_attention_heads": 3}, "`num_attention_heads` is `3`, which has no place"),
    ({"hidden_size": 0}, "`hidden_size` is `0`, not a count"),
    ({"layer_norm_eps": True}, "`layer_norm_eps` is `True`, which has no place"),
    ({"num_hidden_layers": 3}, "layers.2.self_attn.q_proj.weight` is missing"),
    ({"num_hidden_layers": 1}, "has no place in the projector file"),
    ({"intermediate_size": 130}, "config.json asks for [130, 64]"),
]


@pytest.mark.parametrize(("change", "message"), WRONG, ids=lambda value: str(value)[:30])
def test_a_tower_that_llama_cpp_computes_otherwise_is_refused(
    model: Path, change: dict[str, Any], message: str
) -> None:
    config = read_json(model / "config.json")
    config["vision_config"] |= change
    with pytest.raises(ArtifactError) as caught:
        eyes(model, config)
    assert message in caught.value.message


def test_without_the_settings_of_pictures_nobody_knows_how_to_scale(tmp_path: Path) -> None:
    folder = tiny_smolvlm(tmp_path)
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_mean": [0.5]}))
    with pytest.raises(ArtifactError, match=r"`image_mean` is `\[0.5\]`, not three numbers"):
        eyes(folder)
    for name in ("preprocessor_config.json", "processor_config.json"):
        (folder / name).unlink()
    with pytest.raises(ArtifactError, match=r"no `preprocessor_config\.json`"):
        eyes(folder)


def test_what_would_leave_the_eyes_out_is_refused_and_a_text_model_is_not(model: Path) -> None:
    with pytest.raises(ArtifactError, match=r"^tune: `SmolVLMForConditionalGeneration` sees"):
        vision.refuse_sight(read_json(model / "config.json"), "tune")
    vision.refuse_sight({"architectures": ["LlamaForCausalLM"]}, "tune")


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return gemma_eyes.tiny_gemma3(tmp_path_factory.mktemp("gemma3"), layers=1)


@pytest.mark.parametrize("published", [True, False])
def test_gemmas_tensors_have_the_names_that_llama_cpps_own_table_gives_them(
    tmp_path: Path, published: bool
) -> None:
    import gguf

    folder = gemma_eyes.tiny_gemma3(
        tmp_path, layers=1, published=published, vision={"vision_use_head": not published}
    )
    found = eyes(folder)
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.MMPROJ, 2)
    for name, origin in found.origins.items():
        known = origin.replace("_weight", ".weight")  # as llama.cpp's converter does
        assert table.get_name(known, try_suffixes=(".weight", ".bias")) == name
    assert found.tokens == gemma_eyes.POSITIONS
    assert found.offsets == {"mm.soft_emb_norm.weight": 1.0}
    with open_weights(folder) as text:
        assert all(name.startswith("model.") for name in text.tensors)
    assert read_config(folder)["architectures"] == ["Gemma3ForCausalLM"]


WRONG_GEMMA: list[tuple[dict[str, Any], str]] = [
    ({"mm_tokens_per_image": 15}, "`mm_tokens_per_image` is `15`, which does not divide 8 × 8"),
    ({"mm_tokens_per_image": 9}, "`mm_tokens_per_image` is `9`, which does not divide 8 × 8"),
    (
        {"mm_tokens_per_image": 4, "vision_config": {"image_size": 8, "patch_size": 16}},
        "`mm_tokens_per_image` is `4`, which does not divide 0 × 0",
    ),
    ({"mm_tokens_per_image": None}, "`mm_tokens_per_image` is `None`, not a count"),
]


@pytest.mark.parametrize(("change", "message"), WRONG_GEMMA, ids=lambda value: str(value)[:30])
def test_positions_that_are_no_squares_of_patches_are_refused(
    gemma: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ArtifactError) as caught:
        eyes(gemma, read_json(gemma / "config.json") | change)
    assert message in caught.value.message


def test_a_picture_with_more_positions_than_a_batch_is_refused(tmp_path: Path) -> None:
    folder = gemma_eyes.tiny_gemma3(
        tmp_path, layers=1, positions=576, vision={"image_size": 192, "patch_size": 8}
    )
    with pytest.raises(ArtifactError, match="a picture takes 576 positions, a board reads at most"):
        eyes(folder)


UNFOLLOWED: list[tuple[dict[str, Any], str]] = [
    ({"do_pan_and_scan": True}, "`do_pan_and_scan` is `True`, which boards do not follow: several"),
    ({"size": {"height": 32, "width": 64}}, "`size` is `{'height': 32, 'width': 64}`, which"),
    ({"resample": 3}, "`resample` is `3`, which boards do not follow"),
    ({"do_resize": False}, "`do_resize` is `False`, which boards do not follow"),
    ({"do_normalize": False}, "`do_normalize` is `False`, which boards do not follow"),
    ({"rescale_factor": 0.5}, "`rescale_factor` is `0.5`, which boards do not follow"),
    ({"image_std": [0.5, 0.0, 0.5]}, "`image_std` is `[0.5, 0.0, 0.5]`, not three numbers"),
    ({"image_mean": [0.5, float("nan"), 0.5]}, "`image_mean` is `[0.5, nan, 0.5]`, not three"),
]


@pytest.mark.parametrize(
    "change", [{"rescale_factor": 1.0}, {"do_rescale": False}, {"do_normalize": False}]
)
def test_numbers_of_pixels_are_those_of_boards_in_every_family(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    folder = tiny_smolvlm(tmp_path)
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(read_json(file) | change))
    with pytest.raises(ArtifactError, match="which boards do not follow"):
        eyes(folder)


@pytest.mark.parametrize(("change", "message"), UNFOLLOWED, ids=lambda value: str(value)[:30])
def test_settings_of_pictures_that_a_board_does_not_follow_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    folder = gemma_eyes.tiny_gemma3(tmp_path, layers=1)
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps(read_json(file) | change))
    with pytest.raises(ArtifactError) as caught:
        eyes(folder)
    assert message in caught.value.message


def test_another_number_of_positions_in_the_processor_is_refused(tmp_path: Path) -> None:
    folder = gemma_eyes.tiny_gemma3(tmp_path, layers=1)
    (folder / "processor_config.json").write_text(json.dumps({"image_seq_length": 256}))
    with pytest.raises(ArtifactError, match="`image_seq_length` is `256`, which boards do not"):
        eyes(folder)
