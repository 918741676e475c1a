"""Writes a new recipe: what was asked is checked, a base chosen, the file written and checked.

Nothing that exists is ever written over, and nothing is left behind where something is wrong.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from toolchain import ingest, shipped
from toolchain.artifacts import Dataset
from toolchain.checks import Ahead, Findings
from toolchain.checks import data as data_checks
from toolchain.errors import ConfigError, all_of
from toolchain.line.stages import STAGES
from toolchain.line.walk import open_recipe
from toolchain.new import asked as words
from toolchain.new.asked import Asked
from toolchain.new.choice import Wish, choose
from toolchain.new.text import Content, written
from toolchain.recipe import CleanSpec, DataSpec, Recipe, RedactSpec
from toolchain.target import Target

EXAMPLES = "help-desk/faq.jsonl"
"""File of the shipped recipes that examples are taken from."""
EXAMPLE_ROWS = 24
SHARES = (0.1, 0.25, 0.5)
"""Shares of the entries that are held out: the first that holds out any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A recipe that was written."""

    file: Path
    example: Path | None
    """File with example entries, where the person has none yet."""
    is_here: bool
    """Whether the board is this computer."""
    content: Content


def make(asked: Asked) -> Made:
    """Write the recipe that was asked for into the current folder.

    Raise ConfigError for what was asked wrongly, FitError if no base fits the board, ArtifactError
    for data that cannot be learned from.
    """
    file = words.recipe_file(asked.name)
    documents = _documents(asked)
    own = Path(f"{file.stem}.jsonl")
    data = _conversations(asked)
    if not data and (gate_asks() or not documents):
        data = own.name
    example = own if data == own.name and not own.exists() else None
    trains = not asked.answers_only and bool(asked.data or not documents)

    with _new_files() as write:
        if example:
            write(example, _examples())
        content = _content(asked, file.stem, Sources(data=data, trains=trains, documents=documents))
        write(file, written(content))
        _check(file, content.board)
    here = words.this_computer()
    is_here = here is not None and here.id == content.board.id
    return Made(file=file, example=example, is_here=is_here, content=content)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What a recipe is made of, besides the base."""

    data: str
    """File of questions and answers; empty if there is none."""
    trains: bool
    """Whether the base learns them; otherwise the gate alone asks them."""
    documents: tuple[str, ...]


def _content(asked: Asked, name: str, sources: Sources) -> Content:
    """Return what the recipe says, with a base that fits."""
    data, documents = sources.data, sources.documents
    board = words.board_of(asked.board)
    languages = words.languages_of(asked.language)
    wish = Wish(board=board, languages=languages, base=asked.base, has_documents=bool(documents))
    return Content(
        name=name,
        board=board,
        choice=choose(wish),
        languages=languages,
        stages=_stages(sources),
        data=words.path_of(data).as_posix() if data else "",
        hold_out=hold_out_of(data) if data else "",
        knowledge=documents,
        named=asked.base,
        quotes=asked.answers_only,
    )


def _conversations(asked: Asked) -> str:
    """Return the file of conversations; a table that is only searched is none."""
    is_table = asked.answers_only and not asked.data.lower().endswith(".jsonl")
    return "" if is_table else asked.data


def _documents(asked: Asked) -> tuple[str, ...]:
    """Return the files and folders that the board looks questions up in."""
    named = {"--docs": asked.docs, "--data": asked.data if asked.answers_only else ""}
    found = tuple(words.documents_in(text, option) for option, text in named.items() if text)
    if asked.answers_only and not found:
        raise ConfigError(
            "--answers-only: without documents there is nothing to answer from",
            hint="--docs FOLDER names them, --data FILE questions and answers",
        )
    if found and not knows():
        raise ConfigError(
            "--docs: this version cannot answer from documents yet",
            hint="--data FILE teaches a model questions and answers",
        )
    return found


def knows() -> bool:
    """Say whether recipes have knowledge and a stage that makes it."""
    return "knowledge" in Recipe.model_fields and "know" in STAGES


def gate_asks() -> bool:
    """Say whether the gate needs questions of a data set, also where nothing is trained."""
    return any(Dataset in STAGES[stage].needs for stage in ("evaluate", "package"))


def _stages(sources: Sources) -> tuple[str, ...]:
    chosen = {
        "ingest": bool(sources.data),
        "tune": sources.trains,
        "know": bool(sources.documents),
    }
    first = (stage for stage, is_chosen in chosen.items() if is_chosen)
    return (*first, "quantize", "evaluate", "package")


def _examples() -> str:
    """Return entries to begin with, spread over the subjects of the shipped ones."""
    lines = (shipped.folder() / EXAMPLES).read_text(encoding="utf-8").splitlines()
    step = max(1, len(lines) // EXAMPLE_ROWS)
    return "\n".join(lines[::step][:EXAMPLE_ROWS]) + "\n"


def hold_out_of(data: str) -> str:
    """Return the key that says what is held out, by what the entries have.

    Raise ArtifactError for lines that are no entries.
    """
    name = words.path_of(data).as_posix()
    # Only the split is asked for: `run` looks at the text itself.
    off = {"clean": CleanSpec(mode="off"), "redact": RedactSpec(mode="off")}
    whole = DataSpec(files=(name,), hold_out="phrasing").model_copy(update=off)
    read = ingest.look(whole, Path(), seed=0).read
    if read.errors:
        raise all_of(read.errors)
    several = sum(len(entry.phrasings) > 1 for entry in read.entries)
    if several and several * 2 >= len(read.entries):
        return 'hold_out = "phrasing"'
    for share in SHARES:
        spec = DataSpec(files=(name,), held_out_share=share).model_copy(update=off)
        if ingest.look(spec, Path(), seed=0).held_out:
            break
    return "" if share == SHARES[0] else f"held_out_share = {share}"


@contextmanager
def _new_files() -> Iterator[Callable[[Path, str], None]]:
    """Yield a function that writes files that are not there yet; take them back on an error."""
    made: list[Path] = []

    def write(file: Path, text: str) -> None:
        """Write a new file; raise ConfigError if there is one of that name."""
        try:
            with file.open("x", encoding="utf-8") as stream:
                made.append(file)
                stream.write(text)
        except FileExistsError:
            words.refuse_existing(file)
            raise
        except OSError as error:
            raise ConfigError(f"{file}: cannot be written: {error.strerror or error}") from error

    try:
        yield write
    except BaseException:
        for file in made:
            file.unlink(missing_ok=True)
        raise


def _check(file: Path, board: Target) -> None:
    """Read a recipe as `run` does; raise what is wrong with it and with its data."""
    recipe = open_recipe(file)
    findings = Findings()
    ahead = Ahead(
        recipe=recipe, target=board, stages=recipe.stages, formats=(), files=(), out=Path()
    )
    data_checks.look(ahead, findings)
    findings.end_walk()
