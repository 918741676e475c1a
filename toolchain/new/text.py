"""The text of a new recipe: short, and commented where a person will want to change it."""

import json
from dataclasses import dataclass

from toolchain import bases
from toolchain.bases import Base
from toolchain.models.origin import PREFIX
from toolchain.new.bases import embedder_for
from toolchain.new.choice import Choice
from toolchain.recipe import GateSpec
from toolchain.target import Target


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What a new recipe says."""

    name: str
    board: Target
    choice: Choice
    languages: tuple[str, ...]
    stages: tuple[str, ...]
    data: str = ""
    """File of questions and answers; empty: there is none."""
    hold_out: str = ""
    """Key of `[data]` that says what is held out, as TOML; empty for the default."""
    knowledge: tuple[str, ...] = ()
    """Files and folders that are searched on the board."""
    named: str = ""
    """The base as the person named it; empty if it was chosen."""
    quotes: bool = False
    """Whether the board answers with passages as they stand."""

    @property
    def trains(self) -> bool:
        """Whether the base learns the answers."""
        return "tune" in self.stages


def written(content: Content) -> str:
    """Return the recipe as TOML."""
    tables = [_head(content), _model(content)]
    if content.data:
        tables.append(_data(content))
    if content.trains:
        tables.append("[tune]\nepochs = 3\n")
    if content.knowledge:
        tables.append(_knowledge(content))
    tables.append(f"[quantize]\nscheme = {_toml(content.choice.scheme)}\n")
    if not content.trains:
        tables.append(_gate())
    return "\n".join([*tables, _package(content)])


def _head(content: Content) -> str:
    work = "your answers" if content.trains else "your documents"
    title = f"{content.choice.base.name} with {work} for {content.board.id}"
    return (
        "# Written by `demitasse new`, yours to change. Every key that is left out has a default:\n"
        "# docs/recipes.md says what a recipe can hold, `--dry-run` what is wrong with it.\n"
        f"title = {_toml(title)}\n"
        f"targets = {_toml([content.board.id])}\n"
        f"stages = {_toml(list(content.stages))}\n"
    )


def _model(content: Content) -> str:
    choice, base = content.choice, content.choice.base
    lines = ["[model]", f"# {size_of(base)}, {base.licence}.", f"# {speed(choice)}."]
    if base.gated:
        lines.append("# Gated: accept its licence on the model's page and set HF_TOKEN.")
    if content.named.lower().startswith(PREFIX):
        lines.append(f"base = {_toml(base.package)}")
    else:
        lines += [f"base = {_toml(base.hub)}", *_without_hub("base", base.package)]
    return "\n".join([*lines, f"name = {_toml(content.name)}", ""])


def _without_hub(key: str, package: str) -> list[str]:
    """Return how a key names the same model in a Python package, as comments."""
    if not package:
        return []
    name = package.removeprefix(PREFIX).partition("/")[0]
    return [f"# Without a hub (pip install {name}):", f"# {key} = {_toml(package)}"]


def _data(content: Content) -> str:
    what = (
        "# One conversation a line:"
        if content.trains
        else "# Nothing is learned from these: the gate asks them, before and after quantizing."
    )
    form = '# {"question": ["one way", "another way"], "answer": "…"}'
    lines = ["[data]", what, form, f"files = {_toml([content.data])}"]
    lines += [content.hold_out] if content.hold_out else []
    if content.trains:
        lines.append(f"system = {_toml(_system(content.languages))}")
    return "\n".join([*lines, ""])


def _system(languages: tuple[str, ...]) -> str:
    how = "Answer in one or two sentences"
    if len(languages) > 1:
        return f"{how}, in the language of the question."
    name = bases.table().languages[languages[0]]
    return f"{how}." if name == "English" else f"{how}, in {name}."


def _knowledge(content: Content) -> str:
    embedder = embedder_for(content.languages)
    lines = [
        "[knowledge]",
        "# What the board looks questions up in. Change a file and run again: the model stays.",
        f"files = {_toml(list(content.knowledge))}",
        f"embedder = {_toml(embedder.hub)}",
        *_without_hub("embedder", embedder.package),
    ]
    if content.quotes:
        lines.append('answer = "quote"')
    return "\n".join([*lines, ""])


def _gate() -> str:
    # SmolLM2-135M as it is, as Q4_K_M, named the same next token as its base at 81 % of 695
    # positions of held-out answers: the default limits are those of a model that learned them.
    limits = GateSpec()
    return (
        "[evaluate.gate]\n"
        "# To a base that did not learn these answers they are as any text: the limits of that.\n"
        f"max_kl = {limits.max_general_kl}\nmin_agreement = {limits.min_general_agreement}\n"
    )


def _package(content: Content) -> str:
    return (
        f"[package]\ncontext = {content.choice.context}\n"
        f"licence = {_toml(content.choice.base.licence)}\n"
    )


def size_of(base: Base) -> str:
    """Return a base's parameters in words."""
    if base.parameters < 1e9:
        return f"{base.parameters / 1e6:.0f} M parameters"
    return f"{base.parameters / 1e9:.1f} B parameters"


def speed(choice: Choice) -> str:
    """Return what a base is expected to give and to take."""
    source = "" if choice.is_measured else " (from other boards)"
    return (
        f"forecast{source}: about {choice.tok_s:.2g} tokens/s, "
        f"{choice.fit.needed_mb} of {choice.fit.available_mb} MB"
    )


def _toml(value: object) -> str:
    """Return text or a list of texts as TOML spells it, which for these is as JSON does."""
    return json.dumps(value, ensure_ascii=False)
