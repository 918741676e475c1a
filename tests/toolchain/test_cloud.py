"""cloud: files that SkyPilot and Slurm take, and that end as an undisturbed run does."""

import importlib.metadata
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from tests.conftest import Rounds
from tests.fakes.datasets import write_lines
from tests.fakes.facts import QUESTIONS
from toolchain import cloud
from toolchain.artifacts import RECORD, recorded
from toolchain.cli import app
from toolchain.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
SKY = os.environ.get("DEMITASSE_SKYPILOT", "")
STAGES = ("ingest", "pretrain", "tune", "quantize")
RECIPE = f"""
title = "a tiny model"
targets = ["x86-64"]
stages = {json.dumps(STAGES)}
[model]
name = "tiny"
[model.scratch]
vocab_size = 384
intermediate_size = 256
layers = 2
steps = 80
batch_size = 12
context = 256
[data]
files = ["facts.jsonl"]
hold_out = "phrasing"
[tune]
r = 8
epochs = 3
batch_size = 12
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A small recipe with its data."""
    folder = tmp_path / "recipes"
    folder.mkdir()
    write_lines(folder / "facts.jsonl", QUESTIONS)
    file = folder / "tiny.toml"
    file.write_text(RECIPE, encoding="utf-8")
    return file


def written(recipe: Path, out: Path, *words: str) -> Path:
    """Return the folder with the files."""
    answer = CliRunner().invoke(app, ["cloud", str(recipe), "--out", str(out), *words])
    assert answer.exit_code == 0, answer.output
    return out / "tiny" / "cloud"


