"""The GPU check runs through where there is no card: with the CPU's libraries in CUDA's place."""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import cuda_run
from device.manifest.memory import CUDA_BYTES
from tests.fakes.tiny_gguf import tiny_gguf
from toolchain import runtime

ROOT = Path(__file__).resolve().parents[2]
PEER = """#!/bin/sh
echo '[{"n_prompt": 512, "n_gen": 0, "samples_ts": [100.0, 110.0]},'
echo ' {"n_prompt": 0, "n_gen": 128, "samples_ts": [50.0, 52.0]}]'
"""


@pytest.mark.slow
def test_a_pack_is_run_through_and_keeps_what_it_found(tmp_path: Path) -> None:
    pack, bench = tmp_path / "pack", tmp_path / "bin"
    tiny_gguf(tmp_path / "tiny.gguf", context=2048)
    (tmp_path / "prompts.jsonl").write_text(
        '{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "x"}]}\n'
        '{"messages": [{"role": "user", "content": "what is it?"}]}\n'
    )
    words = [str(pack), "--model", str(tmp_path / "tiny.gguf")]
    words += ["--prompts", str(tmp_path / "prompts.jsonl"), "--shape", str(tmp_path / "tiny.gguf")]
    _run("cuda_pack.py", *words)

    bench.mkdir()
    for library in (runtime.for_this_computer() / "llama_cpp" / "lib").iterdir():
        shutil.copy(library, bench)
    (bench / "llama-bench").write_text(PEER)
    (bench / "llama-bench").chmod(0o755)
    out = tmp_path / "out"
    shown = _run("cuda_run.py", str(pack), "--out", str(out), "--built", str(bench), *NO_CUDA)

    found = json.loads((out / "cuda.json").read_text())
    assert found["tokens"]["equal"] == found["tokens"]["answers"] == 2
    assert found["tokens"]["tokens_equal"] == 1.0
    assert found["speed"]["tiny"]["tg_peer"] == 51.0 and found["speed"]["tiny"]["n"] == 10
    assert found["memory"]["not_measured"] == "there is no card"
    assert "2 of 2 answers equal | yes |" in shown


NO_CUDA = ("--without-cuda", "--seconds", "200")


def _run(script: str, *words: str) -> str:
    return subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "gpu" / script), *words],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout


def test_what_the_time_did_not_reach_is_said() -> None:
    found: dict[str, Any] = {"machine": {"card": "H100"}, "not_reached": ["speed", "memory"]}
    found["build"] = {"failed": "the time was over"}
    shown = cuda_run.table(found)
    assert "failed: build: the time was over" in shown
    assert "not reached: speed" in shown and "not reached: memory" in shown


@pytest.mark.parametrize(("ratio", "holds"), [(0.97, "yes"), (0.96, "NO")])
def test_a_goal_that_is_missed_stays_in_the_table(ratio: float, holds: str) -> None:
    rates = {"tg_ours": 97.0, "tg_peer": 100.0, "tg_ratio": ratio}
    shown = cuda_run.table({"machine": {}, "not_reached": [], "speed": {"m": rates}})
    assert (
        f"| C1 tg ≥ 0.97 × llama-bench, m | 97 against 100 tokens/s, {ratio} | {holds} |" in shown
    )


@pytest.mark.parametrize(("used_mb", "holds"), [(1512, "yes"), (1600, "NO"), (1400, "NO")])
def test_memory_is_judged_by_what_the_model_takes_and_not_by_the_size_of_the_card(
    used_mb: int, holds: str
) -> None:
    each = {"used_mb": used_mb, "model_expected_mb": 1000.0, "cuda_and_rest_mb": used_mb - 1000.0}
    about = {"card": "H100", "memory_total_mb": 81559}
    shown = cuda_run.table({"machine": about, "not_reached": [], "memory": {"m": each}})
    assert f"which took {used_mb - 1000} | {holds} |" in shown


def test_both_computers_assume_the_same_memory_for_cuda() -> None:
    assert cuda_run.CUDA_MB == CUDA_BYTES >> 20


def test_a_machine_without_card_compiler_or_pack_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools, pack = tmp_path / "tools", tmp_path / "pack"
    tools.mkdir()
    pack.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.setattr(cuda_run, "_nvcc", lambda: str(tools / "nvcc"))

    def said(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["cuda_run.py", str(pack), "--out", "out", *words])
        with pytest.raises(SystemExit) as caught:
            cuda_run.main()
        return str(caught.value)

    assert said() == f"error: {pack}: no pack of cuda_pack.py"
    (pack / "about.json").write_text("{}")
    assert said() == "error: no `nvcc`: CUDA's compiler is not installed"
    assert said("--build-only", "9.0") == "error: no `nvcc`: CUDA's compiler is not installed"
    (tools / "nvcc").write_text("#!/bin/sh\necho release 12.8\n")
    (tools / "nvcc").chmod(0o755)
    assert said().startswith("error: no card: `nvidia-smi` names none; ")
    assert said("--built", str(tools)).startswith(f"error: {tools}: no `llama-bench`")


def test_a_shape_gets_its_size_back(tmp_path: Path) -> None:
    import base64

    (tmp_path / "m.head").write_bytes(b"HEAD" * 8)
    sample = base64.b64encode(b"abc").decode()
    shape = {"name": "m", "size": 64, "tensors": [[32, 10, sample], [48, 16, sample]]}
    run = argparse.Namespace(work=tmp_path, pack=tmp_path)
    content = cuda_run._shape_file(run, shape).read_bytes()
    assert len(content) == 64 and content[:32] == b"HEAD" * 8
    assert content[32:42] == b"abcabcabca" and content[48:] == b"abcabcabcabcabca"
