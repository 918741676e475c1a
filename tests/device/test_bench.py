"""The bench measures what it says, in llama-bench's words."""

import json
from pathlib import Path

import pytest

from device.bench import Plan, bench, rows
from device.errors import DeviceError
from tests.fakes.engine import FakeEngine
from tests.fakes.tiny_gguf import tiny_bundle, tiny_gguf
from toolchain.bench import COLUMNS

LLAMA_BENCH = (*COLUMNS, "samples_ns", "samples_ts")
"""Fields of a row of `llama-bench -o json` (tools/llama-bench, struct test)."""


def test_rows_are_tokens_a_second_of_each_repetition_with_mean_and_deviation() -> None:
    engine = FakeEngine()
    prompt, decode = rows(engine, Plan(pp=50, tg=20, repeat=3))
    assert (prompt["n_prompt"], prompt["n_gen"], prompt["avg_ts"], prompt["samples_ts"]) == (
        50,
        0,
        1000.0,
        [1000.0] * 3,
    )
    assert (decode["n_prompt"], decode["n_gen"], decode["avg_ts"], decode["stddev_ts"]) == (
        0,
        20,
        100.0,
        0.0,
    )
    assert decode["samples_ns"] == [200_000_000] * 3


def test_the_deviation_is_that_of_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, seconds = FakeEngine(), iter([9.0, 1.0, 0.5])
    monkeypatch.setattr(engine, "time_prompt", lambda n_tokens: next(seconds))
    prompt, _ = rows(engine, Plan(pp=10, tg=1, repeat=2))
    assert (prompt["avg_ts"], prompt["stddev_ts"], prompt["samples_ts"]) == (
        15.0,
        7.0711,
        [10.0, 20.0],
    )


def test_a_real_file_is_measured_with_llama_benchs_fields(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = [
        "--model",
        str(tiny_gguf(tmp_path / "tiny.gguf")),
        "--pp",
        "40",
        "--tg",
        "8",
        "--repeat",
        "2",
        "--threads",
        "1",
    ]
    assert bench(argv) == 0
    measured = json.loads(capsys.readouterr().out)
    for row in measured["rows"]:
        assert not [name for name in LLAMA_BENCH if name not in row]
        assert len(row["samples_ts"]) == 2
        assert min(row["samples_ts"]) > 0
    assert [(row["n_prompt"], row["n_gen"]) for row in measured["rows"]] == [(40, 0), (0, 8)]
    assert (measured["rows"][0]["n_threads"], measured["rows"][0]["model_n_params"]) == (1, 394624)
    assert measured["ttft_cold_s"] > measured["load_s"] > 0
    assert len(measured["ttft_warm_samples_s"]) == 2
    assert measured["peak_rss_bytes"] > measured["rows"][0]["model_size"]


def test_a_test_that_the_context_does_not_hold_is_refused_with_the_number(tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "bundle", context=256)
    with pytest.raises(DeviceError) as caught:
        bench(["--bundle", str(bundle), "--pp", "256", "--tg", "8"])
    assert (caught.value.code, caught.value.message) == (
        "prompt_too_long",
        "a test of 256 tokens needs a larger context than 256",
    )


@pytest.mark.parametrize("argv", [["--pp", "0"], ["--tg", "-1"], ["--repeat", "none"]])
def test_a_count_that_is_none_is_refused(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        bench(["--model", "x.gguf", *argv])
    assert "invalid" in capsys.readouterr().err
