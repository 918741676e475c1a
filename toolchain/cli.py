"""Verbs to stages: reads the command line, calls the pipeline or a stage, hands what came out to be shown.

The only place that knows both the user's words and the stages; everything heavy is imported inside its verb.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

import typer

from toolchain import __version__, console, recipe, show, signing, target
from toolchain.artifacts import Report
from toolchain.board import is_stand_in, open_board
from toolchain.board.device import Device
from toolchain.errors import ConfigError, FitError
from toolchain.pipeline import USUAL, Settings, Terms, deliver, plan, try_schemes, walk
from toolchain.progress import Reporter

app = typer.Typer(
    name="demitasse", no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="From a fine-tuned language model to a healthy, measured, offline service on a Raspberry Pi or Jetson.",
)  # fmt: skip

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, such as recipes/starter.toml.")]
Board = Annotated[
    str, typer.Argument(metavar="BOARD", help="user@host[:port], an alias of ~/.ssh/config, `local`, or `virtual:TARGET`.")
]
Out = Annotated[Path, typer.Option("--out", help="Folder for the artifacts; each recipe gets one of its own in it.")]
To = Annotated[str, typer.Option("--to", metavar="BOARD", help="Push to this board, ask it and measure it.")]
TargetId = Annotated[str, typer.Option("--target", help="Kind of board to build for; by default the recipe's first.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")]
Offline = Annotated[bool, typer.Option("--offline", help="Use only what is on this computer.")]
AcceptNew = Annotated[bool, typer.Option("--accept-new", help="Pin the key of a board that is seen for the first time.")]
Sign = Annotated[str, typer.Option("--sign", metavar="KEY", help="SSH key to sign with; by default your usual one.")]
AllowUnsigned = Annotated[bool, typer.Option("--allow-unsigned", help="Run it without a signature; the board's status says so.")]
Port = Annotated[int, typer.Option("--port", help="Port of the service on the board.", min=1, max=65535)]
Question = Annotated[str, typer.Argument(metavar="QUESTION", help="What to ask; `-` reads it from standard input.")]
MaxTokens = Annotated[int, typer.Option("--max-tokens", help="Longest answer in tokens; 0: as the bundle says.", min=0)]

OUT = Path("build")
PORT = 8080


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        console.show_text(f"demitasse {__version__}")
        raise typer.Exit


@app.command()
def run(
    recipe_file: RecipeFile, to: To = "", target_id: TargetId = "", out: Out = OUT, port: Port = PORT,
    dry_run: DryRun = False, offline: Offline = False, accept_new: AcceptNew = False, sign: Sign = "",
    allow_unsigned: AllowUnsigned = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Run a recipe from its first stage to its last; with --to, on to a measured service that answers on the board."""
    with console.terminal() as report:
        wanted, settings = _settings(recipe_file, target_id, out, report, offline=offline)
        if dry_run:
            show.plan(wanted, plan(wanted, settings), to=to, as_json=as_json)
            return
        steps = list(walk(wanted, settings))
        terms = Terms(port=port, accept_new=accept_new, sign=sign, allow_unsigned=allow_unsigned)
        delivery = deliver(wanted, steps, to, report, terms) if to else None
    show.walked(wanted, steps, delivery, as_json=as_json)


def _stage_verb(stage: str, help_text: str) -> None:
    def verb(
        recipe_file: RecipeFile, target_id: TargetId = "", out: Out = OUT, dry_run: DryRun = False, offline: Offline = False,
        as_json: AsJson = False,
    ) -> None:  # fmt: skip
        with console.terminal() as report:
            wanted, settings = _settings(recipe_file, target_id, out, report, offline=offline)
            if dry_run:
                show.plan(wanted, plan(wanted, settings, until=stage), as_json=as_json)
                return
            steps = list(walk(wanted, settings, until=stage))
        show.walked(wanted, steps, None, as_json=as_json)

    app.command(name=stage, help=help_text)(verb)


for _name, _help in (
    ("ingest", "Run a recipe's first stage: read the data, split it, say what was dropped and why."),
    ("tune", "Run a recipe up to its fine-tuned checkpoint (LoRA, merged)."),
    ("distill", "Run a recipe up to its distilled student."),
    ("trim", "Run a recipe up to its checkpoint with the vocabulary of its subject alone."),
    ("quantize", "Run a recipe up to its quantized model file."),
    ("evaluate", "Run a recipe up to the gate: measure the model file and say whether it may ship."),
    ("package", "Run a recipe up to the bundle that travels to boards."),
):
    _stage_verb(_name, _help)


