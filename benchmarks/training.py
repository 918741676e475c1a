"""LoRA on SmolLM2-135M against transformers.Trainer with peft, and against TRL's SFTTrainer.

The same base folder, the same batches in the same order, the same adapter; each side a process of
its own, in turns. Speed is tokens a processor second after the first step, as others may use this
computer; memory is the peak of the process. Goals: ≥ 1.5 of the better one's speed, ≤ 0.8 of the
smaller one's memory. DEMITASSE_TRL names a Python with TRL; without it there is one peer.
`--half` measures a model of the shape of Qwen2.5-0.5B too, with random weights.
DEMITASSE_RUNS names a folder that keeps the runs that are done, so that one that was interrupted
goes on; runs of other code are not taken.
"""

import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import measure
import smollm2

HERE = Path(__file__).parent
ROOT = HERE.parent
ROUNDS, QUICK_ROUNDS = 5, 1
STEPS, QUICK_STEPS = 9, 3
HALF_ROUNDS, HALF_STEPS = 3, 4
"""Of the larger model."""
BATCH = 4
THREADS = 1
"""Of each side: with more, waiting threads would count as work on a busy computer."""
OURS, TRAINER, TRL = "ours", "trainer", "trl"
LARGEST_DIFFERENCE = 0.02
"""Share by which the first step's losses may differ, by rounding to 16 bits."""
SYSTEM = "You are the help desk of a Raspberry Pi."
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """What one process took for its steps after the first."""

    cpu_s: float
    wall_s: float
    tokens: int
    loss: float
    """Of the first step, in nats a learned token."""
    peak_bytes: int


def main() -> None:
    """Measure and print the claims, or, asked by itself, train our way."""
    if sys.argv[1:2] == [OURS]:
        print(json.dumps(_ours(*map(Path, sys.argv[2:]))))
        return
    options = measure.options(__doc__ or "", half="measure the shape of Qwen2.5-0.5B too")
    steps = QUICK_STEPS if options.quick else STEPS
    claims: list[measure.Claim] = []
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        small = smollm2.write(Path(scratch, "smollm2"))
        models = {"SmolLM2-135M": (small, steps, ROUNDS)}
        if options.half:
            half = _half(small, Path(scratch, "half"))
            models["0.5B"] = (half, min(steps, HALF_STEPS), HALF_ROUNDS)
        for name, (folder, count, wanted) in models.items():
            batches = _write_batches(small, Path(scratch, f"{count}.json"), count)
            rounds = _rounds(name, folder, batches, QUICK_ROUNDS if options.quick else wanted)
            figures |= {
                f"{name}, {way}": [each.tokens / each.cpu_s for each in taken]
                for way, taken in rounds.items()
            }
            claims += _claims(name, rounds)
    measure.show(claims, figures, "tokens a processor second", as_json=options.json)


def _claims(name: str, rounds: dict[str, list[Taken]]) -> list[measure.Claim]:
    """Return speed against the faster peer and memory against the smaller one."""
    speed = {way: [each.tokens / each.cpu_s for each in taken] for way, taken in rounds.items()}
    peak = {way: [each.peak_bytes / 1e6 for each in taken] for way, taken in rounds.items()}
    peers = [way for way in rounds if way != OURS]
    faster = max(peers, key=lambda way: statistics.median(speed[way]))
    smaller = min(peers, key=lambda way: statistics.median(peak[way]))
    conditions = {
        "batch": BATCH,
        "threads": THREADS,
        "peak_mb": {way: round(statistics.median(values)) for way, values in peak.items()},
        "wall_tokens_per_s": {
            way: round(statistics.median(each.tokens / each.wall_s for each in taken), 1)
            for way, taken in rounds.items()
        },
    }
    return [
        measure.claim(
            f"tokens a processor second, {name}",
            faster,
            1.5,
            speed[OURS],
            speed[faster],
            conditions,
        ),
        measure.claim(
            f"peak memory, {name}",
            smaller,
            0.8,
            peak[OURS],
            peak[smaller],
            conditions,
            better="less",
        ),
    ]


def _rounds(name: str, folder: Path, batches: Path, rounds: int) -> dict[str, list[Taken]]:
    """Return what each way took in each round, in turns; the first round does not count."""
    trl = os.environ.get("DEMITASSE_TRL", "")
    if not trl:
        print("DEMITASSE_TRL names no Python with TRL", file=sys.stderr)
    peer = str(HERE / "peers" / "sft.py")
    commands = {
        OURS: [sys.executable, __file__, OURS],
        TRAINER: [sys.executable, peer, TRAINER],
        **({TRL: [trl, peer, TRL]} if trl else {}),
    }
    taken: dict[str, list[Taken]] = {way: [] for way in commands}

    def case(way: str) -> measure.Case:
        def run() -> float:
            kept = _kept(f"{name}-{len(taken[way])}-{way}", batches)
            found = _read(kept) or _run(commands[way], folder, batches)
            if kept:
                kept.write_text(json.dumps(asdict(found)), encoding="utf-8")
            taken[way].append(found)
            return found.cpu_s

        return run

    measure.interleave({way: case(way) for way in commands}, rounds)
    first = [each[0].loss for each in taken.values()]
    if max(first) > min(first) * (1 + LARGEST_DIFFERENCE):
        raise SystemExit(f"the sides do not learn the same: first losses {first}")
    return {way: each[1:] for way, each in taken.items()}


