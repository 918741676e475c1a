"""The ledger: sums of several stages, records that keep it, and what people read of it."""

from pathlib import Path

import pytest

from tests.fakes.records import record_of
from toolchain.artifacts import RECORD, Dataset, account, recorded
from toolchain.ledger import (
    Ledger,
    Privacy,
    Source,
    as_json,
    grouped,
    leak_words,
    lines,
    total,
    travelling,
)

FAQ = Source(role="data", use="trained", name="faq.jsonl", licence="MIT", sha256="0" * 64, rows=3)
BASE = Source(role="base", use="weights", name="a/b", licence="Apache-2.0")


def test_a_source_that_several_stages_read_stands_once_and_with_the_use_that_asks_most() -> None:
    quoted = FAQ.model_copy(update={"use": "beside", "rows": None, "sha256": ""})
    for both in ((quoted, FAQ), (FAQ, quoted)):
        summed = total([Ledger(sources=(both[0], BASE)), None, Ledger(sources=(both[1],))])
        assert set(summed.sources) == {FAQ, BASE}


def test_findings_of_several_stages_are_added() -> None:
    first = Ledger(found={"phone": 2}, replaced={"phone": 1}, done=("a", "b"))
    summed = total([first, Ledger(found={"phone": 3, "card": 1}, done=("b", "c"))])
    assert (summed.found, summed.replaced) == ({"card": 1, "phone": 5}, {"phone": 1})
    assert summed.done == ("a", "b", "c")


def test_under_a_claim_of_privacy_nothing_exact_of_the_text_travels() -> None:
    manual = Source(role="documents", use="beside", name="manual.md", sha256="1" * 64)
    claim = Privacy(
        stage="tune",
        epsilon=8,
        delta=1e-5,
        unit="entry",
        units=9,
        clip=1,
        noise_multiplier=1,
        sampling_rate=0.1,
        steps=9,
    )
    ledger = Ledger(
        sources=(FAQ, BASE, manual),
        found={"phone": 2},
        replaced={"phone": 1},
        done=("ingest: 3 entries and 0 documents read", "tune: learned"),
    )
    assert travelling(ledger) is ledger
    left = travelling(ledger.model_copy(update={"privacy": claim}))
    assert left.sources == (FAQ.model_copy(update={"sha256": ""}), BASE, manual)
    assert (left.found, left.replaced, left.done) == ({}, {}, ("tune: learned",))


def test_other_terms_change_the_record_and_nothing_is_made_again(tmp_path: Path) -> None:
    (tmp_path / RECORD).write_text(record_of("ingest", {}).model_dump_json())
    before = recorded(tmp_path)
    assert before
    assert before.ledger is None
    dataset = Dataset(path=tmp_path, record=before, fresh=False)
    after = account(dataset, Ledger(sources=(FAQ,)))
    kept = recorded(tmp_path)
    assert kept == after.record
    assert kept.ledger == Ledger(sources=(FAQ,))
    assert (kept.key, after.fresh) == (before.key, False)
    assert account(after, Ledger(sources=(FAQ,))) is after


def test_a_manifest_has_no_fields_that_nobody_filled_in() -> None:
    assert as_json(Ledger(sources=(BASE,)))["sources"] == [
        {"role": "base", "use": "weights", "name": "a/b", "licence": "Apache-2.0"}
    ]


@pytest.mark.parametrize(
    ("ledger", "words"),
    [
        ({}, []),
        (
            as_json(Ledger(sources=(BASE, FAQ.model_copy(update={"licence": ""})))),
            [("sources", "base  a/b  Apache-2.0  ·  faq.jsonl  terms unknown")],
        ),
        (
            {"found": {"phone": 3}, "replaced": {"phone": 2}, "terms": {"result": ""}},
            [("found", "3 phone; replaced 2"), ("terms", "result: unknown")],
        ),
        (
            {"terms": {"result": "MIT", "unknown": ["data `x`"], "conditions": ["no sale"]}},
            [("terms", "result: MIT; unknown for data `x`; no sale")],
        ),
    ],
)
def test_people_read_it_in_lines(ledger: dict[str, object], words: list[tuple[str, str]]) -> None:
    assert lines(ledger) == words


@pytest.mark.parametrize(
    ("leak", "words"),
    [
        ({}, ""),
        ({"secrets": "many"}, ""),
        ({"secrets": 0, "extracted": 0, "most_bits": 6.0}, "0 secrets: 0 extracted"),
        (
            {
                **{"secrets": 56, "extracted": 1, "exposure_bits": 1.52, "most_bits": 6.0},
                **{"before_exposure_bits": 1.6, "membership_auc": 0.53, "membership_error": 0.04},
            },
            "56 secrets: 1 extracted, exposure 1.5 bit (chance 1.4, most 6.0), "
            "before quantization 1.6; membership AUC 0.53 ± 0.04",
        ),
    ],
)
def test_what_a_file_gives_away_is_said_in_a_line(leak: dict[str, object], words: str) -> None:
    assert leak_words(leak) == words


def test_thousands_of_files_under_the_same_terms_become_one_source() -> None:
    many = [FAQ.model_copy(update={"name": f"{n}.md", "licence": "MIT"}) for n in range(1500)]
    other = FAQ.model_copy(update={"name": "x.md", "licence": "CC-BY-4.0"})
    few = grouped(Ledger(sources=(BASE, *many, other)))
    assert [source.name for source in few.sources] == ["a/b", "0.md and 1,499 more", "x.md"]
    assert few.sources[1].rows == 4500
    again = grouped(Ledger(sources=(BASE, *reversed(many), other)))
    assert again.sources[1].sha256 == few.sources[1].sha256
    assert grouped(Ledger(sources=(BASE, FAQ))).sources == (BASE, FAQ)


def test_a_name_of_any_length_fits_into_a_manifest() -> None:
    source = BASE.model_copy(update={"name": "x" * 5000})
    assert len(as_json(Ledger(sources=(source,)))["sources"][0]["name"]) == 2000
