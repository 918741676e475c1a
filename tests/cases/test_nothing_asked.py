"""A stage that had nothing to ask says so, and shows no figure."""

from pathlib import Path
from typing import Any

from tests.fakes.records import record_of
from toolchain.artifacts import Artifact
from toolchain.line.stages import STAGES

TUNED = {
    "trainable_parameters": 10,
    "total_parameters": 100,
    "conversations": 3,
    "too_long": 0,
    "merged_tensors": 4,
    "dtypes": ["F32"],
    "steps": 1,
    "loss": 1.0,
    "trained_tokens": 30,
    "tokens_per_s": 1.0,
    "train_s": 1.0,
    "train_cpu_s": 1.0,
    "peak_memory_mb": 1,
    "questions": 2,
}
JUDGED = {"engine": "1", "engine_name": "llama.cpp", "arithmetic": "", "failures": []}


def shown(stage: str, figures: dict[str, Any]) -> str:
    record = record_of(stage, figures)
    return STAGES[stage].result(Artifact(path=Path(), record=record))


def test_a_tuned_model_that_was_asked_nothing_is_shown_without_scores() -> None:
    unasked = {"questions": 0, "exact_match": None, "f1": None, "held_out_loss": None}
    text = shown("tune", {**TUNED, **unasked, "base": unasked})
    assert text.endswith("base not asked; tuned not asked")


def test_a_tuned_model_is_shown_with_its_losses_and_what_it_forgot() -> None:
    base = {
        "questions": 2,
        "exact_match": 0.0,
        "f1": 0.1,
        "held_out_loss": 3.25,
        "general_nats_per_byte": 0.9,
    }
    tuned = {"exact_match": 0.5, "f1": 0.7, "held_out_loss": 0.5, "general_nats_per_byte": 1.1}
    assert shown("tune", {**TUNED, **tuned, "base": base}).endswith(
        "base exact 0.0% F1 10.0% loss 3.25; tuned exact 50.0% F1 70.0% loss 0.50; "
        "general text 0.900 → 1.100 nats per byte"
    )


def test_a_verdict_is_shown_with_both_texts() -> None:
    figures = {"mean_kl": 0.01, "agreement": 0.97, "general_kl": 0.8, "general_agreement": 0.62}
    assert shown("evaluate", {**JUDGED, **figures, "exact_match": 0.9, "f1": 0.95}) == (
        "KL 0.0100, agreement 97.0% (general text 0.8000, 62.0%), exact 90.0% F1 95.0%"
    )
