"""Records: finished work is not done again, other work is, and half-done work never counts."""

import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from toolchain.artifacts import RESUME, Work, digest, keep, read_jsonl, recorded, write_jsonl
from toolchain.config import Frozen
from toolchain.errors import ArtifactError
from toolchain.figures import StageFigures


class Spec(Frozen):
    size: int = 1


def work(size: int = 1, **inputs: str) -> Work:
    return Work(stage="test", inputs=inputs, parameters=Spec(size=size))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered(StageFigures):
    answer: int


def build(folder: Path) -> Answered:
    (folder / "result.txt").write_text("made")
    return Answered(answer=42)


def must_not_run(folder: Path) -> Answered:
    raise AssertionError("the stage ran again")


def test_work_with_the_same_key_is_skipped(tmp_path: Path) -> None:
    first, fresh = keep(tmp_path / "out", work(data="1"), build, Answered)
    again, fresh_again = keep(tmp_path / "out", work(data="1"), must_not_run, Answered)
    assert (fresh, fresh_again) == (True, False)
    assert again == first
    assert again.figures == {"answer": 42}


@pytest.mark.parametrize("changed", [work(2, data="1"), work(1, data="2"), work(1, other="1")])
def test_other_parameters_or_inputs_mean_new_work(tmp_path: Path, changed: Work) -> None:
    keep(tmp_path / "out", work(data="1"), build, Answered)
    (tmp_path / "out" / "left-over.txt").write_text("of the run before")
    record, fresh = keep(tmp_path / "out", changed, build, Answered)
    assert fresh
    assert record.digest == digest(tmp_path / "out")
    assert not (tmp_path / "out" / "left-over.txt").exists()


def test_the_same_work_gives_the_same_digest_in_another_folder(tmp_path: Path) -> None:
    assert (
        keep(tmp_path / "a", work(), build, Answered)[0].digest
        == keep(tmp_path / "b", work(), build, Answered)[0].digest
    )


def test_a_failed_stage_leaves_no_record(tmp_path: Path) -> None:
    def fail(folder: Path) -> Answered:
        (folder / "half.txt").write_text("half")
        raise RuntimeError("no")

    with pytest.raises(RuntimeError):
        keep(tmp_path / "out", work(), fail, Answered)
    assert recorded(tmp_path / "out") is None
    keep(tmp_path / "out", work(), build, Answered)
    assert not (tmp_path / "out" / "half.txt").exists()


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed(StageFigures):
    resumed_from: int


def _resumable(folder: Path) -> Resumed:
    state = folder / RESUME / "state"
    state.parent.mkdir(exist_ok=True)
    seen = int(state.read_text()) if state.exists() else 0
    if seen == 0:
        state.write_text("7")
        time.sleep(60)
    return Resumed(resumed_from=seen)


def test_a_killed_stage_finds_its_resume_files_and_nobody_else_does(tmp_path: Path) -> None:
    out = tmp_path / "out"
    child = multiprocessing.get_context("fork").Process(
        target=keep, args=(out, work(), _resumable, Resumed)
    )
    child.start()
    while not (out / RESUME / "state").exists():
        time.sleep(0.01)
    assert child.pid
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    assert recorded(out) is None
    assert keep(out, work(), _resumable, Resumed)[0].figures == {"resumed_from": 7}
    assert not (out / RESUME).exists()
    keep(out, work(2), build, Answered)
    assert sorted(p.name for p in out.iterdir()) == ["record.json", "result.txt"]


def test_a_record_with_figures_of_another_shape_is_made_again(tmp_path: Path) -> None:
    keep(tmp_path / "out", work(), build, Answered)
    file = tmp_path / "out" / "record.json"
    file.write_text(
        file.read_text().replace('"answer":42', '"reply":42').replace('"answer": 42', '"reply": 42')
    )
    record, fresh = keep(tmp_path / "out", work(), build, Answered)
    assert fresh
    assert record.figures == {"answer": 42}


def test_a_bad_line_names_its_file_and_number(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n\n{"a": \n')
    with pytest.raises(ArtifactError, match=r"^rows\.jsonl:3: not valid JSON$"):
        list(read_jsonl(path))


def test_json_lines_keep_every_character(tmp_path: Path) -> None:
    rows = [{"text": "温度 🌡 é\n"}]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert list(read_jsonl(tmp_path / "rows.jsonl")) == rows
    assert "温度" in (tmp_path / "rows.jsonl").read_text(encoding="utf-8")


@pytest.mark.parametrize("how", ["fifo", "device", "folder", "endless"])
def test_what_is_no_plain_file_of_a_records_size_is_no_record(tmp_path: Path, how: str) -> None:
    """A folder may come from others: a FIFO in the record's place must not be waited for."""
    record = tmp_path / "record.json"
    if how == "fifo":
        os.mkfifo(record)
    elif how == "device":
        record.symlink_to("/dev/zero")
    elif how == "folder":
        record.mkdir()
    else:
        with record.open("wb") as stream:
            stream.truncate(1 << 40)
    assert recorded(tmp_path) is None
