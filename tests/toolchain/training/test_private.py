"""DP-SGD: each unit's own gradient, clipped by itself; noise that nobody can take out."""

import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from tests.fakes.datasets import Recorder
from tests.fakes.models import tiny_llama
from toolchain.chat import IGNORED
from toolchain.errors import ArtifactError, ConfigError
from toolchain.models.checkpoints import load_model
from toolchain.privacy.protection import Protection
from toolchain.privacy.randomness import KEY_BYTES, KEY_FILE, Randomness
from toolchain.progress import Silent
from toolchain.recipe import LoraSpec
from toolchain.training.examples import Example, batch_of
from toolchain.training.loop import Course
from toolchain.training.lora import with_lora
from toolchain.training.private import (
    Private,
    RowGradients,
    RowLoss,
    Units,
    clipped_sum,
    train_privately,
    unit_gradients,
    with_noise,
)

SMALL = {
    "hidden": 64,
    "intermediate": 64,
    "layers": 2,
    "heads": 2,
    "kv_heads": 1,
    "attention_dropout": 0.2,
}
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def row(number: int, length: int) -> Example:
    """Return a row of which all but the first two tokens are learned."""
    ids = [(7 * number + 3 * place) % 500 for place in range(length)]
    return Example(ids=ids, labels=[IGNORED, IGNORED, *ids[2:]])


EXAMPLES = [row(number, 6 + number % 4) for number in range(12)]
ENTRIES = [0, 0, 0, 1, 2, 2, 3, 4, 5, 6, 7, 7]
COURSE = Course(
    name="tune",
    steps=8,
    batch_size=4,
    learning_rate=1e-2,
    warmup_share=0.2,
    seed=3,
    save_every_s=0,
)
PROTECTION = Protection(
    epsilon=1.0,
    delta=1e-3,
    unit="entry",
    units=8,
    clip=0.5,
    noise_multiplier=1.0,
    expected_batch=3,
    steps=8,
)
KEY = bytes(range(KEY_BYTES))
CHILD = """
import os, signal, sys
from pathlib import Path
from tests.toolchain.training.test_private import trained

class Killer:
    def note(self, text): pass
    def step(self, name, done, total, unit="", figures=""):
        if done == 5:
            os.kill(os.getpid(), signal.SIGKILL)

trained(Path(sys.argv[1]), Path(sys.argv[2]), Killer())
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model"), **SMALL)


def adapted(folder: Path, *modules: str) -> nn.Module:
    """Return the tiny model with an adapter that already says something."""
    torch.set_num_threads(1)
    spec = LoraSpec(r=4, alpha=8, dropout=0.0, target_modules=modules or ALL)
    model = with_lora(load_model(folder), spec, 0, stage="tune")
    torch.manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model.get_base_model()


def trained(folder: Path, resume: Path, report: object, **changes: float) -> nn.Module:
    model = adapted(folder)
    private = Private(
        units=Units(EXAMPLES, ENTRIES), protection=replace(PROTECTION, **changes), course=COURSE
    )
    train_privately(model, private, resume, report)
    return model


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def difference(examples: list[Example], most_rows: int, folder: Path) -> float:
    """Return how far any unit's gradient in a batch is from the same alone."""
    objective, units = RowLoss(adapted(folder)).eval(), Units(examples, ENTRIES)
    part = list(range(len(units)))
    found, _ = unit_gradients(objective, RowGradients(objective), units, part, most_rows)
    assert len(found) == 2 * 2 * len(ALL)
    worst = 0.0
    for unit in part:
        alone = one_at_a_time(objective, examples, units, unit)
        for name, gradient in alone.items():
            worst = max(worst, float((found[name][unit] - gradient).abs().max()))
    return worst


def one_at_a_time(
    objective: RowLoss, examples: list[Example], units: Units, unit: int
) -> dict[str, torch.Tensor]:
    """Return the gradient of one unit as autograd finds it, a row at a time."""
    total: dict[str, torch.Tensor] = {}
    for row in units.rows[unit]:
        objective.zero_grad()
        weight = torch.tensor([units.weight(unit)])
        objective(batch_of(examples, [row]), weight).backward()
        for name, module in objective.named_modules():
            if isinstance(module, nn.Linear) and module.weight.requires_grad:
                assert module.weight.grad is not None
                total[name] = total.get(name, 0) + module.weight.grad.clone()
    return total


