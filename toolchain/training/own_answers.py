"""Answers that a student draws to questions of its training: what it learns on-policy."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolchain.chat import IGNORED
from toolchain.files import write_whole
from toolchain.progress import Reporter
from toolchain.training.answers import Sampling, continuations
from toolchain.training.examples import Example, batches_from

BATCH = 64
TEMPERATURE = 1.0


def own_answers(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    kept: Path,
    report: Reporter,
    *,
    seed: int,
    count: int,
) -> list[Example]:
    """Return `count` examples whose last answer is the model's own, drawn at temperature 1.

    They are kept in a file, so that an interrupted training goes on with the same ones.
    """
    if kept.is_file():
        rows = json.loads(kept.read_text(encoding="utf-8"))
        return [_example(prompt, answer) for prompt, answer in rows]

    order = [row for batch in batches_from(examples, 1, seed, 0, count) for row in batch]
    prompts = [_prompt(examples[row]) for row in order]
    longest = max(each.targets for each in examples)
    ends = model.generation_config.eos_token_id
    stops = set(ends if isinstance(ends, list) else [ends])
    pairs = []
    for first in range(0, len(prompts), BATCH):
        batch = prompts[first : first + BATCH]
        drawn = Sampling(temperature=TEMPERATURE, seed=seed + first)
        for prompt, ids in zip(
            batch, continuations(model, tokenizer, batch, longest, drawn), strict=True
        ):
            end = next((at for at, token in enumerate(ids) if token in stops), len(ids))
            pairs.append((prompt, ids[: end + 1]))
        report.step("draw own answers", len(pairs), len(prompts), "answers")

    kept.parent.mkdir(parents=True, exist_ok=True)
    write_whole(kept, json.dumps(pairs))
    return [_example(prompt, answer) for prompt, answer in pairs]


def _prompt(example: Example) -> list[int]:
    """Return the ids before the last answer."""
    end = max(at for at, label in enumerate(example.labels) if label != IGNORED)
    while end and example.labels[end - 1] != IGNORED:
        end -= 1
    return list(example.ids[: max(end, 1)])


def _example(prompt: Sequence[int], answer: Sequence[int]) -> Example:
    return Example(ids=[*prompt, *answer], labels=[IGNORED] * len(prompt) + list(answer))
