"""Stage `distill` in the line: how it runs, its line of a plan and its line of results."""

from typing import TYPE_CHECKING

from toolchain.artifacts import Artifact, Checkpoint, Dataset
from toolchain.line.flow import Flow
from toolchain.line.stages.shared import scores
from toolchain.line.stages.stage import Stage
from toolchain.models.original import Original
from toolchain.recipe import Recipe
from toolchain.target import Target

if TYPE_CHECKING:
    from toolchain.teaching.writing import Assignment


def _run(flow: Flow) -> Checkpoint:
    from toolchain.distill import distill

    recipe, spec = flow.recipe, flow.recipe.distill
    assert spec
    teacher = flow.fetched(spec.teacher, "teacher") if spec.teacher else flow.merged()
    student = flow.fetched(spec.student, "student") if spec.student else None
    flow.checkpoint = distill(
        teacher,
        flow.data(),
        spec.without_terms(),
        flow.out("distill"),
        flow.report,
        seed=recipe.seed,
        student=student,
        assignment=_assignment(flow, teacher),
        questions=flow.questions(),
        talk=flow.talk(spec),
    )
    flow.teacher = Original(base=teacher.path) if spec.teacher else flow.reference()
    if student and not spec.needs_same_tokens:
        # A teacher that only wrote may have other tokens: no file is compared with it.
        flow.teacher = None
        flow.original = Original(base=flow.checkpoint.path, tokenizer=Original(base=student.path))
        return flow.checkpoint
    flow.original = Original(base=flow.checkpoint.path, tokenizer=flow.teacher)
    return flow.checkpoint


def _assignment(flow: Flow, teacher: Checkpoint) -> "Assignment | None":
    """Return what a teacher writes before the student learns; None if it writes nothing."""
    from toolchain.endpoint.address import is_endpoint
    from toolchain.ingest.refusals import Refusals
    from toolchain.teaching.writers import EndpointWriter, FolderWriter
    from toolchain.teaching.writing import Assignment

    spec = flow.recipe.distill.write if flow.recipe.distill else None
    if spec is None:
        return None
    writer: EndpointWriter | FolderWriter
    if is_endpoint(spec.teacher):
        writer = EndpointWriter(spec.teacher, spec.teacher_model)
    else:
        folder = flow.fetched(spec.teacher, "writer") if spec.teacher else teacher
        writer = FolderWriter(folder.path, folder.digest)
    return Assignment(
        spec=spec,
        near=flow.recipe.folder,
        writer=writer,
        refusals=Refusals(flow.data(), flow.recipe.data),
    )


def _plan(recipe: Recipe, target: Target, form: str) -> str:
    spec = recipe.distill
    assert spec
    count = spec.layers if isinstance(spec.layers, int) else len(spec.layers)
    student = spec.student or f"{count} layer{'s' * (count > 1)} of the teacher"
    learned = "labels" if spec.loss == "labels" else f"{spec.loss}, T={spec.temperature:g}"
    text = f"{spec.teacher or 'the tuned model'} → {student}, {learned}, {spec.length}{spec.beside}"
    if spec.write is None:
        return text
    sources = ", ".join((*spec.write.questions, *spec.write.documents))
    return f"{text}; {spec.write.teacher or 'the teacher'} writes from {sources}"


def _result(artifact: Artifact) -> str:
    from toolchain.distill import DistillFigures
    from toolchain.training.probe import lost_words

    figures = DistillFigures.read(artifact.record.figures)
    trained = {
        "student": figures.student,
        "control": figures.control,
        "longer control": figures.longer,
    }
    text = f"{figures.best.mark.parameters / 1e6:.2f} M parameters"
    if figures.student is None:
        text += "; there is nothing to teach"
    if figures.written:
        text += f"; {figures.written:,} conversations written"
    if general := figures.best.general:
        text += f"; {general:,} general conversations learned beside {figures.conversations:,}"
    for name, each in trained.items():
        text += f"; {name}{scores(each.mark)}" if each else ""
    if figures.forgotten:
        text += f"; {lost_words(figures.forgotten)}"
    return f"{text}; the {figures.shipped} ships"


STAGE = Stage(
    help="Run a recipe up to its distilled student.",
    run=_run,
    plan=_plan,
    result=_result,
    extra="train",
    needs=(Dataset, Checkpoint),
    gives=Checkpoint,
)
