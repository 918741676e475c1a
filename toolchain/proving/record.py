"""The record of a proof: what a board is, what ran on it, how fast and how hot.

It is written to be sent to strangers and read from strangers. So every field is typed and bounded,
and nothing is in it that names a person, a place or one single board: no host name, address, user,
path, serial number, and no name of a release.
"""

import datetime
import statistics
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from device.manifest import MIN_AGREEMENT
from toolchain.config import Frozen

MAX_SAMPLES = 10_000
ROUNDING = 0.01
"""Tokens a second by which a figure may differ from that of its samples: both are rounded."""
MOST_SHARE = 1.05
"""Largest share of the memory's bandwidth: a board that says more is refused when it is measured
(TOLERANCE of device/bandwidth.py)."""


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it has characters that cannot be printed")
    return text


def _day(text: str) -> str:
    # Nobody's clock is more than a day ahead of UTC; proofs are sorted by their day.
    if datetime.date.fromisoformat(text) > _today() + datetime.timedelta(days=1):
        raise ValueError("a day that has not come yet")
    return text


def _today() -> datetime.date:
    return datetime.datetime.now(datetime.UTC).date()


Word = Annotated[str, Field(max_length=200), AfterValidator(_printable)]
Flag = Annotated[str, Field(pattern=r"^[a-z_]{1,40}$")]
Day = Annotated[str, Field(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"), AfterValidator(_day)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Fingerprint = Annotated[str, Field(pattern=r"^(SHA256:[A-Za-z0-9+/]{43})?$")]
Count = Annotated[int, Field(ge=0, lt=1 << 53)]
Rate = Annotated[float, Field(ge=0, le=1e9)]
Celsius = Annotated[float, Field(ge=-100, le=1000)]
Version = Annotated[str, Field(pattern=r"^[0-9A-Za-z.+-]{1,60}$")]


class Card(Frozen):
    """A graphics card."""

    name: Word
    sm: Annotated[str, Field(pattern=r"^[0-9]{1,3}\.[0-9]{1,3}$")]
    driver: Word
    memory_total_mb: Count | None = None


class Identity(Frozen):
    """What kind of board it is, by its own facts (device/facts.py)."""

    model: Word
    machine: Word
    cpu_name: Word
    cpu_parts: Annotated[tuple[Word, ...], Field(max_length=64)]
    cpu_features: Annotated[tuple[Word, ...], Field(max_length=1024)]
    cores: Count | None
    memory_total_mb: Count | None
    page_size_bytes: Count
    gpus: Annotated[tuple[Card, ...], Field(max_length=64)]
    os_id: Word | None
    os_version: Word | None
    os_name: Word | None
    kernel: Word
    glibc: Word | None
    python: Word
    l4t: Word | None
    clock_max_khz: Count | None
    power_mode: Word | None


class Goldens(Frozen):
    """How the model gave its golden answers."""

    count: Annotated[int, Field(ge=1, le=10**6)]
    exact: bool | None
    """Whether every token was equal; False where this processor rounds otherwise."""
    agreement: Annotated[float, Field(ge=0, le=1)] | None = None
    """Share of the tokens that it predicts, where they were not compared for equality."""

    @model_validator(mode="after")
    def _are_right(self) -> "Goldens":
        share = self.agreement if self.agreement is not None else float(bool(self.exact))
        if share < MIN_AGREEMENT:
            raise ValueError("goldens that differ are no proof")
        return self


class Row(Frozen):
    """One test of llama-bench."""

    test: Annotated[str, Field(pattern=r"^(pp|tg)[1-9][0-9]{0,5}$")]
    threads: Count
    median_ts: Rate
    avg_ts: Rate
    stddev_ts: Rate
    samples_ts: Annotated[tuple[Rate, ...], Field(min_length=1, max_length=MAX_SAMPLES)]

    @model_validator(mode="after")
    def _is_of_its_samples(self) -> "Row":
        for name, value, of_them in (
            ("median_ts", self.median_ts, statistics.median(self.samples_ts)),
            ("avg_ts", self.avg_ts, statistics.fmean(self.samples_ts)),
        ):
            if abs(value - of_them) > ROUNDING:
                raise ValueError(f"`{name}` is not that of its samples")
        return self


class Condition(Frozen):
    """A board at one moment; None for what it has no sensor for."""

    temperature_c: Celsius | None = None
    clock_mhz: Count | None = None
    power_w: Rate | None = None
    load_average: Rate | None = None
    governor: Word | None = None
    throttled: Annotated[tuple[Flag, ...], Field(max_length=16)] | None = None


class Heat(Frozen):
    """What the run did to the board."""

    before: Condition
    after: Condition
    samples: Count
    highest_c: Celsius | None = None
    lowest_clock_mhz: Count | None = None
    throttled: Annotated[tuple[Flag, ...], Field(max_length=16)] = ()
    """Reasons for which the board held itself back at some moment of the run."""
    sustained: Annotated[tuple[tuple[Rate, Rate], ...], Field(max_length=MAX_SAMPLES)] = ()
    """Seconds since the beginning and tokens per second, with --sustained."""

    @model_validator(mode="after")
    def _is_the_highest(self) -> "Heat":
        for each in (self.before, self.after):
            degrees = each.temperature_c
            if degrees is not None and (self.highest_c is None or self.highest_c < degrees):
                raise ValueError("`highest_c` is not the highest")
        return self


class Proof(Frozen):
    """That a release ran on a board on a day."""

    proof: Literal[1]
    tool: Version
    """Version of demitasse."""
    date: Day
    """Day by the clock of the computer that asked (UTC)."""
    kind: Literal["board", "this computer", "emulated board"]
    virtual_machine: bool
    target: Annotated[str, Field(pattern=r"^[a-z0-9.-]{0,60}$")]
    """Id of the target that the board's facts match; empty for none."""
    made_for: Annotated[str, Field(pattern=r"^[a-z0-9.-]{1,60}$")]
    """Id of the target that the release was packaged for."""
    board: Identity
    release: Digest
    signed_by: Fingerprint
    """Key that signed the release; empty if nobody did."""
    runtime: Digest
    engine: Word
    engine_version: Word
    model_type: Word
    model_bytes: Count
    model_parameters: Count
    goldens: Goldens
    rows: Annotated[tuple[Row, ...], Field(min_length=1, max_length=16)]
    load_s: Rate
    ttft_cold_s: Rate | None = None
    ttft_warm_s: Rate | None = None
    peak_rss_bytes: Count | None = None
    bandwidth_gb_s: Rate | None = None
    """Memory bandwidth that the board measured of itself."""
    roofline_share: Annotated[float, Field(ge=0, le=MOST_SHARE)] | None = None
    """Share of it that decoding used; None for a model that a cache holds."""
    disturbed: Count
    """Reasons why the run was not alone on the board."""
    heat: Heat

    @model_validator(mode="after")
    def _has_what_a_share_is_of(self) -> "Proof":
        if self.roofline_share is not None and not self.bandwidth_gb_s:
            raise ValueError("a share of the bandwidth, and no bandwidth")
        return self
