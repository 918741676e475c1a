"""align under torch.distributed's launcher: two processes make what one makes, killed or not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.fakes.datasets import tiny_dataset
from tests.fakes.models import tiny_llama
from tests.fakes.preferences import preferences, thumbs
from toolchain import artifacts
from toolchain.align import align
from toolchain.artifacts import Checkpoint
from toolchain.progress import Reporter, Silent
from toolchain.recipe import AlignSpec
from toolchain.training.loop import Course

SMALL = {"hidden": 64, "intermediate": 64, "layers": 2, "heads": 2, "kv_heads": 1}
# Batches of seven are uneven for two processes. KTO's estimate of the divergence is the mean over
# the whole batch, so the processes have to share it.
SPEC = AlignSpec(
    files=("f",), epochs=1, batch_size=7, questions=8, learning_rate=1e-2, max_lost=100
)

CHILD = """
import os, signal, sys
from pathlib import Path
import torch
from tests.toolchain.test_align_processes import learned

class Killer:
    def __init__(self, at):
        self.at = at
    def note(self, text):
        print(text, flush=True)
    def step(self, name, done, total, unit="", figures=""):
        if name == "aligned" and done == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    torch.set_num_threads(1)
    learned(Path(sys.argv[1]), Path(sys.argv[2]), Killer(int(sys.argv[3])))
"""


def learned(data: Path, out: Path, report: Reporter) -> Checkpoint:
    """Align the base in `data`; every step is saved."""
    Course.__init__.__kwdefaults__["save_every_s"] = 0.0
    rows = preferences(thumbs(80))
    base = artifacts.external(data / "base")
    return align(base, tiny_dataset(data), rows, SPEC, out / "align", report, seed=0)


def launched(folder: Path, out: Path, *, kill_at: int = 0) -> "subprocess.CompletedProcess[str]":
    out.mkdir(exist_ok=True)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = [folder / "child.py", folder / "data", out, str(kill_at)]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }
    return subprocess.run(
        [sys.executable, *launcher, *words],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("align")
    tiny_llama(folder / "data" / "base", **SMALL)
    tiny_dataset(folder / "data")
    (folder / "child.py").write_text(CHILD)
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_two_processes_that_were_killed_make_what_one_makes(folder: Path) -> None:
    alone = learned(folder / "data", folder / "one", Silent())
    out = folder / "two"
    killed = launched(folder, out, kill_at=6)
    assert "SIGKILL" in killed.stderr
    assert not (out / "align" / "record.json").exists()

    again = launched(folder, out)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "aligned: goes on after step 5 of 10" in again.stdout
    record = json.loads((out / "align" / "record.json").read_text())
    for name in ("aligned", "control"):
        ours, theirs = (each["figures"][name] for each in (record, alone.record.model_dump()))
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=2e-3)
        assert ours["wanted_log_prob"] == pytest.approx(theirs["wanted_log_prob"], abs=2e-3)
    ours, theirs = (load_file(each / "model.safetensors") for each in (out / "align", alone.path))
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 1e-4
