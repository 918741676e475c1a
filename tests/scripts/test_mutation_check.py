"""Each safety check is needed: without it, the test that is named for it fails."""

from pathlib import Path

import pytest

from scripts.mutation_check import NOWHERE, ROOT, mutations, survives
from tests.conftest import Rounds

LISTED = mutations()


def test_every_line_that_the_table_names_is_there_once() -> None:
    assert [each.name for each in LISTED if each.line == NOWHERE] == []


def test_every_test_that_the_table_names_is_there() -> None:
    missing = []
    for mutation in LISTED:
        file, _, name = mutation.test.partition("::")
        path = ROOT / file
        function = f"def {name.rpartition('::')[2].partition('[')[0]}("
        if not path.exists() or (name and function not in path.read_text(encoding="utf-8")):
            missing.append(mutation.test)
    assert missing == []


@pytest.mark.slow
@pytest.mark.soak(row=2, short=2, whole=len(LISTED))
def test_a_check_that_is_taken_out_is_missed_by_its_test(rounds: Rounds, tmp_path: Path) -> None:
    for number in rounds:
        mutation = LISTED[-1 - number]
        assert not survives(mutation, tmp_path / str(number)), (
            f"{mutation.test} passes without {mutation.name}"
        )
        rounds.saw("mutants, each seen by its test")
