"""Command line: every verb explains itself, wrong words exit 2, `--json` prints JSON."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.fakes.tiny_gguf import tiny_gguf
from toolchain import __version__
from toolchain.__main__ import main
from toolchain.cli import app

VERBS = sorted(
    command.name or command.callback.__name__
    for command in app.registered_commands
    if command.callback
)
RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "smollm2-135m-zero-2w.toml"


def said(*words: str, code: int = 0) -> str:
    """Return what a command line prints on stdout."""
    result = CliRunner().invoke(app, words)
    assert result.exit_code == code, result.output
    return result.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb: str) -> None:
    assert "Usage:" in said(verb, "--help")


def test_the_version_is_told() -> None:
    assert said("--version") == f"demitasse {__version__}\n"


@pytest.mark.parametrize(
    "words",
    [("frobnicate",), ("run",), ("run", "x.toml", "--port", "0"), ("bench", "local", "-o", "xml")],
)
def test_wrong_words_exit_2(words: tuple[str, ...]) -> None:
    assert said(*words, code=2) == ""


@pytest.mark.sampled(3)
@pytest.mark.parametrize("verb", ["run", "ingest", "tune", "quantize", "evaluate", "package"])
def test_a_dry_run_plans_up_to_its_stage(verb: str, tmp_path: Path) -> None:
    planned = json.loads(said(verb, str(RECIPE), "--dry-run", "--json", "--out", str(tmp_path)))
    assert planned[-1]["stage"] == ("package" if verb == "run" else verb)
    assert not any(step["recorded"] for step in planned)
    assert (
        "tune" in said(verb, str(RECIPE), "--dry-run", "--out", str(tmp_path)) or verb == "ingest"
    )


def test_targets_are_listed_and_shown_with_their_sources() -> None:
    assert {row["id"] for row in json.loads(said("targets", "--json"))} >= {
        "rpi-4b-2gb",
        "jetson-orin-nano",
        "x86-64",
    }
    shown = said("targets", "rpi-4b-2gb")
    assert "not yet proved on hardware" in shown
    assert "memory.usable_mb" in shown


@pytest.mark.sampled(4)
@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (["run", "nope.toml"], 2, "error: nope.toml: no such file\n"),
        (
            ["distill", str(RECIPE)],
            2,
            "error: smollm2-135m-zero-2w: stages: this recipe has no `distill`\n",
        ),
        (["push", ".", "local"], 4, "error: .: not a finished bundle\n"),
        (["push", str(RECIPE), "local"], 4, f"error: {RECIPE}: a file, not a bundle\n"),
        (["package", "x.gguf"], 2, "error: a finished model needs --target ID or --to BOARD\n"),
        (
            ["package", "x.gguf", "--target", "rpi-5"],
            4,
            "error: x.gguf: no such file\n",
        ),
        (
            ["run", str(RECIPE), "--context", "9"],
            2,
            "error: --context: is for a finished model, a recipe says this itself\n",
        ),
        (["targets", "rpi-4b-2g"], 2, "error: unknown target `rpi-4b-2g`\n"),
        (["runtime", "build", "rpi-5b"], 2, "error: unknown target `rpi-5b`\n"),
        (["board", "ssh", "rpi-4b-9gb"], 2, "error: unknown target `rpi-4b-9gb`\n"),
        (["ask", "pi@127.0.0.1:9", "hi"], 7, "error: pi@127.0.0.1:9: nothing listens on port 9\n"),
    ],
)
def test_an_error_is_one_sentence_and_its_exit_code(
    words: list[str], code: int, sentence: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "toolchain", *words], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith(sentence)
    assert "\nhint: " in done.stderr


@pytest.mark.parametrize("words", [("--cuda",), ("--on", "pi@board")])
def test_cuda_is_built_on_a_board_that_is_named(words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, ["runtime", "build", "jetson-orin-nano", *words])
    assert (
        str(done.exception)
        == "--cuda and --on BOARD go together: CUDA is compiled on the board, all else here"
    )


@pytest.mark.parametrize("board", ["local", "virtual:rpi-4b-2gb"])
def test_boards_of_this_computer_need_no_trust(board: str) -> None:
    assert said("trust", board).startswith(
        f"{board} needs no trust: this computer made its host key"
    )


def test_fit_says_what_a_model_takes_and_leaves_with_the_exit_code_of_a_misfit(
    tmp_path: Path,
) -> None:
    file = tiny_gguf(tmp_path / "tiny.gguf")
    small = said("fit", str(file), "--target", "rpi-5-2gb")
    assert "it fits" in small and "KV cache" in small and "with 2 threads" in small
    large = said("fit", str(file), "--target", "rpi-zero-2w", "--context", "1000000", code=5)
    assert "it does not fit" in large and "a context of 512 tokens fits" in large
    assert json.loads(said("fit", str(file), "--target", "rpi-4b-2gb", "--json"))["ok"] is True


def test_two_kept_reports_are_compared_and_shown_on_one_page(tmp_path: Path) -> None:
    row = {
        "n_prompt": 0,
        "n_gen": 32,
        "samples_ts": [10.0, 11.0, 12.0],
        "avg_ts": 11.0,
        "stddev_ts": 1.0,
    }
    for name, factor in (("a", 1.0), ("b", 2.0)):
        samples = [factor * each for each in row["samples_ts"]]
        (tmp_path / f"{name}.json").write_text(json.dumps([{**row, "samples_ts": samples}]))
    files = [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    assert "faster" in said("compare", *files)
    assert json.loads(said("compare", *files, "--json"))[0]["ratio"] == 2.0
    said("report", *files, "--out", str(tmp_path / "both.html"))
    assert (tmp_path / "both.html").read_text().startswith("<!doctype html>")


@pytest.mark.slow
def test_no_file_of_llama_cpp_is_open_at_the_end() -> None:
    program = "import llama_cpp; from toolchain.__main__ import main; main()"
    ran = subprocess.run(
        [sys.executable, "-W", "always::ResourceWarning", "-c", program, "--version"],
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0
    assert "ResourceWarning" not in ran.stderr


@pytest.mark.parametrize("problem", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_disk_that_takes_no_more_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, problem: int
) -> None:
    def full() -> None:
        raise OSError(problem, os.strerror(problem), "out/record.json")

    monkeypatch.setattr("toolchain.__main__.app", full)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 4
    said = capsys.readouterr().err
    assert said.startswith(
        f"error: out/record.json: cannot be written: {os.strerror(problem)}".lower()
    )
    assert "Traceback" not in said


def test_another_error_of_the_system_is_a_bug_with_its_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken() -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr("toolchain.__main__.app", broken)
    with pytest.raises(OSError, match="Bad file descriptor"):
        main()
