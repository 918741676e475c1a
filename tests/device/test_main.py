"""The door of the board's program: whatever a verb does, its answer is JSON with a stable code."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from device import __main__ as program
from device.errors import DeviceError
from device.manifest import ManifestError
from device.manifest.codes import CODES

ROOT = Path(__file__).resolve().parents[2]

RAISED = [
    (DeviceError("busy", "wait"), "busy"),
    (ManifestError("bad_path", "no path"), "bad_path"),
    (OSError(28, "No space left on device", "/store"), "disk_full"),
    (OSError(5, "Input/output error", "/store"), "disk"),
    (TypeError("a bug"), "internal_error"),
    (RecursionError("too deep"), "internal_error"),
    (MemoryError(), "internal_error"),
    (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "internal_error"),
    (AssertionError("é"), "internal_error"),
]


@pytest.mark.parametrize(("error", "code"), RAISED, ids=[type(e).__name__ for e, _ in RAISED])
def test_whatever_a_verb_raises_is_json_with_a_known_code(
    error: Exception,
    code: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def verb(argv: list[str]) -> int:
        raise error

    monkeypatch.setattr(program.os, "umask", lambda mask: 0)
    monkeypatch.setattr("device.logs.logs", verb)
    assert program.main(["logs"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed["error"]["code"] == code
    assert set(printed["error"]) == {"code", "message", "hint"}
    assert code in CODES


def test_a_bug_leaves_its_traceback_in_the_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def verb(argv: list[str]) -> int:
        raise ValueError("a bug")

    monkeypatch.setattr(program.os, "umask", lambda mask: 0)
    monkeypatch.setattr("device.logs.logs", verb)
    program.main(["logs"])
    out, log = capsys.readouterr()
    assert json.loads(out)["error"]["message"] == "`logs` failed: ValueError: a bug"
    assert "Traceback" in log
    assert "ValueError: a bug" in log


def test_a_refusal_leaves_no_traceback_in_the_log(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def verb(argv: list[str]) -> int:
        raise DeviceError("busy", "wait")

    monkeypatch.setattr(program.os, "umask", lambda mask: 0)
    monkeypatch.setattr("device.logs.logs", verb)
    program.main(["logs"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("argv", [[], ["nonsense"]])
def test_a_verb_that_does_not_exist_is_answered_with_the_list(argv: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "device", *argv], cwd=ROOT, capture_output=True, check=False
    )
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["code"]) == (2, "usage")
    assert all(verb in error["message"] for verb in program.VERBS)


@pytest.mark.parametrize("verb", program.VERBS)
def test_every_verb_has_its_function(verb: str) -> None:
    module, function = program.VERBS[verb].split(":")
    source = (ROOT / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8")
    assert f"def {function}(argv" in source
