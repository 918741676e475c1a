"""A guard model as a judge: how likely its two verdicts are behind a question, on the host.

Nothing is generated. The device runtime's `score` reads the prompt that the file's own template
writes, and the row of logits behind it says how likely each verdict begins. The rule to keep: the
model is a yardstick and does not travel (docs/adr/0018-a-guard-model-stays-on-the-host.md).
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device.manifest import TEMPLATE
from toolchain.errors import ArtifactError
from toolchain.guard.forms import (
    ASKED,
    GUIDELINE,
    KNOWN,
    PROBE,
    SHIELD_GEMMA,
    Form,
    Markup,
    form_of,
    guard_named,
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
"""Tokens of prompt that are judged, at most; a longer text is left out."""
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
    context: int
    """Tokens of prompt that it is asked with, at most."""


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
        _check_form(template, name, metadata)
    begin = metadata.get("tokenizer.ggml.bos_token_id")
    wants_begin = metadata.get("tokenizer.ggml.add_bos_token") is True and type(begin) is int
    trained = metadata.get(f"{family}.context_length")
    return _Header(
        template=template,
        begin=begin if wants_begin else None,
        context=min(CONTEXT, trained) if type(trained) is int and trained > 0 else CONTEXT,
    )


def _check_form(template: str, name: str, metadata: Mapping[str, Any]) -> None:
    """Raise ArtifactError for a template that fails, or that says nothing of a guard's form."""
    try:
        prompt = check_template(template)
    except ArtifactError as error:
        raise ArtifactError(f"guard: `{name}`: {error.message}", hint=error.hint) from error
    if form_of(prompt).name != ASKED:
        return
    own = (metadata.get(f"general.{key}") for key in ("name", "basename"))
    names = [Path(name).name, *(each for each in own if isinstance(each, str))]
    if guard := guard_named(names):
        raise ArtifactError(
            f"guard: `{name}` is a guard model by its name (`{guard}`), and its chat template asks "
            "for no verdict that is known here",
            hint=f"known are {KNOWN}",
        )


class Judge:
    """A running guard model; `judge` starts one."""

    def __init__(self, child: Scorer, name: str, begin: int | None = None) -> None:
        """`begin` is a token that prompts begin with, whether or not the template writes it."""
        self._child, self._name, self._begin = child, name, begin
        prompt = self._child.rendered([{"role": "user", "content": PROBE}])
        if PROBE not in prompt:
            raise ArtifactError(f"guard: the chat template of `{name}` does not show the question")
        self.form: Form = form_of(prompt)
        self._markup = Markup(prompt)
        self._context = int(child.info()["context"])
        self._prefix = _common([each for text in _PROBES for each in self._prompts(text)])
        self._words = self._chosen()

    def judged(self, text: str) -> Judged | None:
        """Return what it says of a text; None for one that the context does not hold."""
        found = [self._weighed(prompt, self._words) for prompt in self._prompts(text)]
        return max(filter(None, found), key=_margin) if all(found) else None

    def _prompts(self, text: str) -> list[list[int]]:
        """Return the tokens of the prompts that ask about a text: one, or one for each policy."""
        own = {"role": "user", "content": question(self.form, self._markup.broken_up(text))}
        asked = [[{"role": "system", "content": each}, own] for each in self.form.policies]
        # A template with policies of its own asks the same each time.
        found = dict.fromkeys(self._begun(self._child.render(each)) for each in asked or [[own]])
        return [list(each) for each in found]

    def _begun(self, tokens: list[int]) -> tuple[int, ...]:
        if self._begin is None or tokens[:1] == [self._begin]:
            return tuple(tokens)
        return (self._begin, *tokens)

    def _weighed(self, prompt: list[int], words: _Words) -> Judged | None:
        import numpy as np

        tokens = [*prompt, *words.lead]
        if len(tokens) > self._context:
            return None
        # What stands before every question is read once; the rest alone gives rows.
        shared = len(self._prefix) if tokens[: len(self._prefix)] == self._prefix else 0
        row = self._child.logits(tokens, shared)[-1].astype(np.float64)
        whole = _log_sum(row)
        safe, unsafe = (_log_sum(row[list(each)]) for each in (words.safe, words.unsafe))
        return Judged(unsafe - safe, float(np.exp(safe - whole) + np.exp(unsafe - whole)))

    def _chosen(self) -> _Words:
        """Return the words behind the first lead after which they are likely; else the best."""
        best = (-1.0, self._spelled(self.form.leads[0]))
        prompts = [each for text in _EXAMPLES for each in self._prompts(text)]
        for lead in self.form.leads:
            words = self._spelled(lead)
            said = [each.said for prompt in prompts if (each := self._weighed(prompt, words))]
            if not said:
                raise ArtifactError(
                    f"guard: `{self._name}` has a context of {self._context} tokens, which does "
                    "not hold the task of its chat template",
                    hint="give a guard model with a larger context",
                )
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


def _margin(judged: Judged) -> float:
    return judged.margin


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
            template = GUIDELINE + header.template
            (Path(name) / TEMPLATE).write_text(template, encoding="utf-8")
        with scorer(model.runtime, file, context=header.context, escape=True) as child:
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
