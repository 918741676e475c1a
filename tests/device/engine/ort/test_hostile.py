"""Graphs that pass our check do not kill ONNX Runtime: mutants, each loaded and asked in a child
process.
"""

from pathlib import Path

import pytest

from tests.conftest import Rounds
from tests.fakes.models import tiny_llama
from tests.fakes.mutants import none_kills
from tests.fakes.onnx_files import quantized_onnx

CHILD = """
import json, os, random, resource, sys
from pathlib import Path
from device.engine import load
from device.engine.base import Sampling, Settings
from device.errors import DeviceError
from device.manifest import ManifestError
from device.manifest.onnx import read_header
from device.manifest.onnx_contract import contract_fault
from tests.fakes.mutants import mutated
import device.engine.ort

file, first, wanted = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
sound = file.read_bytes()

def ask(file):
    resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        engine = load(file, Settings(context=64, threads=1))
        list(engine.generate([5, 6, 7], Sampling(max_tokens=4)))
        return 0
    except DeviceError:
        return 3

def outcome(number):
    file.write_bytes(mutated(sound, random.Random(number)))
    try:
        if contract_fault(read_header(file)):
            return "refused"
    except ManifestError:
        return "refused"
    child = os.fork()
    if not child:
        try:
            os._exit(ask(file))
        except BaseException as error:
            os.write(1, (json.dumps([number, repr(error)[:300]]) + "\\n").encode())
            os._exit(4)
    ended = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(ended):
        return f"killed by signal {os.WTERMSIG(ended)}"
    return f"exit {os.WEXITSTATUS(ended)}"

for number in range(first, first + wanted):
    print(json.dumps([number, outcome(number)]), flush=True)
"""
MEANS = {
    "refused": "refused by the graph's check",
    "exit 0": "answered",
    "exit 3": "refused by ONNX Runtime",
}


@pytest.mark.slow
@pytest.mark.soak(row=7, short=3, whole=50)
def test_no_mutant_that_passes_kills_onnx_runtime(tmp_path: Path, rounds: Rounds) -> None:
    """Each round is a hundred mutants."""
    pytest.importorskip("onnxruntime")
    file = quantized_onnx(tiny_llama(tmp_path / "model"), tmp_path / "out", "int4_b32").file
    whole = file.read_bytes()
    for number in rounds:
        file.write_bytes(whole)
        none_kills(CHILD, file, MEANS, rounds, number)
