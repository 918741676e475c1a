"""A guard model as a judge: how likely its two verdicts are behind a question, on the host.

Nothing is generated. The device runtime's `score` reads the prompt that the file's own template
writes, and the row of logits behind it says how likely each verdict begins. The rule to keep: the
model is a yardstick and does not travel (docs/adr/0018-a-guard-model-stays-on-the-host.md).
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING

from device.manifest import TEMPLATE
from toolchain.errors import ArtifactError
from toolchain.guard.forms import (
    ASKED,
    PROBE,
    SHIELD_GEMMA,
    SHIELD_GEMMA_TEMPLATE,
    Form,
    form_of,
    question,
)
from toolchain.guard_figures import LIKELY
from toolchain.models import origin
from toolchain.models.gguf_read import open_gguf
from toolchain.models.template import check_template
from toolchain.runtime.scoring import Scorer, scorer

if TYPE_CHECKING:
    import numpy as np

CONTEXT = 2048
"""Tokens of prompt that are judged; a longer text is left out."""
_PROBES = ("0", "Why?")
_EXAMPLES = (PROBE, "how do I reset my password", "how do I build a bomb", "I hate you")


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardModel:
    """A guard model's file, and the runtime that reads it."""

    file: Path
    name: str
    """Its name in the recipe."""
    runtime: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class _Words:
    """What follows a prompt: tokens that lead to the verdict, and the first of each verdict."""

    lead: tuple[int, ...]
    safe: tuple[int, ...]
    unsafe: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Judged:
    """What a guard model says of a text."""

    margin: float
    """Logarithm of how much likelier `unsafe` is than `safe`."""
    said: float
    """Probability of both verdicts together."""


def find_guard_model(name: str, near: Path) -> Path:
    """Return the file that `guard.model` names; raise ArtifactError for one that gives no verdict.

    Nothing is loaded: what its header says is enough.
    """
    source = origin.find(name, near)
    if source is None:
        raise ArtifactError(
            f"guard: model: `{name}` is no GGUF file",
            hint="a path to a `.gguf` file, or `package:NAME/FILE`",
        )
    check_guard_model(source.file, name)
    return source.file


@dataclass(frozen=True, slots=True, kw_only=True)
class _Header:
    """What a guard model's header says of its prompts."""

    template: str
    begin: int | None
    """Token that every prompt begins with; None if the file wants none."""


def check_guard_model(file: Path, name: str) -> _Header:
    """Return what a header says of prompts; raise ArtifactError for a file without verdicts."""
    with open_gguf(file) as opened:
        metadata = opened.metadata
    family = str(metadata.get("general.architecture", ""))
    if metadata.get(f"{family}.pooling_type") or (
        metadata.get(f"{family}.attention.causal") is False
    ):
        raise ArtifactError(
            f"guard: `{name}` is an embedding model (`{family}`): it gives no verdict",
            hint="give a guard model, such as Llama Guard, as a GGUF file",
        )
    template = metadata.get("tokenizer.chat_template")
    if not isinstance(template, str) or not template.strip():
        raise ArtifactError(
            f"guard: `{name}` has no chat template: nothing says how it is asked",
            hint="convert the original model again, with its tokenizer_config.json",
        )
    if form_of(template).name != SHIELD_GEMMA:
        try:
            check_template(template)
        except ArtifactError as error:
            raise ArtifactError(f"guard: `{name}`: {error.message}", hint=error.hint) from error
    begin = metadata.get("tokenizer.ggml.bos_token_id")
    wants_begin = metadata.get("tokenizer.ggml.add_bos_token") is True and type(begin) is int
    return _Header(template=template, begin=begin if wants_begin else None)


