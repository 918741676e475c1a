"""A stage that had nothing to ask says so, and shows no figure."""

from pathlib import Path
from typing import Any

from tests.fakes.records import record_of
from toolchain.artifacts import Artifact
from toolchain.line.stages import STAGES


def shown(stage: str, figures: dict[str, Any]) -> str:
    record = record_of(stage, figures)
    return STAGES[stage].result(Artifact(path=Path(), record=record))


def test_a_tuned_model_that_was_asked_nothing_is_shown_without_scores() -> None:
    unasked = {"exact_match": None, "f1": None}
    counts = {"trainable_parameters": 10, "total_parameters": 100}
    text = shown("tune", {**counts, **unasked, "base": unasked})
    assert text.endswith("base not asked; tuned not asked")


def test_a_tuned_model_is_shown_with_its_losses_and_what_it_forgot() -> None:
    base = {"exact_match": 0.0, "f1": 0.1, "held_out_loss": 3.25, "general_nats_per_byte": 0.9}
    tuned = {"exact_match": 0.5, "f1": 0.7, "held_out_loss": 0.5, "general_nats_per_byte": 1.1}
    counts = {"trainable_parameters": 10, "total_parameters": 100}
    assert shown("tune", {**counts, **tuned, "base": base}).endswith(
        "base exact 0.0% F1 10.0% loss 3.25; tuned exact 50.0% F1 70.0% loss 0.50; "
        "general text 0.900 → 1.100 nats per byte"
    )


def test_a_verdict_is_shown_with_both_texts() -> None:
    figures = {"mean_kl": 0.01, "agreement": 0.97, "general_kl": 0.8, "general_agreement": 0.62}
    assert shown("evaluate", {**figures, "exact_match": 0.9, "f1": 0.95}) == (
        "KL 0.0100, agreement 97.0% (general text 0.8000, 62.0%), exact 90.0% F1 95.0%"
    )
