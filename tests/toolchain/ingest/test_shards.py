"""Shards: the same data set whoever reads it, and after any end of the process that reads it."""

import dataclasses
import errno
import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Rounds
from tests.fakes import sharded
from tests.fakes.datasets import write_lines
from tests.fakes.sharded import SHARD_BYTES, read, write_data
from toolchain import ingest as ingest_module
from toolchain.artifacts import Dataset
from toolchain.errors import ArtifactError
from toolchain.ingest import Ways, look
from toolchain.ingest.files import source
from toolchain.ingest.shards.plan import shards_of
from toolchain.ingest.shards.room import temporary_room
from toolchain.ingest.told import told
from toolchain.progress import Silent
from toolchain.recipe import DataSpec, IngestSpec

ROOT = Path(__file__).resolve().parents[3]
RAY = os.environ.get("DEMITASSE_RAY", "")
REPLACE = {"redact": {"mode": "replace"}, "clean": {"mode": "mend"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the recipe, with its data."""
    folder = tmp_path_factory.mktemp("sharded") / "recipe"
    write_data(folder)
    return folder


@pytest.fixture(scope="module")
def whole(folder: Path) -> Dataset:
    """The data set as it is read at once."""
    return read(folder, folder.parent / "whole", Ways(ingest=IngestSpec(processes=1)))


def by(out: Path, processes: int, shard_bytes: int = SHARD_BYTES) -> Ways:
    return Ways(work=out, shard_bytes=shard_bytes, ingest=IngestSpec(processes=processes))


def test_the_data_has_what_shards_could_disagree_on(whole: Dataset) -> None:
    figures = whole.figures
    assert {"duplicate question", "duplicate text", "empty question or answer"} <= set(
        figures.dropped
    )
    assert {"near-duplicate", "html", "contamination"} <= set(figures.dirt or {})
    assert figures.personal and figures.personal["phone"]["found"] > 20
    assert figures.unknown_keys["id"] > 50


@pytest.mark.parametrize("shard_bytes", [2000, pytest.param(700, marks=pytest.mark.slow)])
def test_the_data_set_and_its_figures_are_the_same_in_any_number_of_shards(
    folder: Path, whole: Dataset, tmp_path: Path, shard_bytes: int
) -> None:
    dataset = read(folder, tmp_path, by(tmp_path, 1, shard_bytes))
    assert len(shards_of(sharded.FILES, folder, shard_bytes)) > 10
    assert dataset.digest == whole.digest
    assert dataset.record.figures == whole.record.figures


def test_of_equal_questions_the_first_stays_in_whatever_shard_the_other_is(
    tmp_path: Path,
) -> None:
    asked = [number * 7 % 40 for number in range(120)]
    lines = (
        json.dumps({"question": f"Question {each}?", "answer": f"answer {at}"}) + "\n"
        for at, each in enumerate(asked)
    )
    (tmp_path / "a.jsonl").write_text("".join(lines))
    spec = DataSpec.model_validate({"files": ("a.jsonl",), "clean": {"near_duplicates": 0}})
    parts = look(spec, tmp_path, seed=0, ways=by(tmp_path / "out", 1, 500))
    assert len(shards_of(("a.jsonl",), tmp_path, 500)) > 5
    answers = [entry.phrasings[0][-1]["content"] for entry in parts.read.entries]
    assert answers == [f"answer {at}" for at in range(40)]
    assert parts.read.dropped.reasons["duplicate question with another answer"] == 80
    assert parts.read.dropped.first[0] == ("a.jsonl:41", "duplicate question with another answer")


def test_a_question_with_two_answers_is_told_where_the_second_stands(tmp_path: Path) -> None:
    rows = [
        {"question": "first", "answer": "a"},
        {"question": ["fine", "also fine"], "answer": "b"},
        {"question": "First?", "answer": "A"},
        {"question": ["new", "also fine"], "answer": "c"},
        {"question": "also fine", "answer": "c"},
        {"question": "fine", "answer": "b"},
    ]
    write_lines(tmp_path / "a.jsonl", rows)
    spec = DataSpec.model_validate({"files": ("a.jsonl",), "clean": {"near_duplicates": 0}})
    for shard_bytes in (30, 10_000):
        room = by(tmp_path / f"out-{shard_bytes}", 1, shard_bytes)
        parts = look(spec, tmp_path, seed=0, ways=room)
        assert parts.read.dropped.reasons == {
            "duplicate question": 2,
            "duplicate question with another answer": 2,
        }
        assert parts.read.disagreeing == "a.jsonl:4"
        assert (
            "a.jsonl:4: its question has another answer before: the first one is learned, see that "
            "it is right"
        ) in list(told(parts, spec))


@pytest.mark.slow
def test_two_processes_make_what_one_makes_and_keep_the_same_secrets(
    folder: Path, tmp_path: Path
) -> None:
    kept = []
    for processes in (1, 2):
        dataset = read(
            folder, tmp_path / str(processes), by(tmp_path / str(processes), processes), REPLACE
        )
        secrets = (folder / ".demitasse-secrets.jsonl").read_text(encoding="utf-8")
        kept.append((dataset.digest, dataset.record.figures, secrets))
    assert kept[0] == kept[1]
    assert kept[0][2].count("\n") > 20


def test_no_value_that_was_replaced_lies_in_the_work_folder(folder: Path, tmp_path: Path) -> None:
    read(folder, tmp_path, by(tmp_path, 1), REPLACE)
    secrets = (folder / ".demitasse-secrets.jsonl").read_text(encoding="utf-8").splitlines()
    values = [json.loads(line)["value"].encode() for line in secrets]
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert len(values) > 20
    assert [value for value in values if value in written] == []


def test_a_finished_shard_is_not_read_again_and_a_cut_one_is(
    folder: Path, whole: Dataset, tmp_path: Path
) -> None:
    read(folder, tmp_path)
    shards = sorted((tmp_path / "shards").glob("0*"))
    before = {each.name: (each / "read.json").stat().st_mtime_ns for each in shards}
    entries = shards[1] / "entries.jsonl"
    entries.write_bytes(entries.read_bytes()[:-10])
    (tmp_path / "ingest/record.json").unlink()
    look(DataSpec(), folder, seed=0)  # so that what is remembered is of other data
    assert read(folder, tmp_path).digest == whole.digest
    after = {each.name: (each / "read.json").stat().st_mtime_ns for each in shards}
    assert [name for name in after if after[name] != before[name]] == [shards[1].name]


@pytest.mark.slow
def test_other_rules_read_all_shards_again(folder: Path, tmp_path: Path) -> None:
    read(folder, tmp_path)
    first = (tmp_path / "shards/00000/read.json").stat().st_mtime_ns
    read(folder, tmp_path, spec={"clean": {"mode": "mend"}})
    assert (tmp_path / "shards/00000/read.json").stat().st_mtime_ns != first


def test_a_dry_run_keeps_nothing(folder: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in folder.iterdir())
    parts = look(
        DataSpec.model_validate(sharded.SPEC),
        folder,
        seed=1,
        ways=Ways(shard_bytes=SHARD_BYTES, ingest=IngestSpec(processes=1)),
    )
    room = parts.room.folder
    assert room.is_dir() and not room.is_relative_to(folder.parent)
    assert sorted(path.name for path in folder.iterdir()) == before
    del parts
    look(DataSpec(), folder, seed=0)
    assert not room.exists()


def test_what_a_killed_dry_run_left_is_cleared_by_the_next_and_a_living_one_is_let_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    program = (
        "import os, sys\nimport tempfile\n"
        "from toolchain.ingest.shards.room import temporary_room\n"
        "tempfile.tempdir = sys.argv[1]\n"
        "print(temporary_room().folder.parent, flush=True)\n"
        "sys.stdin.read()\n"
    )
    words = [sys.executable, "-c", program, str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) as other:
        assert other.stdout
        left = Path(other.stdout.readline().strip())
        os.utime(left, (1, 1))
        first = temporary_room().folder.parent
        assert left.is_dir() and first.is_dir()
        other.kill()
    os.utime(left, (1, 1))
    foreign = tmp_path / "demitasse-look-link"
    foreign.symlink_to(tmp_path.parent)
    os.utime(first, (1, 1))
    second = temporary_room().folder.parent
    assert not left.exists() and first.is_dir() and second.is_dir() and foreign.is_symlink()


def test_a_bad_line_is_named_by_its_number_in_the_file(tmp_path: Path) -> None:
    write_data(tmp_path)
    lines = (tmp_path / "first.jsonl").read_bytes().splitlines(keepends=True)
    lines[150] = b"{\n"
    (tmp_path / "first.jsonl").write_bytes(b"".join(lines))
    with pytest.raises(ArtifactError, match=r"^first\.jsonl:151: "):
        read(tmp_path, tmp_path / "out")


@pytest.mark.parametrize("end", [b"", b"\n", b"\n\n"])
def test_cuts_hold_every_byte_and_each_begins_a_line(tmp_path: Path, end: bytes) -> None:
    rows = [b'{"question": "%d", "answer": "%s"}' % (at, b"x" * (at * 7 % 90)) for at in range(99)]
    content = b"\n".join(rows) + end
    (tmp_path / "a.jsonl").write_bytes(content)
    cuts = [shard.cut for shard in shards_of(("a.jsonl",), tmp_path, 500)]
    pieces = [content[cut.start : cut.end] for cut in cuts if cut]
    assert b"".join(pieces) == content
    assert [cut.line for cut in cuts if cut] == [
        content[: cut.start].count(b"\n") for cut in cuts if cut
    ]
    assert all(content[cut.start - 1 : cut.start] in (b"", b"\n") for cut in cuts if cut)


@pytest.mark.parametrize("name", ["bomb.jsonl.gz", "bomb.csv.gz", "bomb.txt.gz", "bomb.json.gz"])
def test_a_packed_file_that_unpacks_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(source, "LEAST_LIMIT_BYTES", 1 << 14)
    row = b'{"question": "a", "answer": "b"}'
    rows = {
        "bomb.jsonl.gz": (row + b"\n") * 4000,
        "bomb.json.gz": b"[" + (row + b",\n") * 4000 + row + b"]",
        "bomb.csv.gz": b"question,answer\n" + b"a,b\n" * 20_000,
        "bomb.txt.gz": b"\n" * 100_000,
    }[name]
    (tmp_path / name).write_bytes(gzip.compress(rows))
    parts = look(DataSpec(files=(name,)), tmp_path, seed=0)
    assert "unpacks to more than" in str(parts.read.errors[0])


def test_a_packed_file_of_a_template_is_read(tmp_path: Path) -> None:
    rows = "".join(json.dumps({"question": f"q{n}", "answer": "a"}) + "\n" for n in range(3000))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(rows.encode()))
    assert len(look(DataSpec(files=("a.jsonl.gz",)), tmp_path, seed=0).read.entries) == 3000


# Ends of the process ------------------------------------------------------------------------------


def process(
    folder: Path, out: Path, *words: str, python: str = sys.executable
) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [python, "-m", "tests.fakes.sharded", str(folder), str(out), *words],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
@pytest.mark.soak(row=27, short=2, whole=200)
def test_killed_at_any_moment_it_goes_on_to_the_same_data_set(
    folder: Path, whole: Dataset, tmp_path: Path, rounds: Rounds
) -> None:
    for number in rounds:
        out = tmp_path / str(number)
        draw = random.Random(number)
        kills = 0
        while True:
            running = process(folder, out, str(1 + number % 2))
            # Twice it may be killed early: the third time it ends, or is further than before.
            try:
                said, wrong = running.communicate(timeout=draw.uniform(0.2, 3.0) + kills)
                assert running.returncode == 0, wrong
                break
            except subprocess.TimeoutExpired:
                os.killpg(running.pid, signal.SIGKILL)
                running.communicate()
                kills += 1
        assert said == whole.digest
        rounds.saw("kills", kills)
        rounds.saw("the same digest")


@pytest.mark.slow
def test_a_worker_that_dies_is_told_and_what_it_read_stays(folder: Path, tmp_path: Path) -> None:
    running = process(folder, tmp_path, "2")
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children")
    for _ in range(200):
        if workers := children.read_text().split():
            os.kill(int(workers[0]), signal.SIGKILL)
            break
        time.sleep(0.02)
    _, wrong = running.communicate()
    assert "a process that reads shards ended" in wrong


@pytest.mark.slow
@pytest.mark.skipif(not RAY, reason="set DEMITASSE_RAY to a Python with ray (docs/data.md)")
def test_two_nodes_of_ray_make_what_one_process_makes(
    folder: Path, whole: Dataset, tmp_path: Path
) -> None:
    done = subprocess.run(
        [RAY, str(ROOT / "tests/fakes/two_nodes.py"), str(folder), str(tmp_path / "out")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["digest"] == whole.digest
    assert len(said["nodes"]) == 2, "each node read shards"


def test_a_disk_that_fills_while_shards_are_read_is_one_sentence(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "entries.jsonl")

    monkeypatch.setattr("toolchain.ingest.shards.jobs.write_read", full)
    with pytest.raises(ArtifactError) as caught:
        read(folder, tmp_path, by(tmp_path, 1))
    assert caught.value.message == "entries.jsonl: cannot be written: no space left on device"


@pytest.mark.parametrize("moment", ["look", "_write"])
def test_a_file_that_is_changed_while_it_is_read_makes_no_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Its digest was taken before: the record would name text that nobody learned."""
    write_data(tmp_path / "recipe", rows=40)
    real = getattr(ingest_module, moment)

    def changed(*words: Any, **more: Any) -> Any:
        with (tmp_path / "recipe" / "first.jsonl").open("a") as stream:
            stream.write('{"question": "new?", "answer": "New."}\n')
        return real(*words, **more)

    with monkeypatch.context() as patch:
        patch.setattr(ingest_module, moment, changed)
        with pytest.raises(ArtifactError) as caught:
            read(tmp_path / "recipe", tmp_path, by(tmp_path, 1))
    assert caught.value.message == "first.jsonl: was changed while it was read"
    again = read(tmp_path / "recipe", tmp_path, by(tmp_path, 1))
    other = read(tmp_path / "recipe", tmp_path / "other", by(tmp_path / "other", 1))
    assert again.digest == other.digest


def killed(folder: Path, out: Path) -> None:
    """Read the data in a process of its own that ends when all shards are read."""
    program = (
        "import os, sys\n"
        "from toolchain.ingest.shards import jobs\n"
        "jobs.write_shard = lambda *_: os._exit(9)\n"
        "from tests.fakes import sharded\n"
        "sharded.main()\n"
    )
    words = [sys.executable, "-c", program, str(folder), str(out), "1"]
    assert subprocess.run(words, cwd=ROOT, check=False).returncode == 9


@pytest.mark.slow
def test_shards_that_were_read_before_a_kill_are_not_read_again(
    folder: Path, whole: Dataset, tmp_path: Path
) -> None:
    """Without surrogates too: then the key of the run is another one each time."""
    killed(folder, tmp_path)
    kept = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("read.json")}
    assert len(kept) > 5
    killed(folder, tmp_path)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("read.json")} == kept


