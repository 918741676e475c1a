"""Packed rows give the loss and the gradients of rows that are read one by one."""

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fakes.eyes import reference, tiny_smolvlm
from tests.fakes.models import tiny_llama, tiny_qwen2
from toolchain.chat import IGNORED
from toolchain.models.checkpoints import load_model
from toolchain.training import packed
from toolchain.training.examples import Batch, Example, batch_of
from toolchain.training.objectives import AnswerLoss, Head
from toolchain.training.packed import NAME, filled, is_packing, pack, packs
from toolchain.training.shared import MIN_TOKENS

ROWS = ([5, 6, 7, 8, 9, 10, 11], [12, 13], [14, 15, 16, 17])
PREFIX = [5 + n % 90 for n in range(MIN_TOKENS + 9)]
ENDS = ([101, 102, 103], [101, 107, 108, 109, 110], [120])
APART = batch_of([Example(ids=row, labels=row) for row in ROWS], range(3))
LONGER = batch_of(
    [
        Example(ids=row, labels=row)
        for row in ([5 + (at * n) % 90 for at in range(n)] for n in (19, 8, 14))
    ],
    range(3),
)
"""Rows whose longest and whose sum are both filled up."""
SHARED = batch_of(
    [Example(ids=PREFIX + end, labels=[IGNORED] * len(PREFIX) + end) for end in ENDS], range(3)
)


