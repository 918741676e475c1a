"""Whether a model fits on a board, and how fast it is expected to be there."""

from dataclasses import asdict

from toolchain import console
from toolchain.forecast import SPEED_ERROR, Forecast, Rate
from toolchain.target import Fit, Target


def fitted(
    name: str, expected: Forecast, fits: Fit, board: Target, *, where: str = "", as_json: bool
) -> None:
    """Show whether a model fits on a board, what takes its memory, and its expected speed."""
    if as_json:
        whole = {
            "model": name,
            "target": board.id,
            "ok": fits.ok,
            "available_mb": fits.available_mb,
            **asdict(expected),
        }
        rates = {
            rate: value and value._asdict()
            for rate, value in (("decode", expected.decode), ("prefill", expected.prefill))
        }
        console.show_json(
            whole
            | rates
            | {
                "largest_context": fits.largest_context,
                "trained_context": fits.trained_context,
                "reasons": fits.reasons,
            }
        )
        return
    rows = [[part, f"{mb} MB"] for part, mb in fits.parts_mb.items()]
    rows += [
        ["needed", f"{fits.needed_mb} MB"],
        [f"left {fits.beside}", f"{fits.available_mb} MB"],
    ]
    rows += [["peak resident memory", f"{expected.peak_bytes >> 20} MB, the mapped file with it"]]
    if fits.largest_context:
        rows += [["largest context", _largest_context(fits)]]
    rows += [["answers", _answers(expected)]]
    rows += [["prompts", _rate(expected.prefill, "nobody has measured a file of this type there")]]
    console.show_table(
        (f"{name} on {where or board.name}", f"{expected.needs.context} tokens of context"), rows
    )
    console.show_text("\nit fits" if fits.ok else f"\nit does not fit: {_misfit(fits)}")


def _largest_context(fits: Fit) -> str:
    limit = fits.largest_context == fits.trained_context
    return f"{fits.largest_context} tokens" + (", all that the model was made for" * limit)


def _misfit(fits: Fit) -> str:
    """Return every reason, and what would help."""
    return "; ".join([*fits.reasons, fits.hint])


def _answers(expected: Forecast) -> str:
    bound = expected.decode_at_most
    if expected.decode is None and bound is not None:
        return f"at most {bound:.3g} tokens/s: the memory feeds no more; nobody has measured it"
    return _rate(expected.decode, "nobody has measured how fast this board decodes")


def _rate(rate: Rate | None, unknown: str) -> str:
    if rate is None:
        return f"not known: {unknown}"
    return f"about {rate.tok_s:.3g} tokens/s with {rate.threads} threads (± {SPEED_ERROR:.0%})"
