"""Pictures with one half lit, and what a tiny model of any family learns about them with `tune`.

Each family brings a base that was trained to answer `OLD`; `NEW` is the question that it has not
seen, with words that it never answered with.
"""

import io
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from device.manifest.pictures import to_url
from tests.fakes.datasets import write_lines
from toolchain import ingest
from toolchain.artifacts import Checkpoint, Dataset
from toolchain.evaluate.reference import Reference
from toolchain.models.original import Original
from toolchain.progress import Silent
from toolchain.recipe import DataSpec, QuantizeSpec, TuneSpec

OLD, NEW = "bright?", "which half is lit?"
OLD_WORDS, NEW_WORDS = ("right", "left"), ("east", "west")
"""Answers where the right half is lit, and where the left one is."""
SPEC = TuneSpec(
    r=8,
    alpha=16,
    dropout=0,
    epochs=30,
    batch_size=16,
    learning_rate=1e-2,
    questions=40,
    max_tokens=96,
    target_modules=("q_proj", "v_proj", "up_proj", "down_proj", "o_proj", "gate_proj", "k_proj"),
)


def half(seed: int) -> tuple[bytes, bool]:
    """Return a picture whose left or right half is lit, and whether it is the left one."""
    from PIL import Image

    draw = random.Random(seed)
    left = draw.random() < 0.5
    low, high = draw.randrange(60), draw.randrange(150, 256)
    image = Image.new("RGB", (32, 32), (low, low, draw.randrange(60)))
    image.paste((high, high, draw.randrange(256)), (0, 0, 16, 32) if left else (16, 0, 32, 32))
    written = io.BytesIO()
    image.save(written, "PNG")
    return written.getvalue(), left


def rows(question: str, seeds: range, words: tuple[str, str]) -> list[dict[str, Any]]:
    """Return rows of data with one question about a picture of each seed."""
    return [
        {"image": to_url(image), "question": question, "answer": words[left]}
        for image, left in map(half, seeds)
    ]


def dataset(folder: Path, entries: list[dict[str, Any]]) -> Dataset:
    """Return rows as `ingest` reads them, a fifth of them held out."""
    folder.mkdir()
    write_lines(folder / "rows.jsonl", entries)
    spec = DataSpec(files=("rows.jsonl",), held_out_share=0.2)
    return ingest.ingest(spec, folder, folder / "data", Silent(), seed=0)


def new_question(folder: Path) -> Dataset:
    """Return the question that is learned, about pictures that no base has seen."""
    return dataset(folder, rows(NEW, range(500, 700), NEW_WORDS))


def right_answers(
    folder: Path, checkpoint: Checkpoint, asked: Sequence[dict[str, Any]]
) -> tuple[int, list[list[int]]]:
    """Quantize a checkpoint and ask the board's engine.

    Return how many of its answers are the expected ones, and the tokens of all.
    """
    from device.engine.base import Sampling, Settings
    from device.model import open_file
    from device.pictures import with_pictures
    from toolchain.quantize.gguf import ModelLabel, quantize

    kept = "beside" if checkpoint.adapter else "merged"
    spec = QuantizeSpec(scheme="Q8_0", projector="F16", adapter=kept)
    made = quantize(checkpoint, spec, ModelLabel(name="eyes"), folder / "files", Silent())
    context = min(256, made.figures.context)
    settings = Settings(context=context, threads=1, projector=made.projector, adapter=made.adapter)
    model = open_file(made.file, settings)
    right, said = 0, []
    for row in asked:
        prompt = model.prompt(with_pictures(row["messages"][:-1]))
        sampling = Sampling(max_tokens=12)
        steps = list(model.engine.generate(prompt.tokens, sampling, prefix=prompt.prefix))
        right += "".join(step.text for step in steps) == row["messages"][-1]["content"]
        said.append([step.id for step in steps if step.id is not None])
    model.engine.close()
    return right, said


def assert_new_question_is_learned(tuned: Checkpoint) -> None:
    """The base answers none of the held-out rows, and the tuned model nearly all."""
    figures = tuned.record.figures
    assert figures["base"]["exact_match"] == 0
    assert figures["questions"] >= 30
    assert figures["exact_match"] >= 0.9


def assert_only_layers_changed(base: Checkpoint, tuned: Checkpoint, layers: str) -> None:
    """All tensors are there, and those that changed are layers of the language model."""
    before, after = (load_file(each.path / "model.safetensors") for each in (base, tuned))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert {name for name in changed if not name.startswith(layers)} == set()


def assert_adapter_is_what_was_merged(
    base: Checkpoint, tuned: Checkpoint, asked: Sequence[dict[str, Any]]
) -> None:
    """peft's adapter on transformers' own model answers as the merged folder does.

    The gate's reference loads both, and nothing of ours.
    """
    original = Original(base=base.path, adapters=(tuned.path / "adapter",))
    apart = Reference.load(original, Silent())
    merged = Reference.load(Original(base=tuned.path), Silent())
    said = set()
    for row in asked:
        answer = apart.answers_about(row["messages"][:-1], 12)
        assert answer == merged.answers_about(row["messages"][:-1], 12)
        said.add(apart.own.decode(answer))
    assert said == set(NEW_WORDS)
