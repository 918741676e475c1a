"""align, distill and QLoRA under torch.distributed's launcher: killed, they make the same."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.fakes.datasets import tiny_dataset
from tests.fakes.models import SMALL, tiny_llama
from tests.fakes.preferences import preferences, thumbs
from toolchain import artifacts
from toolchain.align import align
from toolchain.artifacts import Checkpoint
from toolchain.distill import distill
from toolchain.progress import Reporter, Silent
from toolchain.recipe import AlignSpec, DistillSpec, TuneSpec
from toolchain.training.probe import read_talk
from toolchain.tune import tune

# Batches of seven are uneven for two processes. KTO's estimate of the divergence is the mean over
# the whole batch, so the processes have to share it.
ALIGN = AlignSpec(
    files=("f",), epochs=1, batch_size=7, questions=8, learning_rate=1e-2, max_lost=100
)
TUNE = TuneSpec(r=4, dropout=0, epochs=5, batch_size=7, questions=2, base_bits=4, max_bits_cost=1.0)
DISTILL = DistillSpec(
    layers=(0,), epochs=4, batch_size=7, questions=2, top_k=8, ask=False, general_share=0.4
)
BARS = {"align": "aligned", "tune": "tune", "distill": "student"}
NEEDS_FOUR_BITS = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)

CHILD = """
import os, signal, sys
from pathlib import Path
import torch
from tests.toolchain.test_killed_processes import BARS, learned
from toolchain.training.loop import Course

class Killer:
    def note(self, text):
        print(text, flush=True)
    def step(self, name, done, total, unit="", figures=""):
        if name == BARS[sys.argv[3]] and done == int(sys.argv[4]):
            os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    torch.set_num_threads(1)
    Course.__init__.__kwdefaults__["save_every_s"] = 0.0
    learned(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], Killer())
"""


def learned(data: Path, out: Path, stage: str, report: Reporter) -> Checkpoint:
    """Run a stage on the base in `data`."""
    base, dataset = artifacts.external(data / "base"), tiny_dataset(data)
    if stage == "tune":
        return tune(base, dataset, TUNE, out / "tune", report, seed=0)
    if stage == "distill":
        talk = read_talk()[:3]
        return distill(base, dataset, DISTILL, out / "distill", report, seed=0, talk=talk)
    rows = preferences(thumbs(80))
    return align(base, dataset, rows, ALIGN, out / "align", report, seed=0)


def launched(
    folder: Path, out: Path, stage: str, *, kill_at: int = 0
) -> "subprocess.CompletedProcess[str]":
    out.mkdir(exist_ok=True)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    words = [folder / "child.py", folder / "data", out, stage, str(kill_at)]
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
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    tiny_llama(folder / "data" / "base", **SMALL)
    tiny_dataset(folder / "data")
    (folder / "child.py").write_text(CHILD)
    return folder


def figures_of(folder: Path) -> dict[str, float]:
    """Return the losses of each training in a record."""
    figures = json.loads((folder / "record.json").read_text())["figures"]
    names = ("aligned", "student", "control", "longer")
    trained = {name: figures[name] for name in names if name in figures}
    return {
        f"{name}.{key}": each[key]
        for name, each in (trained or {"tune": figures}).items()
        for key in ("loss", "held_out_loss")
    }


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    ("stage", "goes_on"),
    [
        ("align", "aligned: goes on after step 5 of 10"),
        ("distill", "student: goes on after step 5 of 8"),
        pytest.param("tune", "tune: goes on after step 5 of 10", marks=NEEDS_FOUR_BITS),
    ],
)
def test_two_processes_that_were_killed_make_what_one_makes(
    folder: Path, stage: str, goes_on: str
) -> None:
    alone = learned(folder / "data", folder / f"one-{stage}", stage, Silent())
    out = folder / f"two-{stage}"
    killed = launched(folder, out, stage, kill_at=6)
    assert "SIGKILL" in killed.stderr
    assert not (out / stage / "record.json").exists()

    again = launched(folder, out, stage)
    assert again.returncode == 0, again.stderr[-3000:]
    assert goes_on in again.stdout
    assert figures_of(out / stage) == pytest.approx(figures_of(alone.path), abs=2e-3)
    ours, theirs = (load_file(each / "model.safetensors") for each in (out / stage, alone.path))
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 1e-4
