"""Verbs of figures: what a model takes, how fast a board is, and how two reports differ."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from toolchain import console, show, target
from toolchain.artifacts import Report
from toolchain.bench import MOST_S
from toolchain.cli import fleets
from toolchain.cli.answerers import endpoint_at, refuse_for_board, refuse_for_endpoint
from toolchain.cli.words import (
    AsJson,
    Board,
    FleetName,
    MaybeBoardOrEndpoint,
    ModelName,
    Only,
    app,
    device_at,
    open_one_of,
    refuse_given,
    refuse_place,
)
from toolchain.endpoint.address import is_endpoint
from toolchain.errors import FitError
from toolchain.progress import Reporter

if TYPE_CHECKING:
    from toolchain.endpoint.client import Endpoint
    from toolchain.report.data import Data
    from toolchain.report.guard import Guarded
    from toolchain.report.knowledge import Known, Made


@app.command()
def bench(
    board: MaybeBoardOrEndpoint = "",
    model: ModelName = "",
    fleet: FleetName = "",
    only: Only = "",
    pp: Annotated[int, typer.Option(help="Prompt tokens.", min=1)] = 512,
    tg: Annotated[int, typer.Option(help="Generated tokens.", min=1)] = 128,
    repeat: Annotated[int, typer.Option(help="Repetitions of each test.", min=1)] = 5,
    sustained: Annotated[
        float,
        typer.Option(help="Then answer on for so many seconds: what heat does.", min=0, max=MOST_S),
    ] = 0.0,
    output: Annotated[
        Literal["md", "csv", "json", "jsonl", "sql"],
        typer.Option("-o", "--output", help="Form of the rows."),
    ] = "md",
    page: Annotated[
        Path | None, typer.Option("--report", metavar="HTML", help="Write the report as one page.")
    ] = None,
    save: Annotated[
        Path | None,
        typer.Option("--save", metavar="JSON", help="Keep the report, to compare it later."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a board's current release as llama-bench does, or an endpoint as a client sees it.

    With --fleet all its boards, side by side.
    """
    from toolchain import report as reports
    from toolchain.bench import bench as measure

    refuse_place({"report": page, "save": save})
    if boards := open_one_of(board, fleet, only):
        refuse_given({"model": model, "save": save}, "is for one board", "without --fleet")
        with console.terminal() as report:
            plan = {"pp": pp, "tg": tg, "repeat": repeat, "sustained_s": sustained}
            measured_all = fleets.bench(boards, report, plan, as_json=as_json)
        if page:
            _write_page(measured_all, page)
        return
    with console.terminal() as report:
        report.note(f"{board}: pp{pp} and tg{tg}, {repeat} times each")
        if is_endpoint(board):
            refuse_for_endpoint(sustained=sustained)
            measured = _client_side(endpoint_at(board, model), pp, tg, repeat, report)
        else:
            refuse_for_board(model=model)
            with device_at(board) as device:
                measured = measure(device, pp=pp, tg=tg, repeat=repeat, sustained_s=sustained)
    if save:
        reports.save(measured, save)
    if page:
        _write_page([measured], page)
    show.bench(measured, output, as_json=as_json)


def _client_side(endpoint: "Endpoint", pp: int, tg: int, repeat: int, report: Reporter) -> Report:
    from toolchain.endpoint.measure import Plan, measure

    return measure(endpoint, Plan(pp=pp, tg=tg, repeat=repeat), report)


@app.command()
def calibrate(
    board: Board,
    budget: Annotated[float, typer.Option(help="Seconds that the search may take.", min=1)] = 60.0,
    as_json: AsJson = False,
) -> None:
    """Find the threads, cores and batches that are fastest on a board, and use them."""
    with console.terminal() as report, device_at(board) as device:
        report.note(f"{board}: the service pauses for about {budget:g} s")
        calibration = device.call("calibrate", "--budget", str(budget), timeout_s=4 * budget + 1800)
    show.calibrated(board, calibration, as_json=as_json)


