"""Runtimes on the processors of boards, without a boot: wrong ones are killed."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from tests.fakes.tiny_gguf import tiny_gguf
from toolchain import runtime
from toolchain.board import userland
from toolchain.progress import Silent
from toolchain.runtime.site import site_folder

pytestmark = [
    pytest.mark.board,
    pytest.mark.timeout(2400),
    pytest.mark.skipif(not shutil.which("qemu-aarch64-static"), reason="needs qemu-user-static"),
]

NEWER = "armv8.2+dotprod+fp16"
PROFILES = {"cortex-a53": "armv8.0", "cortex-a72": "armv8.0", "cortex-a76": NEWER}
EXERCISE = (
    "import sys; sys.path.insert(0, sys.argv[1]); from device.selftest import answer; "
    "answer('device.engine.llama.kernels')"
)
COMPUTE = (
    "import sys; sys.path.insert(0, sys.argv[1]); import numpy, tokenizers; "
    "print(numpy.arange(9.0).reshape(3, 3) @ numpy.ones(3))"
)


def python(processor: str, *words: str, stdin: str = "") -> tuple[int, str]:
    done = userland.run(userland.command(processor, ["-sEB", *words], Silent()), stdin=stdin)
    return done.returncode, done.stdout or done.stderr


@pytest.mark.parametrize(("processor", "profile"), PROFILES.items(), ids=list(PROFILES))
def test_a_runtime_computes_rightly_on_its_processor(processor: str, profile: str) -> None:
    code, said = python(processor, "-c", EXERCISE, str(runtime.for_profile(profile, Silent())))
    assert code == 0, said
    assert json.loads(said)["errors"]["F32"] < 1e-5


@pytest.mark.parametrize(("processor", "profile"), PROFILES.items(), ids=list(PROFILES))
def test_a_model_is_loaded_and_gives_sixteen_tokens(
    processor: str, profile: str, tmp_path: Path
) -> None:
    folder, model = (
        runtime.for_profile(profile, Silent()),
        tiny_gguf(tmp_path / "tiny.gguf", recites="abcdefghijklmnopqrstuvwxyz"),
    )
    request = json.dumps({"op": "generate", "tokens": [258, *b"\n"], "max_tokens": 16})
    code, said = python(
        processor,
        str(folder),
        "score",
        "--model",
        str(model),
        "--context",
        "64",
        stdin=request + "\n",
    )
    assert code == 0, said
    assert json.loads(said.splitlines()[-1])["text"] == "abcdefghijklmnop"


def test_the_runtime_of_a_newer_processor_is_killed_by_signal_4() -> None:
    code, _ = python("cortex-a72", "-c", EXERCISE, str(runtime.for_profile(NEWER, Silent())))
    assert code == -signal.SIGILL


def test_a_site_folder_is_imported_there() -> None:
    code, said = python(
        "cortex-a72",
        "-c",
        COMPUTE,
        str(site_folder(["numpy", "tokenizers"], "aarch64", "cp311", "2.36")),
    )
    assert (code, said) == (0, "[ 3. 12. 21.]\n")
