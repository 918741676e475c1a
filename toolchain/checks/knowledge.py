"""Documents of a recipe, and the questions for them, before anything is made of them."""

from collections import Counter
from itertools import chain

from toolchain import bases
from toolchain.checks import Ahead, Findings
from toolchain.errors import ArtifactError, ConfigError
from toolchain.ingest.redact import Redactor
from toolchain.knowledge.index import PARTED
from toolchain.knowledge.passages import Passage
from toolchain.knowledge.texts import Texts, read_texts
from toolchain.language import language_of
from toolchain.models import origin


def look(ahead: Ahead, findings: Findings) -> None:
    """Find documents, questions and embedders that are missing, and formats without documents."""
    spec = ahead.recipe.knowledge
    if spec is None or not ahead.walks("know"):
        return
    for form, _ in ahead.files:
        if ahead.walks("package") and not form.has_knowledge:
            findings.errors.append(
                ConfigError(
                    f"{ahead.file}: knowledge: a file of one of `quantize.formats` answers from no "
                    "documents",
                    hint='documents are found by llama.cpp: formats = ["gguf"]',
                )
            )
    with findings.gathering():
        texts = read_texts(spec, ahead.recipe.folder)
        findings.notes += [f"know: {name}: {reason}" for name, reason in texts.unread()]
        if not texts.can_fit:
            findings.notes.append(
                "know: no `tuning` questions: the search is not fitted, and refuses what is no "
                "nearer to the documents than general questions are"
            )
        findings.notes += _known_before(texts)
        findings.notes += [] if spec.teacher else _too_many_for_parts(texts)
        findings.notes += _unknown_languages(texts, spec.embedder)
        _look_for_persons(ahead, texts, findings)
    with findings.gathering():
        if spec.embedder.startswith(origin.PREFIX):
            origin.packaged(spec.embedder)


def _known_before(texts: Texts) -> list[str]:
    """Return a sentence where questions that measure are among those that the search was made of.

    They are compared without letters' case and spaces.
    """
    asked = chain([each.question for each in texts.tuning], texts.unanswered, *texts.questions)
    known = set(map(_plain, asked))
    same = [each.question for each in texts.fresh if _plain(each.question) in known]
    if not same:
        return []
    return [
        f"know: {len(same):,} of {len(texts.fresh):,} `fresh` questions are among those that the "
        f"search is made of or fitted with, and measure nothing: `{same[0][:60]}`"
    ]


def _plain(question: str) -> str:
    return " ".join(question.casefold().split())


def _too_many_for_parts(texts: Texts) -> list[str]:
    """Return a sentence where so many passages have no questions that none has parts."""
    bare = sum(not asked for asked in texts.questions)
    if bare <= PARTED or (texts.can_fit and bare < len(texts.questions)):
        return []
    return [
        f"know: {bare:,} passages without questions: of more than {PARTED:,} each is found by its "
        "whole text alone and not by its sentences: name fewer files, or write questions"
    ]


def _unknown_languages(texts: Texts, embedder: str) -> list[str]:
    """Return a sentence for each language of the documents that the embedder was not made for."""
    row = bases.embedder_named(embedder)
    if row is None:
        return []
    passages = texts.library.passages
    counts = Counter(
        language_of("\n".join((passage.text, *asked)))
        for passage, asked in zip(passages, texts.questions, strict=True)
    )
    return [
        f"know: {count:,} of {len(passages):,} passages are in {bases.language_name(code)}, which "
        f"{row.name} was not made for: {_advice(code)}"
        for code, count in counts.most_common()
        if code and code not in row.languages
    ]


def _advice(code: str) -> str:
    """Return what to do where an embedder does not know a language."""
    knowing = [each.hub for each in bases.table().embedder if code in each.languages]
    if knowing:
        return f"{knowing[0]} was; compare both with `fresh` questions"
    return "take an embedder of the BERT family that was, and measure it with `fresh` questions"


def _look_for_persons(ahead: Ahead, texts: Texts, findings: Findings) -> None:
    """Find personal data in the documents, which are shipped as they are.

    It is counted and never replaced: a document is quoted, and a quotation must be true.
    """
    spec = ahead.recipe.data.redact
    if spec.mode == "off":
        return

    rules = Redactor(spec, bytes(32))  # the key decides surrogates, and none is used here
    counts: Counter[str] = Counter()
    first = ""
    for passage, asked in zip(texts.library.passages, texts.questions, strict=True):
        kinds = _kinds_in(passage, asked, rules)
        if kinds and not first:
            page = f", page {passage.page}" if passage.page else ""
            first = f"{passage.source}{page} ({kinds[0]})"
        counts.update(kinds)
    if not counts:
        return

    each = ", ".join(f"{counts[kind]:,} {kind}" for kind in spec.kinds if counts[kind])
    said = f"personal data in the documents: {each}; the first in {first}"
    if spec.mode == "refuse":
        findings.errors.append(
            ArtifactError(
                f"{ahead.file}: knowledge: files: {said}, which `data.redact.mode` refuses",
                hint="take it out of the files; `keep` names what is nobody's secret",
            )
        )
    else:
        findings.notes.append(f"know: {said}; documents are shipped as they are, never replaced")


def _kinds_in(passage: Passage, asked: tuple[str, ...], rules: Redactor) -> list[str]:
    """Return the kind of each value in a passage, its heading and its questions."""
    written = dict.fromkeys((passage.heading, passage.text, *asked))
    return [hit.kind for text in written for hit in rules.hits(text) if hit.surrogate]
