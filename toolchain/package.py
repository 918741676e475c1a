"""The bundle: a folder that travels to boards, complete in itself and checked by device.manifest.

package(Parts) → Bundle. Every file is named with its sha256 in `manifest.json`; every tensor too.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from device.manifest import (
    BUNDLE_MANIFEST,
    EMBEDDER,
    GOLDENS,
    GUARD,
    KNOWLEDGE,
    TEMPLATE,
    TOKENIZER,
    Engine,
    Manifest,
    file_entry,
    to_bytes,
)
from device.manifest.pictures import has_pictures
from toolchain.artifacts import (
    Bundle,
    GuardFile,
    Knowledge,
    ModelFile,
    Record,
    Verdict,
    Work,
    keep,
    read_jsonl,
    write_jsonl,
)
from toolchain.config import Frozen
from toolchain.errors import ConfigError, FitError
from toolchain.figures import BaseFigures, BundleFigures, LeakFigures, VerdictFigures
from toolchain.files import link_or_copy, write_whole
from toolchain.forecast import RUNTIME_BYTES, knowledge_bytes, projector_needs
from toolchain.ledger import Ledger, as_json, leak_words, lines, rows_of
from toolchain.models.template import check_template
from toolchain.opening import Opening, check_room
from toolchain.privacy.canaries import audit_words
from toolchain.probes.words import garak_words, guarded_words, probe_words
from toolchain.recipe import PackageSpec
from toolchain.target import Needs, Target, fit
from toolchain.terms import Claim, Terms, judge, known_or_none
from toolchain.terms.notices import FILE as ATTRIBUTION
from toolchain.terms.notices import attribution


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a model comes from: the chain that the bundle carries."""

    name: str
    recipe: str
    base: str
    """Its name; empty where the model was trained from scratch."""
    licence: str
    base_digest: str = ""
    """sha256 of the base's folder: a name may stand for two models, and a path says nothing
    elsewhere."""
    opening: Opening = ()
    """What every conversation begins with."""
    records: tuple[Record, ...] = ()
    """Of the stages before, in order."""
    licence_files: tuple[Path, ...] = ()
    licence_texts: tuple[str, ...] = ()
    """Of licences that are no files of their own."""
    came: str = ""
    """Where a finished model came from: nothing was trained or quantized here."""
    ledger: Ledger = field(default_factory=Ledger)
    """Sum of the ledgers of the stages before."""
    strict: bool = False
    """Whether unknown terms are refused."""
    is_trained: bool = False
    """Whether the model is more than its base."""

    def terms(self) -> Terms:
        """Return what the bundle may travel under."""
        claimed = known_or_none(self.licence)
        claim = Claim(name=self.name, licence=claimed, is_trained=self.is_trained)
        return judge(self.ledger.sources, claim)


