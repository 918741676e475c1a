"""Proofs: that a release runs on a board, written so that a stranger can send it and check it.

prove(Device, Report) → Proof. The board checks every byte, gives its goldens and is measured; what
it says is scrubbed to typed fields and signed by whoever asked (docs/proving.md).
"""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolchain import __version__, target
from toolchain.artifacts import Report
from toolchain.board.device import Device
from toolchain.board.kind import Kind
from toolchain.errors import BoardError
from toolchain.progress import Reporter
from toolchain.proving.record import Card, Condition, Goldens, Heat, Identity, Proof, Row
from toolchain.report import test_name

__all__ = ["Seen", "check_board", "proof_of"]

Facts = Mapping[str, Any]
CHECK_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a board said of itself, of its release and of its goldens."""

    facts: Facts
    status: Facts
    checked: Facts


def check_board(device: Device, report: Reporter) -> Seen:
    """Have a board check every byte and every golden of what it serves; raise its error."""
    facts, status = device.facts(), device.call("status")
    if not status["release"]:
        raise BoardError(f"{device.address}: there is no release on this board", hint="push one")
    report.note(f"{device.address}: every byte, then the goldens")
    device.verify(status["release"]["runtime"], timeout_s=CHECK_S)
    checked = device.call("check", timeout_s=CHECK_S)
    return Seen(facts=facts, status=status, checked=checked)


def proof_of(seen: Seen, measured: Report, kind: Kind) -> Proof:
    """Return the proof of what was seen and measured; raise BoardError if that is not possible."""
    facts, release = seen.facts, seen.status["release"]
    about = measured.rows[0]
    roofline = measured.measured.get("roofline", {})
    try:
        return Proof(
            proof=1,
            tool=__version__,
            date=datetime.datetime.now(datetime.UTC).date().isoformat(),
            kind=_kind(kind),
            virtual_machine=bool(facts.get("virtual")),
            target=target.id_of(facts["model"], facts["machine"], facts["memory_total_mb"]),
            made_for=str(release["target"]),
            board=_identity(facts),
            release=release["release"],
            signed_by=str(release.get("signed_by", "")),
            runtime=release["runtime"],
            engine=str(about.get("engine", "")),
            engine_version=str(about.get("engine_version", "")),
            model_type=about["model_type"],
            model_bytes=about["model_size"],
            model_parameters=about["model_n_params"],
            goldens=_goldens(seen.checked),
            rows=tuple(map(_row, measured.rows)),
            load_s=measured.measured["load_s"],
            ttft_cold_s=measured.measured.get("ttft_cold_s"),
            ttft_warm_s=measured.measured.get("ttft_warm_s"),
            peak_rss_bytes=measured.measured.get("peak_rss_bytes"),
            bandwidth_gb_s=roofline.get("bandwidth_gb_s"),
            roofline_share=roofline.get("roofline_share"),
            disturbed=len(measured.measured.get("contended", ())),
            heat=_heat(measured.measured),
        )
    except (KeyError, ValueError) as error:
        said = str(error).splitlines()
        raise BoardError(
            f"{measured.board}: what it says makes no proof: {' '.join(said[:3])[:300]}",
            hint="demitasse doctor BOARD says what is wrong there",
        ) from error


def _kind(kind: Kind) -> Any:
    if kind.emulated:
        return "emulated board"
    return "this computer" if kind.simulated else "board"


def _identity(facts: Facts) -> Identity:
    """Return the facts that are alike on every board of its kind and make."""
    own = ("cpu_parts", "cpu_features", "gpus")
    plain = {name: facts.get(name) for name in Identity.model_fields if name not in own}
    cards = [
        {name: card.get(name) for name in Card.model_fields} for card in facts.get("gpus") or ()
    ]
    return Identity.model_validate(
        {
            **plain,
            "cpu_parts": facts.get("cpu_parts") or (),
            "cpu_features": facts.get("cpu_features") or (),
            "gpus": cards,
        }
    )


def _goldens(checked: Facts) -> Goldens:
    return Goldens(
        count=checked["goldens"],
        exact=checked.get("exact"),
        agreement=checked.get("agreement"),
    )


def _row(row: Facts) -> Row:
    return Row(
        test=test_name(dict(row)),
        threads=row["n_threads"],
        median_ts=row["median_ts"],
        avg_ts=row["avg_ts"],
        stddev_ts=row["stddev_ts"],
        samples_ts=tuple(row["samples_ts"]),
    )


def _heat(measured: Facts) -> Heat:
    samples: Sequence[Facts] = measured.get("samples", ())
    before, after = measured.get("before", {}), measured.get("after", {})
    moments = [before, *samples, after]
    degrees = [each["temperature_c"] for each in moments if each.get("temperature_c") is not None]
    clocks = [each["clock_mhz"] for each in samples if each.get("clock_mhz") is not None]
    return Heat(
        before=_condition(before),
        after=_condition(after),
        samples=len(samples),
        highest_c=max(degrees, default=None),
        lowest_clock_mhz=min(clocks, default=None),
        throttled=tuple(sorted({f for each in moments for f in each.get("throttled") or ()})),
        sustained=tuple((at, rate) for at, rate in measured.get("sustained", ())),
    )


def _condition(said: Facts) -> Condition:
    known = {name: said.get(name) for name in Condition.model_fields if name != "throttled"}
    flags = said.get("throttled")
    return Condition(**known, throttled=None if flags is None else tuple(flags))
