"""The loop: a resumed run equals one that was never killed, and two processes equal one."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tests.fakes.datasets import Recorder
from tests.fakes.models import tiny_llama
from toolchain.models.checkpoints import load_model
from toolchain.progress import Silent
from toolchain.recipe import TrainSpec
from toolchain.training.examples import Example, batches_from, batches_of_epoch
from toolchain.training.loop import FLOOR, Course, course, train
from toolchain.training.objectives import AnswerLoss

SMALL = {
    "hidden": 64,
    "intermediate": 64,
    "layers": 1,
    "heads": 2,
    "kv_heads": 1,
    "attention_dropout": 0.2,
}
EXAMPLES = [
    Example(
        ids=[(7 * n + k) % 500 for k in range(5 + n % 4)],
        labels=[(7 * n + k) % 500 for k in range(5 + n % 4)],
    )
    for n in range(13)
]
COURSE = Course(
    name="course",
    steps=12,
    batch_size=4,
    learning_rate=1e-2,
    warmup_share=0.2,
    seed=3,
    save_every_s=0,
    mean_steps=5,
)

CHILD = """
import os, signal, sys
from pathlib import Path
from tests.toolchain.training.test_loop import COURSE, EXAMPLES, trained

class Killer:
    def note(self, text): pass
    def step(self, name, done, total, unit="", figures=""):
        if done == 8:
            os.kill(os.getpid(), signal.SIGKILL)

trained(Path(sys.argv[1]), Path(sys.argv[2]), Killer())
"""


def trained(model: Path, resume: Path, report: object) -> torch.nn.Module:
    """Train the model of a folder on EXAMPLES, with dropout, and return it."""
    torch.set_num_threads(1)
    module = load_model(model)
    train(AnswerLoss(module), EXAMPLES, COURSE, resume, report)
    return module


def equal(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model"), **SMALL)


@pytest.mark.slow
def test_a_killed_run_that_goes_on_equals_one_that_was_never_killed(
    model: Path, tmp_path: Path
) -> None:
    whole = trained(model, tmp_path / "whole", Silent())
    killed = subprocess.run(
        [sys.executable, "-c", CHILD, model, tmp_path / "killed"],
        env=os.environ | {"PYTHONPATH": "."},
        timeout=120,
    )
    assert killed.returncode == -signal.SIGKILL
    report = Recorder()
    again = trained(model, tmp_path / "killed", report)
    assert report.notes == ["course: goes on after step 7 of 12"]
    with safe_open(tmp_path / "killed" / "course" / "state.safetensors", "pt") as state:
        assert int(state.metadata()["tokens"]) == sum(
            len(EXAMPLES[row].ids) for rows in batches_from(EXAMPLES, 4, 3, 0, 12) for row in rows
        )
    assert equal(whole, again)


def test_the_mean_of_the_last_steps_is_what_comes_back_where_a_course_asks_for_it(
    model: Path, tmp_path: Path
) -> None:
    def weights(name: str, **changes: int) -> dict[str, torch.Tensor]:
        module = load_model(model)
        train(AnswerLoss(module), EXAMPLES, replace(COURSE, **changes), tmp_path / name, Silent())
        return dict(module.named_parameters())

    last = [weights(str(steps), steps=steps, mean_steps=0) for steps in (1, 2)]
    mean = weights("mean", steps=2, mean_steps=2)
    for name, found in mean.items():
        torch.testing.assert_close(found, (last[0][name] + last[1][name]) / 2)


def test_what_is_kept_for_going_on_is_safetensors_only(model: Path, tmp_path: Path) -> None:
    trained(model, tmp_path, Silent())
    assert [file.name for file in tmp_path.rglob("*") if file.is_file()] == ["state.safetensors"]


def test_the_same_seed_gives_the_same_weights_and_another_gives_others(
    model: Path, tmp_path: Path
) -> None:
    def weights(seed: int) -> torch.nn.Module:
        module = load_model(model)
        once = Course(
            name="c", steps=4, batch_size=4, learning_rate=1e-2, warmup_share=0.2, seed=seed
        )
        train(
            AnswerLoss(module),
            EXAMPLES,
            once,
            tmp_path / f"{seed}-{len(list(tmp_path.iterdir()))}",
            Silent(),
        )
        return module

    first, again, other = weights(0), weights(0), weights(1)
    assert equal(first, again)
    assert not equal(first, other)


def test_training_lowers_the_loss_and_says_what_it_took(model: Path, tmp_path: Path) -> None:
    module, report = load_model(model), Recorder()
    once = Course(
        name="course", steps=60, batch_size=4, learning_rate=3e-3, warmup_share=0.1, seed=0
    )
    figures = train(AnswerLoss(module), EXAMPLES, once, tmp_path, report)
    assert figures["loss"] < 4
    assert figures["steps"] == 60
    assert figures["trained_tokens"] > 60 * 15
    assert figures["tokens_per_s"] > 0
    assert figures["peak_memory_mb"] > 0
    assert report.bars == {"course"}


def test_frozen_parameters_stay_as_they_are(model: Path, tmp_path: Path) -> None:
    module, before = load_model(model), load_model(model)
    module.requires_grad_(False)
    module.model.norm.requires_grad_(True)
    train(AnswerLoss(module), EXAMPLES, COURSE, tmp_path, Silent())
    changed = [
        name
        for (name, a), b in zip(module.named_parameters(), before.parameters(), strict=True)
        if not torch.equal(a, b)
    ]
    assert changed == ["model.norm.weight"]


def test_the_rate_warms_up_and_decays_to_its_floor() -> None:
    once = Course(name="c", steps=100, batch_size=1, learning_rate=1.0, warmup_share=0.1, seed=0)
    rates = [once.rate(step) for step in range(100)]
    assert rates[:10] == pytest.approx([n / 10 for n in range(1, 11)])
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[-1] == pytest.approx(FLOOR, abs=1e-2)


def test_every_epoch_has_every_example_once_in_an_order_of_its_own() -> None:
    orders = [batches_of_epoch(EXAMPLES, 4, 0, epoch) for epoch in range(3)]
    assert all(
        sorted(row for batch in order for row in batch) == list(range(13)) for order in orders
    )
    assert orders[0] != orders[1]
    spec = TrainSpec(epochs=3, batch_size=4)
    assert course("c", spec, EXAMPLES, 0).steps == sum(len(order) for order in orders)


def test_updates_say_how_long_is_trained_instead_of_epochs() -> None:
    spec = TrainSpec(updates=9, batch_size=4)
    assert course("c", spec, EXAMPLES, 0).steps == 9
    assert spec.passes(12) == 3
    assert spec.length == "9 updates"
    assert TrainSpec(epochs=2).passes(12) == 2


def test_epochs_and_updates_are_not_given_together() -> None:
    with pytest.raises(ValueError, match="give either `epochs` or `updates`"):
        TrainSpec(epochs=2, updates=9)


def test_batches_hold_examples_of_similar_length() -> None:
    examples = [Example(ids=[0] * length, labels=[0] * length) for length in [10] * 8 + [100] * 8]
    for batch in batches_of_epoch(examples, 4, 0, 0):
        assert len({len(examples[row].ids) for row in batch}) == 1


def test_going_on_in_the_middle_of_an_epoch_gives_the_rest_of_it() -> None:
    whole = list(batches_from(EXAMPLES, 4, 0, 0, 10))
    assert list(batches_from(EXAMPLES, 4, 0, 6, 10)) == whole[6:]