@pytest.mark.parametrize("most_rows", [1, 4, 12])
def test_each_units_gradient_is_bit_for_bit_what_it_is_alone(most_rows: int, folder: Path) -> None:
    assert difference([row(n, 16) for n in range(12)], most_rows, folder) == 0.0


def test_padding_changes_a_gradient_in_its_last_bit_alone(folder: Path) -> None:
    # The same sums, over more zeros and so in another order.
    assert difference(EXAMPLES, 1, folder) == 0.0
    assert difference(EXAMPLES, 12, folder) <= 4 * torch.finfo(torch.float32).eps


def test_the_loss_of_a_unit_is_the_mean_of_its_own_tokens(folder: Path) -> None:
    objective, units = RowLoss(adapted(folder)).eval(), Units(EXAMPLES, ENTRIES)
    _, loss = unit_gradients(objective, RowGradients(objective), units, [0, 3], 12)
    model = objective.model
    means = []
    for unit in (0, 3):
        nats = []
        for place in units.rows[unit]:
            ids = torch.tensor([EXAMPLES[place].ids])
            known = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
            nats += [-float(known.detach()[at - 1, ids[0, at]]) for at in range(2, ids.shape[1])]
        means.append(sum(nats) / len(nats))
    assert loss == pytest.approx(sum(means), rel=1e-4)


def gradients(*norms: float) -> dict[str, torch.Tensor]:
    """Return gradients of units over two layers, with these norms."""
    first = torch.stack([torch.full((2, 2), norm / math.sqrt(8)) for norm in norms])
    return {"a": first, "b": first.clone()}


def norm_of(sums: dict[str, torch.Tensor]) -> float:
    return math.sqrt(sum(float(each.square().sum()) for each in sums.values()))


def test_each_unit_is_clipped_by_itself_over_all_layers() -> None:
    assert norm_of(clipped_sum(gradients(1000.0), 0.5)) == pytest.approx(0.5)
    assert norm_of(clipped_sum(gradients(0.1), 0.5)) == pytest.approx(0.1)
    # Clipped together they would keep 0.5; each by itself keeps its own.
    assert norm_of(clipped_sum(gradients(1000.0, 0.1, 3.0), 0.5)) == pytest.approx(1.1)
    assert norm_of(clipped_sum(gradients(0.0), 0.5)) == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_unit_without_a_finite_gradient_is_not_to_be_seen(bad: float) -> None:
    broken = gradients(0.1, 0.2)
    broken["a"][1, 0, 0] = bad
    assert norm_of(clipped_sum(broken, 0.5)) == pytest.approx(0.1)


def test_noise_has_the_deviation_that_it_is_asked_for() -> None:
    randomness = Randomness(KEY)
    sums = {"a": torch.ones(300, 200), "b": torch.zeros(100, 100)}
    noisy = with_noise(sums, randomness.normals(0, 70_000), 3.0)
    assert float((noisy["a"] - 1).std()) == pytest.approx(3.0, rel=0.02)
    assert float(noisy["b"].std()) == pytest.approx(3.0, rel=0.03)
    assert float(noisy["b"].mean()) == pytest.approx(0.0, abs=0.1)


def keep_key(resume: Path, key: bytes) -> bytes:
    """Put a key where an interrupted training would have left it."""
    (resume / "tune").mkdir(parents=True)
    (resume / "tune" / KEY_FILE).write_bytes(key)
    return key


@contextmanager
def steps_seen() -> Iterator[list[dict[str, torch.Tensor]]]:
    """Yield the gradients that optimizers are given, step by step."""
    seen: list[dict[str, torch.Tensor]] = []

    def hook(optimizer: torch.optim.Optimizer, args: object, kwargs: object) -> None:
        learned = [p for group in optimizer.param_groups for p in group["params"]]
        seen.append({str(at): p.grad.clone() for at, p in enumerate(learned)})

    handle = register_optimizer_step_pre_hook(hook)
    yield seen
    handle.remove()


