"""Block influence: measured on real layers, and the layers that are kept for it."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fakes.families import tiny_family
from tests.fakes.models import SMALL, tiny_llama
from toolchain.errors import ConfigError
from toolchain.models.checkpoints import load_model
from toolchain.training.examples import Example
from toolchain.training.influence import choose, evenly, influences, kinds_of
from toolchain.training.students import from_layers

FOUR_LAYERS = SMALL | {"layers": 4}
EXAMPLES = [Example(ids=list(range(5, 5 + n)), labels=list(range(5, 5 + n))) for n in (9, 4, 12)]


def test_a_layer_that_changes_nothing_has_no_influence_and_the_others_their_own(
    tmp_path: Path,
) -> None:
    model = load_model(tiny_llama(tmp_path / "model", **FOUR_LAYERS))
    with torch.no_grad():
        model.model.layers[2].self_attn.o_proj.weight.zero_()
        model.model.layers[2].mlp.down_proj.weight.zero_()
    measured = influences(model, EXAMPLES)
    assert measured[2] == pytest.approx(0, abs=1e-6)
    assert min(measured[0], measured[1], measured[3]) > 1e-3
    assert choose(measured, 3) == (0, 1, 3)

    with torch.no_grad():
        hidden = [
            model(input_ids=torch.tensor([each.ids]), output_hidden_states=True).hidden_states
            for each in EXAMPLES
        ]
    cosines = [torch.cosine_similarity(states[1], states[2], dim=-1) for states in hidden]
    expected = 1 - torch.cat(cosines, 1).mean()
    assert measured[1] == pytest.approx(float(expected), abs=1e-5)


@pytest.mark.parametrize("name", ["qwen2.5", "gemma 3", "phi-3", "smollm3"])
def test_students_by_influence_are_made_of_every_kind_of_family(name: str, tmp_path: Path) -> None:
    model = load_model(tiny_family(name, tmp_path / "model"), dtype="float32")
    config = model.config.get_text_config()
    measured = influences(model, EXAMPLES)
    assert len(measured) == config.num_hidden_layers
    kept = choose(measured, config.num_hidden_layers, kinds_of(config))
    student = from_layers(model, kept)
    ids = torch.tensor([EXAMPLES[0].ids])
    with torch.no_grad():
        torch.testing.assert_close(student(input_ids=ids).logits, model(input_ids=ids).logits)


@pytest.mark.parametrize(
    ("influence", "count", "kinds", "kept"),
    [
        ([0.9, 0.1, 0.3, 0.2, 0.5], 3, (), (0, 2, 4)),
        ([0.1, 0.9, 0.8, 0.7, 0.0], 2, (), (0, 4)),
        ([0.1, 0.1, 0.1], 3, (), (0, 1, 2)),
        ([0.5, 0.1, 0.4, 0.3, 0.2, 0.2], 4, tuple("ababab"), (0, 3, 4, 5)),
        ([0.5, 0.4, 0.4, 0.1, 0.1, 0.2], 4, tuple("ababab"), (0, 1, 2, 5)),
    ],
)
def test_the_largest_influences_are_kept_with_first_and_last_and_their_kinds_in_turn(
    influence: list[float], count: int, kinds: tuple[str, ...], kept: tuple[int, ...]
) -> None:
    assert choose(influence, count, kinds) == kept


@pytest.mark.parametrize(
    ("count", "kinds", "message"),
    [
        (6, (), "distill: layers: `6` layers cannot be kept"),
        (1, (), "distill: layers: `1` layers cannot be kept"),
        (3, tuple("abab"), "distill: layers: no 3 layers alternate in kind as the teacher's do"),
    ],
)
def test_a_number_of_layers_that_cannot_be_kept_is_refused(
    count: int, kinds: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError) as refused:
        choose([0.5, 0.4, 0.3, 0.2], count, kinds)
    assert refused.value.message == message


def test_even_distances_have_both_ends() -> None:
    counts: list[tuple[Any, ...]] = [(30, 10), (5, 2), (3, 3), (4, 1), (0, 0)]
    assert [evenly(*each) for each in counts] == [
        [0, 3, 6, 10, 13, 16, 19, 23, 26, 29],
        [0, 4],
        [0, 1, 2],
        [0],
        [],
    ]
