"""Two processes under torch.distributed's launcher make the artifact of one process."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.fakes.datasets import Recorder, tiny_dataset
from tests.fakes.models import SMALL, tiny_llama
from toolchain import artifacts
from toolchain.artifacts import Checkpoint
from toolchain.distill import distill
from toolchain.recipe import DistillSpec, TuneSpec
from toolchain.training.probe import read_talk
from toolchain.tune import tune

CHILD = """
import json, os, sys
from pathlib import Path
import torch
from tests.toolchain.test_processes import stages

if __name__ == "__main__":
    torch.set_num_threads(1)
    made, notes = stages(Path(sys.argv[1]), Path(sys.argv[2]))
    told = {
        "digests": [one.digest for one in made],
        "fresh": [one.fresh for one in made],
        "notes": len(notes),
    }
    (Path(sys.argv[2]) / f"told-{os.environ['RANK']}.json").write_text(json.dumps(told))
"""


def stages(data: Path, out: Path) -> tuple[list[Checkpoint], list[str]]:
    """Tune the base in `data`, then distill; the batch of 7 is uneven for two processes."""
    dataset, report = tiny_dataset(data), Recorder()
    tuned = tune(
        artifacts.external(data / "base"),
        dataset,
        TuneSpec(r=4, dropout=0, epochs=2, batch_size=7, questions=2),
        out / "tune",
        report,
        seed=0,
    )
    spec = DistillSpec(
        layers=(0,), epochs=1, batch_size=7, questions=2, top_k=8, ask=False, general_share=0.4
    )
    talk = read_talk()[:3]
    made = distill(tuned, dataset, spec, out / "distill", report, seed=0, talk=talk)
    return [tuned, made], report.notes


def launched(script: Path, data: Path, out: Path) -> list[dict[str, object]]:
    out.mkdir(exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        script,
        data,
        out,
    ]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((out / f"told-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_two_processes_make_what_one_makes(tmp_path: Path) -> None:
    data, script = tmp_path / "data", tmp_path / "child.py"
    tiny_llama(data / "base", **SMALL)
    tiny_dataset(data)
    script.write_text(CHILD)
    alone, _ = stages(data, tmp_path / "one")
    first, second = launched(script, data, tmp_path / "two")
    assert first["digests"] == second["digests"]
    assert first["fresh"] == second["fresh"] == [True, True]
    assert (first["notes"] > 0, second["notes"]) == (True, 0)
    for stage, checkpoint in zip(("tune", "distill"), alone, strict=True):
        ours, theirs = (
            load_file(folder / "model.safetensors")
            for folder in (checkpoint.path, tmp_path / "two" / stage)
        )
        apart = torch.cat([(ours[name] - theirs[name]).abs().flatten() for name in ours])
        # Where a gradient is nearly 0, rounding decides the sign of a step, which is the rate.
        assert float(apart.max()) < 1e-3
        assert float((apart > 1e-4).float().mean()) < 1e-4
    again, _ = launched(script, data, tmp_path / "two")
    assert again["fresh"] == [False, False]
