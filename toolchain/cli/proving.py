"""`prove`: a signed record that a release runs on a board, and the check of somebody's."""

from itertools import count
from pathlib import Path
from typing import Annotated

import typer

from toolchain import console, show, signing
from toolchain.bench import ANSWER_TOKENS, MOST_S, PROMPT_TOKENS
from toolchain.board import check_address
from toolchain.cli.words import AsJson, Sign, app, device_at, refuse_place
from toolchain.errors import ConfigError
from toolchain.progress import Reporter
from toolchain.proving.record import Proof


@app.command()
def prove(
    board: Annotated[
        str, typer.Argument(metavar="[BOARD]", help="A board that runs a release.")
    ] = "",
    check: Annotated[
        Path | None, typer.Option("--check", metavar="FILE", help="Check and show a proof.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="Where to write it; by target and day."),
    ] = None,
    pp: Annotated[int, typer.Option(help="Prompt tokens.", min=1)] = PROMPT_TOKENS,
    tg: Annotated[int, typer.Option(help="Generated tokens.", min=1)] = ANSWER_TOKENS,
    repeat: Annotated[int, typer.Option(help="Repetitions of each test.", min=1)] = 5,
    sustained: Annotated[
        float,
        typer.Option(help="Then answer on for so many seconds: what heat does.", min=0, max=MOST_S),
    ] = 0.0,
    sign: Sign = "",
    as_json: AsJson = False,
) -> None:
    """Prove that a release runs on a board: bytes, goldens, speed and heat, signed, in one file."""
    from toolchain.proving.signed import read, write

    if (check is None) == (not board):
        raise ConfigError("give either a board, or --check FILE")
    if check:
        show.proof(read(check), as_json=as_json)
        return
    check_address(board)
    key = signing.find_key(sign)
    refuse_place({"out": out})
    with console.terminal() as report:
        proof = _measure(board, (pp, tg, repeat, sustained), report)
        path = out or _free(f"proof-{proof.target or proof.board.machine}-{proof.date}")
        written = write(proof, key, path)
    show.proof(written, as_json=as_json, path=path)


def _free(name: str) -> Path:
    """Return the path of a new file: a proof stands beside the earlier ones of its day."""
    names = (name if number == 1 else f"{name}-{number}" for number in count(1))
    return next(path for each in names if not (path := Path(f"{each}.json")).exists())


def _measure(board: str, plan: tuple[int, int, int, float], report: Reporter) -> Proof:
    from toolchain.bench import bench
    from toolchain.proving import check_board, proof_of

    pp, tg, repeat, sustained_s = plan
    with device_at(board) as device:
        seen = check_board(device, report)
        report.note(f"{board}: pp{pp} and tg{tg}, {repeat} times each")
        measured = bench(device, pp=pp, tg=tg, repeat=repeat, sustained_s=sustained_s)
        return proof_of(seen, measured, device.kind)
