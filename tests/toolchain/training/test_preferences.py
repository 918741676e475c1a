"""Losses of preferences: as TRL computes them, and nothing that batches or processes change."""

import json
from pathlib import Path

import pytest
import torch

from scripts.trl_losses import LABELS, PROMPTS, REJECTED, WANTED, model
from tests.fakes.models import tiny_llama
from tests.fakes.preferences import preferences, thumbs
from toolchain.chat import IGNORED
from toolchain.models.checkpoints import load_tokenizer
from toolchain.progress import Silent
from toolchain.recipe import AlignSpec
from toolchain.training.examples import Batch, Example, batch_of
from toolchain.training.objectives import Head
from toolchain.training.preferences import (
    CachedScores,
    Judgement,
    PreferenceLoss,
    answer_examples,
    balance,
    judgements,
    log_probabilities,
    write_scores,
)

TRL = json.loads(Path(__file__).with_name("trl_losses.json").read_text())
SPEC = AlignSpec(files=("f",), loss="dpo", beta=TRL["beta"], answer_weight=0.0)


def judged(prompt: list[int], first: list[int], second: list[int], good: bool) -> Judgement:
    sequences = tuple(
        Example(ids=prompt + answer, labels=[IGNORED] * len(prompt) + answer)
        for answer in (first, second)
    )
    return Judgement(
        ids=[*sequences[0].ids, *sequences[1].ids],
        labels=[*sequences[0].labels, *sequences[1].labels],
        sequences=(sequences[0], sequences[1]),
        good=good,
    )


def of_pairs() -> list[Judgement]:
    return [judged(*each, True) for each in zip(PROMPTS, WANTED, REJECTED, strict=True)]


def of_thumbs() -> list[Judgement]:
    answers = [
        wanted if good else other
        for wanted, other, good in zip(WANTED, REJECTED, LABELS, strict=True)
    ]
    return [
        judged(prompt, answers[at], answers[at - 1], LABELS[at])
        for at, prompt in enumerate(PROMPTS)
    ]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, torch.nn.Module]:
    folder = tmp_path_factory.mktemp("models")
    return model(folder / "reference", is_moved=False), model(folder / "policy", is_moved=True)


def loss(
    models: tuple[torch.nn.Module, torch.nn.Module],
    rows: list[Judgement],
    spec: AlignSpec,
    folder: Path,
    weights: tuple[float, float] = (1.0, 1.0),
) -> float:
    reference, policy = models
    write_scores(reference, rows, folder, Silent())
    objective = PreferenceLoss(policy, rows, CachedScores(folder), spec)
    objective._weights = weights
    with torch.no_grad():
        return float(objective(batch_of(rows, range(len(rows))))) / len(rows)


@pytest.mark.parametrize(("name", "by_token"), [("dpo", False), ("dpo_by_token", True)])
def test_dpo_is_what_trl_computes(
    models: tuple[torch.nn.Module, torch.nn.Module], name: str, by_token: bool, tmp_path: Path
) -> None:
    spec = SPEC.model_copy(update={"by_token": by_token})
    assert loss(models, of_pairs(), spec, tmp_path) == pytest.approx(TRL[name], abs=1e-5)


@pytest.mark.parametrize(("name", "weights"), [("kto", (1.0, 1.0)), ("kto_weighted", (0.5, 1.5))])
def test_kto_is_what_trl_computes(
    models: tuple[torch.nn.Module, torch.nn.Module],
    name: str,
    weights: tuple[float, float],
    tmp_path: Path,
) -> None:
    spec = SPEC.model_copy(update={"loss": "kto"})
    found = loss(models, of_thumbs(), spec, tmp_path, weights)
    assert found == pytest.approx(TRL[name], abs=1e-5)


def test_before_the_first_step_a_pair_costs_log_two(
    models: tuple[torch.nn.Module, torch.nn.Module], tmp_path: Path
) -> None:
    found = loss((models[1], models[1]), of_pairs(), SPEC, tmp_path)
    assert found == pytest.approx(float(torch.tensor(2.0).log()), abs=1e-6)


def test_log_probabilities_are_those_of_the_whole_logits_whatever_the_chunks(
    models: tuple[torch.nn.Module, torch.nn.Module],
) -> None:
    policy = models[1]
    sequences = [each for row in of_pairs() for each in row.sequences]
    batch = batch_of(sequences, range(len(sequences)))
    with torch.no_grad():
        logits = policy(input_ids=batch.ids).logits[:, :-1].log_softmax(-1)
        labels = batch.labels[:, 1:]
        each = logits.gather(-1, labels.clamp(min=0)[..., None])[..., 0]
        expected = (each * (labels != IGNORED)).sum(1)
        for chunk in (1 << 24, 512 * 3):
            found = log_probabilities(Head(policy, chunk_elements=chunk), batch)
            torch.testing.assert_close(found, expected)


def test_a_process_without_a_preference_of_its_own_learns_nothing(
    models: tuple[torch.nn.Module, torch.nn.Module], tmp_path: Path
) -> None:
    for name, rows in (("dpo", of_pairs()), ("kto", of_thumbs())):
        write_scores(models[0], rows, tmp_path, Silent())
        spec = SPEC.model_copy(update={"loss": name})
        objective = PreferenceLoss(models[1], rows, CachedScores(tmp_path), spec)
        batch = batch_of(rows, [0])
        empty = Batch(ids=batch.ids, labels=torch.full_like(batch.labels, IGNORED), rows=(0,))
        assert objective(batch).item() > 0
        assert objective(empty).item() == 0


def test_only_the_last_answer_is_judged_and_only_good_ones_are_tuned_on(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_llama(tmp_path / "model"))
    talk = preferences(
        [
            type(each)(
                messages=(
                    {"role": "user", "content": "hello"},
                    {"role": "assistant", "content": "An earlier answer."},
                    *each.messages,
                ),
                answer=each.answer,
                good=each.good,
            )
            for each in thumbs(2)
        ]
    )
    opening = ({"role": "system", "content": "Be short."},)
    found, too_long = judgements(tokenizer, talk, opening, 200)
    assert too_long == 0
    spoken = [
        tokenizer.decode([label for label in each.sequences[0].labels if label != IGNORED])
        for each in found
    ]
    assert [text.removesuffix("<|im_end|>") for text in spoken] == [
        each.answer for each in thumbs(2)
    ]
    assert "Be short." in tokenizer.decode(found[0].sequences[0].ids)
    assert answer_examples(found) == [found[0].sequences[0]]
    assert judgements(tokenizer, talk, opening, 10) == ([], 2)


def test_a_rated_answer_is_compared_with_one_to_another_question(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_llama(tmp_path / "model"))
    rows = preferences(thumbs(6))
    found, _ = judgements(tokenizer, rows, (), 200)
    for each, thumb in zip(found, rows.thumbs, strict=True):
        asked = thumb.messages[0]["content"]
        assert all(asked in tokenizer.decode(part.ids) for part in each.sequences)
    alone = judgements(tokenizer, preferences(thumbs(1)), (), 200)[0][0]
    assert alone.sequences[0] == alone.sequences[1]


def test_good_and_bad_answers_count_alike_however_many_there_are() -> None:
    rows = [judged([1], [2, 3], [4, 5], good) for good in (True, False, False, False)]
    good, bad = balance(rows)
    assert 1 * good == pytest.approx(3 * bad)
    assert 1 * good + 3 * bad == pytest.approx(4)
    assert balance(rows[1:]) == (1.0, 1.0)
