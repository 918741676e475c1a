"""Verbs of virtual boards, and of the runtimes that boards run."""

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from toolchain import console, show, target
from toolchain.cli.words import AsJson, app, device_at
from toolchain.errors import ConfigError

boards = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Virtual boards: try a deployment without owning the board.",
)


app.add_typer(boards, name="board")


Name = Annotated[
    str,
    typer.Argument(
        metavar="TARGET", help="A target's id, such as rpi-4b-2gb; `:13` behind it for Debian 13."
    ),
]


@boards.command(name="up")
def board_up(
    name: Name,
    port: Annotated[int, typer.Option(help="Loopback port of its SSH server; 0: a free one.")] = 0,
) -> None:
    """Start a virtual board: seconds from its snapshot, minutes the first time."""
    from toolchain.board import virtual

    began = time.monotonic()
    with console.terminal() as report:
        started = virtual.up(name, report, port=port)
    seconds = time.monotonic() - began
    console.show_text(
        f"{started.address} is up after {seconds:.1f} s, its SSH server on port {started.port}"
    )


@boards.command(name="down")
def board_down(name: Name) -> None:
    """Stop a virtual board; `up` goes on from there."""
    from toolchain.board import virtual

    with console.terminal() as report:
        virtual.down(name, report)


@boards.command(name="list")
def board_list(as_json: AsJson = False) -> None:
    """List the virtual boards of this computer."""
    from toolchain.board import virtual

    show.virtual_boards(virtual.listing(), as_json=as_json)


@boards.command(name="reset")
def board_reset(name: Name) -> None:
    """Take a virtual board back to its fresh snapshot."""
    from toolchain.board import virtual

    with console.terminal() as report:
        virtual.reset(name, report)


@boards.command(name="ssh")
def board_ssh(
    name: Name,
    command: Annotated[
        list[str] | None, typer.Argument(metavar="[COMMAND]", help="What to run there.")
    ] = None,
) -> None:
    """Log in to a virtual board that is up, or run a command there (after `--` if with options)."""
    from toolchain.board import virtual

    argv = virtual.ssh_command(name, command or [])
    os.execv(argv[0], argv)  # noqa: S606


@boards.command(name="power-cut")
def board_power_cut(name: Name) -> None:
    """Pull the plug of a virtual board: what it had not put on its disk is lost."""
    from toolchain.board import virtual

    virtual.power_cut(name)


runtimes = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="What boards run: built here, never there."
)


app.add_typer(runtimes, name="runtime")


@runtimes.command(name="build")
def runtime_build(
    target_id: Annotated[
        str, typer.Argument(metavar="TARGET", help="A target's id, such as rpi-4b.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder that gets llama-cpp-python for this target as a wheel."),
    ] = None,
    with_bench: Annotated[
        bool, typer.Option("--bench", help="And llama-bench, in one file that needs glibc alone.")
    ] = False,
    cuda: Annotated[
        bool,
        typer.Option("--cuda", help="For an NVIDIA GPU, compiled on the board that --on names."),
    ] = False,
    on: Annotated[str, typer.Option("--on", metavar="BOARD", help="A board of that kind.")] = "",
    as_json: AsJson = False,
) -> None:
    """Build what a kind of board runs, before the first push: minutes, then half a minute."""
    from toolchain.cuda import build_cuda
    from toolchain.runtime.build import build

    board = target.find(target_id)
    if cuda != bool(on):
        raise ConfigError(
            "--cuda and --on BOARD go together: CUDA is compiled on the board, all else here"
        )
    with console.terminal() as report:
        if cuda:
            with device_at(on) as device:
                built = build_cuda(board, device, report)
        else:
            built = build(board, report, out=out, with_bench=with_bench)
    show.runtime(built, as_json=as_json)
