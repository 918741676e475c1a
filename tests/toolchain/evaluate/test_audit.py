"""The audit on a file: canaries are scored by the runtime, and the gate believes the guesses."""

from pathlib import Path

import pytest

from tests.fakes.tiny_gguf import tiny_gguf
from toolchain import runtime
from toolchain.evaluate.audit import Audit, audit_failures, measure_audit, score_of
from toolchain.figures import AuditFigures
from toolchain.privacy.canaries import Canary, audit_words, write_canaries
from toolchain.progress import Silent
from toolchain.runtime.scoring import scorer


def figures(least: float) -> AuditFigures:
    return AuditFigures(canaries=60, guesses=40, right=38, epsilon_at_least=least, claimed=1.0)


def test_more_than_is_claimed_misses_the_gate() -> None:
    assert list(audit_failures(None)) == list(audit_failures(figures(0.9))) == []
    assert list(audit_failures(figures(1.62))) == [
        "38 of 40 guesses about canaries are right: that is an ε of at least 1.62, and 1.00 is "
        "claimed"
    ]


def test_it_is_told_in_words_that_survive_a_manifest() -> None:
    assert audit_words(figures(1.62).as_json()) == (
        "ε ≥ 1.62 by 38 of 40 right guesses about 60 canaries"
    )
    assert audit_words({"epsilon_at_least": "much"}) == ""


@pytest.mark.slow
def test_a_canary_is_scored_by_its_answer_alone(tmp_path: Path) -> None:
    model = tiny_gguf(tmp_path / "tiny.gguf", context=512)
    canaries = [
        Canary(question=f"what is {number}?", answer=f"{number}{number}", planted=number % 2 == 0)
        for number in range(10, 22)
    ]
    write_canaries(tmp_path / "canaries.jsonl", canaries)
    audit = Audit(file=tmp_path / "canaries.jsonl", epsilon=2.0, delta=1e-3)
    with scorer(runtime.for_this_computer(), model, context=512) as child:
        longer = Canary(question="what is 10?", answer="1010 and 1010", planted=True)
        assert score_of(child, longer) < score_of(child, canaries[0]) < 0
        found = measure_audit(child, audit, Silent())
    assert (found.canaries, found.guesses, found.claimed) == (12, 8, 2.0)


def test_an_audit_without_a_claim_refutes_nothing_and_says_what_it_is_for() -> None:
    found = AuditFigures(canaries=60, guesses=40, right=40, epsilon_at_least=2.3)
    assert not found.refutes
    assert list(audit_failures(found)) == []
    assert audit_words(found.as_json()).endswith(
        "about 60 canaries, which it has learned: for an audit alone"
    )
