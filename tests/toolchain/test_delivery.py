"""Names and origins that are allowed at push: checked here, carried to the board's service."""

import hashlib
import json
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.fakes.bundles import finished, make_bundle
from toolchain import delivery
from toolchain.board.kind import kind_of
from toolchain.delivery import (
    RECENT_S,
    Seen,
    Terms,
    host_name_of,
    looking_first,
    origin_of,
    release_of,
)
from toolchain.errors import BoardError, ConfigError


@pytest.mark.parametrize(
    ("text", "name"),
    [("kitchen-pi.local", "kitchen-pi.local"), (" Pi.Lan. ", "pi.lan"), ("my_pi", "my_pi")],
)
def test_a_host_name_is_taken_as_a_browser_sends_it(text: str, name: str) -> None:
    assert host_name_of(text) == name


@pytest.mark.parametrize("text", ["", "*", "*.local", "http://pi", "pi:80", "a b", "-x", "x" * 254])
def test_what_is_no_host_name_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        host_name_of(text)
    assert caught.value.message == f"--host-name: `{text}`: not the name of a host"


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("http://Pi.example:3000/", "http://pi.example:3000"),
        ("https://pi.example", "https://pi.example"),
        ("http://[::1]:80", "http://[::1]:80"),
    ],
)
def test_an_origin_is_taken_as_a_browser_sends_it(text: str, origin: str) -> None:
    assert origin_of(text) == origin


@pytest.mark.parametrize("text", ["", "*", "null", "pi", "ftp://pi", "http://pi/x", "http://*"])
def test_what_is_no_origin_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        origin_of(text)
    assert caught.value.message == f"--cors-origin: `{text}`: not an origin"


def test_a_release_is_named_by_the_bytes_of_its_manifest_however_it_is_laid_out(
    tmp_path: Path,
) -> None:
    bundle = finished(make_bundle(tmp_path / "bundle"))
    file = bundle.path / "manifest.json"
    compact = json.dumps(json.loads(file.read_bytes()), separators=(",", ":")).encode() + b"\n\n"
    before = release_of(bundle)
    file.write_bytes(compact)
    assert release_of(bundle) == hashlib.sha256(compact).hexdigest() != before


def test_what_was_seen_of_a_board_counts_for_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    seen = Seen(facts={"machine": "aarch64"}, stored={"blobs": {}}, at_s=now[0])
    now[0] += RECENT_S - 1
    assert seen.recent() == ({"machine": "aarch64"}, {"blobs": {}})
    now[0] += 2
    assert seen.recent() is None


@pytest.mark.parametrize(
    ("address", "longest", "tests"),
    [
        ("pi@pi.local", 2047, {"pp": 512, "tg": 128}),
        ("pi@pi.local", 63, {"pp": 63, "tg": 63}),
        ("virtual:rpi-4b-2gb", 2047, {"pp": 32, "tg": 8, "repeat": 1}),
    ],
)
def test_an_emulated_board_is_measured_shortly_because_its_figures_say_nothing(
    monkeypatch: pytest.MonkeyPatch, address: str, longest: int, tests: dict[str, int]
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(delivery, "bench", lambda device, **options: asked.append(options))
    device: Any = SimpleNamespace(kind=kind_of(address))
    delivery._measured(device, longest)
    assert asked == [tests]


def test_a_board_is_looked_at_while_something_else_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    done_here = threading.Event()

    def look(address: str, terms: Terms) -> Seen:
        assert done_here.wait(timeout=60), "nothing was done meanwhile"
        return Seen(facts={"machine": address}, stored={}, at_s=0.0)

    monkeypatch.setattr(delivery, "look_first", look)
    with looking_first("local", Terms(port=1)) as seen:
        done_here.set()
        assert seen().facts == {"machine": "local"}
        assert seen() is seen(), "it is looked at once"


def test_what_a_look_refuses_is_raised_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def look(address: str, terms: Terms) -> Seen:
        raise BoardError(f"{address}: no way there")

    monkeypatch.setattr(delivery, "look_first", look)
    with looking_first("pi", Terms(port=1)) as seen, pytest.raises(BoardError, match="no way"):
        seen()
