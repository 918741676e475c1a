"""An engine that kills its process is an answer with a name."""

import signal
import sys
from pathlib import Path

import pytest

from device.child import LAST_WORDS_BYTES, illegal_instruction, python_child, run_child
from device.errors import DeviceError
from device.manifest import RuntimeManifest

PI_4 = ["fp", "asimd", "evtstrm", "crc32", "cpuid"]


def suicide(number: int) -> list[str]:
    return [sys.executable, "-c", f"import os; os.kill(os.getpid(), {number})"]


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (signal.SIGKILL, "the board ran out of memory: take a smaller model or a shorter context"),
        (signal.SIGSEGV, "the model file may be damaged"),
    ],
)
def test_an_engine_that_dies_is_an_answer(number: signal.Signals, hint: str) -> None:
    with pytest.raises(DeviceError) as caught:
        run_child(suicide(number))
    assert (caught.value.code, caught.value.message, caught.value.hint) == (
        "bad_model",
        f"the engine died of {number.name}",
        hint,
    )


def test_a_foreign_processor_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DeviceError, match=r"^illegal instruction: built for another processor, the board has [a-z]"
    ) as caught:
        run_child(suicide(signal.SIGILL))
    assert caught.value.code == "illegal_instruction" and caught.value.hint


def runtime(**fields: object) -> RuntimeManifest:
    made = {
        "machine": "aarch64",
        "features": ("asimddp", "asimdhp", "fp"),
        "glibc": "2.29",
        "python": (3, 10),
        "engines": {},
    }
    values = {**made, "files": (), "profile": "armv8.2+dotprod+fp16", **fields}
    return RuntimeManifest(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (runtime(), "built for armv8.2+dotprod+fp16, the board has no asimddp, asimdhp"),
        (
            runtime(features=()),
            "built for armv8.2+dotprod+fp16, the board has fp asimd evtstrm crc32 cpuid",
        ),
        (runtime(profile=""), "built for aarch64, the board has no asimddp, asimdhp"),
    ],
)
def test_what_a_runtime_is_built_for_and_what_the_board_lacks_is_said(
    made: RuntimeManifest, message: str
) -> None:
    assert illegal_instruction(made, PI_4).message == f"illegal instruction: {message}"


def test_a_bug_in_the_child_is_no_good_answer() -> None:
    with pytest.raises(DeviceError) as caught:
        run_child([sys.executable, "-c", "raise SystemExit(1)"])
    assert caught.value.code == "internal_error"


def test_the_last_words_of_a_child_reach_the_error() -> None:
    with pytest.raises(
        DeviceError, match=r"^the engine's process failed: RuntimeError: no room left$"
    ):
        run_child([sys.executable, "-c", "raise RuntimeError('no room left')"])


def test_an_exercise_that_is_not_there_is_a_bad_runtime() -> None:
    with pytest.raises(DeviceError, match="the engine does not load: No module named") as caught:
        python_child("device.selftest", "device.engine.none")
    assert caught.value.code == "bad_runtime"


def test_a_childs_last_words_are_the_error(capsys: pytest.CaptureFixture[str]) -> None:
    said = "import sys; sys.stderr.write('x' * 100_000 + '\\nno such library\\n'); sys.exit(3)"
    with pytest.raises(DeviceError) as caught:
        run_child([sys.executable, "-c", said])
    assert caught.value.message == "the engine's process failed: no such library"
    heard = capsys.readouterr().err
    assert heard.endswith("no such library\n")
    assert len(heard) <= LAST_WORDS_BYTES
