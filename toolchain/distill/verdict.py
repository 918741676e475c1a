"""Which model ships, and why, in words."""

from collections.abc import Mapping

from toolchain.distill.figures import Mark

STUDENT, CONTROL, LONGER = "student", "control", "longer control"
_WITH = {CONTROL: "same labels", LONGER: "same compute"}


def decide(marks: Mapping[str, Mark]) -> tuple[str, str]:
    """Return which of the trained models ships, by the loss on held-out answers, and why."""
    if STUDENT not in marks:
        return CONTROL, f"the control alone was trained{_alone(marks[CONTROL])}; it ships"
    if any(mark.held_out_loss is None for mark in marks.values()):
        return (
            STUDENT,
            "nothing is held out, so student and control were not compared; the student ships",
        )
    controls = [name for name in (CONTROL, LONGER) if name in marks]
    # Of equal ones the control ships: it needed no teacher.
    best = min((*controls, STUDENT), key=lambda name: _loss(marks[name]))
    rivals = "both controls" if len(controls) > 1 else "the control"
    better = "is better than" if best == STUDENT else "is not better than"
    if (
        best != STUDENT
        and len(controls) > 1
        and _loss(marks[STUDENT]) < max(_loss(marks[name]) for name in controls)
    ):
        loser = max(controls, key=lambda name: _loss(marks[name]))
        better = f"is better than the control of the {_WITH[loser]} and not than"
        rivals = f"that of the {_WITH[best]}"
    scores = _scores(marks, controls)
    return best, f"the student with the teacher {better} {rivals}: {scores}; the {best} ships"


def _scores(marks: Mapping[str, Mark], controls: list[str]) -> str:
    """Return losses and exact matches of the student against those of its controls."""
    said = {name: f" ({_WITH[name]})" if len(controls) > 1 else "" for name in controls}
    student = marks[STUDENT]
    losses = " and ".join(f"{_loss(marks[name]):.3f}{said[name]}" for name in controls)
    scores = f"loss per held-out token {_loss(student):.3f} against {losses}"
    if student.exact_match is not None:
        matches = " and ".join(f"{marks[name].exact_match:.1%}" for name in controls)
        scores += f", exact match {student.exact_match:.1%} against {matches}"
    return scores


def _alone(control: Mark) -> str:
    if control.held_out_loss is None:
        return ""
    text = f": loss per held-out token {control.held_out_loss:.3f}"
    return text if control.exact_match is None else f"{text}, exact match {control.exact_match:.1%}"


def _loss(mark: Mark) -> float:
    assert mark.held_out_loss is not None
    return mark.held_out_loss
