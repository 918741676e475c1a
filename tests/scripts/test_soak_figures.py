"""The table of the long tier: new figures come in, and older ones of other tests stay."""

from pathlib import Path

from scripts import soak_figures


def entry(row: int, done: int, whole: int, **seen: int) -> dict[str, object]:
    return {"row": row, "done": done, "whole": whole, "seen": seen, "seconds": 1.5}


FINISHED = {
    "tests/a.py::test_one_thing": entry(1, 10, 10, good=10),
    "tests/b.py::test_another[x]": entry(12, 4, 4, good=4),
}


def test_figures_of_tests_that_did_not_run_stay() -> None:
    before = soak_figures.table(FINISHED, "")
    after = soak_figures.table({"tests/c.py::test_third": entry(2, 5, 5, good=5)}, before)
    assert [line.split(" | ")[:3] for line in after.splitlines()[2:]] == [
        ["| 1", "[one thing](../tests/a.py)", "10 of 10"],
        ["| 2", "[third](../tests/c.py)", "5 of 5"],
        ["| 12", "[another[x]](../tests/b.py)", "4 of 4"],
    ]


def test_a_run_replaces_a_row_when_all_its_rounds_are_done() -> None:
    before = soak_figures.table(FINISHED, "")
    under_way = {"tests/a.py::test_one_thing": entry(1, 3, 10, good=3)}
    assert soak_figures.table(under_way, before) == before

    done = {"tests/a.py::test_one_thing": entry(1, 10, 10, good=9, bad=1)}
    assert "| 10 of 10 | 1 bad, 9 good | 1.5 |" in soak_figures.table(done, before)


def test_the_page_keeps_its_rows_when_nothing_new_was_seen() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reliability.md").read_text(encoding="utf-8")
    rows = page.split(soak_figures.BEGIN)[1].split(soak_figures.END)[0]
    assert sorted(soak_figures.table({}, rows).splitlines()) == sorted(rows.strip().splitlines())
