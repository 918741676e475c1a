"""Answers of a board, checked as hostile input: bounded in size and depth, with the right types.

A board may be broken, may have another program behind `python3`, or may have another owner by now.
The one rule: what the host works with came through one of these models. A wrong answer is one
BoardError that names the field. Fields that are only shown may be of any kind; `console` makes
control characters in them visible.
"""

import json
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from device.manifest import MAX_TAKE
from toolchain.errors import BoardError

Answer = dict[str, Any]

MAX_DEPTH = 32
"""Levels of nested values; our own answers have six."""
MAX_TEXT = 65_536
_QUOTED = 200
"""Characters of an answer that an error quotes."""

Text = Annotated[str, Field(max_length=MAX_TEXT)]
Count = Annotated[int, Field(ge=0, lt=1 << 63)]
Positive = Annotated[int, Field(gt=0, lt=1 << 63)]
Number = Annotated[float, Field(ge=-1e18, le=1e18)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Version = Annotated[str, Field(pattern=r"^\d{1,9}(\.\d{1,9}){0,3}$")]


class _Said(BaseModel):
    """The fields that the host works with; others pass through."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)


class Throttled(_Said):
    """Flags of a Raspberry Pi's firmware."""

    raw: Text
    now: list[Text]
    since_boot: list[Text]


class Gpu(_Said):
    """A graphics card of NVIDIA's."""

    name: Text
    memory_total_mb: Count | None
    memory_free_mb: Count | None
    sm: Annotated[str, Field(pattern=r"^\d{1,3}\.\d{1,3}$")]
    driver: Text


class AtWork(_Said):
    """A verb that is under way: a measurement (device/leased.py) or a change (device/locks.py)."""

    verb: Text
    pid: Count
    seconds: Count


class Facts(_Said):
    """What a board is (device/facts.py)."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)

    model: Text
    home: Text
    root: Text
    user: Text
    cpu_parts: list[Text]
    cpu_name: Text
    cpu_features: list[Text]
    machine: Text
    virtual: bool
    userland_bits: Count
    cores: Count | None
    cpus_allowed: Count | None
    memory_total_mb: Count | None
    memory_available_mb: Count | None
    swap_total_mb: Count | None
    page_size_bytes: Positive
    gpus: Annotated[list[Gpu], Field(max_length=64)]
    os_id: Text | None
    os_version: Text | None
    os_name: Text | None
    glibc: Version | None
    python: Annotated[str, Field(pattern=r"^\d{1,3}\.\d{1,3}\.\d{1,3}$")]
    python_abi: Text
    fts5: bool
    kernel: Text
    l4t: Version | None
    disk_total_bytes: Count
    disk_free_bytes: Count
    disk_device: Text | None
    disk_folder: Text
    disk_noexec: bool
    disk_writable: bool
    load: list[Number]
    temperature_c: Number | None
    clock_khz: Count | None
    clock_max_khz: Count | None
    governor: Text | None
    throttled: Throttled | None
    power_mode: Text | None
    time: int
    time_sane: bool
    systemd_user: bool
    linger: bool
    measuring: AtWork | None


class Stored(_Said):
    """What a board's store holds. device/facts.py leaves out file names that are not ours."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)

    blobs: dict[Digest, Count | None]
    runtimes: list[Digest]
    releases: list[Digest]
    agents: list[Annotated[str, Field(pattern=r"^[0-9a-f]{64}\.pyz$")]]
    signatures: dict[Digest, Digest | None]
    signers: list[Text]


class Seen(_Said):
    """The first look at a board."""

    facts: Facts
    stored: Stored


class Fault(_Said):
    """An error of the device side."""

    code: Text
    message: Text
    hint: Text = ""


class _Release(_Said):
    release: Digest
    runtime: Digest
    port: Annotated[int, Field(ge=0, lt=1 << 16)]


class ServiceFigures(_Said):
    """What a running service has counted (device/figures.py)."""

    began: Number | None
    requests: Count
    failures: Count
    asked: Count
    refused: dict[Annotated[str, Field(max_length=64)], Count]
    first_token_s: dict[Annotated[str, Field(max_length=16)], Count]
    """How many first tokens came within so many seconds, by the upper limit."""


class _Service(_Said):
    healthy: bool
    failure: Text | None = None
    starting: bool = False
    figures: ServiceFigures | None = None


class _Status(_Said):
    root: Text
    release: _Release | None
    confirmed: bool = False
    service: _Service | None = None
    measuring: AtWork | None = None
    changing: AtWork | None = None


class _Check(_Said):
    goldens: Count = 0
    agreement: Number = 0.0


class _Checked(_Said):
    goldens: Count
    exact: bool | None = None
    agreement: Number | None = None


class _Activated(_Said):
    check: _Check | None = None


class _Source(_Said):
    title: Annotated[str, Field(max_length=1024)]
    url: Annotated[str, Field(pattern=r"^/v1/knowledge/[0-9]{1,9}$")]
    text: Text = ""


class _Asked(_Said):
    delta: Annotated[str, Field(max_length=1 << 20)] = ""
    text: Annotated[str, Field(max_length=16 << 20)] = ""
    context: Count = 0
    prompt_tokens: Count = 0
    known: bool | None = None
    sources: Annotated[list[_Source], Field(max_length=MAX_TAKE)] = []
    near: Annotated[list[_Source], Field(max_length=MAX_TAKE)] = []


class _Logged(_Said):
    line: Annotated[str, Field(max_length=16 << 20)] = ""


class _Received(_Said):
    wrong_at: Count = 0


class _Rotten(_Said):
    rotten: list[Any]


class _Tensor(_Said):
    name: Text
    type: int | Text
    shape: list[Count]
    offset: Count
    size: Count
    sha256: Text


class _Tensors(_Said):
    sha256: Text
    tensors: list[_Tensor]


class _Row(_Said):
    n_prompt: Count
    n_gen: Count
    avg_ts: Number
    stddev_ts: Number
    median_ts: Number
    samples_ts: list[Number]
    model_filename: Text
    model_type: Text
    model_size: Count
    model_n_params: Count
    backends: Text
    n_threads: Count


class _Condition(_Said):
    governor: Text | None = None
    load_average: Number | None = None
    throttled: list[Text] | None = None


class _Sample(_Condition):
    at_s: Number
    temperature_c: Number | None = None
    clock_mhz: Number | None = None
    power_w: Number | None = None


class _Roofline(_Said):
    impossible: bool = False
    bytes_per_token: Count = 0
    bandwidth_gb_s: Number | None = None
    roofline_share: Number | None = None


class _Parts(_Said):
    seconds: dict[Text, Number]
    tokens: Count


class _Measured(_Said):
    rows: Annotated[list[_Row], Field(min_length=1)]
    load_s: Number
    ttft_cold_s: Number | None = None
    ttft_warm_s: Number | None = None
    peak_rss_bytes: Count | None = None
    pss_bytes: Count | None = None
    pressure: dict[Text, Number | None] = {}
    contended: list[Text] = []
    samples: list[_Sample] = []
    sustained: list[Annotated[list[Number], Field(min_length=2, max_length=2)]] = []
    before: _Condition = _Condition()
    after: _Condition = _Condition()
    roofline: _Roofline = _Roofline()
    answer: _Parts | None = None
    release: dict[str, Any] = {}


class _Trial(_Said):
    threads: Count
    cpus: list[Count]
    tok_s: Number
    rounds: Count


class _Change(_Said):
    change: dict[str, Any]
    kept: bool
    seconds: Number


class _Threads(_Said):
    threads: Count
    threads_batch: Count


class _Evidence(_Said):
    decode: list[_Trial]
    prefill: list[_Trial]
    seconds: Number
    changes: list[_Change]
    before: _Threads
    refused: Text | None = None


class _Calibrated(_Said):
    settings: _Threads
    evidence: _Evidence


class _Turn(_Said):
    role: Annotated[str, Field(pattern="^(user|assistant)$")]
    content: Text


class _Rated(_Said):
    n: Positive
    id: Annotated[str, Field(pattern="^(chat)?cmpl-[0-9a-f]{1,64}$")]
    kind: Annotated[str, Field(pattern="^[a-z]{1,20}$")]
    release: Digest
    question: Text
    answer: Text
    rating: Annotated[int, Field(ge=-1, le=1)]
    known: bool | None = None
    correction: Text = ""
    before: Annotated[list[_Turn], Field(max_length=1000)] = []


class _Harvested(_Said):
    ring: Annotated[str, Field(pattern="^([0-9a-f]{32})?$")] = ""
    last: Count = 0
    row: _Rated | None = None


class _Forgotten(_Said):
    forgotten: Count


VERBS: Mapping[str, type[_Said]] = {
    "activate": _Activated,
    "ask": _Asked,
    "bench": _Measured,
    "calibrate": _Calibrated,
    "check": _Checked,
    "forget": _Forgotten,
    "harvest": _Harvested,
    "logs": _Logged,
    "receive": _Received,
    "rollback": _Status,
    "scrub": _Rotten,
    "status": _Status,
    "stop": _Status,
    "tensors": _Tensors,
}
"""verb → model of the fields that the host works with; any other verb's answer is only shown."""


def read(address: str, content: bytes) -> Answer:
    """Return the JSON object in a board's bytes; raise BoardError for anything else."""
    try:
        value = json.loads(content.decode(), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise BoardError(f"{address}: not an answer of ours: {_quoted(content)}") from error
    if not isinstance(value, dict) or is_deep(value):
        raise BoardError(f"{address}: not an answer of ours: {_quoted(content)}")
    return value


def checked(address: str, what: str, answer: Answer, model: type[BaseModel]) -> Answer:
    """Return an answer whose fields have a model's types; raise BoardError with the wrong field."""
    try:
        return model.model_validate(answer).model_dump(exclude_unset=True)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(map(str, problem["loc"]))
        seen = "" if problem["type"] == "missing" else f", not `{repr(problem['input'])[:80]}`"
        said = problem["msg"][:1].lower() + problem["msg"][1:]
        raise BoardError(f"{address}: {what}: `{where}`: {said}{seen}") from error


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number of JSON")


def is_deep(value: Any) -> bool:
    """Say whether a value is nested deeper than any answer."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            if isinstance(outer, dict | list)
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
        if not level:
            return False

    return True


def _quoted(content: bytes) -> str:
    text = " ".join(content[: 4 * _QUOTED].decode(errors="replace").split())
    return f"`{text[:_QUOTED]}`" if text else "nothing"
