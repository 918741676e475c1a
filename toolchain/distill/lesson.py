"""What student and controls have in common, and how each of them is trained."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.artifacts import Checkpoint, Dataset, Written
from toolchain.errors import ArtifactError, ConfigError
from toolchain.figures import TrainFigures
from toolchain.progress import Reporter
from toolchain.recipe import DistillSpec
from toolchain.training.probe import Question, beside, shuffled

if TYPE_CHECKING:
    from toolchain.training.examples import Example
    from toolchain.training.loop import Course

ON_POLICY_RATE = 0.25
"""Learning rate of the student's own answers, as a share of the other: they come last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """A teacher, a student's beginning, and the text that is learned."""

    teacher: Checkpoint
    student: Checkpoint | None
    """A ready student; None for one that has `layers` of the teacher."""
    dataset: Dataset
    written: Written | None
    """Conversations that a teacher wrote."""
    spec: DistillSpec
    seed: int
    layers: tuple[int, ...] = ()
    influence: tuple[float, ...] = ()
    """How much each layer of the teacher changes what it reads, where they were chosen by it."""
    questions: tuple[Question, ...] = ()
    """General questions, by which is seen what was forgotten."""
    talk: Sequence[Mapping[str, Any]] = ()
    """General conversations, of which student and controls learn the share of the spec."""

    @property
    def came_in(self) -> Path:
        """Folder of the model that a student is made of."""
        return (self.student or self.teacher).path

    @property
    def speaks_as(self) -> Path:
        """Folder whose tokenizer and template the result has."""
        own = self.student if not self.spec.needs_same_tokens else None
        return (own or self.teacher).path

    def tokenizer(self) -> Any:
        """Return the tokenizer that the result has."""
        from toolchain.models.checkpoints import load_tokenizer

        return load_tokenizer(self.speaks_as)

    def texts(self) -> "Texts":
        """Return the conversations to learn as examples."""
        from toolchain.training.examples import conversations

        tokenizer, limit = self.tokenizer(), self.spec.max_tokens
        labelled, too_long = conversations(tokenizer, self.dataset.train(), limit)
        rows = self.written.rows() if self.written else []
        written, too_long_too = conversations(tokenizer, rows, limit)
        general, too_long_as_well = self._general(tokenizer, len(labelled) + len(written))
        asked = self.dataset.held_out()[: self.spec.questions]
        return Texts(
            labelled=labelled,
            written=written,
            general=general,
            general_share=self.spec.general_share,
            held_out=conversations(tokenizer, asked, limit)[0],
            too_long=too_long + too_long_too + too_long_as_well,
        )

    def _general(self, tokenizer: Any, own: int) -> "tuple[list[Example], int]":
        """Return each general conversation that is learned beside so many, and those left out."""
        from toolchain.training.examples import encoded

        limit, share = self.spec.max_tokens, self.spec.general_share
        order = shuffled(self.talk, self.seed)
        rows = order[: len(beside(own, order, share))]
        examples = [each for each in encoded(tokenizer, rows, limit) if each]
        if rows and not examples:
            raise ArtifactError(
                f"distill: general_share: all {len(rows)} general conversations are longer than "
                f"{limit} tokens",
                hint="raise `max_tokens`",
            )
        return examples, len(rows) - len(examples)

    def with_layers(self, examples: "Sequence[Example]") -> "Lesson":
        """Return the lesson with the layers of its student, chosen by influence if need be."""
        from toolchain.models.checkpoints import load_model
        from toolchain.training.influence import choose, influences, kinds_of

        layers = self.spec.layers
        if not isinstance(layers, int):
            return replace(self, layers=layers)
        teacher = load_model(self.teacher.path, dtype="float32")
        influence = influences(teacher, examples)
        chosen = choose(influence, layers, kinds_of(teacher.config.get_text_config()))
        return replace(self, layers=chosen, influence=tuple(influence))

    def start(self) -> Any:
        """Return the untrained student in float32."""
        from toolchain.models.checkpoints import load_model
        from toolchain.training.students import from_layers
        from toolchain.training.teacher import token_count

        if self.student is None:
            return from_layers(load_model(self.teacher.path), self.layers)
        model = load_model(self.student.path, dtype="float32")
        rows = model.get_input_embeddings().weight.shape[0]
        if rows < (tokens := token_count(self.tokenizer())):
            raise ConfigError(
                f"distill: student: it has room for {rows} tokens, "
                f"the teacher's tokenizer has {tokens}"
            )
        return model


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """Conversations of a lesson as examples."""

    labelled: "Sequence[Example]"
    written: "Sequence[Example]"
    general: "Sequence[Example]" = ()
    """General conversations, each once."""
    general_share: float = 0.0
    """Share of them in what is learned."""
    held_out: "Sequence[Example]"
    """What the models are asked, as far as it fits."""
    too_long: int
    """Conversations that were left out."""

    @property
    def all(self) -> "Sequence[Example]":
        """What the student learns."""
        return self._with_general([*self.labelled, *self.written])

    @property
    def control(self) -> "Sequence[Example]":
        """What its controls learn."""
        return self._with_general(self.labelled)

    @property
    def distinct(self) -> "Sequence[Example]":
        """What the student learns, each general conversation once."""
        return [*self.labelled, *self.written, *self.general]

    def place(self, row: int) -> int:
        """Return the place in `distinct` of a row of `all`."""
        own = len(self.labelled) + len(self.written)
        return row if row < own else own + (row - own) % len(self.general)

    def _with_general(self, own: "Sequence[Example]") -> "Sequence[Example]":
        return [*own, *beside(len(own), self.general, self.general_share)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pupil:
    """One model to be trained: its text, how long, and what it learns of it."""

    name: str
    """Name of the progress bar and of the resume folder."""
    examples: "Sequence[Example]"
    steps: int
    objective: Callable[[Any], Any]
    """Model → the objective that holds it."""


def train_pupil(
    lesson: Lesson, pupil: Pupil, resume: Path, report: Reporter
) -> tuple[Any, TrainFigures]:
    """Return the trained model, with what its training took."""
    from toolchain.training.loop import train

    model = lesson.start()
    course = _course(lesson, pupil)
    figures = train(pupil.objective(model), pupil.examples, course, resume, report)
    return model, TrainFigures.of(figures)


def on_policy(
    lesson: Lesson, model: Any, pupil: Pupil, resume: Path, report: Reporter
) -> TrainFigures:
    """Let a student learn from the teacher's view of answers that the student itself gives."""
    from toolchain.models.checkpoints import load_model
    from toolchain.training.hidden import OwnAnswerLoss
    from toolchain.training.loop import train
    from toolchain.training.own_answers import own_answers

    course = _course(lesson, pupil)
    count = min(len(pupil.examples), pupil.steps * lesson.spec.batch_size)
    tokenizer = lesson.tokenizer()
    own = own_answers(
        model,
        tokenizer,
        pupil.examples,
        resume / "own-answers.json",
        report,
        seed=lesson.seed,
        count=count,
    )
    teacher = load_model(lesson.teacher.path, dtype="float32").to(model.device)
    slower = replace(course, learning_rate=course.learning_rate * ON_POLICY_RATE)
    return TrainFigures.of(train(OwnAnswerLoss(model, teacher), own, slower, resume, report))


def _course(lesson: Lesson, pupil: Pupil) -> "Course":
    from toolchain.training.loop import course

    whole = course(pupil.name, lesson.spec, pupil.examples, lesson.seed)
    return replace(whole, steps=pupil.steps)