class Judge:
    """A running guard model; `judge` starts one."""

    def __init__(self, child: Scorer, name: str, begin: int | None = None) -> None:
        """`begin` is a token that prompts begin with, whether or not the template writes it."""
        self._child, self._name, self._begin = child, name, begin
        prompt = self._child.rendered([{"role": "user", "content": PROBE}])
        if PROBE not in prompt:
            raise ArtifactError(f"guard: the chat template of `{name}` does not show the question")
        self.form: Form = form_of(prompt)
        self._context = int(child.info()["context"])
        self._prefix = _common([self._prompt(text) for text in _PROBES])
        self._words = self._chosen()

    def judged(self, text: str) -> Judged | None:
        """Return what it says of a text; None for one that the context does not hold."""
        tokens = [*self._prompt(text), *self._words.lead]
        return None if len(tokens) > self._context else self._weighed(tokens, self._words)

    def _prompt(self, text: str) -> list[int]:
        tokens = self._child.render([{"role": "user", "content": question(self.form, text)}])
        if self._begin is None or tokens[:1] == [self._begin]:
            return tokens
        return [self._begin, *tokens]

    def _weighed(self, tokens: list[int], words: _Words) -> Judged:
        import numpy as np

        # What stands before every question is read once; the rest alone gives rows.
        shared = len(self._prefix) if tokens[: len(self._prefix)] == self._prefix else 0
        row = self._child.logits(tokens, shared)[-1].astype(np.float64)
        whole = _log_sum(row)
        safe, unsafe = (_log_sum(row[list(each)]) for each in (words.safe, words.unsafe))
        return Judged(unsafe - safe, float(np.exp(safe - whole) + np.exp(unsafe - whole)))

    def _chosen(self) -> _Words:
        """Return the words behind the first lead after which they are likely; else the best."""
        best = (-1.0, self._spelled(self.form.leads[0]))
        for lead in self.form.leads:
            words = self._spelled(lead)
            said = [
                self._weighed([*self._prompt(text), *words.lead], words).said for text in _EXAMPLES
            ]
            best = max(best, (sum(said) / len(said), words), key=lambda each: each[0])
            if best[0] >= LIKELY:
                break
        return best[1]

    def _spelled(self, lead: str) -> _Words:
        """Return the tokens of the verdicts behind a lead, from where they differ."""
        form = self.form
        spelled = {word: self._child.tokenize(lead + word) for word in (*form.safe, *form.unsafe)}
        shared = _common(list(spelled.values()))
        safe, unsafe = (
            tuple(
                dict.fromkeys(each for word in words for each in spelled[word][len(shared) :][:1])
            )
            for words in (form.safe, form.unsafe)
        )
        if not safe or not unsafe or set(safe) & set(unsafe):
            raise ArtifactError(
                f"guard: `{self._name}` has no tokens that tell `{form.unsafe[0].strip()}` from "
                f"`{form.safe[0].strip()}`",
                hint="it is no guard model, or its tokenizer is broken",
            )
        return _Words(lead=tuple(shared), safe=safe, unsafe=unsafe)


def _common(sequences: list[list[int]]) -> list[int]:
    """Return the tokens with which all sequences begin."""
    same = takewhile(lambda column: len(set(column)) == 1, zip(*sequences, strict=False))
    return [column[0] for column in same]


def _log_sum(values: "np.ndarray") -> float:
    import numpy as np

    top = float(values.max())
    return top + float(np.log(np.exp(values - top).sum()))


@contextmanager
def judge(model: GuardModel) -> Iterator[Judge]:
    """Yield a guard model at work; raise ArtifactError for a file that is none."""
    header = check_guard_model(model.file, model.name)
    with tempfile.TemporaryDirectory() as name:
        file = model.file
        if form_of(header.template).name == SHIELD_GEMMA:
            # A template beside a file comes before the file's own.
            file = Path(name) / model.file.name
            file.symlink_to(model.file.resolve())
            (Path(name) / TEMPLATE).write_text(SHIELD_GEMMA_TEMPLATE, encoding="utf-8")
        with scorer(model.runtime, file, context=CONTEXT, escape=True) as child:
            yield Judge(child, model.name, header.begin)


def warning(name: str, form: Form, said: float) -> str:
    """Return a sentence about a file whose verdicts are unlikely; empty for a guard model."""
    if said >= LIKELY:
        return ""
    words = " and ".join(f"`{each[0].strip()}`" for each in (form.safe, form.unsafe))
    task = "its template names no verdict, so it was asked with a task of ours, and " * (
        form.name == ASKED
    )
    return f"guard: `{name}` is no guard model: {task}{words} have {said:.2%} of the probability"
