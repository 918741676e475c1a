"""Losses: chunked equals whole, the tail bucket is unbiased, T² keeps the gradient's scale."""

import copy
import math
from typing import Any

import pytest
import torch
from torch.nn import functional

from tests.fakes.models import SMALL, tiny_llama
from toolchain.chat import IGNORED
from toolchain.errors import ArtifactError
from toolchain.models.checkpoints import load_model
from toolchain.training import objectives
from toolchain.training.examples import Batch, Example, batch_of
from toolchain.training.objectives import (
    AnswerLoss,
    Head,
    TeacherLoss,
    TwinLoss,
    cross_entropy,
    divergence,
    learned,
    top_k,
)

ONE_LAYER = SMALL | {"layers": 1}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_model(tiny_llama(tmp_path_factory.mktemp("model"), **ONE_LAYER))


@pytest.fixture
def batch() -> Batch:
    draw = torch.Generator().manual_seed(1)
    examples = [
        Example(ids=ids, labels=[IGNORED] * 3 + ids[3:])
        for n in (12, 7, 9)
        for ids in [random_ids(n, draw)]
    ]
    return batch_of(examples, range(3))


def random_ids(count: int, draw: torch.Generator) -> list[int]:
    return torch.randint(5, 300, (count,), generator=draw).tolist()


class Taught:
    """A teacher whose top-k distributions are at hand."""

    def __init__(
        self, model: Any, batch: Batch, temperature: float, k: int, *, tokens: int = 512
    ) -> None:
        with torch.no_grad():
            logits = model(input_ids=batch.ids).logits[:, :-1][batch.labels[:, 1:] != IGNORED][
                :, :tokens
            ]
        self._parts = top_k(logits / temperature, k)

    def of(self, rows: tuple[int, ...]) -> tuple[torch.Tensor, ...]:
        return self._parts


def gradients(objective: torch.nn.Module, batch: Batch) -> tuple[float, torch.Tensor]:
    objective.zero_grad()
    loss = objective(batch)
    loss.backward()
    return float(loss.detach()), torch.cat(
        [p.grad.flatten() for p in objective.parameters() if p.grad is not None]
    )


