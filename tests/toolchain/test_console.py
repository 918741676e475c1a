"""What is said where no bar shows it, and how an interrupted run ends."""

import os
import subprocess
import sys

import pytest

from toolchain import console
from toolchain.errors import Interrupted, all_of
from toolchain.progress import QUIET_S, Pace


class Clock:
    """A clock that goes when it is told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_half_a_minute_of_silence_is_ended_by_a_line_with_rate_and_time_left() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.begin("tune: LoRA r=4")
    pace.step("tune", 1, 400, "steps", "loss 3.1")
    clock.now += QUIET_S - 1
    pace.step("tune", 30, 400, "steps", "loss 2.5")
    assert pace.line() == ""
    clock.now += 1
    pace.step("tune", 31, 400, "steps", "loss 2.5")
    assert pace.line() == "tune: 31 of 400 steps (8%), 1 steps/s, about 6 min left, loss 2.5"
    assert pace.line() == ""
    clock.now += QUIET_S
    assert pace.line().startswith("tune: 31 of 400 steps (8%), 0.5 steps/s, about 12 min left")


def test_bytes_are_told_in_megabytes() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.step("send", 0, 300e6, "B", "")
    clock.now += QUIET_S
    pace.step("send", 60e6, 300e6, "B", "")
    assert pace.line() == "send: 60.0 of 300.0 MB (20%), 2.0 MB/s, about 2 min left"


def test_work_that_tells_no_steps_is_said_to_go_on() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.begin("quantize: Q4_0 as gguf")
    clock.now += 2 * QUIET_S
    assert pace.line() == "still at work after 60 s (quantize: Q4_0 as gguf)"
    pace.step("rows", 5, 5, "", "")
    clock.now += QUIET_S
    assert pace.line().startswith("still at work after ")


def test_ctrl_c_names_the_step_and_the_command_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["demitasse", "run", "my recipe.toml", "--to", "pi@board"])
    with pytest.raises(Interrupted) as stopped, console.terminal() as report:
        report.note("tune: LoRA")
        report.step("tune", 3, 400, "steps")
        raise KeyboardInterrupt
    assert stopped.value.exit_code == 130
    assert stopped.value.message == "stopped by Ctrl-C in `tune`, at 3 of 400 steps (1%)"
    assert stopped.value.hint == (
        "what is finished is kept; go on with: demitasse run 'my recipe.toml' --to pi@board"
    )


@pytest.mark.slow
def test_bars_of_foreign_libraries_are_silent() -> None:
    code = (
        "import os; from toolchain.__main__ import SURROUNDINGS; os.environ.update(SURROUNDINGS)\n"
        "from tqdm.auto import tqdm; list(tqdm(range(3), desc='Loading weights'))\n"
        "from huggingface_hub.utils import tqdm as theirs; list(theirs(range(3)))"
    )
    clean = {name: value for name, value in os.environ.items() if "TQDM" not in name}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=clean
    )
    assert done.stderr == ""


def test_of_several_errors_the_first_has_the_exit_code() -> None:
    from toolchain.errors import ArtifactError, ConfigError

    nested = all_of([ArtifactError("b"), ArtifactError("c")])
    first = all_of([ConfigError("a"), nested])
    assert [each.message for each in (first, *first.others)] == ["a", "b", "c"]
    assert first.exit_code == 2
