"""Memory speed, and the figures that it rules out."""

from pathlib import Path

import pytest

from device import bandwidth
from device.bandwidth import last_cache_bytes, read_gb_s, roofline


@pytest.fixture(autouse=True)
def small_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bandwidth, "last_cache_bytes", lambda: 2 << 20)


@pytest.mark.parametrize(
    ("tok_s", "bytes_per_token", "gb_s", "impossible"),
    [
        (
            30.0,
            638 * 10**6,
            5.53,
            True,
        ),  # a published claim for a Pi 4, of which nineteen GB/s would have to come
        (3.0, 1100 * 10**6, 5.53, False),  # a Pi 4 as it is
        (33.84, 346 * 10**6, 13.78, False),  # a Pi 5 as it is
    ],
)
def test_a_speed_that_memory_cannot_feed_is_impossible(
    tok_s: float, bytes_per_token: int, gb_s: float, impossible: bool
) -> None:
    assert roofline(tok_s, bytes_per_token, gb_s)["impossible"] is impossible


def test_the_share_of_the_roofline_is_bytes_over_bytes() -> None:
    assert roofline(10.0, 10**9, 20.0)["roofline_share"] == 0.5


def test_a_model_that_a_cache_holds_is_not_judged() -> None:
    found = roofline(8000.0, 10**6, 5.0)
    assert (found["cached"], found["impossible"], found["roofline_share"]) == (True, False, None)


def test_the_largest_cache_counts(tmp_path: Path) -> None:
    for number, size in enumerate(("32K", "32K", "512K", "2M")):
        (tmp_path / f"index{number}").mkdir()
        (tmp_path / f"index{number}" / "size").write_text(size + "\n")
    assert last_cache_bytes(tmp_path) == 2 << 20
    assert last_cache_bytes(tmp_path / "none") == 0


def test_reading_takes_the_time_of_all_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bandwidth of this machine: it lies between that of a slow card and that of any memory there
    is.
    """
    monkeypatch.setattr(bandwidth, "BLOCK_BYTES", 8 << 20)
    monkeypatch.setattr(bandwidth, "SMALL_BLOCK_BYTES", 8 << 20)
    assert 0.05 < read_gb_s(2) < 5000
