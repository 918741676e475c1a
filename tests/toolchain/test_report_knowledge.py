"""The page of what documents answer and what they missed."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.fakes.records import record_of
from toolchain.artifacts import RECORD
from toolchain.cli import app
from toolchain.errors import ArtifactError
from toolchain.figures import DatasetFigures, KnowledgeFigures, Lengths, SearchScores
from toolchain.knowledge.found import FOUND, FoundPassage, Outcome, write_found
from toolchain.ledger import Ledger, Source
from toolchain.report.knowledge import interval, read_known
from toolchain.report.page import render

OUTCOMES: tuple[Outcome, ...] = ("right", "right", "wrong", "refused", "false", "unknown")
INGESTED = DatasetFigures(
    entries=1,
    documents=0,
    train=1,
    held_out=0,
    texts=0,
    question_chars=Lengths(mean=1, max=1),
    answer_chars=Lengths(mean=1, max=1),
    text_chars=Lengths(mean=1, max=1),
    dropped={},
    dropped_lines=[],
    unknown_keys={},
)
FIGURES = KnowledgeFigures(
    passages=415,
    questions=1380,
    unanswered=240,
    files={
        "faq.jsonl": "212 passages; 3 that stand elsewhere word for word",
        "one.md": "1 passages",
        "half.pdf": "1 passages; not read: pages without text: 2",
        "scan.pdf": "has no text layer",
    },
    width=384,
    embedder_bytes=24_600_000,
    index_bytes=6_200_000,
    tuned=True,
    fitted={"words": 0.1, "unanswered": 0.75, "threshold": 0.312},
    tuning=None,
    fresh=SearchScores(
        answerable=4, unanswerable=2, first=0.75, among_three=1.0, right=0.5, wrong=0.25, false=0.5
    ),
)


def row(number: int, outcome: Outcome) -> FoundPassage:
    return FoundPassage(
        question=f"question <b>{number}</b> 树莓派?",
        right=("a.md › A", "b.md › B") if outcome in ("right", "wrong", "refused") else (),
        found="a.md › A" if number else "",
        score=0.5,
        certainty=0.25,
        known=outcome in ("right", "wrong", "false"),
        outcome=outcome,
    )


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A work folder as the stage `know` leaves it."""
    folder = tmp_path / "help-desk" / "know"
    folder.mkdir(parents=True)
    (folder / RECORD).write_text(record_of("know", FIGURES.as_json()).model_dump_json())
    write_found(folder / FOUND, [row(number, each) for number, each in enumerate(OUTCOMES)])
    return folder.parent


def test_what_was_missed_stands_open_and_the_worst_comes_first(work: Path) -> None:
    html = render([], [read_known(work)])
    heads = re.findall(r"<h3>([^<]+)</h3>", html)
    assert heads == [
        "Answered with a passage that does not answer it: 1",
        "Answered, though the documents do not say it: 1",
        "Not answered, though a passage says it: 1",
        "What this was made of",
    ]
    folds = re.findall(r"<summary>([^<]+)</summary>", html)
    assert folds == ["Answered with a right passage: 2", "Rightly said to be unknown: 1", "4 files"]


def test_every_question_is_there_with_what_it_found_and_what_answers_it(work: Path) -> None:
    html = render([], [read_known(work)])
    for number in range(len(OUTCOMES)):
        assert f"question &lt;b&gt;{number}&lt;/b&gt; 树莓派?" in html
    assert "a.md › A; b.md › B" in html and "<td>nothing</td>" in html and "<td>none</td>" in html


def test_figures_come_with_their_number_and_interval(work: Path) -> None:
    html = render([], [read_known(work)])
    assert "75.0% of 4 (30% … 95%)" in html and "50.0% of 2 (9% … 91%)" in html
    assert html.count("not measured") == 6 + 6, "nothing was fitted on questions"


def test_files_that_were_not_read_whole_are_named(work: Path) -> None:
    caveats = re.findall(r'<p class="caveat">([^<]+)</p>', render([], [read_known(work)]))
    assert caveats == [
        "half.pdf: 1 passages; not read: pages without text: 2",
        "scan.pdf: has no text layer",
    ]


def test_the_page_loads_nothing_and_runs_nothing(work: Path) -> None:
    html = render([], [read_known(work)])
    assert not re.findall(r"https?://|<script|src=|@import|url\(", html)


def test_a_report_without_fresh_questions_says_so(work: Path) -> None:
    (work / "know" / FOUND).unlink()
    assert "not measured: nobody wrote fresh questions" in render([], [read_known(work)])


def test_a_work_folder_is_an_argument_of_the_verb(work: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    done = CliRunner().invoke(app, ["report", str(work), "--out", str(out)])
    assert done.exit_code == 0 and "<h1>help-desk</h1>" in out.read_text(encoding="utf-8")


def test_a_folder_without_the_stage_is_refused_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no stage `know` is recorded in it"):
        read_known(tmp_path)


@pytest.mark.parametrize(
    ("share", "count", "low", "high"),
    [
        (0.5, 10, 0.2366, 0.7634),
        (0.0, 20, 0.0, 0.1611),
        (1.0, 20, 0.8389, 1.0),
        (0.9, 100, 0.8256, 0.9448),
    ],
)
def test_intervals_are_wilsons(share: float, count: int, low: float, high: float) -> None:
    assert interval(share, count) == pytest.approx((low, high), abs=1e-4)


def test_the_page_says_what_it_was_made_of_and_under_which_terms(work: Path) -> None:
    source = Source(role="documents", use="beside", name="a <b>.md", licence="CC-BY-4.0")
    record = record_of("know", FIGURES.as_json())
    ledger = Ledger(sources=(source,), found={"phone": 2}, done=("know: 415 passages",))
    kept = record.model_copy(update={"ledger": ledger})
    (work / "know" / RECORD).write_text(kept.model_dump_json())
    html = render([], [read_known(work)])
    assert "Sources and terms" in html
    assert "<td>a &lt;b&gt;.md</td><td>CC-BY-4.0</td>" in html
    assert "2 phone; replaced 0" in html
    assert "know: 415 passages" in html


def test_a_recipe_without_documents_has_a_page_of_its_sources(tmp_path: Path) -> None:
    (tmp_path / "tiny" / "ingest").mkdir(parents=True)
    source = Source(role="data", use="trained", name="faq.jsonl")
    record = record_of("ingest", INGESTED.as_json()).model_copy(
        update={"ledger": Ledger(sources=(source,))}
    )
    (tmp_path / "tiny" / "ingest" / RECORD).write_text(record.model_dump_json())
    out = tmp_path / "page.html"
    result = CliRunner().invoke(app, ["report", str(tmp_path / "tiny"), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "What it is made of: tiny" in out.read_text()
    assert "<td>faq.jsonl</td><td>terms unknown</td>" in out.read_text()