@pytest.fixture(scope="module", params=[tiny_llama, tiny_qwen2], ids=["llama", "qwen2"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_model(request.param(tmp_path_factory.mktemp("model"), hidden=64, layers=2))


def loss_of(model: Any, batch: Batch) -> tuple[float, list[torch.Tensor]]:
    model.zero_grad()
    loss = AnswerLoss(model)(batch)
    loss.backward()
    learned = [each.grad.clone() for each in model.parameters() if each.grad is not None]
    return float(loss.detach()), learned


def alone(model: Any, batch: Batch) -> tuple[float, list[torch.Tensor]]:
    """Return loss and gradients of rows that are read one after the other, without padding."""
    total, sums = 0.0, []
    for row, length in enumerate(batch.lengths):
        ids, labels = batch.ids[row, :length].tolist(), batch.labels[row, :length].tolist()
        one = batch_of([Example(ids=ids, labels=labels)], [0])
        loss, found = loss_of(model, one)
        total += loss
        sums = [a + b for a, b in zip(sums, found, strict=True)] if sums else found
    return total, sums


@pytest.mark.parametrize(
    "batch", [APART, LONGER, SHARED], ids=["apart", "filled up", "with a beginning"]
)
@pytest.mark.parametrize("short", [0, packed.SHORT], ids=["torch's attention", "scores"])
def test_loss_and_gradients_are_those_of_single_rows(
    model: Any, batch: Batch, short: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "SHORT", short)
    wanted, theirs = alone(model, batch)
    with packs(model) as is_packed:
        assert is_packed
        found, ours = loss_of(model, batch)
    assert found == pytest.approx(wanted, rel=1e-5)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_what_is_shared_stands_once_and_the_row_is_filled_up(model: Any) -> None:
    ids, positions, packing = pack(SHARED.ids, SHARED.lengths)
    shared = len(PREFIX) + 0
    assert packing.beginning == shared
    tokens = shared + sum(map(len, ENDS))
    length = filled(tokens, packed.ROW_SHAPES)
    assert ids.shape == positions.shape == (1, length)
    assert len(packing.own) == length - shared
    assert length > tokens
    assert positions[0, shared : shared + 4].tolist() == [shared, shared + 1, shared + 2, shared]


def test_rows_are_filled_up_to_few_lengths_by_an_eighth_at_most() -> None:
    assert [filled(count) for count in (0, 1, 9, 17, 129, 291)] == [0, 1, 9, 18, 144, 320]
    lengths = range(513, 1025)
    assert len({filled(count) for count in lengths}) == packed.SHAPES
    assert all(count <= filled(count) <= count * 9 / 8 for count in lengths)


def test_a_packed_row_has_fewer_lengths_still() -> None:
    found = {filled(count, packed.ROW_SHAPES) for count in range(513, 1025)}
    assert found == {640, 768, 896, 1024}


@pytest.mark.parametrize(("large", "length"), [(1, 144), (1 << 40, 160)])
def test_rows_of_a_large_model_are_filled_up_less(
    model: Any, large: int, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packed, "LARGE", large)
    rows = [[5 + (at * n) % 90 for at in range(n)] for n in (63, 66)]
    batch = batch_of([Example(ids=row, labels=row) for row in rows], range(2))
    seen: list[tuple[int, ...]] = []
    note = model.model.layers[0].register_forward_pre_hook(
        lambda _, args: seen.append(tuple(args[0].shape))
    )
    with packs(model), torch.no_grad():
        seen.clear()
        states = packed.read_packed(model.base_model, batch.ids, batch.lengths)
    note.remove()
    assert seen == [(1, length, 64)]
    assert states.shape == (2, 66, 64)


def test_the_head_multiplies_few_shapes_however_many_positions_are_learned(model: Any) -> None:
    shapes: list[int] = []
    head = Head(model)
    note = model.lm_head.register_forward_hook(lambda _, args, __: shapes.append(len(args[0])))
    states = torch.randn(256, 64)
    with torch.no_grad():
        for count in range(129, 257):
            logits = head.logits(states[:count])
            assert len(logits) == count
    note.remove()
    assert len(set(shapes)) == packed.SHAPES
    torch.testing.assert_close(logits, model.lm_head(states).float())


def test_a_token_does_not_see_another_conversation(model: Any) -> None:
    other = batch_of(
        [Example(ids=row, labels=row) for row in ([20, 21, 22, 23, 24], [12, 13], [30])], range(3)
    )
    with packs(model), torch.no_grad():
        states = [
            packed.read_packed(model.base_model, batch.ids, batch.lengths)[1, :2]
            for batch in (APART, other)
        ]
    torch.testing.assert_close(states[0], states[1], rtol=1e-5, atol=1e-6)


def test_the_attention_is_the_model_s_own_again_afterwards(model: Any) -> None:
    own = model.config._attn_implementation
    with packs(model):
        assert is_packing(model)
        assert model.config._attn_implementation == NAME
    assert model.config._attn_implementation == own


@pytest.mark.parametrize(
    "settings",
    [
        {"sliding_window": 8, "use_sliding_window": True},
        {"layer_types": ["full_attention", "sliding_attention"]},
        {"attn_logit_softcapping": 30.0},
    ],
    ids=["window", "two kinds", "capped scores"],
)
def test_layers_that_do_more_than_causal_attention_are_not_packed(
    model: Any, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in settings.items():
        monkeypatch.setattr(model.config, name, value, raising=False)
    with packs(model) as is_packed:
        assert not is_packed
        assert not is_packing(model)


def test_a_model_that_takes_no_notice_of_the_packing_is_not_packed(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = packed._attention

    def deaf(*args: Any, packing: Any = None, **settings: Any) -> Any:
        return own(*args, packing=None, **settings)

    monkeypatch.setattr(packed, "_attention", deaf)
    with packs(model) as is_packed:
        assert not is_packed


def test_dropout_of_the_attention_drops_weights(model: Any) -> None:
    states = [torch.randn(2, 2, 6, 8) for _ in range(3)]
    torch.manual_seed(0)
    whole = packed._scored(*states, 0, 0.3, 0.0)
    dropped = packed._scored(*states, 0, 0.3, 0.5)
    assert not torch.allclose(whole, dropped)


def test_rows_without_their_packing_may_share_a_beginning(model: Any) -> None:
    """It is read first, and what follows sees all of it."""
    beginning = [5 + 3 * k % 400 for k in range(MIN_TOKENS + 6)]
    ids = torch.tensor([[*beginning, *(7 + 11 * k * n % 400 for k in range(9))] for n in (1, 2, 3)])
    with torch.no_grad(), packs(model) as is_packed:
        assert is_packed
        found = Head(model).hidden(ids)
    with torch.no_grad():
        plain = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    assert torch.allclose(found, plain, atol=1e-4)


def test_a_model_that_sees_is_not_packed(tmp_path: Path) -> None:
    """Its tower looks in both directions: trained as if it did not, starter-eyes saw half."""
    model = reference(tiny_smolvlm(tmp_path / "model"))
    towers = [model.config, model.config.vision_config, model.config.text_config]
    own = [config._attn_implementation for config in towers]
    with packs(model) as is_packed:
        assert not is_packed
        assert [config._attn_implementation for config in towers] == own
