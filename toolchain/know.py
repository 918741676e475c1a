"""Documents → what a board answers from: passages, what they are found by, and the search's limits.

know(documents, KnowledgeSpec) → Knowledge. The embedder is tuned on the written questions, the
vectors are made by the runtime that ships, the search is fitted on one set of questions and
measured on another that it never saw.
"""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from device.manifest import EMBEDDER, KNOWLEDGE, read_runtime
from device.manifest.knowledge import POOLING
from toolchain.artifacts import Knowledge, Work, digest, keep, value_digest
from toolchain.digests import file_digest
from toolchain.errors import GateError
from toolchain.figures import KnowledgeFigures, SearchScores
from toolchain.knowledge import fitting
from toolchain.knowledge.bare import fit_with_bare, right_bare
from toolchain.knowledge.cache import VectorCache
from toolchain.knowledge.contrast import tune_embedder
from toolchain.knowledge.embedder import write_embedder
from toolchain.knowledge.found import FOUND, found_passage, write_found
from toolchain.knowledge.index import entries_of, set_fitted, write_index
from toolchain.knowledge.source import embedder_folder
from toolchain.knowledge.teacher import Teacher
from toolchain.knowledge.texts import Texts
from toolchain.knowledge.unfitted import common_questions, facts, with_limit
from toolchain.knowledge.written import Written
from toolchain.progress import Reporter
from toolchain.recipe import KnowledgeGateSpec, KnowledgeSpec
from toolchain.runtime.recall import Compared, Recall, recall_all

if TYPE_CHECKING:
    import numpy as np

MOST_GOLDENS = 16
"""Questions whose passage the board must find first before a release is switched to."""
_MAKES_VECTORS = ("llama_cpp/", "device/engine/llama/")
"""Beginnings of the paths in a runtime that decide a text's vector."""
_TOGETHER = 64
"""Texts between two times that vectors are written down."""


def know(
    texts: Texts,
    spec: KnowledgeSpec,
    near: Path,
    runtime: Path,
    out: Path,
    report: Reporter,
    *,
    offline: bool,
    seed: int,
) -> Knowledge:
    """Make the knowledge of a recipe in `near` from what it names, `texts`.

    Raise GateError with every limit that was missed. Beside `out` the tuned embedder and the
    vectors are kept for the next time.
    """
    if spec.teacher:
        teacher = Teacher(
            spec.teacher, spec.teacher_model, spec.written, out.with_name("written.jsonl")
        )
        texts = texts.with_written(teacher, report)
    source = embedder_folder(spec.embedder, near, out.parent, report, offline=offline)
    embedder = _embedder(source, texts, spec, out, report, seed)

    inputs = {
        "embedder": digest(embedder),
        "texts": value_digest(texts),
        "runtime": runtime.name,
    }
    if not texts.can_fit:
        inputs["unfitted"] = value_digest(facts())
    # The limits decide nothing that is made: another gate measures nothing again.
    made_by = spec.model_copy(update={"gate": KnowledgeGateSpec()})
    work = Work(stage="know", inputs=inputs, parameters=made_by, seed=seed, tools=("gguf",))
    record, fresh = keep(
        out,
        work,
        lambda made: _make(made, texts, spec, embedder, runtime, out.parent, report),
        KnowledgeFigures,
    )
    knowledge = Knowledge(path=out, record=record, fresh=fresh)
    if missed := _failures(knowledge.figures.fresh, spec.gate):
        raise GateError(
            "knowledge: not good enough: " + "; ".join(missed),
            hint="write more questions, or change `[knowledge.gate]` knowingly",
        )
    return knowledge


def _embedder(
    source: Path, texts: Texts, spec: KnowledgeSpec, out: Path, report: Reporter, seed: int
) -> Path:
    """Return the folder of the embedder, tuned if the recipe says so."""
    if spec.tune is None:
        return source
    lesson = texts.lesson()
    inputs = {"embedder": digest(source), "lesson": value_digest(lesson)}
    tuned = out.with_name("embedder")
    return tune_embedder(source, lesson, spec.tune, tuned, report, inputs=inputs, seed=seed)


def _make(
    out: Path,
    texts: Texts,
    spec: KnowledgeSpec,
    embedder: Path,
    runtime: Path,
    cache: Path,
    report: Reporter,
) -> KnowledgeFigures:
    passages = texts.library.passages
    entries = entries_of(passages, texts.questions, texts.unanswered, fitted=texts.can_fit)
    written = write_embedder(embedder, out / EMBEDDER, spec.scheme)
    sha256 = file_digest(written.file)
    index = out / KNOWLEDGE

    common = [] if texts.can_fit else common_questions(each.text for each in passages)
    asked = (*texts.tuning, *texts.fresh, *common)
    compared_texts = [entry.text for entry in entries]
    questions = [each.question.strip() for each in asked]
    with closing(VectorCache(cache / "vectors.db", _maker(runtime, sha256))) as kept:
        _add_vectors(kept, [*compared_texts, *questions], runtime, written.file, report)
        write_index(
            index,
            passages,
            entries,
            kept.vectors(compared_texts),
            sha256,
            _pooling(texts),
        )
        vectors = kept.vectors(questions)
        kept.drop_others()

    compared = _compare(asked, vectors, runtime, written.file, index, report)
    count = len(texts.tuning)
    trials, fresh = compared[:count], compared[count : count + len(texts.fresh)]
    fitted = _fit(texts, trials)
    if common:
        fitted = with_limit(fitted, compared[count + len(fresh) :])
    set_fitted(index, fitted, _goldens(texts, fitted, trials, fresh))
    if fresh:
        measured = zip(texts.fresh, fresh, strict=True)
        rows = [found_passage(each.question, trial, passages, fitted) for each, trial in measured]
        write_found(out / FOUND, rows)

    return KnowledgeFigures(
        passages=len(passages),
        parts=sum(entry.part for entry in entries),
        questions=sum(map(len, texts.questions)),
        unanswered=len(texts.unanswered),
        files=texts.results(),
        width=written.width,
        embedder_bytes=written.size_bytes,
        index_bytes=index.stat().st_size,
        tuned=spec.tune is not None,
        fitted=dict(fitted),
        tuning=fitting.scores(trials, fitted),
        fresh=fitting.scores(fresh, fitted),
        fresh_bare=fitting.scores(right_bare(fresh), fitted) if any(texts.questions) else None,
    )


