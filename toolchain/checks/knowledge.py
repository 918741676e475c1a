"""Documents of a recipe, and the questions for them, before anything is made of them."""

from toolchain.checks import Ahead, Findings
from toolchain.errors import ConfigError
from toolchain.knowledge.texts import read_texts
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
        if not spec.tuning:
            findings.notes.append(
                "know: no `tuning` questions: the search is not fitted, and refuses only what is "
                "nearer to an unanswered question"
            )
    with findings.gathering():
        if spec.embedder.startswith(origin.PREFIX):
            origin.packaged(spec.embedder)
