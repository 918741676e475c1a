"""Differential privacy of `tune`: what it costs, and what canaries say of it. And sealed tallies.

python benchmarks/privacy.py [--audit] [--price] [--pace] [--tally]

A tiny Llama is trained on facts. `--audit`: 20 trainings with ε = 1 and 60 canaries, and 20 with
the noise taken out; each file is quantized and asked by the device runtime. The bound of its ε must
be at most 1 in all of the first, and above it in all of the others. `--price`: facts that many
entries share are learned without privacy, and under several ε, side by side. `--pace`: seconds of a
step with a gradient for each unit against a plain one. `--tally`: seconds that the sum of sealed
tallies takes, from the files of 100 owners with 415 counters. By default all four.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import measure

from toolchain import runtime
from toolchain.artifacts import Checkpoint, Dataset
from toolchain.evaluate.audit import Audit, measure_audit
from toolchain.figures import AuditFigures
from toolchain.ingest import ingest
from toolchain.pretrain import pretrain
from toolchain.privacy.canaries import FILE as CANARIES
from toolchain.progress import Silent
from toolchain.quantize.gguf import ModelLabel, quantize
from toolchain.recipe import DataSpec, PrivacySpec, QuantizeSpec, ScratchSpec, TuneSpec
from toolchain.report.knowledge import interval
from toolchain.rounds.round_file import LEAST, begin
from toolchain.rounds.tally import join, open_sum, seal, seat_in
from toolchain.runtime.scoring import scorer
from toolchain.signing import find_key
from toolchain.tune import tune

OWNERS, COUNTERS, TALLY_S = 100, 415, 5.0
TRIALS = 20
PLANTED = 60
CLAIMED = 1.0
EPSILONS = (8.0, 1.0)
THINGS = ("cable", "fan", "card", "case", "screen", "camera", "battery", "lamp")
PLACES = ("drawer", "box", "shelf", "bag", "cupboard", "garage", "cellar", "attic", "hall")
FORMS = (
    "{} asks where the {} is",
    "where is the {1}? it is {0} who asks",
    "{} cannot find the {}",
    "tell {} the place of the {}",
    "{} needs the {}, where is it?",
)
NAMES = tuple(
    f"{given} {family}"
    for given in ("Anna", "Ben", "Carl", "Dora", "Emil", "Fay", "Hana", "Ivan", "Mei", "Omar")
    for family in ("Baker", "Chen", "Davis", "Evans", "Kim", "Park", "Rossi", "Vogel", "Wang")
)
LEARNED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SPEC = TuneSpec(
    epochs=30, batch_size=16, learning_rate=1e-2, r=16, questions=0, target_modules=LEARNED
)


def entries(count: int, seed: int) -> list[dict[str, object]]:
    """Return entries of customers who ask for the same few things in their own words."""
    draw = random.Random(seed)
    places = {thing: draw.choice(PLACES) for thing in THINGS}
    every = [(form, name, thing) for form in FORMS for name in NAMES for thing in THINGS]
    draw.shuffle(every)
    return [
        {"question": form.format(name, thing), "answer": f"The {thing} is in the {places[thing]}."}
        for form, name, thing in every[:count]
    ]


def dataset(folder: Path, rows: list[dict[str, object]]) -> Dataset:
    """Return rows through the real ingest."""
    folder.mkdir(parents=True)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    spec = DataSpec(files=("rows.jsonl",), held_out_share=0.1)
    return ingest(spec, folder, folder / "dataset", Silent(), seed=0)


def base_of(folder: Path) -> Checkpoint:
    """Return a base that knows how such questions are answered, and no answer to these."""
    scratch = ScratchSpec(
        vocab_size=384,
        hidden_size=64,
        intermediate_size=128,
        layers=2,
        heads=2,
        kv_heads=1,
        steps=150,
        batch_size=12,
        context=256,
    )
    rows = [row for seed in range(900, 903) for row in entries(40, seed)]
    return pretrain(dataset(folder / "public", rows), scratch, folder / "base", Silent(), seed=0)


@contextmanager
def without_noise() -> Iterator[None]:
    """Take the noise out of every private training in this context."""
    from toolchain.training import private

    with_noise = private.with_noise
    private.with_noise = lambda sums, numbers, scale: dict(sums)
    try:
        yield
    finally:
        private.with_noise = with_noise


# The audit ----------------------------------------------------------------------------------------


def audited(base: Checkpoint, folder: Path, seed: int, spec: TuneSpec = SPEC) -> AuditFigures:
    """Tune under a claim of CLAIMED with canaries, quantize, and ask the file for them."""
    data = dataset(folder / "data", entries(40, seed))
    privacy = PrivacySpec(epsilon=CLAIMED, expected_batch=16, canaries=PLANTED)
    changed = spec.model_copy(update={"privacy": privacy})
    tuned = tune(base, data, changed, folder / "tune", Silent(), seed=seed)
    claim = tuned.record.figures["privacy"]
    scheme = QuantizeSpec(scheme="Q8_0")
    model = quantize(tuned, scheme, ModelLabel(name="tiny"), folder / "quantize", Silent())
    audit = Audit(file=folder / "tune" / CANARIES, epsilon=claim["epsilon"], delta=claim["delta"])
    with scorer(runtime.for_this_computer(), model.file, context=256) as child:
        return measure_audit(child, audit, Silent())


def audits(base: Checkpoint, folder: Path, count: int) -> Mapping[str, list[AuditFigures]]:
    """Return what canaries say with the noise, and without it."""
    found: dict[str, list[AuditFigures]] = {"noise": [], "no noise": []}
    for seed in range(count):
        found["noise"].append(audited(base, folder / f"noise-{seed}", seed))
        with without_noise():
            found["no noise"].append(audited(base, folder / f"none-{seed}", seed))
        for name, each in found.items():
            said = f"ε ≥ {each[-1].epsilon_at_least:.2f}, {each[-1].right} of {each[-1].guesses}"
            print(f"  {name} {seed}: {said}", file=sys.stderr, flush=True)
    return found


def share(name: str, right: int, count: int, conditions: dict[str, object]) -> measure.Claim:
    """Return the claim that something happened in all trials."""
    return measure.Claim(
        claim=name,
        peer="all of them",
        goal=1.0,
        measured=right / count,
        ci=interval(right / count, count),
        holds=right == count,
        conditions={"trials": count, **measure.machine(), **conditions},
    )


# The price ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What one training scored on held-out entries."""

    claim: str
    noise: float
    exact_match: float
    loss: float


