"""What a recipe takes: hours on this computer by its own records, and money for a rented one.

On this computer a stage takes what a recorded one of the same kind took, scaled by the tokens that
are learned, the questions that are answered and the parameters; a stage that trains nothing, by
what it asks. Where nothing is recorded yet, the number of operations is divided by the rate at
which this computer multiplies now. Processor seconds are told beside: other work on this computer
makes a stage longer and leaves them nearly as they are.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.artifacts import RECORD, Record, recorded
from toolchain.figures import DatasetFigures
from toolchain.prices import Money, Price, Prices
from toolchain.recipe.model import EyesSpec

SAME_SIZE = 0.05
"""Largest relative difference of two numbers of parameters that count as equal."""
START_S = 2.0
"""Seconds until a stage that trains has loaded its libraries."""
# Measured here: 1.6 to 2.4 (torch 2.13, transformers 5.23 from a warm disk).
DISTILL_TRAININGS = 3
"""Trainings of `distill` where there is something to teach: student and two controls."""
TOKENS_A_QUESTION = 64
"""Tokens that are compared in about the time of one answer."""
# Measured: evaluate of 1.3 M parameters took 2.5 to 4 processor seconds within a run, and 7 to 9
# by itself, with 60 questions or 120.
FIRST_S = {"quantize": 0.1, "evaluate": 6.0}
"""Seconds until a stage that trains nothing begins with what its size decides."""
CHARACTERS_PER_TOKEN = 4
"""Characters that the plan takes for a token where the tokenizer is trained later."""
GPU_SHARE = 0.25
"""Share of an accelerator's rate of large matrices that training gets: an assumption."""
# Model FLOPs utilisation of small models on one accelerator; PaLM (arXiv:2204.02311, table 3)
# reports 21 to 46 % for large ones on many.
LORA_BYTES, FULL_BYTES = 3, 20
"""Bytes a parameter while an adapter is trained on weights of 16 bits, and while all are."""
ADAPTED = ("tune", "align")
"""Stages that train an adapter alone."""
SETUP_H = 0.25
"""Hours that are paid before a rented computer trains: it is set up, weights are fetched."""
RESTARTS = 0.1
"""Share of the time that is done twice on a spot instance that is taken away."""
PUE = 1.2
"""Power of a data centre ÷ power of its computers: an assumption."""
HERE_W = 65.0
"""Power of this computer while it trains, in watts: an assumption, unless it is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What one stage has to do."""

    stage: str
    parameters: int
    """Of the model that is trained."""
    tokens: float
    """Tokens of whole sequences that are learned from, each as often as it is seen."""
    asked: float
    """Questions that are answered before and after; of a stage that trains nothing, its amount:
    questions of `evaluate`, 1 for `quantize`."""
    operations: float
    """Multiplications and additions."""
    trains: bool = True
    """Whether a rented accelerator would help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Seconds of one recorded stage: on the clock, or of processors."""

    train: float
    """In training loops."""
    whole: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What one recorded stage had to do, and what it took."""

    stage: str
    folder: str
    """Work folder that it was recorded in."""
    parameters: int
    tokens: float
    asked: float
    wall: Spent
    cpu: Spent | None
    """None for a record of an earlier version."""
    found: str = ""
    """What the stage found out that decides its time, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """Time of one stage on this computer."""

    stage: str
    seconds: float
    by: str
    """What the figure stands on, in words."""
    cpu_s: float | None = None
    """Processor seconds; None where no record has them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What the same takes on a rented computer."""

    price: Price
    is_spot: bool
    hours: float
    """Hours that are paid."""
    amount: float
    """In the currency that was asked for."""
    kwh: float
    co2_kg: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a recipe takes."""

    stages: tuple[Expected, ...]
    kwh: float
    co2_kg: float
    """Of this computer."""
    offers: tuple[Offer, ...]
    """The cheapest first."""
    currency: str
    assumptions: tuple[str, ...]

    @property
    def seconds(self) -> float:
        """Seconds on this computer."""
        return sum(each.seconds for each in self.stages)


def records_in(folder: Path) -> list[Done]:
    """Return what the work folders in a folder recorded of the stages that take time."""
    found: list[Done] = []
    for work in sorted(each for each in folder.glob("*") if each.is_dir()):
        records = {file.parent.name: recorded(file.parent) for file in work.glob(f"*/{RECORD}")}
        known = {name: record for name, record in records.items() if record}
        for record in known.values():
            done = _done if _runs(record.figures) else _asked
            found += done(record, work.name, known)
    return found


def _guess(records: Mapping[str, Record]) -> float | None:
    """Return the tokens that the plan takes a conversation for, if its tokenizer came later.

    A tokenizer that is trained with the model is not known before: the plan counts characters.
    """
    if not {"ingest", "pretrain"} <= records.keys():
        return None
    figures = DatasetFigures.read(records["ingest"].figures)
    characters = figures.question_chars.mean + figures.answer_chars.mean
    eyes = records["pretrain"].parameters.get("eyes")
    places = EyesSpec.model_validate(eyes).places if eyes else 0
    return characters / CHARACTERS_PER_TOKEN + places


def _done(record: Record, folder: str, known: Mapping[str, Record]) -> Iterator[Done]:
    figures = record.figures
    parameters = figures.get("total_parameters", figures.get("parameters"))
    runs = _runs(figures)
    if record.stage == "align":
        # Its plan counts preferences, each as often as it is seen.
        parameters, tokens = _parameters(known), _seen(record)
    else:
        tokens = _planned(record, sum(float(run["trained_tokens"]) for run in runs), _guess(known))
    train_s = sum(float(run["train_s"]) for run in runs)
    train_cpu_s = sum(float(run.get("train_cpu_s", 0.0)) for run in runs)
    if isinstance(parameters, int) and tokens > 0 and train_s > 0:
        yield Done(
            stage=record.stage,
            folder=folder,
            parameters=parameters,
            tokens=tokens,
            asked=int(figures.get("questions") or 0),
            wall=Spent(train=train_s, whole=record.seconds),
            cpu=Spent(train=train_cpu_s, whole=record.cpu_s) if record.cpu_s else None,
            found=_verdict(record.figures),
        )


def _verdict(figures: Mapping[str, Any]) -> str:
    before = figures.get("before")
    if isinstance(before, dict) and "nothing_to_teach" in before:
        return "nothing to teach" if before["nothing_to_teach"] else "something to teach"
    return ""


def _asked(record: Record, folder: str, known: Mapping[str, Record]) -> Iterator[Done]:
    """Yield a stage that trains no model, with the amount that decides its time."""
    figures, parameters = record.figures, _parameters(known)
    tokens, amount = 0.0, 0.0
    learning: Mapping[str, Any] = {}
    if record.stage == "quantize":
        # GGUF has the keys of `[quantize]` in a table of their own.
        spec = record.parameters.get("spec", record.parameters)
        learning = figures.get("distillation") or {}
        tokens = float((spec.get("distill") or {}).get("tokens", 0))
        amount = 0.0 if tokens else 1.0
    elif record.stage == "evaluate":
        compared = record.parameters.get("kl_tokens", 0)
        amount = evaluated(int(figures.get("questions") or 0), compared)
    if parameters and (amount or tokens) and record.seconds:
        train_s, train_cpu_s = (
            float(learning.get(name, 0.0)) for name in ("train_s", "train_cpu_s")
        )
        yield Done(
            stage=record.stage,
            folder=folder,
            parameters=parameters,
            tokens=tokens,
            asked=amount,
            wall=Spent(train=train_s, whole=record.seconds),
            cpu=Spent(train=train_cpu_s, whole=record.cpu_s) if record.cpu_s else None,
        )


def evaluated(questions: int, kl_tokens: int) -> float:
    """Return the amount of an `evaluate` in questions; compared tokens are read at once."""
    return questions + kl_tokens / TOKENS_A_QUESTION


def _parameters(known: Mapping[str, Record]) -> int | None:
    """Return the parameters of the model that a work folder ships."""
    made = known["quantize"].figures.get("parameters") if "quantize" in known else None
    return made if isinstance(made, int) else None


def _planned(record: Record, tokens: float, guess: float | None) -> float:
    """Return the tokens that the plan of a recorded stage would count.

    Only `distill` finds out whether there is something to teach, and so how often it trains. The
    plan counts all trainings, and what a recorded one did decides the time.
    """
    one = float(record.figures.get("control", record.figures)["trained_tokens"])
    times = tokens / one
    if record.stage == "distill":
        times = DISTILL_TRAININGS
    return times * (one if guess is None else guess * _seen(record))


def _seen(record: Record) -> float:
    """Return how many conversations one training of a stage saw, each as often as it did.

    Of `align` it is preferences.
    """
    spec, figures = record.parameters, record.figures
    if "steps" in spec:
        return float(spec["steps"] * spec["batch_size"])
    if spec.get("updates"):
        return float(spec["updates"] * spec["batch_size"])
    count = figures.get("conversations", figures.get("learned", 1))
    # Of `distill` these are the labelled ones, and each training has general ones beside.
    count += (figures.get("control") or {}).get("general", 0)
    return float(spec.get("epochs", 1) * count)


def _runs(figures: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the trainings of a record: of `distill` those of the student and its controls."""
    names = ("student", "control", "longer", "aligned")
    several = [figures[name] for name in names if figures.get(name)]
    each = several or [figures]
    return [run for run in each if {"trained_tokens", "train_s"} <= run.keys()]