def task(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((folder / "sky.yaml").read_text(encoding="utf-8"))
    return read


def test_the_task_names_offers_with_their_price_and_day(recipe: Path, tmp_path: Path) -> None:
    folder = written(recipe, tmp_path / "build")
    offers = task(folder)["resources"]["any_of"]
    assert {"infra": "verda", "accelerators": "RTXA6000:1", "use_spot": True} in offers
    said = (folder / "sky.yaml").read_text(encoding="utf-8")
    assert said.count("# about ") == len(offers)
    assert "price of 2026-" in said


def test_on_demand_nothing_is_rented_that_may_be_taken_away(recipe: Path, tmp_path: Path) -> None:
    offers = task(written(recipe, tmp_path / "build", "--on-demand"))["resources"]["any_of"]
    assert [each["use_spot"] for each in offers] == [False] * len(offers)


def test_the_work_folder_is_a_bucket_and_the_recipe_the_working_folder(
    recipe: Path, tmp_path: Path
) -> None:
    folder = written(recipe, tmp_path / "build", "--bucket", "mine")
    read = task(folder)
    assert read["workdir"] == str(recipe.parent)
    assert read["file_mounts"]["/demitasse-work"] == {"name": "mine", "mode": "MOUNT_CACHED"}
    pins = Path(read["file_mounts"]["~/demitasse-cloud/constraints.txt"])
    assert pins.is_file()
    assert "run tiny.toml --target x86-64 --out /demitasse-work" in read["run"]


def test_a_wheel_travels_with_the_task(recipe: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "demitasse-0.8.0-py3-none-any.whl"
    wheel.touch()
    read = task(written(recipe, tmp_path / "build", "--package", str(wheel)))
    assert read["file_mounts"][f"~/demitasse-cloud/{wheel.name}"] == str(wheel)
    assert f"~/'demitasse-cloud/{wheel.name}[train]'" in read["setup"]


TITLE = "a\\ntouch EVIL\\nresources: {evil: true}\\u0085b\\u2028c\\u001b"


def test_a_title_of_several_lines_stays_a_comment(recipe: Path, tmp_path: Path) -> None:
    text = recipe.read_text(encoding="utf-8").replace("a tiny model", TITLE)
    recipe.write_text(text, encoding="utf-8")
    folder = written(recipe, tmp_path / "build")
    assert "any_of" in task(folder)["resources"]
    script = (folder / "slurm.sh").read_text(encoding="utf-8")
    assert [line[0] for line in script.splitlines() if "EVIL" in line] == ["#"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--bucket", "a\n  evil: 1"], "--bucket: 'a\\n  evil: 1' is no name of a bucket"),
        (["--bucket", "null # x"], "--bucket: 'null # x' is no name of a bucket"),
        (["--package", "demitasse\nid"], "--package: 'demitasse\\nid' is neither a wheel nor"),
        (["--package", "--index-url=x"], "--package: '--index-url=x' is neither a wheel nor"),
        (["--package", "lost.whl"], "--package: lost.whl: no such file"),
        (["--package", "."], "--package: '.' is neither a wheel nor"),
        (["--bucket", "My_Work"], "--bucket: 'My_Work' is no name of a bucket"),
    ],
)
def test_words_that_would_break_the_files_are_refused(
    recipe: Path, tmp_path: Path, words: list[str], said: str
) -> None:
    answer = CliRunner().invoke(app, ["cloud", str(recipe), "--out", str(tmp_path), *words])
    assert isinstance(answer.exception, ConfigError)
    assert said in answer.exception.message
    assert not (tmp_path / "tiny" / "cloud").exists()


@pytest.mark.parametrize("out", ["tiny.toml", "/proc/none"])
def test_a_place_where_nothing_can_be_written_is_one_sentence(recipe: Path, out: str) -> None:
    place = recipe.parent / out  # the second is whole
    answer = CliRunner().invoke(app, ["cloud", str(recipe), "--out", str(place)])
    assert isinstance(answer.exception, ConfigError)
    assert "cannot be made: " in answer.exception.message


def test_a_recipe_whose_name_breaks_a_line_is_refused(recipe: Path, tmp_path: Path) -> None:
    renamed = recipe.rename(recipe.with_name("a\nid.toml"))
    answer = CliRunner().invoke(app, ["cloud", str(renamed), "--out", str(tmp_path / "build")])
    assert isinstance(answer.exception, ConfigError)
    assert "cannot be printed" in answer.exception.message


def test_files_outside_of_the_folder_are_named(recipe: Path, tmp_path: Path) -> None:
    shutil.move(recipe.parent / "facts.jsonl", tmp_path / "facts.jsonl")
    text = recipe.read_text(encoding="utf-8").replace("facts.jsonl", "../facts.jsonl")
    recipe.write_text(text, encoding="utf-8")
    answer = CliRunner().invoke(app, ["cloud", str(recipe), "--out", str(tmp_path / "build")])
    assert answer.exit_code == 0
    assert "`../facts.jsonl` is outside of the recipe's folder" in answer.stderr


def test_a_bucket_whose_name_is_a_word_of_yaml_stays_text(recipe: Path, tmp_path: Path) -> None:
    read = task(written(recipe, tmp_path / "build", "--bucket", "123"))
    assert read["file_mounts"]["/demitasse-work"]["name"] == "123"


def test_versions_are_those_of_this_computer_and_of_all_that_is_needed(
    recipe: Path, tmp_path: Path
) -> None:
    lines = (written(recipe, tmp_path / "build") / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines)
    for name in ("torch", "transformers", "numpy", "pydantic-core", "safetensors"):
        assert pins[name] == importlib.metadata.version(name).partition("+")[0]
    assert "demitasse" not in pins
    assert "pytest" not in pins, "only what the recipe needs"


def test_the_script_is_one_for_bash_and_asks_slurm_to_queue_it_again(
    recipe: Path, tmp_path: Path
) -> None:
    script = written(recipe, tmp_path / "build") / "slurm.sh"
    subprocess.run(["bash", "-n", str(script)], check=True)
    asked = {line.split()[1] for line in script.read_text().splitlines() if "#SBATCH" in line}
    assert {"--requeue", "--signal=B:TERM@120", "--open-mode=append", "--gres=gpu:1"} <= asked


@pytest.mark.parametrize("change", ["cut", "removed", "half written", "none"])
def test_a_record_without_all_of_its_files_is_forgotten(tmp_path: Path, change: str) -> None:
    from tests.fakes.datasets import tiny_dataset

    dataset = tiny_dataset(tmp_path)
    train = dataset.path / "train.jsonl"
    if change == "cut":
        train.write_bytes(train.read_bytes()[:-1])
    elif change == "removed":
        train.unlink()
    elif change == "half written":
        (dataset.path / f".{RECORD}.part").write_text('{"stage": ')
    is_whole = change in ("half written", "none")
    assert cloud.mend(tmp_path) == ([] if is_whole else ["dataset"])
    assert (dataset.path / RECORD).exists() == is_whole


@pytest.mark.slow
@pytest.mark.skipif(
    not SKY, reason="set DEMITASSE_SKYPILOT to a Python with skypilot (docs/cloud.md)"
)
def test_skypilot_itself_reads_the_task(recipe: Path, tmp_path: Path) -> None:
    folder = written(recipe, tmp_path / "build")
    code = (
        "import sky, sys; task = sky.Task.from_yaml(sys.argv[1]);"
        "print(task.name, len(task.resources), *task.storage_mounts)"
    )
    done = subprocess.run(
        [SKY, "-c", code, str(folder / "sky.yaml")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["demitasse-tiny", "4", "/demitasse-work"]


# Taken away --------------------------------------------------------------------------------------


def program(folder: Path) -> Path:
    """Return a program that is this tree's `demitasse`."""
    file = folder / "demitasse"
    file.write_text(
        f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m toolchain "$@"\n', encoding="utf-8"
    )
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return file


def digests(work: Path) -> dict[str, str]:
    records = {stage: recorded(work / "tiny" / stage) for stage in STAGES}
    return {stage: record.digest for stage, record in records.items() if record}


def run_killed(script: Path, demitasse: Path, draw: random.Random, log: Path) -> int:
    """Run a script, killed with all its processes again and again; return how often."""
    kills = 0
    environment = {**os.environ, "DEMITASSE": str(demitasse), "OMP_NUM_THREADS": "1"}
    while True:
        with log.open("ab") as stream:
            running = subprocess.Popen(
                ["bash", str(script)],
                env=environment,
                stdout=stream,
                stderr=stream,
                start_new_session=True,
            )
        # A stage that is never far enough to save would never end: each try may take longer.
        try:
            assert running.wait(draw.uniform(8, 20) + 4 * kills) == 0, log.read_text()[-3000:]
            return kills
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            running.wait()
            kills += 1


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.soak(row=28, short=1, whole=20)
def test_a_job_that_is_killed_again_and_again_ends_as_an_undisturbed_one(
    recipe: Path, tmp_path: Path, rounds: Rounds
) -> None:
    demitasse = program(tmp_path)
    whole = written(recipe, tmp_path / "whole") / "slurm.sh"
    environment = {**os.environ, "DEMITASSE": str(demitasse), "OMP_NUM_THREADS": "1"}
    subprocess.run(["bash", str(whole)], env=environment, check=True, capture_output=True)
    for number in rounds:
        out = tmp_path / str(number)
        script = written(recipe, out) / "slurm.sh"
        kills = run_killed(script, demitasse, random.Random(number), tmp_path / f"{number}.log")
        assert digests(out) == digests(tmp_path / "whole")
        assert len(digests(out)) == len(STAGES)
        rounds.saw("kills", kills)
        rounds.saw("the same digests")
        shutil.rmtree(out)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(
    subprocess.run("sinfo --noheader", shell=True, capture_output=True, check=False).returncode
    != 0,
    reason="no Slurm answers `sinfo` here (docs/cloud.md says how one is started)",
)
def test_slurm_runs_the_job_and_runs_it_on_after_it_had_to_make_room(
    recipe: Path, tmp_path: Path
) -> None:
    folder = written(recipe, tmp_path / "build")
    script = folder / "slurm.sh"
    # The test's node has neither an accelerator nor 16 GB, and two cores at most.
    text = script.read_text(encoding="utf-8").replace("#SBATCH --gres=gpu:1\n", "")
    text = text.replace("--cpus-per-task=4", "--cpus-per-task=1").replace("--mem=16G", "--mem=2G")
    script.write_text(text, encoding="utf-8")
    environment = {**os.environ, "DEMITASSE": str(program(tmp_path))}
    said = subprocess.run(
        ["sbatch", "--parsable", "--output", str(tmp_path / "log"), str(script)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    job = said.stdout.strip()
    wait_for(lambda: (tmp_path / "build/tiny/ingest" / RECORD).exists(), 300)
    subprocess.run(["scancel", "--batch", "--signal=TERM", job], check=True)
    # A job that was queued again waits two minutes for its turn, unless it is let go.
    wait_for(lambda: b"Restarts=1" in shown(job), 60)
    wait_for(lambda: b"JobState=COMPLETED" in shown(job), 500)
    assert len(digests(tmp_path / "build")) == len(STAGES)


def shown(job: str) -> bytes:
    said = subprocess.run(["scontrol", "show", "job", job], capture_output=True, check=False)
    return said.stdout


def wait_for(holds: Any, limit_s: float) -> None:
    ends = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < ends
        time.sleep(0.5)
