"""A beginning that all rows share is read once, and nothing is learned otherwise for it."""

from typing import Any

import pytest
import torch

from tests.fakes.models import tiny_llama
from toolchain.chat import IGNORED
from toolchain.models.checkpoints import load_model
from toolchain.training import objectives
from toolchain.training.examples import Example, batch_of
from toolchain.training.objectives import AnswerLoss
from toolchain.training.shared import MIN_TOKENS, read_prefix, shared_tokens

PREFIX = [5 + n % 90 for n in range(MIN_TOKENS + 9)]
ENDS = ([101, 102, 103], [101, 107, 108, 109, 110], [120])
BATCH = batch_of(
    [Example(ids=PREFIX + end, labels=[IGNORED] * len(PREFIX) + end) for end in ENDS], range(3)
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_model(tiny_llama(tmp_path_factory.mktemp("model"), hidden=64, layers=2))


def gradients(model: Any) -> tuple[float, list[torch.Tensor]]:
    model.zero_grad()
    loss = AnswerLoss(model)(BATCH)
    loss.backward()
    return float(loss.detach()), [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_loss_and_gradients_are_those_of_rows_that_are_read_whole(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    own = objectives.read_prefix

    def counted(decoder: Any, ids: torch.Tensor, rows: int) -> Any:
        read.append(ids.shape[1])
        return own(decoder, ids, rows)

    monkeypatch.setattr(objectives, "read_prefix", counted)
    once, theirs = gradients(model)
    monkeypatch.setattr(objectives, "shared_tokens", lambda rows: 0)
    whole, ours = gradients(model)

    assert read == [len(PREFIX)]
    assert once == pytest.approx(whole, rel=1e-5)
    for one, other in zip(theirs, ours, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "count"),
    [
        ([[*PREFIX, 1], [*PREFIX, 2], [*PREFIX, 1, 2]], len(PREFIX)),
        ([[*PREFIX, 1], [*PREFIX]], len(PREFIX) - 1),
        ([[*PREFIX], [*PREFIX]], len(PREFIX) - 1),
        ([[*PREFIX, 1]], 0),
        ([[*PREFIX[: MIN_TOKENS - 1], each] for each in (1, 2)], 0),
        ([[*PREFIX, 1], [3, *PREFIX]], 0),
    ],
)
def test_the_shared_beginning_leaves_a_token_of_each_row(rows: list[Any], count: int) -> None:
    assert shared_tokens(rows) == count


def test_a_model_with_a_sliding_window_is_read_whole() -> None:
    from transformers import MistralConfig, MistralModel

    config = MistralConfig(
        vocab_size=200,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        sliding_window=16,
    )
    assert read_prefix(MistralModel(config), torch.tensor([PREFIX]), 2) is None


def test_a_model_whose_angles_depend_on_the_length_is_read_whole(model: Any) -> None:
    decoder = model.base_model
    before = decoder.config.rope_parameters
    decoder.config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    try:
        assert read_prefix(decoder, torch.tensor([PREFIX]), 2) is None
    finally:
        decoder.config.rope_parameters = before
    assert read_prefix(decoder, torch.tensor([PREFIX]), 2) is not None