def _pooling(texts: Texts) -> float:
    """Return the temperature at which a passage's likeness is pooled; 0: its closest entry's."""
    # Several close questions count for more than one, where that is fitted; several parts do not.
    return POOLING if texts.can_fit and any(texts.questions) else 0.0


def _fit(texts: Texts, trials: Sequence[fitting.Trial]) -> fitting.Fitted:
    """Return what is fitted on the questions of `tuning`."""
    if any(texts.questions):
        return fit_with_bare(trials)
    # Where nobody wrote questions, all passages are alike: none is bare beside others.
    return fitting.candidates(trials)[0].fitted


def _maker(runtime: Path, embedder: str) -> str:
    """Return a name of what makes vectors: the embedder, and the runtime's code that runs it."""
    # Not the whole runtime: another release of the service would make every vector again.
    files = {
        each.path: each.sha256
        for each in read_runtime(runtime).files
        if each.path.startswith(_MAKES_VECTORS)
    }
    return f"{embedder} {value_digest(files)}"


def _add_vectors(
    kept: VectorCache, texts: Sequence[str], runtime: Path, embedder: Path, report: Reporter
) -> None:
    """Make the vectors of texts that are not in the cache yet."""
    missing = kept.missing(list(dict.fromkeys(texts)))
    parts = [missing[at : at + _TOGETHER] for at in range(0, len(missing), _TOGETHER)]
    made = recall_all(runtime, embedder, Recall.embed, parts)
    done = 0
    for part, vectors in zip(parts, made, strict=True):
        kept.add(part, vectors)
        done += len(part)
        report.step("make vectors", done, len(missing), "texts")


def _compare(
    asked: Sequence[Written],
    vectors: "np.ndarray",
    runtime: Path,
    embedder: Path,
    index: Path,
    report: Reporter,
) -> list[fitting.Trial]:
    """Return how like each question its nearest passages are; `vectors` are the questions'."""
    questions = list(zip([each.question for each in asked], vectors, strict=True))

    def compare(recall: Recall, question: "tuple[str, np.ndarray]") -> Compared:
        return recall.compare(*question)

    compared = recall_all(runtime, embedder, compare, questions, index)
    trials = []
    for number, (each, found) in enumerate(zip(asked, compared, strict=True), 1):
        trials.append(fitting.Trial(compared=found, right=each.right, also=each.also))
        report.step("compare with the index", number, len(asked), "questions")
    return trials


def _goldens(
    texts: Texts,
    fitted: fitting.Fitted,
    tuning: Sequence[fitting.Trial],
    fresh: Sequence[fitting.Trial],
) -> list[tuple[str, int]]:
    """Return questions for which one passage stands clearly first, as the board must find too."""
    asked = [*zip(texts.tuning, tuning, strict=True), *zip(texts.fresh, fresh, strict=True)]
    goldens = []
    for written, trial in asked:
        best = fitting.ranked(trial.compared, fitted)[:2]
        # Another processor rounds otherwise: only a clear lead is the same everywhere.
        if best and (len(best) < 2 or best[0].score - best[1].score > 0.05):
            goldens.append((written.question, best[0].passage))
    return goldens[:MOST_GOLDENS]


def _failures(measured: SearchScores | None, gate: KnowledgeGateSpec) -> list[str]:
    """Return one sentence for each limit of the gate that was missed."""
    if measured is None:
        return []
    missed = []
    asked = measured.answerable
    for share, limit, what in (
        (measured.first, gate.min_first, "found their passage first"),
        (measured.among_three, gate.min_among_three, "found their passage among three"),
        (measured.right, gate.min_right, "were answered rightly"),
    ):
        if share < limit:
            missed.append(
                f"{share:.1%} of {asked} fresh questions {what}, the gate asks {limit:.1%}"
            )
    if measured.wrong > gate.max_wrong:
        missed.append(
            f"{measured.wrong:.1%} of {asked} fresh questions were answered with a passage that "
            f"does not answer them, the gate allows {gate.max_wrong:.1%}"
        )
    if measured.false > gate.max_false:
        missed.append(
            f"{measured.false:.1%} of {measured.unanswerable} questions without an answer were "
            f"answered, the gate allows {gate.max_false:.1%}"
        )
    return missed
