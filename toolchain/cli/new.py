"""Verb that writes a new recipe: asks what was not said, and says what it chose and why."""

import shlex
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolchain import console
from toolchain.cli.words import AsJson, app
from toolchain.errors import ToolchainError

if TYPE_CHECKING:
    from toolchain.new.asked import Asked
    from toolchain.new.make import Made


@app.command()
def new(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Of the recipe: NAME.toml is written here.")
    ],
    docs: Annotated[
        str,
        typer.Option("--docs", metavar="FOLDER", help="Documents that it answers questions from."),
    ] = "",
    data: Annotated[
        str, typer.Option("--data", metavar="FILE", help="Questions and answers that it learns.")
    ] = "",
    board: Annotated[
        str,
        typer.Option("--board", metavar="TARGET", help="Kind of board; by default this computer."),
    ] = "",
    language: Annotated[
        str, typer.Option("--language", help="Codes, commas between; by default en.")
    ] = "",
    answers_only: Annotated[
        bool, typer.Option("--answers-only", help="Train nothing: answer by quoting the documents.")
    ] = False,
    base: Annotated[
        str, typer.Option("--base", metavar="ID", help="The base model; by default one that fits.")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing: defaults decide.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write a short recipe for your board and your documents, with a base model that fits."""
    from toolchain.new.asked import Asked, recipe_file
    from toolchain.new.make import make
    from toolchain.new.reasons import notes

    asked = Asked(
        name=name,
        docs=docs,
        data=data,
        board=board,
        language=language,
        answers_only=answers_only,
        base=base,
    )
    if console.is_asked_here() and not yes and not as_json:
        recipe_file(name)  # before any question is asked
        asked = _ask(asked)

    made = make(asked)
    for note in notes(made.content):
        console.show_note(f"note: {note}")
    if as_json:
        console.show_json(_as_json(made))
    else:
        _show(made)


def _ask(asked: "Asked") -> "Asked":
    """Return what was asked for, with a person's answers to what the command left open."""
    from toolchain.new import asked as words
    from toolchain.new.make import hold_out_of, knows

    if not asked.board:
        usual = words.usual_board().id
        board = _answer("board (`demitasse targets` lists them)", usual, words.board_of)
        asked = replace(asked, board=board)
    if knows() and not asked.docs:
        docs = _answer("folder with your documents (empty: none)", "", words.documents_in)
        asked = replace(asked, docs=docs)
    if not (asked.docs or asked.data):
        data = _answer(
            "file with questions and answers (empty: examples are written)", "", hold_out_of
        )
        asked = replace(asked, data=data)
    if not asked.language:
        asked = replace(asked, language=_answer("languages", "en", words.languages_of))
    return asked


def _answer(question: str, default: str, check: Callable[[str], Any]) -> str:
    """Return an answer that passes a check; what does not is said, and asked again."""
    while True:
        answer = console.ask(question, default)
        if not answer:
            return answer
        try:
            check(answer)
        except ToolchainError as error:
            console.show_error(error)
        else:
            return answer


def _show(made: "Made") -> None:
    from toolchain.new.reasons import reasons

    if made.example:
        console.show_text(f"wrote {made.example}: example questions, to be replaced by your own")
    console.show_text(f"wrote {made.file}\n")
    for line in reasons(made.content):
        console.show_text(line)
    console.show_text(f"\nnext: {_next(made)}")


def _next(made: "Made") -> str:
    where = "local" if made.is_here else "USER@BOARD"
    return f"demitasse run {shlex.quote(str(made.file))} --to {where}"


def _as_json(made: "Made") -> dict[str, Any]:
    from toolchain.new.reasons import notes, reasons

    content, choice = made.content, made.content.choice
    return {
        "recipe": str(made.file),
        "example": str(made.example) if made.example else None,
        "target": content.board.id,
        "base": choice.base.hub,
        "licence": choice.base.licence,
        "scheme": choice.scheme,
        "context": choice.context,
        "decode_tok_s": round(choice.tok_s, 2),
        "decode_is_measured": choice.is_measured,
        "needed_mb": choice.fit.needed_mb,
        "available_mb": choice.fit.available_mb,
        "stages": list(content.stages),
        "reasons": list(reasons(content)),
        "notes": list(notes(content)),
        "next": _next(made),
    }
