"""Sampling has ranges, and threads never outnumber processors."""

import os
from pathlib import Path

import pytest

from device.engine.base import FieldError, Sampling, Settings
from device.engine.machine import default_threads, usable_cores


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("temperature", 2.5, "`temperature`: must be a number between 0 and 2, not 2.5"),
        ("temperature", float("nan"), "`temperature`: must be a number between 0 and 2, not nan"),
        ("temperature", "hot", "`temperature`: must be a number between 0 and 2, not 'hot'"),
        ("top_p", -0.1, "`top_p`: must be a number between 0 and 1, not -0.1"),
        ("min_p", True, "`min_p`: must be a number between 0 and 1, not True"),
        ("top_k", 1.5, "`top_k`: must be a whole number between 0 and 10000, not 1.5"),
        ("presence_penalty", -3, "`presence_penalty`: must be a number between -2 and 2, not -3"),
        ("max_tokens", 0, "`max_tokens`: must be a whole number between 1 and 1048576, not 0"),
        ("stop", ("",), "`stop`: at most 8 texts of 1 to 256 characters"),
        ("stop", ("x",) * 9, "`stop`: at most 8 texts of 1 to 256 characters"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(field: str, value: object, message: str) -> None:
    with pytest.raises(FieldError) as caught:
        Sampling(**{field: value})  # type: ignore[arg-type]
    assert caught.value.message == message
    assert caught.value.status == 400


def test_the_ends_of_the_ranges_are_taken() -> None:
    assert Sampling(temperature=2, top_p=0, min_p=1, top_k=0, seed=0, max_tokens=1).temperature == 2


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("100000 100000", 1), ("50000 100000", 1), ("max 100000", None), ("", None)],
)
def test_threads_stay_within_a_containers_quota(
    tmp_path: Path, quota: str, cores: int | None
) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    assert usable_cores(tmp_path / "cpu.max") == (cores or len(os.sched_getaffinity(0)))


def test_a_model_too_small_to_share_has_one_thread() -> None:
    assert (default_threads(3 << 20), default_threads(400 << 20)) == (1, usable_cores())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"threads": -1}, "`threads`: must be between 1 and 512, not -1"),
        ({"threads_batch": 513}, "`threads_batch`: must be between 1 and 512, not 513"),
        ({"context": 1 << 21}, "`context`: must be between 1 and 1048576, not 2097152"),
    ],
)
def test_settings_that_would_end_the_process_are_refused(
    settings: dict[str, int], message: str
) -> None:
    with pytest.raises(FieldError) as caught:
        Settings(**settings)  # type: ignore[arg-type]
    assert caught.value.message == message
