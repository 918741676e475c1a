"""Reports that are kept, compared and shown."""

import json
import re
from pathlib import Path

import pytest

from toolchain import report, show
from toolchain.artifacts import Report
from toolchain.errors import ArtifactError
from toolchain.report.page import render
from toolchain.report.plots import pareto


def row(*, samples: list[float], pp: int = 0, tg: int = 0) -> dict[str, object]:
    middle = sorted(samples)[len(samples) // 2]
    return {
        "n_prompt": pp,
        "n_gen": tg,
        "samples_ts": samples,
        "avg_ts": sum(samples) / len(samples),
        "stddev_ts": 0.5,
        "median_ts": middle,
        "p10_ts": min(samples),
        "n_threads": 4,
        "test_time": "2026-11-22T01:00:00Z",
    }


def made(board: str = "pi@pi5.example", decode: float = 30.0, **measured: object) -> Report:
    rows = [
        row(pp=512, samples=[280.0, 290.0, 300.0]),
        row(tg=128, samples=[decode, decode + 1, decode + 2, decode + 1, decode]),
    ]
    usual = {
        "load_s": 0.3,
        "ttft_cold_s": 1.0,
        "ttft_warm_s": 0.5,
        "peak_rss_bytes": 500_000_000,
        "pss_bytes": None,
        "major_faults": 2,
        "pressure": {"cpu": 0.1, "memory": 0.0, "io": None},
        "samples": [],
        "sustained": [],
        "before": {},
        "after": {},
        "answer": {"tokens": 20, "seconds": {"reading the prompt": 0.4, "tokens": 0.6}},
        "roofline": {
            "bandwidth_gb_s": 13.8,
            "roofline_share": 0.86,
            "cached": False,
            "impossible": False,
            "bytes_per_token": 1,
        },
        "release": {
            "name": "desk",
            "version": "1.0",
            "file": "desk-Q4_0.gguf",
            "size_bytes": 429_000_000,
            "gate": {"mean_kl": 0.07},
        },
    }
    return Report(board=board, emulated=False, rows=rows, measured={**usual, **measured})


def test_a_report_comes_back_as_it_was_kept(tmp_path: Path) -> None:
    report.save(made(), tmp_path / "a.json")
    assert report.read(tmp_path / "a.json") == made()


@pytest.mark.parametrize("form", ["json", "jsonl"])
def test_rows_of_llama_bench_itself_are_read(tmp_path: Path, form: str) -> None:
    rows = made().rows
    text = json.dumps(rows) if form == "json" else "\n".join(json.dumps(each) for each in rows)
    (tmp_path / "referee.json").write_text(text)
    assert report.read(tmp_path / "referee.json").rows == rows


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read as a report"),
        ("not json", "cannot be read as a report"),
        ("{}", "holds neither a report nor rows of llama-bench"),
        ("[]", "holds neither a report nor rows of llama-bench"),
        ('[{"n_prompt": 1}]', "holds neither a report nor rows of llama-bench"),
    ],
)
def test_a_file_that_is_no_report_is_refused_by_its_name(
    tmp_path: Path, text: str | None, message: str
) -> None:
    file = tmp_path / "some.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ArtifactError, match=f"some.json: {message}"):
        report.read(file)


def test_a_clear_difference_and_an_unclear_one_are_told_apart() -> None:
    prompt, decode = report.compare(made(decode=30.0), made(decode=60.0))
    assert (decode.test, decode.verdict) == ("tg128", "faster")
    assert decode.low <= decode.ratio <= decode.high and 1.8 < decode.ratio < 2.1
    assert (prompt.test, prompt.verdict, prompt.ratio) == ("pp512", "no difference shown", 1.0)
    assert report.compare(made(decode=60.0), made(decode=30.0))[1].verdict == "slower"


def test_a_comparison_tells_what_was_wrong_with_either_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    busy = made(decode=60.0, contended=["other programs took 58% of the processors"])
    found = report.compare(made(decode=30.0), busy)
    show.compared(found, "a.json", "b.json", as_json=False)
    said = capsys.readouterr().out
    assert (
        "mind: b.json: the run was not alone: other programs took 58% of the processors\n" in said
    )
    assert "mind: a.json" not in said
    show.compared(found, "a.json", "b.json", as_json=True)
    assert json.loads(capsys.readouterr().out)[0]["caveats"] == [
        [],
        ["the run was not alone: other programs took 58% of the processors"],
    ]


def test_reports_without_a_test_in_common_are_refused() -> None:
    other = Report(board="b", emulated=False, rows=[row(tg=32, samples=[1.0])], measured={})
    with pytest.raises(ArtifactError, match="no test is in both: pp512, tg128 and tg32"):
        report.compare(made(), other)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("measured", "caveat"),
    [
        (
            {"contended": ["other programs took 51% of the processors"]},
            "the run was not alone: other programs took 51% of the processors",
        ),
        (
            {
                "samples": [
                    {"at_s": 0, "throttled": ["under_voltage"]},
                    {"at_s": 1, "throttled": None},
                ]
            },
            "the board held itself back: under voltage",
        ),
        ({"after": {"throttled": ["throttled"]}}, "the board held itself back: throttled"),
        ({"before": {"governor": "ondemand"}}, "the governor was `ondemand`"),
    ],
)
def test_what_speaks_against_a_figure_is_said_with_it(
    measured: dict[str, object], caveat: str
) -> None:
    assert report.caveats(made(**measured)) == [caveat]
    assert caveat in render([made(**measured)])


def test_formats_of_one_model_are_told_by_their_files() -> None:
    release = made().measured["release"]
    files = ["desk-Q4_0.gguf", "desk-int4_b32.onnx"]
    page = render([made(release={**release, "file": file}) for file in files])
    heads = re.findall(r'<h2>desk 1\.0 on [^<]+</h2>\s*<p class="quiet">([^<]+)</p>', page)
    assert heads == files


def test_an_emulated_board_is_never_taken_for_a_real_one() -> None:
    emulated = Report(
        board="virtual:rpi-4b", emulated=True, rows=made().rows, measured=made().measured
    )
    assert "its speed says nothing about a real one" in render([emulated])


def test_the_front_holds_what_no_other_beats_in_both() -> None:
    assert pareto([(34.0, 0.07), (22.0, 0.0014), (20.0, 0.0055), (22.0, 0.01)]) == [
        (22.0, 0.0014),
        (34.0, 0.07),
    ]


@pytest.mark.slow
def test_the_page_needs_nothing_from_elsewhere_and_shows_every_picture() -> None:
    through = [
        {"at_s": t, "temperature_c": 50.0 + t, "clock_mhz": 2400, "throttled": [], "power_w": None}
        for t in range(5)
    ]
    page = render(
        [made(samples=through, sustained=[(1.0, 30.0), (2.0, 29.0)]), made("pi@pi4.example", 8.0)]
    )
    assert page.count("<svg") == 4, "quality and speed, two answers, one run that was sampled"
    assert (
        "<script" not in page
        and re.findall(r'(?:src|href)="(?!#)[^"]*"|@import|url\((?!#)', page) == []
    )
    assert "power</td><td>not measured: this board has no sensor for it" in page
    assert "86%" in page and "50 … 54 °C" in page


def test_what_a_board_calls_itself_is_shown_as_text() -> None:
    assert "<img" not in render([made(board="<img src=x>")])


def test_a_report_of_llama_bench_alone_still_makes_a_page() -> None:
    page = render([Report(board="referee", emulated=False, rows=made().rows, measured={})])
    assert "not measured" in page and "pp512" in page
