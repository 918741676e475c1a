"""Hostile ONNX files: mutants of a graph are read, or refused with one kind of error."""

import random
import signal
from pathlib import Path

import pytest

from device.manifest import ManifestError
from device.manifest.onnx import read_header, tensor_digests
from device.manifest.onnx_contract import contract_fault
from tests.conftest import Rounds
from tests.fakes.bounds import bounds
from tests.fakes.models import tiny_llama
from tests.fakes.mutants import mutated
from tests.fakes.onnx_files import quantized_onnx

pytest.importorskip("onnx")


@pytest.mark.slow
@pytest.mark.soak(row=7, short=10_000, whole=100_000)
def test_mutants_of_a_graph_are_read_or_refused_and_nothing_else(
    memory: Path, rounds: Rounds
) -> None:
    file = quantized_onnx(tiny_llama(memory / "model"), memory / "out", "int4_b32").file
    sound, data = file.read_bytes(), Path(f"{file}.data").read_bytes()
    assert contract_fault(read_header(file)) == ""

    with file.open("r+b", buffering=0) as stream, bounds():
        for number in rounds:
            signal.setitimer(signal.ITIMER_PROF, 1.0)
            mutant = mutated(sound, random.Random(number))
            stream.seek(0)
            stream.write(mutant)
            stream.truncate()
            try:
                fault = contract_fault(read_header(file))
                tensor_digests(file)
                rounds.saw("no decoder of ours" if fault else "read")
            except ManifestError as error:
                assert error.code == "bad_onnx"
                rounds.saw("refused")

    assert Path(f"{file}.data").read_bytes() == data