def expect(work: Workload, done: Sequence[Done], rate: float) -> Expected:
    """Return the time of a stage here; `rate` are this computer's operations a second.

    Of several recorded stages those with the nearest number of parameters count.
    """
    # A `quantize` that learns has little in common with one that does not.
    known = [
        each for each in done if each.stage == work.stage and bool(each.tokens) == bool(work.tokens)
    ]
    if not known:
        return Expected(
            stage=work.stage,
            seconds=START_S + work.operations / rate,
            by="no record here: its operations by this computer's rate of matrices",
        )

    alike = _alike(work, known)
    cpu = [each.cpu for each in alike if each.cpu]
    return Expected(
        stage=work.stage,
        seconds=_scaled(work, alike, [each.wall for each in alike]),
        cpu_s=_scaled(work, alike, cpu) if len(cpu) == len(alike) else None,
        by=f"by {len(alike)} recorded here{_of_size(alike[0])}{_that(alike)}",
    )


def _of_size(done: Done) -> str:
    return f" with {done.parameters / 1e6:.2f} M parameters"


def _that(alike: Sequence[Done]) -> str:
    """Return what the recorded stages found that decides their time, in words."""
    found = {each.found for each in alike} - {""}
    return f", that found {' or '.join(sorted(found))}" if found else ""


