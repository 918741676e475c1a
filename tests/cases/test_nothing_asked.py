"""A stage that had nothing to ask says so, and shows no figure."""

from toolchain import show


def test_a_tuned_model_that_was_asked_nothing_is_shown_without_scores() -> None:
    unasked = {"exact_match": None, "f1": None}
    counts = {"trainable_parameters": 10, "total_parameters": 100}
    shown = show.result("tune", {**counts, **unasked, "base": unasked})
    assert shown.endswith("base not asked; tuned not asked")
