"""What a round forgets of the round before, by how much of its answers is replayed.

python benchmarks/forgetting.py --work FOLDER [--minutes 12]

A tiny base has read other answers of the starter. A first round learns 48 answers; a second one is
trained from the same base on 16 more, and on all, a fifth or none of the 48. The control learns the
48 again with another seed: what it loses, chance loses, and no round is to blame.

Every file is asked the same things, so all differences are paired: the phrasings of the 48 that
were learned, those that were held out, the loss of the held-out answers, and the loss of the
answers that only the base has read. One difference a seed is one observation.

The work folder keeps what each file said; a second run goes on.
"""

import json
import random
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import measure

from toolchain import runtime
from toolchain.artifacts import Checkpoint, Dataset
from toolchain.evaluate.leak import by_runtime
from toolchain.ingest import ingest
from toolchain.pretrain import pretrain
from toolchain.progress import Silent
from toolchain.quantize.gguf import ModelLabel, quantize
from toolchain.recipe import DataSpec, QuantizeSpec, ScratchSpec, TuneSpec
from toolchain.runtime.scoring import Scorer, scorer
from toolchain.training.answers import exact_match
from toolchain.tune import tune

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "recipes" / "starter" / "help-desk.jsonl"
FIRST, LATER = 48, 16
"""Answers of the first round and of the second."""
EARLIER, NEWEST, OTHER = "round-1.jsonl", "round-2.jsonl", "other.jsonl"
SEEDS = 8
GOAL = 2.0
"""Most points of exact match that may be forgotten."""
ANSWER_TOKENS = 96
OTHER_ANSWERS = 60
LEARNED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
T_ONE_SIDED_95 = {2: 6.314, 3: 2.920, 4: 2.353, 5: 2.132, 6: 2.015, 7: 1.943, 8: 1.895}
"""Student's t by the number of seeds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """How one model file of a seed is trained."""

    name: str
    files: tuple[str, ...]
    replay: float = 1.0
    other_seed: bool = False


BEFORE = Arm(name="before", files=(EARLIER,))
ARMS = (
    BEFORE,
    Arm(name="the 48 again, another seed", files=(EARLIER,), other_seed=True),
    Arm(name="16 more, all replayed", files=(EARLIER, NEWEST)),
    Arm(name="16 more, 0.2 replayed", files=(EARLIER, NEWEST), replay=0.2),
    Arm(name="16 more, nothing replayed", files=(EARLIER, NEWEST), replay=0.0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What one model file knows of the first round's answers."""

    learned: float
    """Share of the first round's learned phrasings that are answered exactly."""
    held_out: float
    """The same of its held-out phrasings."""
    held_out_nats: float
    """Mean loss of the held-out phrasings' answers, in nats a token."""
    other_nats: float
    """Mean loss of answers that only the base has read, in nats a token."""


def split_starter(folder: Path) -> None:
    """Write a data file a round, and one that the base reads."""
    rows = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
    rows = [row for row in rows if isinstance(row["question"], list) and len(row["question"]) > 2]
    # Each round has answers of all topics, as a board's questions do.
    rows = [row for start in range(7) for row in rows[start::7]]
    ends = (0, FIRST, FIRST + LATER, len(rows))
    for name, (start, end) in zip((EARLIER, NEWEST, OTHER), pairwise(ends), strict=True):
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows[start:end])
        (folder / name).write_text("".join(lines), encoding="utf-8")


def base_of(folder: Path) -> Checkpoint:
    """Return the base, which has read the other answers alone; made once."""
    spec = DataSpec(files=(OTHER,), hold_out="phrasing")
    data = ingest(spec, folder, folder / "base" / "ingest", Silent(), seed=0)
    scratch = ScratchSpec(
        vocab_size=1024, intermediate_size=512, layers=2, steps=150, batch_size=12, context=512
    )
    return pretrain(data, scratch, folder / "base" / "pretrain", Silent(), seed=0)