def test_a_step_is_divided_by_the_expected_size_whatever_the_sample(
    folder: Path, tmp_path: Path
) -> None:
    key = keep_key(tmp_path, KEY)
    sizes = [len(Randomness(key).sample(step, 8, 3 / 8)) for step in range(8)]
    assert len(set(sizes)) > 2 and 1 in sizes
    with steps_seen() as seen:
        trained(folder, tmp_path, Silent(), noise_multiplier=1e-9, clip=1e-3)
    # Every unit has a gradient far above the clip, so each brings a vector of that norm.
    for step, size in zip(seen, sizes, strict=True):
        assert norm_of(step) <= size * 1e-3 / 3 * 1.001
        if size == 1:
            assert norm_of(step) == pytest.approx(1e-3 / 3, rel=1e-3)


def test_one_unit_more_moves_the_sum_by_no_more_than_the_clip(folder: Path) -> None:
    objective, units = RowLoss(adapted(folder)).eval(), Units(EXAMPLES, ENTRIES)
    layers = RowGradients(objective)

    def summed(part: list[int]) -> dict[str, torch.Tensor]:
        return clipped_sum(unit_gradients(objective, layers, units, part, 12)[0], 0.01)

    everyone, others = summed(list(range(8))), summed([0, 1, 3, 4, 5, 6, 7])
    moved = {name: everyone[name] - others[name] for name in everyone}
    assert norm_of(moved) <= 0.01 * 1.001
    assert norm_of(moved) > 0.009


def test_a_step_that_draws_nobody_is_noise_alone(folder: Path, tmp_path: Path) -> None:
    with steps_seen() as seen:
        trained(folder, tmp_path, Silent(), units=10**12, expected_batch=3)
    assert len(seen) == 8
    flat = torch.cat([grad.flatten() for step in seen for grad in step.values()])
    assert float(flat.std()) == pytest.approx(1.0 * 0.5 / 3, rel=0.03)


def test_each_unit_is_drawn_by_itself() -> None:
    randomness = Randomness(KEY)
    steps, units, rate = 4000, 40, 0.05
    drawn = np.zeros((steps, units))
    for step in range(steps):
        drawn[step, randomness.sample(step, units, rate)] = 1
    sizes = drawn.sum(1)
    error = math.sqrt(rate * (1 - rate) / steps)
    assert abs(drawn.mean(0) - rate).max() < 5 * error
    # A batch of a fixed size would vary by nothing, and none would be empty.
    assert sizes.var() == pytest.approx(units * rate * (1 - rate), rel=0.15)
    assert (sizes == 0).mean() == pytest.approx((1 - rate) ** units, rel=0.25)
    both = (drawn[:, 0] * drawn[:, 1]).mean()
    assert both == pytest.approx(rate**2, abs=5 * rate / math.sqrt(steps))
    assert randomness.sample(0, units, 1.0) == list(range(units))


def test_noise_is_normal_and_no_two_steps_share_it() -> None:
    randomness = Randomness(KEY)
    first, second = (np.concatenate(list(randomness.normals(step, 200_001))) for step in (0, 1))
    assert len(first) == 200_001
    assert abs(first.mean()) < 0.012
    assert first.std() == pytest.approx(1.0, rel=0.01)
    assert (first**4).mean() == pytest.approx(3.0, rel=0.05)
    assert (abs(first) > 1.959964).mean() == pytest.approx(0.05, rel=0.06)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.012
    assert abs(np.corrcoef(first[:100_000], first[100_000:-1])[0, 1]) < 0.017


def test_the_same_recipe_and_seed_give_other_weights_each_time(
    folder: Path, tmp_path: Path
) -> None:
    first, second = (
        weights(trained(folder, tmp_path / name, Silent())) for name in ("first", "second")
    )
    assert all(not torch.equal(first[name], second[name]) for name in first)


