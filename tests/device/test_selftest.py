"""The self-test: every kernel computes, wrong results are named, and it is the first thing that runs on a board."""

import ctypes
import json

import pytest

from device.engine.llama import kernels
from device.errors import DeviceError
from device.selftest import EXERCISES, answer, selftest


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