def learned_by(folder: Path, arm: Arm, seed: int) -> Dataset:
    """Return what an arm learns; what is held out of an answer is the same in all arms."""
    work = folder / "trying"
    shutil.rmtree(work, ignore_errors=True)
    newest = (NEWEST,) if NEWEST in arm.files else ()
    spec = DataSpec(files=arm.files, newest=newest, replay=arm.replay, hold_out="phrasing")
    return ingest(spec, folder, work / "ingest", Silent(), seed=seed)


def trained(folder: Path, base: Checkpoint, arm: Arm, seed: int) -> Path:
    """Return the model file of an arm."""
    data = learned_by(folder, arm, seed)
    work = folder / "trying"
    lessons = TuneSpec(
        r=32,
        epochs=24,
        batch_size=12,
        learning_rate=4e-3,
        dropout=0.05,
        questions=0,
        target_modules=LEARNED,
    )
    training_seed = seed + 1000 * arm.other_seed
    tuned = tune(base, data, lessons, work / "tune", Silent(), seed=training_seed)
    label = ModelLabel(name="tiny")
    model = quantize(tuned, QuantizeSpec(scheme="Q8_0"), label, work / "quantize", Silent())
    return model.file


def known(file: Path, chats: Mapping[str, Sequence[Mapping[str, Any]]]) -> Known:
    """Ask a model file, by the device runtime."""
    with scorer(runtime.for_this_computer(), file, context=512) as child:
        right = {
            part: statistics.mean(_is_right(child, chat) for chat in chats[part])
            for part in ("learned", "held_out")
        }
        nats = {
            part: statistics.mean(_nats(child, chat) for chat in chats[part])
            for part in ("held_out", "other")
        }
    return Known(**right, held_out_nats=nats["held_out"], other_nats=nats["other"])


def _is_right(child: Scorer, chat: Mapping[str, Any]) -> bool:
    *asked, expected = chat["messages"]
    return bool(exact_match(child.answer(asked, ANSWER_TOKENS).text, expected["content"]))


def _nats(child: Scorer, chat: Mapping[str, Any]) -> float:
    *asked, expected = chat["messages"]
    start = len(child.render(asked))
    ids = child.tokenize(child.rendered(asked) + expected["content"])
    return -by_runtime(child, ids, start) / (len(ids) - start)


def other_chats(folder: Path) -> list[dict[str, Any]]:
    """Return conversations that the base has read and no round learns."""
    rows = [json.loads(line) for line in (folder / OTHER).read_text(encoding="utf-8").splitlines()]
    drawn = random.Random(0).sample(rows, OTHER_ANSWERS)
    return [
        {
            "messages": [
                {"role": "user", "content": row["question"][0]},
                {"role": "assistant", "content": row["answer"]},
            ]
        }
        for row in drawn
    ]


def go_on(folder: Path, seeds: int, minutes: float) -> None:
    """Train and ask the model files that are missing, a seed after another, until time is up."""
    end = time.monotonic() + 60 * minutes
    base, others = base_of(folder), other_chats(folder)
    for seed in range(seeds):
        if _all_done(folder, seed):
            continue
        first = learned_by(folder, BEFORE, seed)
        chats = {"other": others, "learned": first.train(), "held_out": first.held_out()}
        for arm in ARMS:
            result = folder / "results" / f"{seed}-{ARMS.index(arm)}.json"
            if result.exists():
                continue
            if time.monotonic() > end:
                return
            began = time.process_time()
            found = known(trained(folder, base, arm, seed), chats)
            result.parent.mkdir(exist_ok=True)
            part = result.with_suffix(".part")
            part.write_text(json.dumps(asdict(found)))
            part.replace(result)
            cpu = time.process_time() - began
            print(f"  {seed}, {arm.name}: {_said(found)}, {cpu:.0f} CPU s", file=sys.stderr)
    shutil.rmtree(folder / "trying", ignore_errors=True)


def _all_done(folder: Path, seed: int) -> bool:
    names = (f"{seed}-{number}.json" for number in range(len(ARMS)))
    return all((folder / "results" / name).exists() for name in names)


def results(folder: Path, seeds: int) -> list[list[Known]]:
    """Return what the files of each finished seed know, in the order of the arms."""
    return [
        [
            Known(**json.loads((folder / "results" / f"{seed}-{number}.json").read_text()))
            for number in range(len(ARMS))
        ]
        for seed in range(seeds)
        if _all_done(folder, seed)
    ]


