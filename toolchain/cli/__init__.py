"""Command line: reads the user's words, calls the line or a stage, hands the result to `show`.

The only place that knows both the user's words and the stages; everything heavy is imported inside
its verb.
"""

from typing import Annotated  # noqa: I001 - the verbs below are in the order of the help

import typer

from toolchain import __version__, console
from toolchain.cli import (  # noqa: F401
    line,
    export,
    boards,
    rounds,
    figures,
    proving,
    cost,
    cloud,
    new,
    recipes,
    virtual,
)
from toolchain.cli.words import app

__all__ = ["app"]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        console.show_text(f"demitasse {__version__}")
        raise typer.Exit
