"""A deployment as a file of the store spells it: sound, or none at all."""

from dataclasses import asdict
from typing import Any

import pytest

from device.deployment import Deployment, read_deployment

SOUND = Deployment(
    release="a" * 64,
    runtime="b" * 64,
    port=8080,
    service="supervised",
    host_names=("kitchen-pi",),
    cors_origins=("https://app.example",),
)


def test_what_was_written_is_read() -> None:
    assert read_deployment(asdict(SOUND)) == SOUND


def test_fields_of_other_notes_beside_it_are_ignored() -> None:
    assert read_deployment({**asdict(SOUND), "since": 5, "measured": {}}) == SOUND


@pytest.mark.parametrize("name", ["release", "runtime", "port", "service"])
def test_without_a_field_there_is_none(name: str) -> None:
    fields = asdict(SOUND)
    del fields[name]
    assert read_deployment(fields) is None


WRONG: list[tuple[str, Any]] = [
    ("release", "../evil"),
    ("release", 5),
    ("runtime", "B" * 64),
    ("runtime", None),
    ("port", 0),
    ("port", 1 << 16),
    ("port", True),
    ("port", "8080"),
    ("service", "cron"),
    ("service", []),
    ("unsigned", 1),
    ("unsigned", None),
    ("host_names", 5),
    ("host_names", [5]),
    ("cors_origins", [None]),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=[f"{n} {v!r}"[:30] for n, v in WRONG])
def test_a_wrong_value_is_no_deployment(name: str, value: Any) -> None:
    assert read_deployment({**asdict(SOUND), name: value}) is None
