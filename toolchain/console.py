"""The only module that prints: data to stdout, progress and words to stderr, through rich.

The one rule: whatever is printed goes through `visible` first. Names, errors, facts, logs and a
model's text come from boards, files and strangers; none of them may move the cursor, set a title,
change what was printed before, or be read as rich's markup.
"""

import json
import re
import shlex
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.prompt import Prompt
from rich.table import Table
from rich.text import Text

from toolchain.errors import Interrupted, ToolchainError
from toolchain.progress import Pace

PIPE_WIDTH = 160
"""Columns of a table that no terminal limits."""


_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u061c"
    "\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufff9-\ufffb]"
)
"""Characters that a terminal obeys instead of showing them."""
# Controls of C0 and C1 except newline and tab; line separators; what turns the direction of text
# (Unicode's UTR 36, section 2.6); and halves of surrogate pairs, which no file can hold.


def visible(text: str, *, one_line: bool = False) -> str:
    """Return text with control characters spelled out, such as `\\x1b`.

    With `one_line` newlines and tabs too.
    """
    spelled = _UNSEEN.sub(_spelled, text)
    return spelled.replace("\n", "\\n").replace("\t", "\\t") if one_line else spelled


def _spelled(found: "re.Match[str]") -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class Terminal:
    """Words and bars on stderr; bars only where there is a terminal."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._pace = Pace()

    def note(self, text: str) -> None:
        """Print one line above any bar."""
        self._pace.begin(text)
        self._console.print(Text(visible(text)))

    def step(self, name: str, done: float, total: float, unit: str = "", figures: str = "") -> None:
        """Move the bar called `name`; without a terminal, write a line now and then instead."""
        self._pace.step(name, done, total, unit, figures)
        if not self._console.is_terminal:
            return
        if name not in self._tasks:
            self._start(visible(unit, one_line=True))
            assert self._progress is not None
            shown = visible(name, one_line=True)
            self._tasks[name] = self._progress.add_task(shown, total=total, figures="")
        assert self._progress is not None
        figures = visible(figures, one_line=True)
        self._progress.update(self._tasks[name], completed=done, total=total, figures=figures)
        if done >= total:
            self.settle()

    def settle(self) -> None:
        """Take all bars away."""
        if self._progress:
            self._progress.stop()
        self._progress, self._tasks = None, {}

    def at(self) -> str:
        """Return how far the work came, for an error's message; empty if nothing was begun."""
        return self._pace.at()

    @contextmanager
    def heartbeat(self) -> Iterator[None]:
        """Say every half minute how far the work is, where no bar shows it."""
        if self._console.is_terminal:
            yield
            return
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(1.0):
                if line := self._pace.line():
                    self._console.print(line, markup=False)

        watch = threading.Thread(target=beat, name="heartbeat", daemon=True)
        watch.start()
        try:
            yield
        finally:
            ended.set()
            watch.join()

    def _start(self, unit: str) -> None:
        self.settle()
        count = TextColumn(f"{{task.completed:.0f}}/{{task.total:.0f}} {unit}", markup=False)
        amount = [DownloadColumn(), TransferSpeedColumn()] if unit == "B" else [count]
        name = TextColumn("  {task.description}", markup=False)
        figures = TextColumn("{task.fields[figures]}", markup=False)
        self._progress = Progress(
            name,
            BarColumn(),
            *amount,
            TimeRemainingColumn(),
            figures,
            console=self._console,
            transient=True,
        )
        self._progress.start()


@contextmanager
def terminal() -> Iterator[Terminal]:
    """Yield a terminal reporter and take its bars away at the end; Ctrl-C says how to go on."""
    reporter = Terminal()
    try:
        with reporter.heartbeat():
            yield reporter
    except KeyboardInterrupt as error:
        command = shlex.join(["demitasse", *sys.argv[1:]])
        hint = f"what is finished is kept; go on with: {command}"
        raise Interrupted(f"stopped by Ctrl-C{reporter.at()}", hint=hint) from error
    finally:
        reporter.settle()


def show_json(value: Any) -> None:
    """Print one JSON value on stdout."""
    text = json.dumps(value, ensure_ascii=False, indent=1)
    # JSON itself escapes C0; the rest stands within strings, where this is JSON's own spelling of
    # it.
    sys.stdout.write(_UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")


def show_text(text: str, *, end: str = "\n") -> None:
    """Print text on stdout as it comes."""
    sys.stdout.write(visible(text) + end)
    sys.stdout.flush()


def show_aside(text: str) -> None:
    """Print quiet lines on stdout: dim on a terminal."""
    out = Console(highlight=False, soft_wrap=True)
    out.print(Text(visible(text), style="dim"))


def is_terminal() -> bool:
    """Say whether a person reads stdout as it comes."""
    return sys.stdout.isatty()


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> None:
    """Print a table on stdout; columns whose cells are figures are set to the right."""
    table = Table(
        title=Text(visible(title), style="table.title") if title else None,
        title_justify="left",
        box=None,
        pad_edge=False,
        header_style="bold",
    )
    for number, column in enumerate(columns):
        figures = all(row[number][:1].isdigit() or row[number] in ("", "-") for row in rows)
        table.add_column(
            Text(visible(column)),
            justify="right" if figures and rows else "left",
            overflow="fold",
            no_wrap=number == 0,
        )
    for row in rows:
        table.add_row(*(Text(visible(cell, one_line=True)) for cell in row))
    out = Console(highlight=False)
    (out if out.is_terminal else Console(highlight=False, width=PIPE_WIDTH)).print(table)


def read_input() -> str:
    """Return all of standard input."""
    return sys.stdin.read()


def read_line(prompt: str) -> str:
    """Return a line that a person types, "" at the end; the prompt is shown only on a terminal."""
    try:
        return input(prompt if sys.stdin.isatty() else "")
    except EOFError:
        return ""


def confirm(question: str) -> bool:
    """Ask a person; without a terminal the answer is no."""
    return sys.stdin.isatty() and input(f"{visible(question)} [y/N] ").strip().lower() in (
        "y",
        "yes",
    )


def is_asked_here() -> bool:
    """Say whether a person is there to answer questions: on a terminal, for input and output."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def ask(question: str, default: str = "") -> str:
    """Return what a person answers on the terminal; the default for an empty answer.

    Raise Interrupted for Ctrl-C and where the input ends.
    """
    prompt = Prompt(
        Text(visible(question, one_line=True)),
        console=Console(stderr=True),
        show_default=bool(default),
    )
    try:
        return prompt(default=visible(default, one_line=True)).strip()
    except (KeyboardInterrupt, EOFError) as error:
        raise Interrupted("stopped: nothing was written") from error


def show_note(text: str) -> None:
    """Print a line on stderr."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)


def show_error(error: ToolchainError) -> None:
    """Print an error and its hint on stderr."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(Text(f"error: {visible(error.message)}", style="bold"))
    if error.hint:
        console.print(Text(f"\nhint: {visible(error.hint)}"))
