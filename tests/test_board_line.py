"""The whole line on a virtual Raspberry Pi 4, from a computer that has nothing yet: image, boot,
push, ask, bench, down.

Slow the first time only: the image of Debian (ten minutes) and llama.cpp for the board (five
CPU-minutes) are kept in the user's cache. The board's own state is this test's, so that a board of
the user's stays as it is.
"""

import json
import os
from collections.abc import Iterator
from difflib import SequenceMatcher
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tests.fakes.facts import QUESTIONS
from tests.fakes.tiny_bert import tiny_bert
from tests.test_line import RECIPE, Line
from toolchain import artifacts, push, runtime
from toolchain.artifacts import Bundle
from toolchain.board import boot, open_board, virtual
from toolchain.board.device import Device
from toolchain.errors import BoardError
from toolchain.progress import Silent

pytestmark = [pytest.mark.board, pytest.mark.timeout(2400)]

TARGET = "rpi-4b-2gb"
BOARD = f"virtual:{TARGET}"
NEWER = "armv8.2+dotprod+fp16"
QUESTION = "where is the key kept?"


class Aloud(Silent):
    """Says on standard error what takes minutes."""

    def note(self, text: str) -> None:
        os.write(2, f"{text}\n".encode())


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """A bundle of the real line, and a board that it was pushed to."""
    folder = tmp_path_factory.mktemp("board-line")
    (folder / "tiny.toml").write_text(RECIPE.replace('["x86-64"]', f'["{TARGET}"]'))
    (folder / "facts.jsonl").write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in QUESTIONS)
    )
    (folder / "state").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        runtime.for_profile("armv8.0", Aloud())
        board = virtual.up(TARGET, Aloud())
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        made = Line(folder=folder, port=8080, environment=environment, said={})
        try:
            made.demitasse("package", "tiny.toml", timeout_s=1200)
            made.said["push"] = json.loads(
                made.demitasse("push", "build/tiny/package", BOARD, "--json", timeout_s=1200)
            )
            yield made
        finally:
            boot.stop(board.folder)


def test_the_board_answers_with_the_goldens_within_tolerance(line: Line) -> None:
    made = line.said["push"]
    assert made["goldens"].startswith("4 goldens agree in ") and made["goldens"].endswith(
        "this processor rounds otherwise"
    )
    package = line.folder / "build" / "tiny" / "package"
    goldens = [
        json.loads(row) for row in (package / "goldens.jsonl").read_text("utf-8").splitlines()
    ]
    tokenizer = Tokenizer.from_file(str(package / "tokenizer.json"))
    for golden in goldens[:2]:
        answer = line.demitasse("ask", BOARD, golden["messages"][-1]["content"]).rstrip("\n")
        assert SequenceMatcher(None, answer, tokenizer.decode(golden["tokens"])).ratio() > 0.8


def test_figures_of_an_emulated_board_are_called_so(line: Line) -> None:
    words = ("--pp", "16", "--tg", "4", "--repeat", "1")
    assert json.loads(line.demitasse("bench", BOARD, *words, "--json"))["emulated"] is True
    assert "mind: an emulated board: its speed says nothing about a real one" in line.demitasse(
        "bench", BOARD, *words
    )


def test_the_doctor_finds_a_healthy_pi(line: Line) -> None:
    findings = {
        row["check"]: row["seen"] for row in json.loads(line.demitasse("doctor", BOARD, "--json"))
    }
    assert (
        findings["board"] == "Raspberry Pi 4 Model B Rev 1.4 (aarch64, 4 cores): target rpi-4b-2gb"
    )


def test_the_runtime_is_small_and_sent_once(line: Line) -> None:
    first = [action["what"] for action in line.said["push"]["actions"]]
    assert [what.split()[0] for what in first] == ["agent", "runtime", "release", "tiny"]
    again = json.loads(line.demitasse("push", "build/tiny/package", BOARD, "--json"))
    assert (again["bytes_sent"], [action["verb"] for action in again["actions"]]) == (
        0,
        ["activate"],
    )
    with open_board(BOARD) as connection:
        runtimes = connection.run(
            ["sh", "-c", "du -sb ~/.local/share/demitasse/runtimes/*"]
        ).stdout.split()
    assert int(runtimes[0]) < 40_000_000