@pytest.mark.slow
@pytest.mark.parametrize(
    "content", ["", "{", "[]", "5", '{"sizes": null}', '{"sizes": {}, "file": 5}', "[" * 99_999]
)
def test_a_shard_whose_account_is_damaged_is_read_again(
    folder: Path, whole: Dataset, tmp_path: Path, content: str
) -> None:
    killed(folder, tmp_path)
    sorted(tmp_path.rglob("read.json"))[1].write_text(content)
    assert read(folder, tmp_path, by(tmp_path, 1)).digest == whole.digest


@pytest.mark.slow
@pytest.mark.parametrize("name", ["key.json", "names.json"])
@pytest.mark.parametrize("content", [None, b"", b"[", b"\xff"])
def test_a_room_whose_notes_are_damaged_is_made_anew(
    folder: Path, whole: Dataset, tmp_path: Path, name: str, content: bytes | None
) -> None:
    killed(folder, tmp_path)
    (note,) = tmp_path.rglob(name)
    if content is None:
        note.unlink()
    else:
        note.write_bytes(content)
    assert read(folder, tmp_path, by(tmp_path, 1)).digest == whole.digest


class Notes(Silent):
    """Keeps what was noted."""

    def __init__(self) -> None:
        self.noted: list[str] = []

    def note(self, text: str) -> None:
        self.noted.append(text)


