"""Figures: what a stage measured comes back from its record as it was, with the same keys."""

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.fakes.records import model_figures
from toolchain.errors import ArtifactError
from toolchain.figures import FLAT, Distilled, ModelFigures, StageFigures, TrainFigures

TRAINING = {
    "steps": 1,
    "loss": 0.5,
    "trained_tokens": 10,
    "tokens_per_s": 2.0,
    "train_s": 5.0,
    "train_cpu_s": 9.0,
    "peak_memory_mb": 100,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner(StageFigures):
    loss: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer(StageFigures):
    names: list[str]
    before: Inner
    after: Inner = field(metadata=FLAT)
    note: str | None = None


RECORDED: dict[str, Any] = {"names": ["a"], "before": {"loss": None}, "loss": 0.5}


def test_figures_come_back_from_json_as_they_were() -> None:
    outer = Outer(names=["a"], before=Inner(loss=None), after=Inner(loss=0.5))
    assert outer.as_json() == RECORDED
    assert Outer.read(json.loads(json.dumps(RECORDED))) == outer


def test_a_key_that_nobody_knows_is_passed_over_in_a_record_and_refused_from_a_stage() -> None:
    assert Outer.read(RECORDED | {"new": 1}).as_json() == RECORDED
    with pytest.raises(TypeError, match="has no field new"):
        Outer.of(RECORDED | {"new": 1})


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ({"names": ["a"], "loss": 0.5}, "figures of another shape: `before` is missing"),
        (
            RECORDED | {"names": 3},
            "figures of another shape: `names`: input should be a valid list",
        ),
        (RECORDED | {"before": {}}, "figures of another shape: `loss` is missing"),
    ],
)
def test_figures_of_another_shape_are_named(figures: dict[str, Any], message: str) -> None:
    with pytest.raises(ArtifactError) as caught:
        Outer.read(figures)
    assert caught.value.message == message


def test_what_was_learned_in_the_format_keeps_its_keys() -> None:
    learned = {"shipped": "learned", "verdict": "it ships", "learned": {}, "control": {}}
    figures = model_figures("m.gguf", distillation={**learned, **TRAINING})
    model = ModelFigures.of(figures)
    assert model.distillation == Distilled(training=TrainFigures.of(TRAINING), **learned)
    assert model.as_json() == figures
