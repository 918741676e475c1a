"""Operations that student and control take: how long a control of equal compute is trained.

Counted, never measured: the same inputs must give the same model on a busy machine too. A
multiplication and an addition for each parameter and token is one operation.
"""

from dataclasses import dataclass

FORWARD, BACKWARD = 1, 2
LEAST = 1.05
"""Ratio from which on a control of equal compute is trained: below, it is the control itself."""
MOST = 4.0
"""Ratio up to which it is: a teacher of 7B would keep a small control busy for days."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Parameters and tokens of a distillation."""

    student: int
    """Parameters of student and control."""
    teacher: int
    writer: int = 0
    """Parameters of the teacher that wrote; 0 where nobody knows them."""
    labelled: int
    """Tokens of the labelled conversations, each as often as it is learned."""
    learned: int
    """Tokens that the student learns, the same way."""
    read: int = 0
    """Tokens that the teacher reads for its probabilities or hidden states."""
    asked: int = 0
    """Tokens that the writing teacher read and wrote."""
    own: int = 0
    """Tokens of the student's own answers: drawn by it, read by the teacher, learned."""


def ratio(counts: Counts) -> float:
    """Return the operations of the student with its teacher over those of the control."""
    training = FORWARD + BACKWARD
    control = training * counts.student * counts.labelled
    student = training * counts.student * counts.learned
    teacher = FORWARD * counts.teacher * counts.read
    writing = FORWARD * counts.writer * counts.asked
    own = ((FORWARD + training) * counts.student + FORWARD * counts.teacher) * counts.own
    return round((student + teacher + writing + own) / max(control, 1), 3)
