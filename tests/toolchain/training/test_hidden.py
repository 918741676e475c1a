"""Hidden-state distance, divergence on own answers, entropy: against their definitions."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.fakes.models import SMALL, tiny_llama
from toolchain.chat import IGNORED
from toolchain.models.checkpoints import load_model, load_tokenizer
from toolchain.progress import Silent
from toolchain.training.examples import Example, batch_of
from toolchain.training.hidden import HiddenLoss, OwnAnswerLoss, mean_entropy
from toolchain.training.objectives import AnswerLoss
from toolchain.training.own_answers import own_answers
from toolchain.training.shared import MIN_TOKENS
from toolchain.training.students import from_layers

THREE_LAYERS = SMALL | {"layers": 3}
EXAMPLES = [
    Example(ids=list(range(5, 5 + n)), labels=[IGNORED] * 3 + list(range(8, 5 + n)))
    for n in (9, 6, 12)
]
BATCH = batch_of(EXAMPLES, range(3))
OPENING = [5 + at % 90 for at in range(MIN_TOKENS + 6)]
OPENED = [
    Example(ids=[*OPENING, *each.ids], labels=[IGNORED] * len(OPENING) + list(each.labels))
    for each in EXAMPLES
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model"), **THREE_LAYERS)


@pytest.fixture
def teacher(folder: Path) -> Any:
    return load_model(folder)


def test_a_student_that_is_the_whole_teacher_is_at_no_distance(teacher: Any) -> None:
    student = from_layers(teacher, (0, 1, 2))
    with_states = HiddenLoss(AnswerLoss(student), teacher, layers=(0, 1, 2), weight=5.0)
    torch.testing.assert_close(with_states(BATCH), AnswerLoss(student)(BATCH))


def test_a_kept_layer_is_drawn_to_what_the_next_kept_one_read(teacher: Any) -> None:
    student = from_layers(teacher, (0, 2))
    own: list[torch.Tensor] = []
    right: list[torch.Tensor] = []
    noted = ((student, 0, own), (student, 1, own), (teacher, 1, right), (teacher, 2, right))
    for model, number, states in noted:
        layer = model.model.layers[number]
        layer.register_forward_hook(lambda _, __, state, states=states: states.append(state))
    with_states = HiddenLoss(AnswerLoss(student), teacher, layers=(0, 2), weight=2.0)
    own.clear()
    loss = with_states(BATCH)

    chosen = BATCH.labels[:, 1:] != IGNORED
    distances = [
        ((mine - theirs).square().sum() / theirs.square().mean() / 64).detach()
        for mine, theirs in (
            (one[:, :-1][chosen], other[:, :-1][chosen])
            for one, other in zip(own, right, strict=True)
        )
    ]
    plain = AnswerLoss(student)(BATCH).detach()
    torch.testing.assert_close(loss.detach(), plain + 2 * torch.stack(distances).mean())
    loss.backward()
    assert student.model.layers[0].mlp.up_proj.weight.grad.any()
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_rows_with_a_long_opening_in_common_lose_what_each_of_them_loses_alone(
    teacher: Any,
) -> None:
    student = from_layers(teacher, (0, 2))
    inner = AnswerLoss(student, shares=False)
    with_states = HiddenLoss(inner, teacher, layers=(0, 2), weight=0.0)
    alone = sum(with_states(batch_of(OPENED, [row])) for row in range(3))
    torch.testing.assert_close(with_states(batch_of(OPENED, range(3))), alone)

    with_states = HiddenLoss(inner, teacher, layers=(0, 2), weight=2.0)
    whole = with_states(batch_of(OPENED, range(3)))
    assert float(whole.detach()) > float(alone.detach())


def test_the_divergence_is_that_of_jensen_and_shannon_and_none_of_equal_models(
    teacher: Any,
) -> None:
    student = copy.deepcopy(teacher).requires_grad_(True)
    assert float(OwnAnswerLoss(student, teacher)(BATCH).detach()) == pytest.approx(0, abs=1e-4)
    with torch.no_grad():
        student.lm_head.weight.mul_(2)
    chosen = BATCH.labels[:, 1:] != IGNORED
    with torch.no_grad():
        p, q = (
            model(input_ids=BATCH.ids).logits[:, :-1][chosen].double().softmax(-1)
            for model in (student, teacher)
        )
    middle = (p + q) / 2
    expected = ((p * (p / middle).log()) + (q * (q / middle).log())).sum() / 2
    for elements in (1 << 24, 600):
        loss = OwnAnswerLoss(student, teacher, chunk_elements=elements)(BATCH)
        assert float(loss.detach()) == pytest.approx(float(expected), rel=1e-4)


def test_the_entropy_is_the_mean_over_learned_tokens(teacher: Any) -> None:
    with torch.no_grad():
        parts = [
            teacher(input_ids=torch.tensor([each.ids])).logits[0, 2:-1].double().log_softmax(-1)
            for each in EXAMPLES
        ]
    logs = torch.cat(parts)
    expected = -(logs.exp() * logs).sum(-1).mean()
    assert mean_entropy(teacher, EXAMPLES) == pytest.approx(float(expected), rel=1e-4)


def test_own_answers_continue_the_questions_and_an_interrupted_run_keeps_them(
    teacher: Any, folder: Path, tmp_path: Path
) -> None:
    tokenizer, kept = load_tokenizer(folder), tmp_path / "own.json"
    drawn = own_answers(teacher, tokenizer, EXAMPLES, kept, Silent(), seed=1, count=5)
    assert len(drawn) == 5
    for each in drawn:
        assert list(each.ids[:3]) == [5, 6, 7]
        assert list(each.labels) == [IGNORED] * 3 + list(each.ids[3:])
        assert 1 <= each.targets <= 9
    with torch.no_grad():
        teacher.lm_head.weight.zero_()
    assert own_answers(teacher, tokenizer, EXAMPLES, kept, Silent(), seed=1, count=5) == drawn