@app.command(name="report")
def make_report(
    saved: Annotated[
        list[Path],
        typer.Argument(
            metavar="FILES…",
            help="Reports that `bench --save` kept; work folders, such as build/help-desk, "
            "of which it says what they are made of, what was found in their data, what their "
            "guard flags and what their documents answer.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="HTML", help="The page to write.")] = Path(
        "report.html"
    ),
) -> None:
    """Show kept reports as one page: speed, heat, what data holds, what documents answer."""
    from toolchain import report as reports
    from toolchain.report.data import read_data
    from toolchain.report.guard import read_guarded
    from toolchain.report.knowledge import STAGE, read_known, read_made

    refuse_place({"out": out})
    kept = [reports.read(file) for file in saved if not file.is_dir()]
    folders = {folder: read_made(folder) for folder in saved if folder.is_dir()}
    data = {folder: read_data(folder) for folder in folders}
    guards = {folder: read_guarded(folder) for folder in folders}
    documents = [
        read_known(folder)
        for folder, made in folders.items()
        if (folder / STAGE).is_dir() or not (made or data[folder] or guards[folder])
    ]
    _write_page(
        kept,
        out,
        documents,
        [made for made in folders.values() if made],
        [learned for learned in data.values() if learned],
        [guarded for guarded in guards.values() if guarded],
    )
    console.show_text(f"{out}")


@app.command()
def compare(
    first: Annotated[
        Path,
        typer.Argument(
            metavar="A",
            help="A kept report, what llama-bench printed as JSON, or the work folder of a round.",
        ),
    ],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another one.")],
    as_json: AsJson = False,
) -> None:
    """Say how much faster B is than A, with the interval in which that ratio lies."""
    from toolchain import report as reports

    if first.is_dir() and second.is_dir():
        from toolchain.rounds.compare import read_round

        show.rounds_compared([read_round(first), read_round(second)], as_json=as_json)
        return
    show.compared(
        reports.compare(reports.read(first), reports.read(second)),
        first.name,
        second.name,
        as_json=as_json,
    )


def _write_page(
    measured: list[Report],
    path: Path,
    documents: "Sequence[Known]" = (),
    made: "Sequence[Made]" = (),
    learned: "Sequence[Data]" = (),
    guarded: "Sequence[Guarded]" = (),
) -> None:
    from toolchain.files import write_whole
    from toolchain.report.page import render

    write_whole(path, render(measured, documents, made, learned, guarded))


@app.command()
def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL", help="A GGUF, TFLite or ONNX file; a model, adapter or bundle folder."
        ),
    ],
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False,
    sbom: Annotated[
        Path | None,
        typer.Option(
            "--sbom",
            metavar="JSON",
            help="Write a bundle's bill of materials (CycloneDX 1.6): files, sources, terms.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what is inside a model file or folder, in one screen, from its headers alone."""
    from toolchain.line import formats
    from toolchain.quantize import folders

    if sbom:
        from toolchain.sbom import write_sbom

        write_sbom(path, sbom)
    if path.is_dir():
        show.folder(folders.describe(path), as_json=as_json)
        if as_json or not (file := folders.model_file(path)):
            return
        console.show_text("")
        path = file
    show.contents(formats.of_file(path).inspect(path), tensors=tensors, as_json=as_json)


@app.command()
def fit(
    model: Annotated[
        Path,
        typer.Argument(
            metavar="MODEL", help="A GGUF, TFLite or ONNX file, a bundle folder, or a model folder."
        ),
    ],
    target_id: Annotated[str, typer.Option("--target", help="The board, see `demitasse targets`.")],
    context: Annotated[
        int,
        typer.Option(
            "--context", help="Tokens of prompt and answer; 0: as the bundle says.", min=0
        ),
    ] = 0,
    threads: Annotated[
        int, typer.Option("--threads", help="Threads of the speeds; 0: the fastest known.", min=0)
    ] = 0,
    scheme: Annotated[
        str, typer.Option("--scheme", help="As which a model folder is weighed.")
    ] = "Q4_K_M",
    memory: Annotated[
        int,
        typer.Option(
            "--memory",
            metavar="MB",
            help="Memory of the board, or of its graphics card; 0: as its target says.",
            min=0,
        ),
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Say whether a model fits on a board, what it takes there and how fast it will be."""
    from toolchain.fitting import memory_here_mb, weigh

    board, weighed = target.find(target_id), weigh(model, scheme)
    here_mb = 0 if memory else memory_here_mb(board)
    expected = weighed.forecast(board, context or weighed.usual_context, threads)
    needs = replace(expected.needs, context=context) if context else expected.needs
    fits = target.fit(
        needs, board, memory or here_mb or None, trained_context=weighed.trained_context
    )
    owner = "this computer's card" if board.has_card else "this computer"
    where = f"{board.name}: {owner} has {here_mb} MB" if here_mb else board.name
    show.fitted(weighed.what, expected, fits, board, where=where, as_json=as_json)
    raise typer.Exit(0 if fits.ok else FitError.exit_code)


@app.command()
def targets(
    target_id: Annotated[str, typer.Argument(metavar="[ID]", help="One target in full.")] = "",
    as_json: AsJson = False,
) -> None:
    """List the boards that are known and who proved them, or show one with each fact's source."""
    from toolchain.proving.kept import all_proofs

    proofs = all_proofs()
    if target_id:
        show.one_target(target.find(target_id), proofs, as_json=as_json)
    else:
        show.all_targets(target.all_targets(), proofs, as_json=as_json)
