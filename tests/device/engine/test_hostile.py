"""Headers that pass our check do not kill llama.cpp: mutants of a model's header, each loaded in a
child process.
"""

from pathlib import Path

import pytest

from tests.conftest import Rounds
from tests.fakes.mutants import none_kills
from tests.fakes.tiny_gguf import tiny_gguf

CHILD = """
import json, os, random, resource, signal, sys
from pathlib import Path
from device.engine.base import Settings
from device.engine.llama import load
from device.errors import DeviceError
from device.manifest import ManifestError
from device.manifest.gguf import read_header

source, first, count = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
sound, head = source.read_bytes(), read_header(source).tensors[0].offset
EXTREMES = (0, 1, 2, 255, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**63, 2**64 - 1)

def mutant(number):
    draw, raw = random.Random(number), bytearray(sound)
    for _ in range(draw.choice((1, 1, 2))):
        at, width = draw.randrange(24, head), draw.choice((1, 1, 2, 4, 8))
        extreme = (draw.choice(EXTREMES) % 256**width).to_bytes(width, "little")
        raw[at : at + width] = draw.choice((draw.randbytes(width), extreme))
    return raw

def ask(file):
    resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    try:
        engine = load(file, Settings(context=64, threads=1, threads_batch=1))
        engine.tokenize("hello world <|im_end|> \\xff")
        return 0
    except DeviceError:
        return 3

assert ask(source) == 0
for number in range(first, first + count):
    file = source.with_name("mutant.gguf")
    file.write_bytes(mutant(number))
    try:
        read_header(file)
        status = None
    except ManifestError:
        status = "refused"
    if status is None:
        child = os.fork()
        if not child:
            os._exit(ask(file))
        ended = os.waitpid(child, 0)[1]
        if os.WIFSIGNALED(ended):
            status = f"killed by signal {os.WTERMSIG(ended)}"
        else:
            status = f"exit {os.WEXITSTATUS(ended)}"
    print(json.dumps([number, status]), flush=True)
"""
MEANS = {
    "refused": "refused by the header pass",
    "exit 0": "loaded",
    "exit 3": "refused by llama.cpp",
}


@pytest.mark.slow
@pytest.mark.soak(row=7, short=4, whole=200)
def test_no_mutant_that_passes_kills_the_engine(tmp_path: Path, rounds: Rounds) -> None:
    """Each round is a hundred mutants."""
    file = tiny_gguf(tmp_path / "tiny.gguf")
    for number in rounds:
        none_kills(CHILD, file, MEANS, rounds, number)
