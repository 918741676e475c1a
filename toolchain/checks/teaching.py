"""What a teacher is to write from, before it is asked: files, rows and addresses."""

from toolchain.checks import Ahead, Findings
from toolchain.endpoint.address import is_endpoint, parse
from toolchain.errors import ConfigError
from toolchain.teaching.sources import read_passages, read_questions


def look(ahead: Ahead, findings: Findings) -> None:
    """Find sources that cannot be read, and addresses that cannot be called."""
    spec = ahead.recipe.distill
    if spec is None or spec.write is None or not ahead.walks("distill"):
        return
    write = spec.write
    with findings.gathering():
        if is_endpoint(write.teacher):
            address = parse(write.teacher)
            sources = " and ".join((*write.questions, *write.documents))
            if not address.is_here:
                findings.notes.append(f"distill: {sources} go to {address.text}")
        elif write.teacher_model:
            raise ConfigError(
                f"{ahead.file}: distill: write: teacher_model: only an endpoint has several models",
                hint='teacher = "http://127.0.0.1:8080/v1"',
            )
    questions = passages = 0
    with findings.gathering():
        questions = len(read_questions(write, ahead.recipe.folder))
    with findings.gathering():
        passages = len(read_passages(write, ahead.recipe.folder))
    if questions or passages:
        findings.notes.append(
            f"distill: a teacher answers {questions:,} questions, and {write.each} for each of "
            f"{passages:,} passages"
        )
