"""The self-test: every kernel computes, wrong results are named, and it runs first on a board."""

import ctypes
import json
from pathlib import Path

import pytest

from device.engine.llama import kernels
from device.errors import DeviceError
from device.selftest import EXERCISES, answer, selftest


@pytest.mark.slow
def test_every_engine_is_exercised_in_a_process_of_its_own(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert selftest([]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["ok"] and set(said["errors"]) == set(EXERCISES)
    assert set(said["errors"]["llama.cpp"]) == set(kernels.FORMATS)


def test_the_products_are_right_within_what_the_formats_lose() -> None:
    errors = kernels.exercise()
    assert (
        errors["F32"]
        < 1e-5
        < errors["F16"]
        < 1e-3
        < errors["Q8_0"]
        < 0.01
        < errors["Q4_0"]
        < kernels.MAX_ERROR
    )


def test_an_engine_that_computes_wrongly_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Noise:
        """A library whose weights are noise."""

        def __getattr__(self, name: str) -> object:
            if name != "ggml_quantize_chunk":
                return getattr(real, name)
            return lambda kind, raw, to, *rest: ctypes.memset(to, 1, 64)

    real = kernels.llama._lib
    monkeypatch.setattr(kernels.llama, "_lib", Noise())
    with pytest.raises(DeviceError, match="the engine computes wrongly: F32 products are off by"):
        kernels.exercise()
    answer("device.engine.llama.kernels")
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "bad_runtime"


def test_a_library_that_may_not_be_executed_is_said_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The words are those of llama-cpp-python on a file system mounted with noexec."""
    words = (
        "Failed to load shared library 'libllama.so': libllama.so: "
        "failed to map segment from shared object"
    )
    (tmp_path / "mapped_nowhere.py").write_text(f'raise RuntimeError("{words}")\n')
    monkeypatch.syspath_prepend(tmp_path)
    answer("mapped_nowhere")
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["code"], error["message"]) == (
        "bad_runtime",
        f"the engine does not load: {words}",
    )
    assert "mounted with noexec" in error["hint"]
