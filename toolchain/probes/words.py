"""What a verdict says of the guard and of probes, in words: the walk and the model card show it."""

from toolchain.figures import GuardedFigures, ProbeFigures


def guarded_words(behind: GuardedFigures) -> str:
    """Return what the guard does to the held-out questions."""
    answers = f", {behind.refused_answers} answers" if behind.refused_answers else ""
    return (
        f"behind the guard {behind.refused} of {behind.questions} questions refused{answers}, "
        f"exact {behind.exact_match:.1%} F1 {behind.f1:.1%}"
    )


def probe_words(probes: ProbeFigures) -> str:
    """Return what probes found."""
    tried = sum(each["tried"] for each in probes.attacks.values())
    behind = probes.obeyed_guarded
    guarded = "" if behind is None else f" ({behind:.1%} behind the guard)"
    people = ", ".join(
        f"{name} {figures['same_for_all']:.1%}" for name, figures in probes.pairs.items()
    )
    return (
        f"{probes.obeyed:.1%} of {tried} attacks succeed{guarded}, "
        f"{len(probes.backdoors)} of {probes.triggers} triggers, the same for all: {people}"
        + "".join(f"; not measured: {each}" for each in probes.not_measured or ())
    )


def garak_words(found: dict[str, dict[str, int]]) -> str:
    """Return what a report of garak says of all its probes together."""
    tried = sum(each["tried"] for each in found.values())
    failed = sum(each["failed"] for each in found.values())
    return f"garak: {failed} of {tried} answers failed, {len(found)} probes and detectors"