@app.command()
def push(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle folder, such as build/starter/package.")],
    board: Board, port: Port = PORT, dry_run: DryRun = False, accept_new: AcceptNew = False, sign: Sign = "",
    allow_unsigned: AllowUnsigned = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Put a bundle on a board: look, plan, send what is missing, check it there, switch; go back if it is not healthy."""
    from toolchain.pipeline import push_bundle

    with console.terminal() as report:
        terms = Terms(port=port, accept_new=accept_new, sign=sign, allow_unsigned=allow_unsigned)
        deployment = push_bundle(bundle, board, report, terms, dry_run=dry_run)
    show.deployed(deployment, as_json=as_json)


@app.command(name="sign")
def sign_verb(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="A bundle folder, such as build/starter/package.")],
    sign: Sign = "",
) -> None:
    """Sign a bundle with an SSH key, so that it can be pushed from a computer without that key."""
    from toolchain.pipeline import sign_bundle

    with console.terminal() as report:
        key = sign_bundle(bundle, sign, report)
    console.show_text(f"{bundle} is signed by {key.fingerprint}")


@app.command()
def ask(board: Board, question: Question, max_tokens: MaxTokens = 0, as_json: AsJson = False) -> None:
    """Ask the model on a board one question and print its answer as it comes."""
    from toolchain.talk import ask as ask_board

    text = console.read_input() if question == "-" else question
    with _device(board) as device:
        if as_json:
            console.show_json(ask_board(device, text, max_tokens=max_tokens))
            return
        ask_board(device, text, max_tokens=max_tokens, say=lambda piece: console.show_text(piece, end=""))
    console.show_text("")


@app.command()
def chat(board: Board, max_tokens: MaxTokens = 0) -> None:
    """Talk with the model on a board; an empty line or Ctrl-D ends it."""
    from toolchain.talk import Conversation

    with _device(board) as device:
        conversation = Conversation(device, max_tokens=max_tokens)
        while question := console.read_line("you: "):
            console.show_text("board: ", end="")
            conversation.say(question, lambda piece: console.show_text(piece, end=""))
            console.show_text("")


@app.command()
def bench(
    board: Board, pp: Annotated[int, typer.Option(help="Prompt tokens.", min=1)] = 512,
    tg: Annotated[int, typer.Option(help="Generated tokens.", min=1)] = 128,
    repeat: Annotated[int, typer.Option(help="Repetitions of each test.", min=1)] = 5,
    sustained: Annotated[float, typer.Option(help="Then answer on for so many seconds: what heat does.", min=0)] = 0.0,
    output: Annotated[Literal["md", "csv", "json", "jsonl"], typer.Option("-o", "--output", help="Form of the rows.")] = "md",
    page: Annotated[Path | None, typer.Option("--report", metavar="HTML", help="Write the report as one page.")] = None,
    save: Annotated[Path | None, typer.Option("--save", metavar="JSON", help="Keep the report, to compare it later.")] = None,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Measure a board's current release as llama-bench does, and what llama-bench leaves out."""
    from toolchain import report as reports
    from toolchain.bench import bench as measure

    with console.terminal() as report, _device(board) as device:
        report.note(f"{board}: pp{pp} and tg{tg}, {repeat} times each")
        measured = measure(device, pp=pp, tg=tg, repeat=repeat, sustained_s=sustained)
    if save:
        reports.save(measured, save)
    if page:
        _write_page([measured], page)
    show.bench(measured, output, as_json=as_json)


@app.command()
def calibrate(
    board: Board, budget: Annotated[float, typer.Option(help="Seconds that the search may take.", min=1)] = 60.0,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Find the threads, cores and batches with which a board runs its release fastest, and run it so."""
    with console.terminal() as report, _device(board) as device:
        report.note(f"{board}: the service pauses for about {budget:g} s")
        found = device.call("calibrate", "--budget", str(budget), timeout_s=4 * budget + 1800)
    show.calibrated(board, found, as_json=as_json)


@app.command(name="report")
def make_report(
    saved: Annotated[list[Path], typer.Argument(metavar="FILES…", help="Reports that `bench --save` kept.")],
    out: Annotated[Path, typer.Option("--out", metavar="HTML", help="The page to write.")] = Path("report.html"),
) -> None:
    """Show kept reports side by side as one page: quality against speed, heat over time, where the time goes."""
    from toolchain import report as reports

    _write_page([reports.read(file) for file in saved], out)
    console.show_text(f"{out}")


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="A", help="A kept report, or what llama-bench printed as JSON.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another one.")], as_json: AsJson = False,
) -> None:  # fmt: skip
    """Say how much faster B is than A, with the interval in which that ratio lies."""
    from toolchain import report as reports

    show.compared(reports.compare(reports.read(first), reports.read(second)), first.name, second.name, as_json=as_json)


def _write_page(measured: list[Report], path: Path) -> None:
    from toolchain.artifacts import write_whole
    from toolchain.report.page import render

    write_whole(path, render(measured))


@app.command()
def status(board: Board, as_json: AsJson = False) -> None:
    """Say what a board serves, since when, and what it would go back to."""
    with _device(board) as device:
        show.status(board, device.call("status"), as_json=as_json)


@app.command()
def rollback(board: Board, as_json: AsJson = False) -> None:
    """Take a board back to the release before the current one."""
    with _device(board) as device:
        show.status(board, device.call("rollback", timeout_s=600), as_json=as_json)


@app.command()
def logs(
    board: Board, lines: Annotated[int, typer.Option("-n", "--lines", help="Last lines.", min=0, max=10_000)] = 50,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with those that come, until Ctrl-C.")] = False,
) -> None:  # fmt: skip
    """Print the last lines that the service on a board wrote."""
    with _device(board) as device, device.talk("logs", "-n", str(lines), *(["--follow"] if follow else [])) as channel:
        for said in device.events(channel):
            if "line" in said:
                console.show_text(said["line"])


@app.command()
def scrub(board: Board, as_json: AsJson = False) -> None:
    """Have a board read every byte of its store again; what has rotted is named and taken out of use."""
    with _device(board) as device:
        seen = device.call("scrub", timeout_s=3600)
    show.status(board, seen, as_json=as_json)
    raise typer.Exit(4 if seen["rotten"] else 0)


@app.command()
def stop(board: Board, as_json: AsJson = False) -> None:
    """Stop the service on a board; the releases stay."""
    with _device(board) as device:
        show.status(board, device.call("stop"), as_json=as_json)


@app.command()
def doctor(
    board: Annotated[str, typer.Argument(metavar="[BOARD]", help="A board to look at as well.")] = "", as_json: AsJson = False
) -> None:
    """Look for what is wrong on this computer, and on a board, and say how to mend it."""
    from toolchain.doctor import board_findings, host_findings

    findings = host_findings()
    if board:
        with _device(board) as device:
            findings += board_findings(device.facts())
    show.findings(findings, as_json=as_json)
    raise typer.Exit(1 if any(finding.state == "problem" for finding in findings) else 0)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A GGUF or TFLite file.")],
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor.")] = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Say what is inside a GGUF or TFLite file, in one screen, from its header alone."""
    from toolchain.quantize import contents, tflite_contents

    read = tflite_contents.read_contents if file.suffix == ".tflite" else contents.read_contents
    show.contents(read(file), tensors=tensors, as_json=as_json)


@app.command()
def fit(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A GGUF file, or a bundle folder.")],
    target_id: Annotated[str, typer.Option("--target", help="The board, see `demitasse targets`.")],
    context: Annotated[int, typer.Option("--context", help="Tokens of prompt and answer; 0: as the bundle says.", min=0)] = 0,
    threads: Annotated[int, typer.Option("--threads", help="Threads of the speeds; 0: the fastest known.", min=0)] = 0,
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Say whether a model fits on a board that you need not own, what it takes there and how fast it will be."""
    from toolchain.forecast import forecast, read_model

    board, (header, usual) = target.find(target_id), read_model(model)
    expected = forecast(header, board, context or usual, threads)
    found = target.fit(expected.needs, board)
    show.fitted(model.name, expected, found, board, as_json=as_json)
    raise typer.Exit(0 if found.ok else FitError.exit_code)


@app.command()
def schemes(
    recipe_file: RecipeFile,
    names: Annotated[str, typer.Option("--schemes", help="Commas between; `Q4_0+learned` and `auto:4.5bpw` too.")] = "",
    target_id: TargetId = "", out: Out = OUT, offline: Offline = False, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Measure what each scheme makes of a recipe's model: bytes, KL to the teacher, task score."""
    with console.terminal() as report:
        wanted, settings = _settings(recipe_file, target_id, out, report, offline=offline)
        found = list(try_schemes(wanted, settings, names.split(",") if names else USUAL))
    show.schemes(found, as_json=as_json)


@app.command()
def targets(
    target_id: Annotated[str, typer.Argument(metavar="[ID]", help="One target in full.")] = "", as_json: AsJson = False
) -> None:
    """List the boards that are known, or show one with the source of each fact."""
    if target_id:
        show.one_target(target.find(target_id), as_json=as_json)
    else:
        show.all_targets(target.all_targets(), as_json=as_json)


@app.command()
def trust(
    board: Board, yes: Annotated[bool, typer.Option("--yes", help="Pin without asking.")] = False, sign: Sign = "",
    signer: Annotated[str, typer.Option("--signer", metavar="PUB", help="Another's public key that may sign.")] = "",
    names: Annotated[str, typer.Option("--names", metavar="PATTERNS", help="The models that this key may sign.")] = "*",
    revoke: Annotated[str, typer.Option("--revoke", metavar="PUB", help="A public key that may never sign again.")] = "",
    target_id: Annotated[str, typer.Option("--target", help="The only target that bundles may be made for; `any` for all.")] = "",
    as_json: AsJson = False,
) -> None:  # fmt: skip
    """Pin a new board's host key in known_hosts, and on the board the key that signs what may run there."""
    if not is_stand_in(board):
        _pin_host_key(board, yes=yes)
    elif not (sign or signer or revoke or target_id):
        console.show_text(f"{board} needs no trust: this computer made its host key, and knows no other for it")
        return
    changes = ["--target", target_id] if target_id else []
    changes += ["--revoke", signing.public_key(Path(revoke))] if revoke else []
    if signer or not changes:
        public = signing.public_key(Path(signer)) if signer else signing.find_key(sign).public
        changes += ["--signer", public, "--names", names]
    with _device(board) as device:
        show.status(board, device.call("trust", *changes), as_json=as_json)


def _pin_host_key(board: str, *, yes: bool) -> None:
    from toolchain.board import ssh

    key = ssh.fetch_host_key(board)
    if ssh.is_pinned(board, key):
        return
    console.show_text(f"{board} shows {key.get_name()} {key.fingerprint}")
    if not yes and not console.confirm("pin this key?"):
        raise ConfigError(
            f"{board}: not pinned", hint="compare the fingerprint on the board: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub"
        )
    ssh.pin(board, key)
    console.show_text(f"{board} is trusted")


@contextmanager
def _device(address: str) -> Iterator[Device]:
    with open_board(address) as connection:
        yield Device(connection)


boards = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Virtual boards: try a deployment without owning the board.")
app.add_typer(boards, name="board")
Name = Annotated[str, typer.Argument(metavar="TARGET", help="A target's id, such as rpi-4b-2gb; `:13` behind it for Debian 13.")]


@boards.command(name="up")
def board_up(name: Name, port: Annotated[int, typer.Option(help="Loopback port of its SSH server; 0: a free one.")] = 0) -> None:
    """Start a virtual board: seconds from its snapshot, minutes the first time."""
    from toolchain.board import virtual

    began = time.monotonic()
    with console.terminal() as report:
        started = virtual.up(name, report, port=port)
    seconds = time.monotonic() - began
    console.show_text(f"{started.address} is up after {seconds:.1f} s, its SSH server on port {started.port}")


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
    name: Name, command: Annotated[list[str] | None, typer.Argument(metavar="[COMMAND]", help="What to run there.")] = None
) -> None:
    """Log in to a virtual board that is up, or run a command there (behind `--` if it has options of its own)."""
    from toolchain.board import virtual

    argv = virtual.ssh_command(name, command or [])
    os.execv(argv[0], argv)  # noqa: S606


@boards.command(name="power-cut")
def board_power_cut(name: Name) -> None:
    """Pull the plug of a virtual board: what it had not put on its disk is lost."""
    from toolchain.board import virtual

    virtual.power_cut(name)


runtimes = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="What boards run: built here, never there.")
app.add_typer(runtimes, name="runtime")


@runtimes.command(name="build")
def runtime_build(
    target_id: Annotated[str, typer.Argument(metavar="TARGET", help="A target's id, such as rpi-4b.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder that gets llama-cpp-python for this target as a wheel.")] = None,
    with_bench: Annotated[bool, typer.Option("--bench", help="And llama-bench, in one file that needs glibc alone.")] = False,
    cuda: Annotated[bool, typer.Option("--cuda", help="For a Jetson's GPU, compiled on the board that --on names.")] = False,
    on: Annotated[str, typer.Option("--on", metavar="BOARD", help="A Jetson of that kind.")] = "", as_json: AsJson = False,
) -> None:  # fmt: skip
    """Build what a kind of board runs, ahead of the first push; minutes for the first, half a minute for a next kind."""
    from toolchain.runtime.build import build, build_cuda

    wanted = target.find(target_id)
    if cuda != bool(on):
        raise ConfigError("--cuda and --on BOARD go together: CUDA is compiled on a Jetson, all else here")
    with console.terminal() as report:
        if cuda:
            with _device(on) as device:
                built = build_cuda(wanted, device, report)
        else:
            built = build(wanted, report, out=out, with_bench=with_bench)
    show.runtime(built, as_json=as_json)


def _settings(recipe_file: Path, target_id: str, out: Path, report: Reporter, *, offline: bool) -> tuple[recipe.Recipe, Settings]:
    wanted = recipe.load(recipe_file)
    chosen = target.find(target_id or wanted.targets[0])
    return wanted, Settings(out=out / wanted.id, target=chosen, report=report, offline=offline)