def test_cross_entropy_and_its_gradient_are_those_of_torch_also_where_a_model_is_sure() -> None:
    torch.manual_seed(0)
    logits = 3 * torch.randn(5, 40)
    logits[0, 7] += 200  # sure, and right
    logits[1, 7] += 200  # sure, and wrong
    targets = torch.tensor([7, 9, 0, 39, 39])
    found = []
    for loss in (cross_entropy, lambda *two: functional.cross_entropy(*two, reduction="sum")):
        own = logits.clone().requires_grad_()
        value = loss(own, targets)
        found.append((value.detach(), *torch.autograd.grad(0.5 * value, own)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_cross_entropy_of_16_bits_is_summed_in_float32_however_many_rows_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    logits = (3 * torch.randn(7, 40)).bfloat16()
    targets = torch.randint(40, (7,))
    exact = logits.float().requires_grad_()
    wanted = functional.cross_entropy(exact, targets, reduction="sum")
    (slope,) = torch.autograd.grad(wanted, exact)
    for elements in (1, 3 * 40, 1 << 20):
        monkeypatch.setattr(objectives, "BLOCK_ELEMENTS", elements)
        own = logits.clone().requires_grad_()
        found = cross_entropy(own, targets)
        torch.testing.assert_close(found, wanted)
        (ours,) = torch.autograd.grad(found, own)
        assert torch.equal(ours, slope.bfloat16())


def test_cross_entropy_keeps_one_tensor_of_the_logits_size() -> None:
    kept: list[int] = []

    def note(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    logits = torch.randn(6, 50, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        cross_entropy(logits * 1, torch.zeros(6, dtype=torch.long))
    assert kept == [6 * 50]


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_spent_logits_become_their_gradient_in_the_same_memory(kind: torch.dtype) -> None:
    torch.manual_seed(0)
    states, head = torch.randn(6, 8, dtype=kind), torch.randn(50, 8, dtype=kind)
    targets = torch.randint(50, (6,))
    found = []
    for spent in (False, True):
        own = states.clone().requires_grad_()
        logits = functional.linear(own, head)
        before = logits.detach().clone()
        loss = cross_entropy(logits, targets, spent=spent)
        assert torch.equal(logits.detach(), before) is not spent
        loss.backward()
        found.append((loss.detach(), own.grad))
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("cap", [None, 5.0])
def test_a_head_whose_logits_are_spent_has_the_gradient_of_torch(
    model: Any, batch: Batch, cap: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model.config, "final_logit_softcapping", cap, raising=False)
    monkeypatch.setattr(Head, "_check", lambda head: None)
    head, found = Head(model, chunk_elements=model.config.vocab_size), []
    with torch.no_grad():
        states, targets = learned(head.hidden(batch.ids), batch.labels)
    for frozen in (True, False):
        monkeypatch.setattr(Head, "_is_frozen", lambda head, frozen=frozen: frozen)
        own = states.clone().requires_grad_()
        loss = head.entropy(own, targets)
        found.append((loss.detach(), *torch.autograd.grad(loss, own)))
    assert 1 < len(head.chunks(len(states), objectives.ENTROPY)) < len(head.chunks(len(states)))
    own = states.clone().requires_grad_()
    loss = functional.cross_entropy(head.logits(own), targets, reduction="sum")
    wanted = (loss.detach(), *torch.autograd.grad(loss, own))
    for one in found:
        torch.testing.assert_close(one, wanted)


def test_a_gradient_that_was_scaled_is_not_scaled_again() -> None:
    logits = torch.randn(6, 50, requires_grad=True)
    loss = cross_entropy(logits, torch.zeros(6, dtype=torch.long))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_the_answer_loss_is_that_of_transformers(model: Any, batch: Batch) -> None:
    with torch.no_grad():
        theirs = model(input_ids=batch.ids, labels=batch.labels).loss
        ours = AnswerLoss(model)(batch) / (batch.labels[:, 1:] != IGNORED).sum()
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("taught", [False, True])
def test_in_chunks_loss_and_gradient_are_those_of_the_whole(
    model: Any, batch: Batch, taught: bool
) -> None:
    def objective(chunk_elements: int) -> torch.nn.Module:
        if not taught:
            return AnswerLoss(model, chunk_elements=chunk_elements)
        teacher = Taught(
            model, Batch(ids=batch.ids.flip(1), labels=batch.labels, rows=batch.rows), 2.0, 8
        )
        settings = {"temperature": 2.0, "ce_weight": 0.3, "tokens": 512}
        return TeacherLoss(model, teacher, **settings, chunk_elements=chunk_elements)

    vocabulary = model.config.vocab_size
    assert len(Head(model, chunk_elements=4 * vocabulary).chunks(19)) == 5
    whole, whole_gradient = gradients(objective(1 << 24), batch)
    chunked, chunked_gradient = gradients(objective(4 * vocabulary), batch)
    assert chunked == pytest.approx(whole, rel=1e-6)
    torch.testing.assert_close(chunked_gradient, whole_gradient)


def test_no_more_logits_stand_in_memory_than_a_chunk_holds(model: Any, batch: Batch) -> None:
    seen: list[int] = []
    head = Head(model, chunk_elements=5 * model.config.vocab_size)
    head.summed(
        torch.randn(19, 64, requires_grad=True),
        lambda logits, piece: (seen.append(len(logits)), logits.sum())[1],
    ).backward()
    assert max(seen) == 5


def test_without_a_learned_token_there_is_still_a_gradient_of_zero(
    model: Any, batch: Batch
) -> None:
    loss, gradient = gradients(
        AnswerLoss(model),
        Batch(ids=batch.ids, labels=torch.full_like(batch.labels, IGNORED), rows=()),
    )
    assert loss == 0
    assert not gradient.any()


def test_padding_changes_no_loss(model: Any, batch: Batch) -> None:
    rows = [
        Batch(ids=batch.ids[i : i + 1, :n], labels=batch.labels[i : i + 1, :n], rows=(i,))
        for i, n in enumerate((12, 7, 9))
    ]
    objective = AnswerLoss(model)
    with torch.no_grad():
        assert float(objective(batch)) == pytest.approx(
            sum(float(objective(row)) for row in rows), rel=1e-5
        )


def test_with_all_tokens_kept_the_divergence_is_the_full_one() -> None:
    teacher, student = torch.randn(2, 6, 50).double()
    full = functional.kl_div(
        student.log_softmax(-1), teacher.log_softmax(-1), log_target=True, reduction="none"
    ).sum(-1)
    torch.testing.assert_close(divergence(student, *top_k(teacher, 50)), full)


def test_the_divergence_of_a_model_from_itself_is_zero_with_no_pull_on_any_token() -> None:
    teacher = torch.randn(6, 50).double()
    student = teacher.clone().requires_grad_()
    loss = divergence(student, *top_k(teacher, 5)).sum()
    loss.backward()
    assert float(loss.detach()) == pytest.approx(0, abs=1e-12)
    assert student.grad is not None
    assert float(student.grad.abs().max()) < 1e-12


@pytest.mark.parametrize("k", [1, 5, 49, 50])
def test_the_gradient_of_the_divergence_is_that_of_its_formula(k: int) -> None:
    torch.manual_seed(k)
    teacher, student = torch.randn(6, 50).double() * 3, torch.randn(6, 50).double()
    ids, log_probs, tail = top_k(teacher, k)

    def formula(logits: torch.Tensor) -> torch.Tensor:
        own = logits.log_softmax(-1)
        kl = (log_probs.exp() * (log_probs - own.gather(-1, ids))).sum(-1)
        if k == 50:
            return kl
        rest = own.scatter(-1, ids, -math.inf).logsumexp(-1)
        return kl + tail.exp() * (tail - rest)

    weights = torch.rand(6).double()
    found = []
    for function in (formula, lambda logits: divergence(logits, ids, log_probs, tail)):
        logits = student.clone().requires_grad_()
        values = function(logits)
        (values * weights).sum().backward()
        found.append((values.detach(), logits.grad))
    torch.testing.assert_close(found[1][0], found[0][0])
    torch.testing.assert_close(found[1][1], found[0][1])


def test_a_student_that_is_sure_has_a_finite_divergence() -> None:
    student = torch.zeros(1, 50)
    student[0, 3] = 200.0
    student.requires_grad_()
    loss = divergence(student, *top_k(torch.randn(1, 50), 5))
    loss.sum().backward()
    assert student.grad is not None
    assert torch.isfinite(loss).all()
    assert torch.isfinite(student.grad).all()


def test_the_tail_bucket_is_a_lower_bound_that_grows_with_k() -> None:
    teacher, student = torch.randn(2, 200, 50).double() * 2
    kept = [float(divergence(student, *top_k(teacher, k)).mean()) for k in (1, 5, 20, 49, 50)]
    assert kept == sorted(kept)
    assert kept[-2] == pytest.approx(kept[-1])


def test_top_k_and_tail_are_all_of_the_probability() -> None:
    _, log_probs, tail = top_k(torch.randn(7, 40).double(), 6)
    torch.testing.assert_close(log_probs.exp().sum(-1) + tail.exp(), torch.ones(7).double())


def test_the_loss_is_scaled_by_the_square_of_the_temperature(model: Any, batch: Batch) -> None:
    other = Batch(ids=batch.ids.flip(1), labels=batch.labels, rows=batch.rows)
    vocabulary = model.config.vocab_size
    losses = {}
    for temperature in (1.0, 4.0):
        teacher = Taught(model, other, temperature, vocabulary)
        with torch.no_grad():
            loss = TeacherLoss(
                model, teacher, temperature=temperature, ce_weight=0.0, tokens=vocabulary
            )(batch)
            student = (
                model(input_ids=batch.ids).logits[:, :-1][batch.labels[:, 1:] != IGNORED]
                / temperature
            )
            ids, log_probs, _ = teacher.of(())
        dense = torch.zeros_like(student).scatter(-1, ids, log_probs)
        full = functional.kl_div(student.log_softmax(-1), dense, log_target=True, reduction="sum")
        losses[temperature] = float(loss)
        assert losses[temperature] == pytest.approx(float(full) * temperature**2, rel=1e-4)
    assert 0.2 < losses[4.0] / losses[1.0] < 5


def test_cross_entropy_has_its_share(model: Any, batch: Batch) -> None:
    teacher = Taught(model, batch, 1.0, 8)
    with torch.no_grad():
        both = TeacherLoss(
            model, teacher, temperature=1.0, ce_weight=0.25, tokens=model.config.vocab_size
        )(batch)
        alone = AnswerLoss(model)(batch)
    assert float(both) == pytest.approx(0.25 * float(alone), rel=1e-4)


def test_padded_rows_of_the_vocabulary_are_never_learned(model: Any, batch: Batch) -> None:
    tokens = int(batch.ids.max()) + 1
    teacher = Taught(model, batch, 1.0, 8, tokens=tokens)
    objective = TeacherLoss(model, teacher, temperature=1.0, ce_weight=0.5, tokens=tokens)
    objective.zero_grad()
    objective(batch).backward()
    gradient = model.get_output_embeddings().weight.grad
    assert tokens < model.config.vocab_size
    assert gradient[:tokens].any()
    assert not gradient[tokens:].any()


def test_a_family_with_scaled_and_capped_logits_is_followed(model: Any, batch: Batch) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    shape = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "head_dim": 16,
    }
    gemma = Gemma2ForCausalLM(
        Gemma2Config(
            **shape, num_attention_heads=2, num_key_value_heads=1, final_logit_softcapping=0.5
        )
    ).eval()
    ids = torch.arange(9)[None]
    head = Head(gemma)
    with torch.no_grad():
        torch.testing.assert_close(head.logits(head.hidden(ids)), gemma(input_ids=ids).logits)


def test_a_head_that_cannot_be_followed_is_refused(model: Any) -> None:
    import copy

    odd = copy.deepcopy(model)
    odd.register_forward_hook(lambda module, given, made: type(made)(logits=made.logits * 2))
    with pytest.raises(
        ArtifactError,
        match=r"^model type `llama`: its head is not a plain one, "
        r"so it cannot be trained in chunks$",
    ):
        Head(odd)


def test_a_twin_is_taught_by_the_whole_vocabulary_and_by_hidden_states(
    model: Any, batch: Batch
) -> None:
    model, twin = copy.deepcopy(model), copy.deepcopy(model)
    with torch.no_grad():
        twin.model.norm.weight.add_(0.3)
        wanted, given = (
            net(input_ids=batch.ids).logits[:, :-1][batch.labels[:, 1:] != IGNORED].log_softmax(-1)
            for net in (model, twin)
        )
        theirs, ours = (
            learned(Head(net).hidden(batch.ids), batch.labels)[0] for net in (model, twin)
        )
        kl = (wanted.exp() * (wanted - given)).sum()
        distance = (
            (ours - theirs).square().sum(-1) / theirs.square().mean() / theirs.shape[-1]
        ).sum()
        torch.testing.assert_close(TwinLoss(twin, model, hidden_weight=0.0)(batch), kl)
        torch.testing.assert_close(
            TwinLoss(twin, model, hidden_weight=2.0)(batch), kl + 2 * distance
        )
        torch.testing.assert_close(
            TwinLoss(twin, model, hidden_weight=0.0, chunk_elements=1024)(batch), kl
        )


def test_a_twin_that_is_its_teacher_has_nothing_to_learn_and_the_teacher_never_learns(
    model: Any, batch: Batch
) -> None:
    objective = TwinLoss(copy.deepcopy(model), copy.deepcopy(model), hidden_weight=0.5)
    objective.zero_grad()
    objective(batch).backward()
    assert float(objective(batch).detach()) == pytest.approx(0, abs=1e-4)
    assert all(parameter.grad is None for parameter in objective.teacher.parameters())
    assert objective.train().teacher.training is False