def bundle(line: Line) -> Bundle:
    folder = line.folder / "build" / "tiny" / "package"
    record = artifacts.recorded(folder)
    assert record
    return Bundle(path=folder, record=record)


def test_a_runtime_for_another_processor_is_refused_before_the_first_byte(line: Line) -> None:
    newer = runtime.for_profile(NEWER, Aloud())
    line.environment["DEMITASSE_RUNTIME"] = str(newer)
    try:
        said = line.demitasse("push", "build/tiny/package", BOARD, code=5)
    finally:
        del line.environment["DEMITASSE_RUNTIME"]
    assert (
        f"{BOARD}: the runtime needs `asimddp`, `asimdhp`, `asimdrdm`, `atomics`, `fphp`, which"
        in said
    )
    with open_board(BOARD) as connection:
        assert newer.name not in Device(connection).look()[1]["runtimes"]


def test_forced_onto_the_board_it_dies_by_signal_4_and_is_named_and_the_release_before_goes_on(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(push, "refuse_unfit", lambda *facts: None)
    with open_board(BOARD) as connection, pytest.raises(BoardError) as caught:
        push.push(
            bundle(line),
            runtime.for_profile(NEWER, Aloud()),
            Device(connection),
            Silent(),
            allow_unsigned=True,
        )
    wanted = (
        f"illegal instruction: built for {NEWER}, the board has no asimddp, asimdhp, asimdrdm, "
        "atomics, fphp"
    )
    assert caught.value.message == f"{BOARD}: {wanted}"
    assert line.demitasse("ask", BOARD, QUESTION).strip()


def test_the_board_goes_down_and_comes_back_serving(line: Line) -> None:
    before = line.demitasse("ask", BOARD, QUESTION)
    line.demitasse("board", "down", TARGET)
    assert json.loads(line.demitasse("board", "list", "--json")) == [
        {"address": BOARD, "debian": 12, "up": False, "port": None}
    ]
    assert line.demitasse("ask", BOARD, QUESTION) == before
    line.demitasse("board", "down", TARGET)


KNOWLEDGE = """
[knowledge]
files = ["pages"]
questions = ["written.jsonl"]
unanswered = ["none.jsonl"]
embedder = "bert"
"""


def test_the_board_answers_from_documents_and_names_their_source(line: Line) -> None:
    tiny_bert(line.folder / "bert")
    (line.folder / "pages").mkdir()
    (line.folder / "pages" / "fan.md").write_text("# Fan\n\n## Power\n\nIt spins over night.\n")
    asked = {"source": "pages/fan.md", "heading": "Power", "question": ["why is the fan hot"]}
    (line.folder / "written.jsonl").write_text(json.dumps(asked) + "\n")
    (line.folder / "none.jsonl").write_text('{"entry": null, "question": "x y z"}\n')
    recipe = RECIPE.replace('["x86-64"]', f'["{TARGET}"]').replace(
        '"quantize"', '"know", "quantize"'
    )
    (line.folder / "known.toml").write_text(recipe + KNOWLEDGE)

    line.demitasse("package", "known.toml", timeout_s=1200)
    line.demitasse("push", "build/known/package", BOARD, timeout_s=1200)
    known = json.loads(line.demitasse("ask", BOARD, "Why is the fan hot?", "--json"))
    assert known["text"] == "It spins over night."
    assert known["sources"][0]["title"] == "pages/fan.md › Fan › Power"
    unknown = json.loads(line.demitasse("ask", BOARD, "x y z", "--json"))
    assert unknown["text"].startswith("My documents do not say that.")
    assert unknown["known"] is False