def test_all_randomness_follows_from_the_key(folder: Path, tmp_path: Path) -> None:
    first = weights(trained(folder, tmp_path / "first", Silent()))
    keep_key(tmp_path / "second", (tmp_path / "first" / "tune" / KEY_FILE).read_bytes())
    second = weights(trained(folder, tmp_path / "second", Silent()))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_key_is_the_operating_systems_and_for_its_owner_alone(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Randomness.kept_in(tmp_path / name)
    first, second = (tmp_path / name / KEY_FILE for name in ("a", "b"))
    assert len(first.read_bytes()) == KEY_BYTES
    assert first.read_bytes() != second.read_bytes()
    assert first.stat().st_mode & 0o777 == 0o600


def test_a_damaged_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).write_bytes(b"short")
    with pytest.raises(ArtifactError, match="the key of the interrupted training is damaged"):
        Randomness.kept_in(tmp_path)


@pytest.mark.slow
def test_a_killed_run_goes_on_as_it_would_have(folder: Path, tmp_path: Path) -> None:
    whole = trained(folder, tmp_path / "whole", Silent())
    keep_key(tmp_path / "killed", (tmp_path / "whole" / "tune" / KEY_FILE).read_bytes())
    killed = subprocess.run(
        [sys.executable, "-c", CHILD, folder, tmp_path / "killed"],
        env=os.environ | {"PYTHONPATH": "."},
        timeout=120,
    )
    assert killed.returncode == -signal.SIGKILL
    report = Recorder()
    again = trained(folder, tmp_path / "killed", report)
    assert report.notes == ["tune: goes on after step 4 of 8"]
    first, second = weights(whole), weights(again)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_nothing_that_follows_from_the_text_is_in_the_figures(folder: Path, tmp_path: Path) -> None:
    private = Private(units=Units(EXAMPLES, ENTRIES), protection=PROTECTION, course=COURSE)
    figures = train_privately(adapted(folder), private, tmp_path, Silent())
    assert (figures["loss"], figures["trained_tokens"], figures["tokens_per_s"]) == (None, 0, 0.0)


def test_a_unit_of_many_rows_is_read_in_pieces_and_clipped_as_one() -> None:
    units = Units(EXAMPLES, [0] * 9 + [1, 2, 3])
    parts = list(units.parts([0, 1, 2, 3], 4))
    assert sorted(len(part) for part in parts) == [1, 3]
    assert sorted(unit for part in parts for unit in part) == [0, 1, 2, 3]


def test_several_processes_are_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="several processes would add noise several times"):
        trained(folder, tmp_path, Silent())


def test_gradient_checkpointing_is_refused(folder: Path) -> None:
    model = adapted(folder)
    model.activation_checkpointing_enable()
    with pytest.raises(ConfigError, match="gradient checkpointing reads a layer twice"):
        RowGradients(model)


def test_what_is_trained_but_is_no_linear_layer_is_refused(folder: Path) -> None:
    model = adapted(folder)
    model.model.norm.weight.requires_grad_(True)
    with pytest.raises(ConfigError, match=r"`model\.norm\.weight` is trained, and of it no"):
        RowGradients(model)


def test_a_layer_that_reads_all_rows_as_one_is_refused(folder: Path) -> None:
    layer = nn.Sequential(nn.Linear(4, 4, bias=False))
    layers = RowGradients(layer)
    refused = pytest.raises(ArtifactError, match="reads the tokens of several rows as one")
    with refused, layers.collecting(2):
        layer(torch.ones(6, 4)).sum().backward()


def test_a_layer_that_is_read_twice_is_refused(folder: Path) -> None:
    layer = nn.Sequential(nn.Linear(4, 4, bias=False))
    layers = RowGradients(layer)
    with pytest.raises(ArtifactError, match="is read twice in one step"), layers.collecting(2):
        layer(layer(torch.ones(2, 3, 4))).sum().backward()


def test_a_key_whose_making_was_cut_off_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(count: int) -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("os.urandom", cut)
        with pytest.raises(KeyboardInterrupt):
            Randomness.kept_in(tmp_path)
    Randomness.kept_in(tmp_path)