def _scaled(work: Workload, alike: Sequence[Done], spent: Sequence[Spent]) -> float:
    """Return the seconds of a stage by those of recorded ones, the most similar one first."""
    nearest = alike[0]
    size = work.parameters / nearest.parameters
    both = list(zip(alike, spent, strict=True))
    if not nearest.tokens:
        return statistics.median(_by_amount(work, done, each) for done, each in both)
    # The median: on a busy computer single records say more about the others on it.
    per_token = statistics.median(each.train / done.tokens for done, each in both)
    rest_s = statistics.median(max(0.0, each.whole - each.train) for _, each in both)
    start_s = min(rest_s, FIRST_S.get(work.stage, START_S))
    share = size * work.asked / nearest.asked if nearest.asked else 1.0
    return per_token * size * work.tokens + start_s + (rest_s - start_s) * share


def _by_amount(work: Workload, done: Done, spent: Spent) -> float:
    """Return the seconds of a stage that trains nothing by those of a recorded one."""
    start = min(spent.whole, FIRST_S.get(work.stage, START_S))
    share = work.parameters / done.parameters * work.asked / done.asked
    return start + (spent.whole - start) * share


def _alike(work: Workload, known: Sequence[Done]) -> list[Done]:
    """Return the recorded stages of the nearest size, the one with the nearest tokens first."""
    nearest = min(known, key=lambda each: _distance(work, each))
    close = [
        each
        for each in known
        if abs(each.parameters - nearest.parameters) <= SAME_SIZE * nearest.parameters
    ]
    return sorted(close, key=lambda each: _distance(work, each)[1])


