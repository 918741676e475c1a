"""Verbs of a board: talk with it, look at it, take it back, trust it."""

from pathlib import Path
from typing import Annotated

import typer

from toolchain import console, show, signing
from toolchain.board.kind import kind_of
from toolchain.cli import fleets
from toolchain.cli.answerers import answerer_at
from toolchain.cli.words import (
    AsJson,
    Board,
    BoardOrEndpoint,
    FleetName,
    MaxTokens,
    MaybeBoard,
    ModelName,
    Only,
    Question,
    Sign,
    app,
    device_at,
    open_one_of,
)
from toolchain.errors import ConfigError


@app.command()
def ask(
    board: BoardOrEndpoint,
    question: Question,
    max_tokens: MaxTokens = 0,
    model: ModelName = "",
    sources: Annotated[
        bool, typer.Option("--sources", help="Show the passages that the answer stands on.")
    ] = False,
    system: Annotated[
        str,
        typer.Option(
            "--system",
            metavar="TEXT",
            help="Instructions in place of the bundle's; they switch its documents off.",
        ),
    ] = "",
    image: Annotated[
        Path | None,
        typer.Option(
            "--image",
            metavar="FILE",
            help="A JPEG or PNG file that the question is about, for a model that sees.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ask the model on a board, or of an endpoint, one question; print its answer as it comes."""
    from toolchain.talk import Asking, read_picture
    from toolchain.talk import ask as ask_board

    text = console.read_input() if question == "-" else question
    picture = read_picture(image) if image else b""
    asking = Asking(
        max_tokens=max_tokens, system=system, passages=sources or as_json, image=picture
    )
    with answerer_at(board, model, sources=sources) as answerer:
        if as_json:
            console.show_json(ask_board(answerer, text, asking))
            return
        end = ask_board(answerer, text, asking, say=lambda piece: console.show_text(piece, end=""))
    console.show_text("")
    if sources or console.is_terminal():
        show.sources(end, whole=sources)


@app.command()
def chat(
    board: BoardOrEndpoint,
    max_tokens: MaxTokens = 0,
    model: ModelName = "",
    sources: Annotated[
        bool,
        typer.Option(
            "--sources/--no-sources", help="Name the passages that an answer stands on, under it."
        ),
    ] = True,
) -> None:
    """Talk with the model on a board, or of an endpoint; an empty line or Ctrl-D ends it."""
    from toolchain.endpoint.address import is_endpoint
    from toolchain.talk import Asking, Conversation

    name = "model" if is_endpoint(board) else "board"
    with answerer_at(board, model) as answerer:
        conversation = Conversation(answerer, Asking(max_tokens=max_tokens), forgot=_say_forgot)
        while question := console.read_line("you: "):
            console.show_text(f"{name}: ", end="")
            end = conversation.say(question, lambda piece: console.show_text(piece, end=""))
            console.show_text("")
            if sources:
                show.sources(end)


def _say_forgot() -> None:
    console.show_note("the context is full: from here on the oldest questions are forgotten")


@app.command()
def status(
    board: MaybeBoard = "", fleet: FleetName = "", only: Only = "", as_json: AsJson = False
) -> None:
    """Say what a board serves, since when, and what it would go back to; or all of a fleet."""
    if boards := open_one_of(board, fleet, only):
        fleets.status(boards, as_json=as_json)
        return
    with device_at(board) as device:
        show.status(board, device.call("status"), as_json=as_json)


@app.command()
def rollback(
    board: MaybeBoard = "", fleet: FleetName = "", only: Only = "", as_json: AsJson = False
) -> None:
    """Take a board back to the release before the current one.

    With --fleet all boards that run what the last push to the fleet brought.
    """
    if boards := open_one_of(board, fleet, only):
        with console.terminal() as report:
            fleets.rollback(boards, report, as_json=as_json)
        return
    with device_at(board) as device:
        show.status(
            board, device.call("rollback", *device.kind.timeouts, timeout_s=3600), as_json=as_json
        )


@app.command()
def logs(
    board: Board,
    lines: Annotated[
        int, typer.Option("-n", "--lines", help="Last lines.", min=0, max=10_000)
    ] = 50,
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on with those that come, until Ctrl-C.")
    ] = False,
) -> None:
    """Print the last lines that the service on a board wrote."""
    with (
        device_at(board) as device,
        device.talk("logs", "-n", str(lines), *(["--follow"] if follow else [])) as channel,
    ):
        for said in device.events(channel, "logs"):
            if "line" in said:
                console.show_text(said["line"])


@app.command()
def scrub(board: Board, as_json: AsJson = False) -> None:
    """Have a board read every byte of its store again; name what has rotted and stop using it."""
    with device_at(board) as device:
        seen = device.call("scrub", timeout_s=3600)
    show.status(board, seen, as_json=as_json)
    raise typer.Exit(4 if seen["rotten"] else 0)


@app.command()
def stop(board: Board, as_json: AsJson = False) -> None:
    """Stop the service on a board; the releases stay."""
    with device_at(board) as device:
        show.status(board, device.call("stop"), as_json=as_json)


@app.command()
def doctor(
    board: Annotated[
        str, typer.Argument(metavar="[BOARD]", help="A board to look at as well.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Look for what is wrong on this computer, and on a board, and say how to mend it."""
    from toolchain.doctor import board_findings, host_findings

    findings = host_findings()
    if board:
        with device_at(board) as device:
            findings += board_findings(device.facts())
    show.findings(findings, as_json=as_json)
    raise typer.Exit(1 if any(finding.state == "problem" for finding in findings) else 0)


@app.command()
def trust(
    board: Board,
    yes: Annotated[bool, typer.Option("--yes", help="Pin without asking.")] = False,
    sign: Sign = "",
    signer: Annotated[
        str, typer.Option("--signer", metavar="PUB", help="Another's public key that may sign.")
    ] = "",
    names: Annotated[
        str, typer.Option("--names", metavar="PATTERNS", help="The models that this key may sign.")
    ] = "*",
    revoke: Annotated[
        str, typer.Option("--revoke", metavar="PUB", help="A public key that may never sign again.")
    ] = "",
    target_id: Annotated[
        str,
        typer.Option(
            "--target", help="The only target that bundles may be made for; `any` for all."
        ),
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Pin a new board's host key in known_hosts, and on the board the key that may sign for it."""
    if not kind_of(board).simulated:
        _pin_host_key(board, yes=yes)
    elif not (sign or signer or revoke or target_id):
        console.show_text(
            f"{board} needs no trust: this computer made its host key, and knows no other for it"
        )
        return
    changes = ["--target", target_id] if target_id else []
    changes += ["--revoke", signing.public_key(Path(revoke))] if revoke else []
    if signer or not changes:
        public = signing.public_key(Path(signer)) if signer else signing.find_key(sign).public
        changes += ["--signer", public, "--names", names]
    with device_at(board) as device:
        show.status(board, device.call("trust", *changes), as_json=as_json)


def _pin_host_key(board: str, *, yes: bool) -> None:
    from toolchain.board import ssh

    key = ssh.fetch_host_key(board)
    if ssh.is_pinned(board, key):
        return
    console.show_text(f"{board} shows {key.get_name()} {key.fingerprint}")
    if not yes and not console.confirm("pin this key?"):
        raise ConfigError(
            f"{board}: not pinned",
            hint="compare the fingerprint on the board: "
            "ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub",
        )
    ssh.pin(board, key)
    console.show_text(f"{board} is trusted")
