"""An engine that was built for another processor is named, and the command that mends it."""

import shutil
import sys
from pathlib import Path

import pytest

from toolchain.agent import device_folder
from toolchain.doctor import host_findings
from toolchain.errors import ToolError
from toolchain.tools import engine_check

DIES = "import os, signal\nos.kill(os.getpid(), signal.SIGILL)\n"


def with_engine(folder: Path, source: str) -> Path:
    """Return a folder with the device package and an engine of this source beside it."""
    shutil.copytree(
        device_folder(), folder / "device", ignore=shutil.ignore_patterns("__pycache__")
    )
    (folder / "llama_cpp").mkdir()
    (folder / "llama_cpp" / "__init__.py").write_text(source)
    return folder


def test_the_installed_engine_passes() -> None:
    engine_check.run()


def test_an_engine_for_another_processor_is_named_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(ToolError) as caught:
        engine_check.run(with_engine(tmp_path, DIES))
    assert caught.value.message == (
        "llama.cpp was built for another processor than this one (illegal instruction)"
    )
    assert caught.value.hint.startswith(
        f"CMAKE_ARGS='-DGGML_NATIVE=OFF' {sys.executable} -m pip install --force-reinstall "
        "--no-deps --no-cache-dir llama-cpp-python=="
    )


def test_an_engine_that_does_not_load_says_why(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"^the engine does not load: a broken library$"):
        engine_check.run(with_engine(tmp_path, "raise OSError('a broken library')\n"))


def test_the_doctor_does_not_load_an_engine_that_would_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = with_engine(tmp_path, DIES)
    run = engine_check.run
    monkeypatch.setattr(engine_check, "run", lambda: run(folder))
    checks = {finding.check: finding for finding in host_findings()}
    assert checks["llama.cpp"].state == "problem"
    assert "GGML_NATIVE=OFF" in checks["llama.cpp"].mend
    assert "threads" not in checks