def _kept(name: str, batches: Path) -> Path | None:
    """Return the file that keeps a run of this code and these batches; None where none is kept."""
    if not (folder := os.environ.get("DEMITASSE_RUNS", "")):
        return None
    code = sorted((ROOT / "toolchain" / "training").glob("*.py"))
    files = [Path(__file__), HERE / "peers" / "sft.py", batches, *code]
    whole = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder, f"{name}-{whole[:12]}.json")


def _read(kept: Path | None) -> Taken | None:
    if not (kept and kept.is_file()):
        return None
    return Taken(**json.loads(kept.read_text(encoding="utf-8")))


def _run(command: list[str], folder: Path, batches: Path) -> Taken:
    """Train in a process of its own; return what it took."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(THREADS),
        "PYTHONPATH": str(ROOT),
        "TOKENIZERS_PARALLELISM": "false",
    }
    with tempfile.TemporaryDirectory() as out:
        done = subprocess.run(
            [*command, str(folder), str(batches), out],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    return Taken(**json.loads(done.stdout.strip().splitlines()[-1]))


def _write_batches(folder: Path, file: Path, steps: int) -> Path:
    """Write batches of the help desk's conversations, each of like lengths."""
    from toolchain.models.checkpoints import load_tokenizer
    from toolchain.training.examples import batches_from, conversations

    lines = (ROOT / "recipes" / "smollm2" / "help-desk.jsonl").read_text(encoding="utf-8")
    rows = []
    for line in lines.splitlines()[:20]:
        entry = json.loads(line)
        for question in entry["question"][:-1]:
            asked = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}]
            answer = {"role": "assistant", "content": entry["answer"]}
            rows.append({"messages": [*asked, answer]})
    examples, _ = conversations(load_tokenizer(folder), rows, 192)
    batches = [
        [[list(examples[row].ids), list(examples[row].labels)] for row in batch]
        for batch in batches_from(examples, BATCH, 0, 0, steps)
    ]
    file.write_text(json.dumps(batches), encoding="utf-8")
    return file


def _half(tokenizer: Path, out: Path) -> Path:
    """Write a model of the shape of Qwen2.5-0.5B with random weights, in bfloat16."""
    import torch
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        dtype="bfloat16",
    )
    Qwen2ForCausalLM(config).to(torch.bfloat16).save_pretrained(out)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(out)
    return out


class _Clock:
    """A reporter that notes when each step ended, and the first loss."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, float]] = []
        self.loss = 0.0

    def note(self, text: str) -> None:
        """Say nothing."""

    def step(self, name: str, done: float, total: float, unit: str = "", figures: str = "") -> None:
        """Note the end of a step."""
        if not self.ends:
            self.loss = float(figures.split(",")[0].removeprefix("loss "))
        self.ends.append((time.process_time(), time.monotonic()))


def _ours(folder: Path, file: Path, out: Path) -> dict[str, Any]:
    """Train as `tune` does; return what it took."""
    from toolchain.models.checkpoints import load_model
    from toolchain.recipe import LoraSpec
    from toolchain.training import loop
    from toolchain.training.examples import Example
    from toolchain.training.lora import with_lora
    from toolchain.training.objectives import AnswerLoss

    batches = json.loads(file.read_text(encoding="utf-8"))
    examples = [Example(ids=ids, labels=labels) for batch in batches for ids, labels in batch]
    # The order of the batches is given: every side takes the same.
    order = [list(range(first, first + BATCH)) for first in range(0, len(examples), BATCH)]
    loop.__dict__["batches_from"] = lambda *_: order
    course = loop.Course(
        name="course",
        steps=len(batches),
        batch_size=BATCH,
        learning_rate=1e-3,
        warmup_share=0.03,
        seed=0,
        precision="auto",
    )
    spec = LoraSpec(dropout=0.0, target_modules=ALL)
    model = with_lora(load_model(folder), spec, 0, stage="tune").get_base_model()
    clock = _Clock()
    loop.train(AnswerLoss(model), examples, course, out, clock)
    return {
        "cpu_s": clock.ends[-1][0] - clock.ends[0][0],
        "wall_s": clock.ends[-1][1] - clock.ends[0][1],
        "tokens": sum(len(each.ids) for each in examples[BATCH:]),
        "loss": clock.loss,
        "peak_bytes": measure.peak_bytes(),
    }


if __name__ == "__main__":
    main()
