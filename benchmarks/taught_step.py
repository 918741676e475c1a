"""A step with a teacher's cached probabilities against a plain one, and the memory of the loss.

The same model, batch, head and optimizer; the probabilities are read from the disk in each step.
Memory is what a batch adds to a process's peak, its first step done, against transformers' own
loss, which has all logits at once. Goals (P11): ≤ 1.10 of the time, ≤ 1/6 of the memory.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure

ROUNDS, QUICK_ROUNDS = 9, 2
STEPS = 4
"""Steps of one figure."""
SHAPES = {
    "starter's student": (256, 768, 1, 3072, 8, 40),
    "10 layers of SmolLM2": (576, 1536, 10, 12288, 4, 96),
}
"""Width, inner width, layers, vocabulary, conversations and their tokens."""
QUICK_SHAPE = (64, 64, 1, 512, 4, 16)
POSITIONS, VOCABULARY, WIDTH, TOKENS = 1024, 151_936, 64, 128
"""Of the memory: the vocabulary of Qwen2.5, 622 MB of logits in float32."""
CHUNKED, DENSE = "chunked", "dense"


def main() -> None:
    """Measure and print the claims, or, asked by itself, the memory of one way."""
    if sys.argv[1:2] in ([CHUNKED], [DENSE]):
        print(_memory(sys.argv[1], *map(int, sys.argv[2:])))
        return
    options = measure.options(__doc__ or "")
    shapes = {"tiny": QUICK_SHAPE} if options.quick else SHAPES
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    claims: list[measure.Claim] = []
    figures: dict[str, list[float]] = {}
    for name, shape in shapes.items():
        with tempfile.TemporaryDirectory() as scratch:
            seconds = measure.interleave(_steps(shape, Path(scratch)), rounds)
        figures |= {f"{name}, {case}": [1e3 * each for each in of] for case, of in seconds.items()}
        claims.append(
            measure.claim(
                f"time of a step with cached probabilities, {name}",
                "a plain step",
                1.10,
                seconds["taught"],
                seconds["plain"],
                {"shape": "/".join(map(str, shape)), "steps": STEPS},
                better="less",
            )
        )
    claims.append(_memory_claim(quick=options.quick))
    measure.show(claims, figures, "ms", as_json=options.json)


def _steps(shape: tuple[int, ...], folder: Path) -> dict[str, measure.Case]:
    """Return the cases: processor seconds of some steps."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from toolchain.progress import SILENT
    from toolchain.training.examples import Example, batch_of
    from toolchain.training.objectives import AnswerLoss, TeacherLoss
    from toolchain.training.teacher import CachedLogits, write_logits

    width, inner, layers, vocabulary, rows, tokens = shape
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=width,
            intermediate_size=inner,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
            num_key_value_heads=1,
            tie_word_embeddings=True,
        )
    )
    drawn = torch.randint(5, vocabulary, (rows, tokens)).tolist()
    examples = [Example(ids=ids, labels=ids) for ids in drawn]
    write_logits(model, examples, folder, temperature=2.0, k=64, tokens=vocabulary, report=SILENT)
    batch = batch_of(examples, range(rows))
    taught = TeacherLoss(
        model, CachedLogits(folder), temperature=2.0, ce_weight=0.1, tokens=vocabulary
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def case(objective: Any) -> measure.Case:
        def seconds() -> float:
            began = time.process_time()
            for _ in range(STEPS):
                objective(batch).backward()
                optimizer.step()
                optimizer.zero_grad()
            return (time.process_time() - began) / STEPS

        return seconds

    return {"plain": case(AnswerLoss(model)), "taught": case(taught)}


def _memory_claim(*, quick: bool) -> measure.Claim:
    positions, vocabulary = (256, 4096) if quick else (POSITIONS, VOCABULARY)

    def bytes_of(way: str) -> Callable[[], float]:
        argv = [sys.executable, __file__, way, str(positions), str(vocabulary)]
        return lambda: float(subprocess.run(argv, capture_output=True, check=True).stdout)

    found = measure.interleave(
        {way: bytes_of(way) for way in (CHUNKED, DENSE)}, QUICK_ROUNDS if quick else 5
    )
    return measure.claim(
        "memory of a loss with cached probabilities",
        "a plain loss over all logits",
        round(1 / 6, 3),
        found[CHUNKED],
        found[DENSE],
        {"positions": positions, "vocabulary": vocabulary},
        better="less",
    )


class _Drawn:
    """Probabilities that nobody computed: their values take as much memory as any."""

    def __init__(self, positions: int, vocabulary: int) -> None:
        import torch

        self._parts = (
            torch.arange(64).repeat(positions, 1) * (vocabulary // 64),
            torch.full((positions, 64), -5.0),
            torch.full((positions,), -1.0),
        )

    def of(self, rows: tuple[int, ...]) -> tuple[Any, ...]:
        """Return as many as the rows have learned tokens."""
        count = len(rows) * (TOKENS - 1)
        return tuple(part[:count] for part in self._parts)


def _memory(way: str, positions: int, vocabulary: int) -> int:
    """Return the bytes by which loss and gradient of a batch raise this process's peak."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from toolchain.training.examples import Example, batch_of
    from toolchain.training.objectives import TeacherLoss

    shape = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 1, "num_key_value_heads": 1}
    config = LlamaConfig(vocab_size=vocabulary, tie_word_embeddings=True, **shape, **heads)
    model = LlamaForCausalLM(config)
    taught = TeacherLoss(
        model,
        _Drawn(positions, vocabulary),
        temperature=2.0,
        ce_weight=0.1,
        tokens=vocabulary,
    )
    ids = torch.randint(0, vocabulary, (positions // TOKENS, TOKENS)).tolist()
    examples = [Example(ids=each, labels=each) for each in ids]

    def step(rows: range) -> None:
        batch = batch_of(examples, rows)
        if way == DENSE:
            model(input_ids=batch.ids, labels=batch.labels, use_cache=False).loss.backward()
        else:
            taught(batch).backward()

    step(range(1))  # the weights' gradients are there from the first step on
    # Not getrusage(2): it begins with what the process that started this one had.
    began = measure.peak_bytes()
    step(range(len(examples)))
    return measure.peak_bytes() - began


if __name__ == "__main__":
    main()
