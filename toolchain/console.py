"""The only module that prints: data to stdout, progress and words to stderr, through rich."""

import json
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
from rich.table import Table

from toolchain.errors import Interrupted, ToolchainError
from toolchain.progress import Pace

PIPE_WIDTH = 160
"""Columns of a table that no terminal limits."""


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
        self._console.print(text, markup=False)

    def step(self, name: str, done: float, total: float, unit: str = "", figures: str = "") -> None:
        """Move the bar called `name`; it goes when it is full. Without a terminal a line now and then says the same."""
        self._pace.step(name, done, total, unit, figures)
        if not self._console.is_terminal:
            return
        if name not in self._tasks:
            self._start(unit)
            assert self._progress is not None
            self._tasks[name] = self._progress.add_task(name, total=total, figures="")
        assert self._progress is not None
        self._progress.update(self._tasks[name], completed=done, total=total, figures=figures)
        if done >= total:
            self.settle()

    def settle(self) -> None:
        """Take all bars away."""
        if self._progress:
            self._progress.stop()
        self._progress, self._tasks = None, {}

    def at(self) -> str:
        """Return where the work is, to be put behind what ended it; empty where nothing was begun."""
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
        count = TextColumn(f"{{task.completed:.0f}}/{{task.total:.0f}} {unit}")
        amount = [DownloadColumn(), TransferSpeedColumn()] if unit == "B" else [count]
        name, figures = TextColumn("  {task.description}"), TextColumn("{task.fields[figures]}")
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
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def show_text(text: str, *, end: str = "\n") -> None:
    """Print text on stdout as it comes."""
    sys.stdout.write(text + end)
    sys.stdout.flush()


def show_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> None:
    """Print a table on stdout; columns whose cells are figures are set to the right."""
    table = Table(
        title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold"
    )
    for number, column in enumerate(columns):
        figures = all(row[number][:1].isdigit() or row[number] in ("", "-") for row in rows)
        table.add_column(
            column,
            justify="right" if figures and rows else "left",
            overflow="fold",
            no_wrap=number == 0,
        )
    for row in rows:
        table.add_row(*row)
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
    return sys.stdin.isatty() and input(f"{question} [y/N] ").strip().lower() in ("y", "yes")


def show_note(text: str) -> None:
    """Print a line on stderr."""
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)


def show_error(error: ToolchainError) -> None:
    """Print an error and its hint on stderr."""
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"error: {error.message}", markup=False, style="bold")
    if error.hint:
        console.print(f"\nhint: {error.hint}", markup=False)