def flip(file: Path, at: float) -> None:
    content = bytearray(file.read_bytes())
    content[min(len(content) - 1, int(at * len(content)))] ^= 0x01
    seen = file.stat()
    file.write_bytes(content)
    os.utime(file, ns=(seen.st_atime_ns, seen.st_mtime_ns))


@pytest.mark.slow
def test_a_flipped_bit_in_any_file_that_was_kept_is_one_sentence_and_the_shard_is_read_again(
    folder: Path, whole: Dataset, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    killed(folder, kept)
    files = sorted(
        file.relative_to(kept)
        for file in kept.rglob("00001/*")
        if file.is_file() and file.stat().st_size
    )
    assert len(files) > 8
    for number, file in enumerate(files):
        out = tmp_path / str(number)
        shutil.copytree(kept, out)
        flip(out / file, random.Random(number).random())
        notes = Notes()
        ways = dataclasses.replace(by(out, 1), report=notes)
        assert read(folder, out, ways).digest == whole.digest, file
        said = [note for note in notes.noted if "is damaged: it is read again" in note]
        assert len(said) == 1, file


@pytest.mark.slow
@pytest.mark.parametrize("name", ["out-train.jsonl", "out-pages.jsonl", "lengths.json"])
def test_a_flipped_bit_in_what_a_shard_wrote_is_written_again(
    folder: Path, whole: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ingest_module, "join_parts", cut)
        read(folder, tmp_path, by(tmp_path, 1))
    kept = [file for file in tmp_path.rglob(name) if file.stat().st_size]
    assert len(kept) > 5
    for file in kept:
        flip(file, 0.5)
    assert read(folder, tmp_path, by(tmp_path, 1)).digest == whole.digest