def price(base: Checkpoint, folder: Path, count: int, seed: int) -> Iterator[Price]:
    """Yield the scores without privacy, and under each ε, on the same entries."""
    data = dataset(folder / "data", entries(count, seed))
    plain = SPEC.model_copy(update={"epochs": 6, "questions": 100})
    yield _scored("none", base, data, plain, folder / "plain")
    for epsilon in EPSILONS:
        privacy = PrivacySpec(epsilon=epsilon, expected_batch=64)
        spec = plain.model_copy(update={"privacy": privacy, "epochs": 12})
        yield _scored(f"ε ≤ {epsilon:g}", base, data, spec, folder / f"{epsilon:g}")


def _scored(claim: str, base: Checkpoint, data: Dataset, spec: TuneSpec, out: Path) -> Price:
    figures = tune(base, data, spec, out, Silent(), seed=0).record.figures
    noise = figures["privacy"]["noise_multiplier"] if "privacy" in figures else 0.0
    return Price(
        claim=claim,
        noise=noise,
        exact_match=figures["exact_match"],
        loss=figures["held_out_loss"],
    )


# The pace -----------------------------------------------------------------------------------------


def pace(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Return milliseconds of CPU of a backward pass: plain, and with a gradient for each unit.

    The model has the starter's size, and no training: its weights decide nothing of the time.
    """
    import torch

    from toolchain.models.checkpoints import load_model
    from toolchain.training.examples import Example, batch_of
    from toolchain.training.lora import with_lora
    from toolchain.training.objectives import AnswerLoss
    from toolchain.training.private import RowGradients, RowLoss, Units, clipped_sum, unit_gradients

    torch.set_num_threads(1)
    data = dataset(folder / "pace", entries(40, 0))
    scratch = ScratchSpec(vocab_size=384, steps=1)
    base = pretrain(data, scratch, folder / "starter", Silent(), seed=0)
    draw = random.Random(0)
    ids = [[draw.randrange(5, 380) for _ in range(64)] for _ in range(32)]
    units = Units([Example(ids=row, labels=row) for row in ids], range(32))
    spec = SPEC.model_copy(update={"dropout": 0.0})
    model: Any = with_lora(load_model(base.path), spec, 0, stage="tune").get_base_model()
    plain, rows = AnswerLoss(model).eval(), RowLoss(model).eval()
    layers, batch = RowGradients(rows), batch_of(units.examples, range(32))

    def plainly() -> None:
        plain(batch).backward()
        plain.zero_grad()

    def privately() -> None:
        gradients, _ = unit_gradients(rows, layers, units, range(32), 32)
        clipped_sum(gradients, 1.0)

    def timed(work: Any) -> measure.Case:
        def case() -> float:
            began = time.process_time()
            work()
            return 1e3 * (time.process_time() - began)

        return case

    cases = {"plain": timed(plainly), "for each unit": timed(privately)}
    return measure.interleave(cases, rounds)


# Sealed tallies -----------------------------------------------------------------------------------


def tallies(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Return milliseconds: one owner seals for a round of 100, and their sum is opened.

    All signatures are made and checked by ssh-keygen. The sum is compared with the true one.
    """
    folder.mkdir()
    os.environ["XDG_STATE_HOME"] = str(folder / "state")
    keys = {}
    for number in range(OWNERS):
        file = folder / f"owner-{number}"
        words = ("-q", "-t", "ed25519", "-N", "", "-C", file.name, "-f", str(file))
        subprocess.run(["ssh-keygen", *words], check=True)
        keys[file.name] = find_key(str(file))
    (folder / "owners").write_text("".join(f"{key.public}\n" for key in keys.values()))

    shown: dict[str, list[float]] = {"seal": [], "open": []}
    names = [f"counter {number}" for number in range(COUNTERS)]
    for number in range(rounds):
        path = folder / f"tally-{number}.json"
        begin(path, folder / "owners", names, LEAST, days=1)
        draw = random.Random(number)
        values = {owner: [draw.randrange(1 << 20) for _ in names] for owner in keys}
        for key in keys.values():
            join(path, key)
        seat, began = None, time.perf_counter()
        for owner, key in keys.items():
            whole = seat is None
            seat = replace(seat, owner=owner) if seat else seat_in(path, key)
            seal(seat, values[owner], key)
            if whole:
                shown["seal"].append(1e3 * (time.perf_counter() - began))
        began = time.perf_counter()
        done = open_sum(path)
        shown["open"].append(1e3 * (time.perf_counter() - began))
        if list(done.counters.values()) != [
            sum(each) for each in zip(*values.values(), strict=True)
        ]:
            raise SystemExit("the sum is wrong")
    return shown


def _tally_claim(shown: Mapping[str, list[float]]) -> measure.Claim:
    both = [seal + opened for seal, opened in zip(shown["seal"], shown["open"], strict=True)]
    conditions = {"owners": OWNERS, "counters": COUNTERS, "exact": True}
    goal = [1e3 * TALLY_S] * len(both)
    return measure.claim(
        "seal and open a tally", f"{TALLY_S:g} s", 1.0, both, goal, conditions, better="less"
    )


def main() -> None:
    """Print the shares, the table of prices, the pace, and what tallies take."""
    options = measure.options(
        __doc__ or "",
        audit="only the audit",
        price="only what it costs in quality",
        pace="only what it costs in time",
        tally="only sealed tallies",
    )
    every = not (options.audit or options.price or options.pace or options.tally)
    claims: list[measure.Claim] = []
    shown: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as made:
        if every or options.tally:
            shown |= tallies(Path(made) / "tally", 1 if options.quick else 5)
            claims.append(_tally_claim(shown))
        if not (every or options.pace or options.audit or options.price):
            measure.show(claims, shown, "ms", as_json=options.json)
            return
        base = base_of(Path(made))
        if every or options.pace:
            shown |= pace(Path(made), 3 if options.quick else 15)
            claims.append(_pace_claim(shown))
        if every or options.audit:
            count = 1 if options.quick else TRIALS
            found = audits(base, Path(made), count)
            claims += _audit_claims(found, count)
        if every or options.price:
            for row in price(base, Path(made) / "price", 100 if options.quick else 1000, 0):
                print(
                    f"  {row.claim:8} noise {row.noise:5.3f}  exact match {row.exact_match:.1%}  "
                    f"held-out loss {row.loss:.3f}",
                    file=sys.stderr,
                    flush=True,
                )
    if claims:
        measure.show(claims, shown, "ms", as_json=options.json)


def _pace_claim(shown: Mapping[str, list[float]]) -> measure.Claim:
    return measure.claim(
        "a step for each unit",
        "a plain step",
        1.3,
        shown["for each unit"],
        shown["plain"],
        {"rows": 32, "tokens": 64, "threads": 1},
        better="less",
    )


def _audit_claims(found: Mapping[str, list[AuditFigures]], count: int) -> list[measure.Claim]:
    conditions: dict[str, object] = {"canaries": PLANTED, "claimed": CLAIMED, "scheme": "Q8_0"}
    kept = sum(not each.refutes for each in found["noise"])
    refuted = sum(each.refutes for each in found["no noise"])
    return [
        share("the bound is at most ε", kept, count, conditions),
        share("without noise it is above", refuted, count, conditions),
    ]


if __name__ == "__main__":
    main()