def _distance(work: Workload, done: Done) -> tuple[float, float]:
    """Return how many times larger or smaller the parameters are, and the tokens."""
    size = work.parameters / done.parameters
    length = work.tokens / done.tokens if done.tokens else work.asked / done.asked
    return max(size, 1 / size), max(length, 1 / length) if length else 0.0


def cost(
    works: Sequence[Workload],
    stages: Sequence[Expected],
    prices: Prices,
    *,
    currency: str,
    country: str,
    watts: float,
) -> Cost:
    """Return what a recipe takes here, and what each offer of the table would."""
    works = [each for each in works if each.trains]
    hours = sum(each.seconds for each in stages) / 3600
    kwh = hours * watts / 1000
    offers = [
        _offer(price, is_spot, works, prices, currency)
        for price in prices.price
        if works and prices.gpu_of(price).memory_gb >= _memory_gb(works)
        for is_spot in ((False, True) if price.spot else (False,))
    ]
    return Cost(
        stages=tuple(stages),
        kwh=kwh,
        co2_kg=kwh * prices.grams(country) / 1000,
        offers=tuple(sorted(offers, key=lambda offer: offer.amount)),
        currency=currency,
        assumptions=(
            f"this computer draws {watts:g} W; {prices.grams(country):g} g CO2 a kWh ({country})",
            f"a rented one trains at {GPU_SHARE:.0%} of its rate of matrices, {SETUP_H * 60:.0f} "
            f"minutes are paid before, spot does {RESTARTS:.0%} twice; PUE {PUE:g}",
            f"exchange rates of {prices.exchange.date}: {prices.exchange.source}",
            *_unconfirmed(prices),
        ),
    )


def _unconfirmed(prices: Prices) -> Iterator[str]:
    """Yield how many prices no other source confirms; a table of the user's own has no such key."""
    checked = [row.checked for row in prices.price if row.checked]
    count = sum(not each.startswith("20") for each in checked)
    if count:
        yield (
            f"{count} of {len(checked)} prices are confirmed by no other source: look at the "
            "provider's page (`checked` in the table says what was read)"
        )


def _memory_gb(works: Sequence[Workload]) -> float:
    """Return the memory that training takes on an accelerator, about, in GB."""
    return max(
        each.parameters * (LORA_BYTES if each.stage in ADAPTED else FULL_BYTES) / 1e9
        for each in works
    )


def _offer(
    price: Price, is_spot: bool, works: Sequence[Workload], prices: Prices, currency: str
) -> Offer:
    gpu = prices.gpu_of(price)
    trained = sum(each.operations for each in works) / (gpu.tflops * 1e12 * GPU_SHARE) / 3600
    hours = SETUP_H + trained * (1 + RESTARTS * is_spot)
    hourly = price.spot if is_spot and price.spot else price.hourly
    kwh = hours * gpu.watts / 1000 * PUE
    return Offer(
        price=price,
        is_spot=is_spot,
        hours=hours,
        amount=prices.converted(hourly * hours, price.currency, currency),
        kwh=kwh,
        co2_kg=kwh * prices.grams(price.country) / 1000,
    )


def within(found: Cost, budget: Money | None) -> tuple[Offer, ...]:
    """Return the offers that a budget pays for, the cheapest first; all without a budget."""
    return tuple(offer for offer in found.offers if budget is None or offer.amount <= budget.amount)
