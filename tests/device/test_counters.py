"""The counter against downgrades: a thousand histories of commits, crashes and rot.

It never decreases.
"""

import os
import random
from pathlib import Path

import pytest

from device.counters import COPIES, Counters
from tests.fakes.disks import PowerCutError, cut_after

HISTORIES = 1_000
NAMES = ("tiny", "help-desk", 'café "№ 5"')


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip fsync: tests/device/test_crashes.py shows what it is for, and here it would cost a
    minute.
    """
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


def rot(file: Path, chance: random.Random) -> None:
    """Flip a bit, cut, empty, overwrite or lose a copy."""
    content = bytearray(file.read_bytes())
    match chance.randrange(5):
        case 0:
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        case 1:
            del content[chance.randrange(len(content)) :]
        case 2:
            content = bytearray(chance.randbytes(len(content)))
        case 3:
            content = bytearray(b'{"counters": {"tiny": 999}, "sha256": ""}')
        case _:
            file.unlink()
            return
    file.write_bytes(content)


@pytest.mark.slow
def test_in_a_thousand_histories_no_counter_goes_back_or_jumps(memory: Path) -> None:
    seen = {"cut": 0, "rotten": 0, "kept": 0}
    for number in range(HISTORIES):
        chance, folder = random.Random(number), memory / str(number)
        folder.mkdir()
        counters = Counters(folder)
        committed = dict.fromkeys(NAMES, 0)
        for _ in range(8):
            name, counter = chance.choice(NAMES), chance.randrange(1, 1_000)
            asked = dict(committed, **{name: max(committed[name], counter)})
            with pytest.MonkeyPatch.context() as patch:
                if cut := chance.random() < 0.4:
                    cut_after(chance.randrange(1, 10), patch)
                try:
                    counters.keep(name, counter)
                except PowerCutError:
                    seen["cut"] += 1
                    after = {one: counters.read().get(one, 0) for one in NAMES}
                    assert after in (committed, asked), (number, after)
                    asked = after
            committed = asked
            if not cut and chance.random() < 0.5:
                rot(folder / chance.choice(COPIES), chance)
                seen["rotten"] += 1
            assert {one: counters.read().get(one, 0) for one in NAMES} == committed, number
            seen["kept"] += 1
    assert min(seen.values()) > 500, "each kind of history was met"


def test_a_copy_that_was_lost_is_whole_again_after_the_next_commit(tmp_path: Path) -> None:
    counters = Counters(tmp_path)
    counters.keep("tiny", 5)
    (tmp_path / COPIES[0]).write_text("rotten")
    counters.keep("tiny", 6)
    (tmp_path / COPIES[1]).unlink()
    assert counters.read() == {"tiny": 6}
