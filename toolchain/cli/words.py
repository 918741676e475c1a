"""The words that verbs share: their arguments and options, and what they begin with."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from device.manifest import endpoint
from toolchain import shipped, target
from toolchain.board import open_board
from toolchain.board.device import Device
from toolchain.errors import ConfigError
from toolchain.line.walk import Settings, open_recipe
from toolchain.progress import Reporter
from toolchain.recipe import Recipe

if TYPE_CHECKING:
    from toolchain.fleet.inventory import Fleet

app = typer.Typer(
    name="demitasse",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="From a fine-tuned language model to a healthy, measured, offline service "
    "on a Raspberry Pi or Jetson.",
)

RecipeFile = Annotated[
    Path,
    typer.Argument(metavar="RECIPE", help="A recipe's file, or the name of one in `recipes`."),
]
BundleFolder = Annotated[
    Path,
    typer.Argument(metavar="BUNDLE", help="A bundle folder, such as build/starter/package."),
]
Board = Annotated[
    str,
    typer.Argument(
        metavar="BOARD",
        help="user@host[:port], an alias of ~/.ssh/config, `local`, or `virtual:TARGET`.",
    ),
]
BoardOrEndpoint = Annotated[
    str,
    typer.Argument(
        metavar="BOARD|URL",
        help="A board, as for every verb; or an endpoint with OpenAI's API, such as "
        "http://127.0.0.1:8080.",
    ),
]
MaybeBoardOrEndpoint = Annotated[
    str,
    typer.Argument(
        metavar="[BOARD|URL]",
        help="A board or an endpoint with OpenAI's API; or --fleet instead.",
    ),
]
ModelName = Annotated[
    str,
    typer.Option(
        "--model", metavar="NAME", help="Model of an endpoint; by default the only one it has."
    ),
]
Out = Annotated[
    Path,
    typer.Option("--out", help="Folder for the artifacts; each recipe gets one of its own in it."),
]
To = Annotated[
    str, typer.Option("--to", metavar="BOARD", help="Push to this board, ask it and measure it.")
]
TargetId = Annotated[
    str, typer.Option("--target", help="Kind of board to build for; by default the recipe's first.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
Map = Annotated[
    str,
    typer.Option(
        "--map",
        metavar="OURS=THEIRS,…",
        help="Keys of the data that are called otherwise: question=frage,answer=antwort.",
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")]
Offline = Annotated[bool, typer.Option("--offline", help="Use only what is on this computer.")]
AcceptNew = Annotated[
    bool,
    typer.Option("--accept-new", help="Pin the key of a board that is seen for the first time."),
]
Sign = Annotated[
    str,
    typer.Option("--sign", metavar="KEY", help="SSH key to sign with; by default your usual one."),
]
AllowUnsigned = Annotated[
    bool,
    typer.Option(
        "--allow-unsigned", help="Run it without a signature; the board's status says so."
    ),
]
PORT = endpoint.PORT
Port = Annotated[
    int, typer.Option("--port", help="Port of the service on the board.", min=1, max=65535)
]
HostNames = Annotated[
    list[str],
    typer.Option(
        "--host-name",
        metavar="NAME",
        help="A name by which the service may be called, such as kitchen-pi.local; repeatable.",
    ),
]
CorsOrigins = Annotated[
    list[str],
    typer.Option(
        "--cors-origin",
        metavar="ORIGIN",
        help="An origin whose pages may call the service, such as http://kitchen.example:3000; "
        "repeatable.",
    ),
]
MaybeBoard = Annotated[
    str,
    typer.Argument(metavar="[BOARD]", help="A board, as for every verb; or --fleet instead."),
]
FleetName = Annotated[
    str,
    typer.Option(
        "--fleet",
        metavar="FILE",
        help="All boards of an inventory: a TOML file, `ansible:INVENTORY`, or `ssh:NAME,NAME`.",
    ),
]


def _tag(context: typer.Context, word: str) -> str:
    """Return the tag of --only; raise ConfigError for one that is empty."""
    # `--only "$TAG"` with nothing in it would be every board.
    source = context.get_parameter_source("only")
    if source and source.name != "DEFAULT" and not word.strip():
        raise ConfigError("--only: no tag is given", hint="leave it out for all boards")
    return word


Only = Annotated[
    str,
    typer.Option(
        "--only",
        metavar="TAG",
        help="Of a fleet, the boards with this tag.",
        callback=_tag,
    ),
]
Question = Annotated[
    str, typer.Argument(metavar="QUESTION", help="What to ask; `-` reads it from standard input.")
]
MaxTokens = Annotated[
    int,
    typer.Option("--max-tokens", help="Longest answer in tokens; 0: as the bundle says.", min=0),
]

OUT = Path("build")


@contextmanager
def device_at(address: str) -> Iterator[Device]:
    """Yield the board at an address."""
    with open_board(address) as connection:
        yield Device(connection)


_MAP = "--map question=frage,answer=antwort, or messages=chat; system too"


def _names(text: str) -> dict[str, str]:
    """Return our key → the data's, of `question=frage,answer=antwort`."""
    pairs = [each.partition("=") for each in text.split(",")]
    wrong = next((key for key, sign, value in pairs if not (key and sign and value)), None)
    if wrong is not None:
        raise ConfigError(f"--map: `{text[:60]}` is no list of names", hint=_MAP)
    return {key.strip(): value.strip() for key, _, value in pairs}


def settings_for(
    recipe_file: Path,
    target_id: str,
    out: Path,
    report: Reporter,
    *,
    offline: bool,
    names: str = "",
) -> tuple[Recipe, Settings]:
    """Return a recipe, and how it is walked; `names` is what --map says of its data."""
    recipe = open_recipe(shipped.find(recipe_file))
    if names:
        try:
            recipe = recipe.with_names(_names(names))
        except ValueError as error:
            raise ConfigError(f"--map: `{names[:60]}` is no list of names", hint=_MAP) from error
    board = target.find(target_id or recipe.targets[0])
    return recipe, Settings(out=out / recipe.id, target=board, report=report, offline=offline)


def open_one_of(board: str, fleet: str, only: str) -> "Fleet | None":
    """Return the fleet that is named; None for a board. Raise ConfigError for both or neither."""
    if bool(board) == bool(fleet):
        raise ConfigError(
            "give either a board or --fleet" if not board else "--fleet: a board is given as well"
        )
    if not fleet:
        refuse_given({"only": only}, "chooses boards of a fleet", "it goes with --fleet FILE")
        return None
    from toolchain.fleet.inventory import open_fleet

    return open_fleet(fleet, only)


def refuse_place(outs: Mapping[str, Path | None]) -> None:
    """Raise ConfigError for an option's place where no file can be, before minutes are spent."""
    for name, out in outs.items():
        if out and (out.is_dir() or not out.parent.is_dir()):
            raise ConfigError(
                f"--{name}: {out}: not a file in a folder that is there",
                hint=f"name a file, and make its folder first: {out.parent}",
            )


def refuse_given(options: Mapping[str, object], why: str, hint: str) -> None:
    """Raise ConfigError for the first option that was given, with why it may not be."""
    for name, value in options.items():
        if value:
            raise ConfigError(f"--{name}: {why}", hint=hint)
