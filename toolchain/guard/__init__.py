"""Questions and wishes → `guard.bin`: what a board refuses, and how well it tells it.

guard(Dataset, GuardSpec) → GuardFile. The rule to keep: the threshold is set on the recipe's own
held-out questions, so that at most `false_alarms` of them are refused; what is measured is the file
that ships.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from device.manifest.guard import GUARD, read_guard
from device.manifest.guard import Guard as Weights
from toolchain.artifacts import Dataset, GuardFile, Work, digest, keep
from toolchain.errors import ConfigError
from toolchain.guard.ceiling import beside
from toolchain.guard.judging import GuardModel
from toolchain.guard.measures import Measured, measure, thresholds
from toolchain.guard.texts import (
    MOST_OWN,
    OWN,
    SEEDS,
    Corpus,
    Entry,
    brought,
    corpus,
    lengthened,
    seeds,
    sentences,
)
from toolchain.guard_figures import GuardFigures
from toolchain.progress import Reporter
from toolchain.recipe import GuardSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """What a guard is made of, and measured beside."""

    dataset: Dataset | None
    spec: GuardSpec
    near: Path
    """Folder that the files of the spec are relative to."""
    seed: int
    model: GuardModel | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """Questions of the recipe's own data."""

    learned: list[str]
    held_out: list[str]


def guard(
    dataset: Dataset | None,
    spec: GuardSpec,
    near: Path,
    out: Path,
    report: Reporter,
    *,
    seed: int,
    model: GuardModel | None = None,
) -> GuardFile:
    """Train a guard on our seeds, the recipe's questions and its own files in `near`.

    Without a data set, as a finished model may have none, harmless texts of ours alone set the
    threshold. A guard model judges some of the texts that measure it: how far it could get.
    """
    inputs = {
        "dataset": dataset.digest if dataset else "",
        "seeds": digest(SEEDS),
        **{f"unsafe {name}": _digest(near / name, name) for name in spec.unsafe},
        **{f"safe {name}": _digest(near / name, name) for name in spec.safe},
        **({"model": digest(model.file)} if model else {}),
    }
    # What is refused decides nothing of the file.
    made_by = spec.model_copy(update={"refuse": GuardSpec().refuse})
    work = Work(stage="guard", inputs=inputs, parameters=made_by, seed=seed, tools=("numpy",))
    given = _Given(dataset=dataset, spec=spec, near=near, seed=seed, model=model)
    record, fresh = keep(out, work, lambda folder: _make(folder, given, report), GuardFigures)
    return GuardFile(path=out, record=record, fresh=fresh)


def _digest(file: Path, name: str) -> str:
    if not file.is_file():
        raise ConfigError(f"guard: no such file `{name}`")
    return digest(file)


def _make(out: Path, given: _Given, report: Reporter) -> GuardFigures:
    dataset, spec, near, seed = given.dataset, given.spec, given.near, given.seed
    asked = _Asked(
        learned=list(dict.fromkeys(questions(dataset.train() if dataset else [])))[:MOST_OWN],
        held_out=list(dict.fromkeys(questions(dataset.held_out() if dataset else []))),
    )
    entries = [
        *seeds(),
        *brought(spec.unsafe, near, unsafe=True),
        *brought(spec.safe, near, unsafe=False),
        *(Entry(text=text, unsafe=False, source=OWN) for text in asked.learned),
    ]
    texts = corpus(entries, seed)
    trained, measured = _trained(texts, asked, spec, seed)
    (out / GUARD).write_bytes(trained.to_bytes())

    shipped = read_guard(out / GUARD)
    figures = measure(shipped, measured)
    names = (*spec.unsafe, "seeds") if spec.unsafe else ()
    left_out = {}
    for number, name in enumerate(names):
        report.step("guard: sources left out", number, len(names), "sources")
        other, apart = _trained(texts.without(name), asked, spec, seed)
        left_out[name] = measure(other, apart).summary()
    return replace(
        figures,
        left_out=left_out or None,
        size_bytes=(out / GUARD).stat().st_size,
        ceiling=beside(shipped, measured, given.model, report, seed) if given.model else None,
    )


def _trained(texts: Corpus, asked: _Asked, spec: GuardSpec, seed: int) -> tuple[Weights, Measured]:
    """Return a guard with its thresholds, and what it is measured with."""
    # numpy is not loaded before a guard is trained: the stage's row is read for `--help`.
    from toolchain.guard.training import train

    learned = sentences(texts.learned, seed)
    weights = train([*learned, *lengthened(learned, seed)], texts.learned)
    # A safe wish counts once: in five sentences a single odd one would set the threshold.
    once = [each if each.unsafe else replace(each, frames=1) for each in texts.set_aside]
    apart = sentences(once, seed + 1)
    measured = Measured(
        held_out=asked.held_out,
        general=[entry.text for entry in apart if not entry.unsafe],
        unsafe=[entry for entry in apart if entry.unsafe],
        learned={
            "unsafe": sum(entry.unsafe for entry in texts.learned),
            "safe": sum(not entry.unsafe for entry in texts.learned),
        },
        false_alarms=spec.false_alarms,
    )
    return replace(weights, thresholds=thresholds(weights, measured)), measured


def questions(rows: "list[dict[str, object]]") -> Iterator[str]:
    """Yield what people ask in conversations."""
    for row in rows:
        messages = row["messages"]
        assert isinstance(messages, list)
        for message in messages:
            if message["role"] == "user" and str(message["content"] or "").strip():
                yield str(message["content"])
