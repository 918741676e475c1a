"""Models broken in every known way: the board rolls each back with its reason, push exits 9."""

import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from device.manifest import file_entry, read_manifest, to_bytes
from tests.conftest import Rounds
from tests.fakes.board import FakeConnection
from tests.fakes.bundles import make_bundle, make_runtime
from tests.fakes.ports import free_port
from tests.fakes.tiny_gguf import tiny_bundle
from toolchain import runtime as runtimes
from toolchain.artifacts import Bundle
from toolchain.board.device import Device
from toolchain.errors import ToolchainError
from toolchain.progress import Silent
from toolchain.push import push

WITHIN_S = 60.0
RECITAL = "tea"
MESSAGES = [{"role": "user", "content": "how hot?"}]
PROMPT = [257, *b"user\nhow hot?", 258, 10, 257, *b"assistant\n"]
GOLDEN = {"messages": MESSAGES, "prompt_tokens": PROMPT, "tokens": list(RECITAL.encode())}
"""What a healthy model of tests/fakes/tiny_gguf.py gives."""


def nothing(folder: Path) -> None:
    """Leave a bundle as it is."""


def not_a_number(folder: Path) -> None:
    import gguf

    reader = gguf.GGUFReader(folder / "tiny.gguf", "r+")
    next(tensor for tensor in reader.tensors if tensor.name == "output_norm.weight").data[:] = (
        float("nan")
    )
    reader.data.flush()


def cut_short(folder: Path) -> None:
    content = (folder / "tiny.gguf").read_bytes()
    (folder / "tiny.gguf").write_bytes(content[: len(content) // 2])


def template_that_breaks(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(
        "{% for message in messages %}{{ raise_exception('no') }}{% endfor %}"
    )


def golden(**fields: Any) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "goldens.jsonl").write_text(json.dumps(GOLDEN | fields) + "\n")

    return write


def real(break_it: Callable[[Path], None], **fields: Any) -> Callable[[Path, int], Path]:
    """Return a maker of bundles of a real tiny model, broken by a change of files or manifest."""

    def make(folder: Path, number: int) -> Path:
        tiny_bundle(folder, goldens=[GOLDEN], recites=RECITAL)
        break_it(folder)
        manifest = read_manifest(folder)
        files = tuple(file_entry(folder, file.path) for file in manifest.files)
        changed = replace(manifest, files=files, version=str(number), counter=number, **fields)
        (folder / "manifest.json").write_bytes(to_bytes(changed))
        return folder

    return make


def fake(**moods: str) -> Callable[[Path, int], Path]:
    """Return what makes a bundle whose runtime behaves badly in a way that no tiny model can."""
    return lambda folder, number: (
        make_bundle(folder, version=str(number), counter=number, **moods).path
    )  # type: ignore[arg-type]


REAL = {
    "NaN weights": (real(not_a_number), "the model computes NaN"),
    "another vocabulary": (
        real(golden(prompt_tokens=[token + 1 for token in PROMPT])),
        "golden 1 of 1: the prompt differs at token 1",
    ),
    "empty answers": (
        real(nothing, stop_ids=(ord("t"),)),
        "golden 1 of 1: the model answers nothing",
    ),
    "wrong goldens": (
        real(golden(tokens=[1, 2, 3])),
        "golden 1 of 1: the answer differs at token 1 of 3: expected 1, got 116",
    ),
    "a file that is cut short": (real(cut_short), "its header describes"),
    "a template that breaks": (real(template_that_breaks), "template"),
}
"""Kind → what makes it, and what the reason says; with the real engine."""
FAKE = {
    "a check that hangs": (fake(check="hang"), "the check did not end within 45 s"),
    "a service that hangs": (fake(serve="hang"), "the service was not healthy within 45 s"),
    "a crash by an illegal instruction": (
        fake(check="illegal"),
        "the check died by signal 4 (illegal instruction)",
    ),
    "a crash by a wrong address": (
        fake(serve="segfault"),
        "the service died by signal 11 (segmentation fault)",
    ),
    "a crash by itself": (fake(check="abort"), "the check died by signal 6 (aborted)"),
    "out of memory": (
        fake(check="killed"),
        "the check died by signal 9 (killed, most likely out of memory)",
    ),
    "too slow": (
        fake(check="slow"),
        "it decodes 6.9 tokens/s, by the release before 10.0 are expected here, 70% asked",
    ),
}
"""With the runtime of tests/fakes/bundles.py."""


class Pushed:
    """A board with a healthy release, to which others are pushed."""

    def __init__(self, folder: Path, runtime: Path, address: str) -> None:
        (folder / "home").mkdir(parents=True)
        self._folder, self._runtime = folder, runtime
        self.device = Device(FakeConnection(folder / "home", address=address))
        self._port = free_port()

    def push(self, bundle: Path) -> None:
        record = make_bundle(self._folder / f"record-of-{bundle.name}").record
        device = Device(self.device._connection)
        push(
            Bundle(path=bundle, record=record),
            self._runtime,
            device,
            Silent(),
            port=self._port,
            allow_unsigned=True,
        )


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [REAL, FAKE], ids=["real engine", "runtime that misbehaves"])
@pytest.mark.soak(row=18, short=12, whole=12)
def test_a_broken_model_is_taken_back_with_its_reason_and_exit_code_9(
    rounds: Rounds, kinds: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    runtime = runtimes.for_this_computer() if kinds is REAL else make_runtime(tmp_path / "runtime")
    board = Pushed(tmp_path / "board", runtime, "local" if kinds is REAL else "pi@board")
    board.push((real(nothing) if kinds is REAL else fake())(tmp_path / "good", 1))
    try:
        for number in rounds:
            if number < len(kinds):
                kind, (make, reason) = list(kinds.items())[number]
                began = time.monotonic()
                with pytest.raises(ToolchainError) as caught:
                    board.push(make(tmp_path / str(number), number + 2))
                assert caught.value.exit_code == 9, f"{kind}: {caught.value.message}"
                assert reason in caught.value.message, kind
                assert caught.value.message.endswith("; tiny 1 runs again"), kind
                rounds.saw("kinds taken back")
                rounds.saw("of them within 60 s", time.monotonic() - began <= WITHIN_S)
        status = Device(board.device._connection).call("status")
        assert status["service"]["healthy"] and status["refused"]["reason"] in caught.value.message
    finally:
        Device(board.device._connection).call("stop")
        shutil.rmtree(tmp_path / "board")