def rows(found: Sequence[Sequence[Known]]) -> Iterator[str]:
    """Yield the table: means over seeds, differences with their standard error over seeds."""
    yield "| trained on | learned, points | held out, points | their loss, nats | of other text |"
    yield "|---|--:|--:|--:|--:|"
    first = [seed[0] for seed in found]
    levels = (
        f"{statistics.mean(each.learned for each in first):.1%}",
        f"{statistics.mean(each.held_out for each in first):.1%}",
        f"{statistics.mean(each.held_out_nats for each in first):.3f}",
        f"{statistics.mean(each.other_nats for each in first):.3f}",
    )
    yield f"| the 48: as it stands | {' | '.join(levels)} |"
    for number, arm in enumerate(ARMS[1:], 1):
        now = [seed[number] for seed in found]
        pairs = list(zip(first, now, strict=True))
        cells = (
            _mean([100 * (a.learned - b.learned) for a, b in pairs], 1),
            _mean([100 * (a.held_out - b.held_out) for a, b in pairs], 1),
            _mean([b.held_out_nats - a.held_out_nats for a, b in pairs], 3),
            _mean([b.other_nats - a.other_nats for a, b in pairs], 3),
        )
        yield f"| {arm.name}: forgotten | {' | '.join(cells)} |"


def _mean(values: Sequence[float], digits: int) -> str:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return f"{statistics.mean(values):.{digits}f} ± {error:.{digits}f}"


def questions_in(folder: Path) -> dict[str, int]:
    """Return how many phrasings of the first round's answers each file is asked."""
    lines = (folder / EARLIER).read_text(encoding="utf-8").splitlines()
    phrasings = [len(json.loads(line)["question"]) for line in lines]
    return {"learned phrasings": sum(phrasings) - len(phrasings), "held-out phrasings": FIRST}


def forgotten_claim(what: str, values: Sequence[float], questions: int) -> measure.Claim:
    """Return whether the upper end of what is forgotten when all is replayed is within the goal.

    `values` are points, one a seed, each over as many questions.
    """
    mean, error = statistics.mean(values), statistics.stdev(values) / len(values) ** 0.5
    reach = T_ONE_SIDED_95[len(values)] * error
    if not any(values):
        # Nothing was lost of n: at 95 % at most 3 / n is, if questions are lost independently.
        reach = 100 * 3 / (questions * len(values))
    return measure.Claim(
        claim=f"{what}: points forgotten when all is replayed",
        peer="the model file of the round before",
        goal=GOAL,
        measured=round(mean, 2),
        ci=(round(mean - reach, 2), round(mean + reach, 2)),
        holds=mean + reach <= GOAL,
        conditions={
            "seeds": len(values),
            "questions a seed": questions,
            "interval": "90 %, over seeds; where nothing was lost 3 ÷ questions",
            **measure.machine(),
        },
    )


def _said(found: Known) -> str:
    return (
        f"learned {found.learned:.1%}, held out {found.held_out:.1%}, "
        f"{found.held_out_nats:.3f} nats, other {found.other_nats:.3f}"
    )


def main() -> None:
    """Print the table, and whether the goal is reached."""
    options = measure.options(__doc__ or "", resumable=True)
    seeds = 2 if options.quick else SEEDS
    with measure.work_folder(options.work) as folder:
        folder.mkdir(parents=True, exist_ok=True)
        split_starter(folder)
        go_on(folder, seeds, options.minutes)
        found = results(folder, seeds)
        questions = questions_in(folder)
    if len(found) < 2:
        sys.exit("fewer than two seeds are done: run it again with the same --work")

    print("\n".join(rows(found)), file=sys.stderr)
    replayed = [(seed[0], seed[2]) for seed in found]
    parts = {
        "learned phrasings": [100 * (a.learned - b.learned) for a, b in replayed],
        "held-out phrasings": [100 * (a.held_out - b.held_out) for a, b in replayed],
    }
    claims = [forgotten_claim(what, each, questions[what]) for what, each in parts.items()]
    measure.show(claims, parts, "points", as_json=options.json)


if __name__ == "__main__":
    main()
