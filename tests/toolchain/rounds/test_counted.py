"""What a board has counted: its ring and its service, and no text of either."""

import json
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from device.feedback import FOLDER, Ring
from tests.fakes.board import FakeConnection
from tests.fakes.bundles import make_bundle
from tests.fakes.ports import free_port
from tests.fakes.signers import make_key
from tests.fakes.tiny_gguf import tiny_bundle
from toolchain import runtime
from toolchain.artifacts import Bundle, digest
from toolchain.board.device import Device
from toolchain.cli import app
from toolchain.errors import BoardError, ConfigError
from toolchain.progress import Silent
from toolchain.push import push
from toolchain.rounds import tally
from toolchain.rounds.counted import COUNTERS, counted_on, vector_of
from toolchain.rounds.round_file import begin
from toolchain.signing import find_key

OWNERS = ("a", "b", "c")
RECITAL = "tea"
GOLDEN = {
    "messages": [{"role": "user", "content": "how hot?"}],
    "prompt_tokens": [257, *b"user\nhow hot?", 258, 10, 257, *b"assistant\n"],
    "tokens": list(RECITAL.encode()),
}
"""What the tiny model gives."""


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeConnection]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "home").mkdir()
    made = FakeConnection(tmp_path / "home")
    yield made
    Device(made).call("stop")


def rate(board: FakeConnection, *kinds: str) -> None:
    ring = Ring(board.home / "store" / FOLDER, 1 << 20)
    for number, kind in enumerate(kinds):
        row: dict[str, Any] = {"id": f"chatcmpl-{number:024x}", "kind": kind, "release": "ab" * 32}
        ring.append({**row, "question": "secret?", "answer": "x", "rating": 1, "known": None})


def test_a_board_without_a_service_is_not_counted_as_nothing(board: FakeConnection) -> None:
    device = Device(board)
    device.install()
    with pytest.raises(BoardError, match="its service does not say what it has counted"):
        counted_on(device, set())


def test_a_vector_has_the_rounds_order_and_no_counter_that_nobody_has() -> None:
    found = Counter({"up": 2, "asked": 5, "unknown": 1})
    assert vector_of(found, ("up", "down", "asked")) == [2, 0, 5]
    with pytest.raises(ConfigError, match="`upp` is not counted"):
        vector_of(found, ("upp",))


def test_counters_have_no_free_text() -> None:
    assert len(set(COUNTERS)) == len(COUNTERS) == 35


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["harvest", "local", "--sealed", "t.json", "--delete"], "--sealed: fetches no rows"),
        (["harvest", "local", "other"], "only --sealed takes several boards"),
        (["harvest", "local", "local", "--sealed", "t.json"], "a board is there twice"),
        (["tally", "t.json", "--join", "--owners", "x"], "give sealed files, --owners or --join"),
    ],
)
def test_options_that_contradict_each_other_are_refused(words: list[str], problem: str) -> None:
    done = CliRunner().invoke(app, words)
    assert isinstance(done.exception, ConfigError)
    assert problem in done.exception.message


@pytest.mark.slow
def test_the_counters_of_a_served_board_are_sealed_and_summed(
    board: FakeConnection, tmp_path: Path
) -> None:
    port = free_port()
    folder = tiny_bundle(tmp_path / "bundle", goldens=[GOLDEN], recites=RECITAL)
    record = make_bundle(tmp_path / "other").record
    bundle = Bundle(path=folder, record=record.model_copy(update={"digest": digest(folder)}))
    push(
        bundle,
        runtime.for_this_computer(),
        Device(board),
        Silent(),
        port=port,
        allow_unsigned=True,
    )
    content = json.dumps({"messages": GOLDEN["messages"]}).encode()
    for _ in range(2):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/chat/completions", content):
            pass
    rate(board, "up", "up", "down", "unknown")

    rings: set[str] = set()
    found = counted_on(Device(board), rings)
    assert found == {"asked": 2, "up": 2, "down": 1, "unknown": 1}

    with pytest.raises(ConfigError, match="a board that is named by another address too"):
        counted_on(Device(board), rings)

    keys = {owner: find_key(str(make_key(tmp_path / owner))) for owner in OWNERS}
    (tmp_path / "owners").write_text("".join(f"{key.public}\n" for key in keys.values()))
    path = tmp_path / "tally.json"
    begin(path, tmp_path / "owners", COUNTERS, least=3, days=1)
    for key in keys.values():
        tally.join(path, key)
    for key in keys.values():
        tally.seal(tally.seat_in(path, key), vector_of(found, COUNTERS), key)
    done = tally.open_sum(path).counters
    assert {name: count for name, count in done.items() if count} == {
        "asked": 6,
        "up": 6,
        "down": 3,
        "unknown": 3,
    }
    assert not any("secret?" in file.read_text() for file in tmp_path.glob("tally.*"))