def _none(model: ModelFile, spec: PackageSpec, opening: Opening) -> dict[str, str]:
    return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Packing:
    """What a bundle must know of its model file's format."""

    tensor_digests: Callable[[Path], Sequence[dict[str, Any]]]
    """Returns name, type, size and sha256 of each tensor of a file."""
    needs: Callable[[ModelFile, int], dict[str, int]]
    """Model file and tokens of context → bytes of memory of each kind on a board."""
    companions: Callable[[ModelFile, PackageSpec, Opening], Mapping[str, str]] = _none
    """Returns name and text of files that go with this format alone."""
    has_knowledge: bool = False
    """Whether its engine also finds documents."""
    has_slots: bool = False
    """Whether its engine can answer several questions at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Consulted:
    """Documents that a bundle answers from, and how."""

    knowledge: Knowledge
    answer: str
    """`quote` or `model`: who words an answer."""
    take: int
    """Passages that are looked up for a question."""

    @property
    def digest(self) -> str:
        """What decides the bundle."""
        return f"{self.knowledge.digest} {self.answer} {self.take}"

    def fields(self) -> dict[str, Any]:
        """Return the manifest's fields."""
        return {
            "knowledge": KNOWLEDGE,
            "embedder": EMBEDDER,
            "answer": self.answer,
            "take": self.take,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """The filter that a bundle has, and what it refuses."""

    guard: GuardFile
    refuse: str
    """`questions`, `both` or `nothing`."""

    @property
    def digest(self) -> str:
        """What decides the bundle."""
        return f"{self.guard.digest} {self.refuse}"

    def fields(self) -> dict[str, Any]:
        """Return the manifest's fields."""
        return {"guard": GUARD, "refuse": self.refuse}


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What goes into a bundle, and the kind of board that it is for."""

    model: ModelFile
    verdict: Verdict
    target: Target
    spec: PackageSpec
    origin: Origin
    packing: Packing
    consulted: Consulted | None = None
    """Documents that it answers from."""
    guarded: Guarded | None = None
    """What it refuses."""

    @property
    def needs(self) -> dict[str, int]:
        """Bytes of memory of each kind on a board, with those of the documents."""
        needs = self.packing.needs(self.model, self.spec.context)
        if self.model.projector and self.spec.images:
            needs = {**needs, **projector_needs(self.model.projector)}
        if self.consulted is None:
            return needs
        return {**needs, "knowledge_bytes": knowledge_bytes(self.consulted.knowledge.figures)}


class _Parameters(Frozen):
    package: PackageSpec
    target: str
    name: str
    base: str
    licence: str
    opening: tuple[dict[str, str], ...]
    came: str = ""
    licence_texts: tuple[str, ...] = ()
    ledger: Ledger


def package(parts: Parts, out: Path) -> Bundle:
    """Put a model file that passed the gate into a bundle for one kind of board."""
    _check(parts)
    origin = parts.origin
    parameters = _Parameters(
        package=parts.spec,
        target=parts.target.id,
        name=origin.name,
        base=origin.base,
        licence=origin.licence,
        opening=tuple(dict(message) for message in origin.opening),
        came=origin.came,
        licence_texts=origin.licence_texts,
        ledger=origin.ledger,
    )
    work = Work(
        stage="package",
        inputs={
            "model": parts.model.digest,
            "verdict": parts.verdict.digest,
            **({"knowledge": parts.consulted.digest} if parts.consulted else {}),
            **({"guard": parts.guarded.digest} if parts.guarded else {}),
        },
        parameters=parameters,
        tools=("gguf",),
    )
    record, fresh = keep(out, work, lambda folder: _fill(folder, parts), BundleFigures)
    return Bundle(path=out, record=record, fresh=fresh)


def _check(parts: Parts) -> None:
    """Raise ConfigError, FitError or an error of the terms for parts that make no bundle."""
    model, spec, origin = parts.model, parts.spec, parts.origin
    limit = model.figures.context
    if spec.context > limit:
        raise ConfigError(
            f"package: context: the model has {limit} tokens of context, `{spec.context}` asked"
        )
    if origin.opening:
        check_room(
            "package: context",
            parts.verdict.figures.opening_tokens or 0,
            spec.max_tokens,
            spec.context,
        )
    if parts.consulted and not parts.packing.has_knowledge:
        raise ConfigError(
            f"package: {model.file.suffix[1:]} files answer from no documents",
            hint="documents are found by llama.cpp: make a gguf file",
        )
    origin.terms().refuse("package", strict=origin.strict)
    refuse_unfit(origin.name, parts.needs, parts.target, spec.context)


def _fill(out: Path, parts: Parts) -> BundleFigures:
    """Write all files of a bundle, its manifest last."""
    _write_files(out, parts)
    names = sorted(
        p.name for p in out.iterdir() if not p.name.startswith(".") and p.name != "started.json"
    )
    manifest = _manifest(out, names, parts)
    write_whole(out / BUNDLE_MANIFEST, to_bytes(manifest).decode())
    return BundleFigures(
        release=manifest.release_id(), files=len(names), needs=dict(manifest.needs)
    )


def _write_files(out: Path, parts: Parts) -> None:
    model, origin = parts.model, parts.origin
    check_template((model.path / TEMPLATE).read_text(encoding="utf-8"))
    projector = model.projector if parts.spec.images else None
    for file in filter(None, (model.file, model.data, model.adapter, projector)):
        link_or_copy(file, out / file.name)
    link_or_copy(model.path / TEMPLATE, out / TEMPLATE)
    _write_goldens(out, parts.verdict, seen=bool(projector) or not model.projector)
    if (model.path / TOKENIZER).is_file():  # a GGUF that came as it is has its tokenizer in it
        link_or_copy(model.path / TOKENIZER, out / TOKENIZER)

    for licence in origin.licence_files:
        link_or_copy(licence, out / licence.name)
    for number, text in enumerate(origin.licence_texts):
        write_whole(out / f"LICENSE{number or ''}.txt", text)
    for name, text in parts.packing.companions(model, parts.spec, origin.opening).items():
        write_whole(out / name, text)

    if parts.consulted:
        for name in (KNOWLEDGE, EMBEDDER):
            link_or_copy(parts.consulted.knowledge.path / name, out / name)
    if parts.guarded:
        link_or_copy(parts.guarded.guard.path / GUARD, out / GUARD)
    if named := attribution(origin.ledger.sources, origin.terms()):
        write_whole(out / ATTRIBUTION, named)
    write_whole(out / "MODEL_CARD.md", model_card(model, parts.verdict, parts.spec, origin))


def _write_goldens(out: Path, verdict: Verdict, *, seen: bool) -> None:
    """Write the goldens; without those about pictures unless these are `seen` on the board.

    Raise ConfigError if none is left: a board that reproduces nothing proves nothing.
    """
    goldens = verdict.path / GOLDENS
    if seen:
        link_or_copy(goldens, out / GOLDENS)
        for picture in verdict.pictures:
            link_or_copy(picture, out / picture.name)
        return
    blind = [row for row in read_jsonl(goldens) if not has_pictures(row["messages"])]
    if not blind:
        raise ConfigError(
            "package: images: `0`, but every golden is about a picture",
            hint="images = 1, or hold out questions that are about no picture",
        )
    write_jsonl(out / GOLDENS, blind)


def _manifest(out: Path, names: Sequence[str], parts: Parts) -> Manifest:
    """Return the manifest of the files in a folder."""
    model, spec, origin = parts.model, parts.spec, parts.origin
    figures = parts.verdict.figures
    terms = origin.terms()
    return Manifest(
        name=origin.name,
        version=spec.version,
        counter=spec.counter,
        target=parts.target.id,
        context=spec.context,
        engine=Engine(name=figures.engine_name, oldest=figures.engine),
        model=model.file.name,
        files=tuple(file_entry(out, name) for name in names),
        tensors=tuple(parts.packing.tensor_digests(model.file)),
        kv_type=model.figures.kv_type or Manifest.kv_type,
        stop_ids=tuple(model.figures.stop_ids),
        max_tokens=spec.max_tokens,
        system="".join(
            message["content"] for message in origin.opening if message["role"] == "system"
        ),
        turns=tuple(dict(message) for message in origin.opening if message["role"] != "system"),
        special_tokens=spec.special_tokens,
        feedback_mb=spec.feedback_mb,
        slots=spec.slots if parts.packing.has_slots else 1,
        provenance=_provenance(origin),
        licences=(said,) if (said := terms.result or origin.licence) else (),
        ledger={**as_json(origin.ledger), "terms": terms.as_json()},
        gate=_gate(figures),
        arithmetic=figures.arithmetic,
        needs=parts.needs,
        adapter=model.adapter.name if model.adapter else "",
        projector=model.projector.name if model.projector and spec.images else "",
        **(parts.consulted.fields() if parts.consulted else {}),
        **(parts.guarded.fields() if parts.guarded else {}),
    )


def _gate(figures: VerdictFigures) -> dict[str, Any]:
    """Return what the manifest says of the gate: what was measured."""
    measured = figures.as_json()
    del measured["arithmetic"], measured["failures"]
    return measured


def refuse_unfit(name: str, needs: Mapping[str, int], target: Target, context: int) -> None:
    """Raise FitError, with the number that failed, if a target lacks the memory for a model file.

    `needs` are its bytes of each kind at `context` tokens. A target whose memory only the machine
    knows is judged when a bundle is pushed.
    """
    if target.memory_mb is None:
        return
    found = fit(Needs(**{"context": context, "runtime_bytes": RUNTIME_BYTES, **needs}), target)
    if not found.ok:
        raise FitError(
            f"package: {target.id}: {name} does not fit in memory: {found.reasons[0]}",
            hint=found.hint,
        )


def _provenance(origin: Origin) -> dict[str, Any]:
    stages = [
        {"stage": r.stage, **_digests(origin, r), "tools": r.tools, "seed": r.seed}
        for r in origin.records
    ]
    came = {"came": origin.came} if origin.came else {}
    return {
        "recipe": origin.recipe,
        "base": f"{origin.base}{_weights(origin)}",
        "base_sha256": origin.base_digest,
        "stages": stages,
        **came,
    }


def _digests(origin: Origin, record: Record) -> dict[str, str]:
    """Return what a stage was made from and what came out; nothing under a claim of privacy."""
    # Keys follow from the text: whoever knows all entries but one tries out the last.
    if origin.ledger.privacy:
        return {}
    return {"key": record.key, "digest": record.digest}


def _weights(origin: Origin) -> str:
    """Return what the base's weights were, where they came from a quantized file."""
    base = next((record for record in origin.records if record.stage == "base"), None)
    return f" ({BaseFigures.read(base.figures).quantization})" if base else ""


def model_card(model: ModelFile, verdict: Verdict, spec: PackageSpec, origin: Origin) -> str:
    """Return the card: what the model is, what it was made of, and what the gate measured."""
    file, figures = model.figures, verdict.figures
    base = origin.base or ("not said" if origin.came else "trained from scratch")
    terms = origin.terms()
    card = (
        "---",
        f"license: {terms.result or origin.licence or 'unknown'}",
        f"library_name: {model.file.suffix[1:]}",
        "---",
        f"# {origin.name} {spec.version}",
        "",
        f"- file: `{model.file.name}`, {file.size_bytes:,} bytes, "
        f"{file.real_bpw:.2f} bits per weight",
        *([f"- adapter: `{model.adapter.name}`, added while it runs"] if model.adapter else []),
        *([f"- pictures: `{model.projector.name}`"] if model.projector and spec.images else []),
        *([f"- {origin.came}"] if origin.came else []),
        f"- base: {base}{_weights(origin)}",
        *([f"- base's sha256: `{origin.base_digest}`"] if origin.base_digest else []),
        f"- stages: {' → '.join(record.stage for record in origin.records)}",
        f"- context: {spec.context} tokens",
        "",
        "| measured with the device runtime | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in _measured(figures)),
        *(f"\nnot measured: {sentence}" for sentence in figures.not_measured or ()),
        *_guard_lines(figures),
        *_ledger_lines(origin.ledger, terms, figures.leak),
    )
    return "\n".join(card) + "\n"


def _guard_lines(figures: VerdictFigures) -> list[str]:
    """Return what the card says of the guard and of probes, on this file."""
    said = []
    if figures.guarded:
        said.append(guarded_words(figures.guarded))
    if figures.probes:
        said.append(f"probes: {probe_words(figures.probes)}")
    if figures.garak:
        said.append(garak_words(figures.garak))
    if figures.audit:
        said.append(f"audit of its privacy: {audit_words(figures.audit.as_json())}")
    return ["", *(f"- {each}" for each in said)] if said else []


def _ledger_lines(ledger: Ledger, terms: Terms, leak: LeakFigures | None) -> list[str]:
    """Return what the card says of the sources, and of what was done with them."""
    fields = {**as_json(ledger), "terms": terms.as_json()}
    rows = [
        f"| {role} | {_cell(name)} | {_cell(licence)} | {rows} |"
        for role, name, licence, rows in rows_of(fields["sources"])
    ]
    table = ["", "| source | | terms | rows |", "|---|---|---|---|", *rows] if rows else []
    said = [f"- {name}: {text}" for name, text in lines(fields) if name != "sources"]
    if leak:
        said.append(f"- leak: {leak_words(leak.as_json())}")
        said += [f"- leak, not measured: {sentence}" for sentence in leak.not_measured or ()]
    return [*table, "", *said, *(f"- {sentence}" for sentence in ledger.done)]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


_CARD = {
    "questions": ("held-out questions", "{}"),
    "exact_match": ("exact match", "{:.1%}"),
    "f1": ("token F1", "{:.1%}"),
    "tool_accuracy": ("right calls of tools, where tools were given", "{:.1%}"),
    "eos_rate": ("answers that end by themselves", "{:.1%}"),
    "reference_eos_rate": ("of the reference's answers", "{:.1%}"),
    "mean_kl": ("mean KL to the reference, on held-out answers", "{:.4f} nats"),
    "agreement": ("same next token as the reference, on held-out answers", "{:.1%}"),
    "general_kl": ("mean KL to the reference, on general text", "{:.4f} nats"),
    "general_agreement": ("same next token as the reference, on general text", "{:.1%}"),
    "own_prompts": ("prompts of ours, answered for the goldens", "{}"),
    "own_ended": ("of these, answers that ended by themselves", "{}"),
}
"""Figures of a verdict that the card shows, if they were measured: what they are called and how
they are written."""


def _measured(figures: VerdictFigures) -> list[tuple[str, str]]:
    measured = figures.as_json()
    return [
        (words, form.format(measured[name]))
        for name, (words, form) in _CARD.items()
        if name in measured
    ]
