"""Draws the recipe's pictures: small circuit boards with LEDs and a jumper, and what is asked.

python draw.py [FOLDER] writes boards.jsonl beside this file: {"image", "question", "answer"} a
line, each picture a PNG of 64 × 64 pixels as a `data:` URL. The same seed gives the same pictures.
With a folder it writes eight others there as files, to ask a board about.
"""

import base64
import json
import random
import struct
import sys
import zlib
from pathlib import Path

SIDE, ROWS, SEED = 64, 2400, 7
LIT = {
    "red": (235, 40, 40),
    "green": (60, 235, 80),
    "yellow": (245, 215, 50),
    "blue": (60, 110, 250),
}
WORDS = ("no", "one", "two", "three")
Picture = list[list[tuple[int, int, int]]]


def main() -> None:
    """Write the rows, or some pictures that are in none."""
    if sys.argv[1:]:
        folder = Path(sys.argv[1])
        folder.mkdir(parents=True, exist_ok=True)
        for number, row in enumerate(drawn(8, SEED + 1)):
            image = base64.b64decode(row["image"].partition(",")[2])
            (folder / f"board-{number}.png").write_bytes(image)
        return
    lines = (json.dumps(row) + "\n" for row in drawn(ROWS, SEED))
    Path(__file__).with_name("boards.jsonl").write_text("".join(lines), encoding="utf-8")


def drawn(count: int, seed: int) -> list[dict[str, str]]:
    """Return so many rows."""
    dice = random.Random(seed)  # noqa: S311 - pictures, not secrets
    kinds = (_is_it_on, _which_colour, _how_many, _where_is_the_jumper)
    return [kinds[number % len(kinds)](dice) for number in range(count)]


def _is_it_on(dice: random.Random) -> dict[str, str]:
    board, colour, lit = _board(dice), dice.choice(sorted(LIT)), dice.random() < 0.5
    _led(board, dice, *_places(dice, 1)[0], colour, lit=lit)
    _header(board, dice, dice.randrange(3))
    asked = dice.choice(("is the LED on?", "does the LED light up?", "is the light on?"))
    return _row(board, asked, "yes, it is on" if lit else "no, it is off")


def _which_colour(dice: random.Random) -> dict[str, str]:
    board, colour = _board(dice), dice.choice(sorted(LIT))
    _led(board, dice, *_places(dice, 1)[0], colour, lit=True)
    _header(board, dice, dice.randrange(3))
    asked = dice.choice(("which colour is the LED?", "what colour is the light?"))
    return _row(board, asked, f"it is {colour}")


def _how_many(dice: random.Random) -> dict[str, str]:
    board, count = _board(dice), dice.randrange(4)
    for number, place in enumerate(_places(dice, 3)):
        _led(board, dice, *place, dice.choice(sorted(LIT)), lit=number < count)
    _header(board, dice, dice.randrange(3))
    asked = dice.choice(("how many LEDs are on?", "how many lights are on?"))
    return _row(board, asked, f"{WORDS[count]} LED{'' if count == 1 else 's'}")


def _where_is_the_jumper(dice: random.Random) -> dict[str, str]:
    board, jumper = _board(dice), dice.randrange(3)
    _led(board, dice, *_places(dice, 1)[0], dice.choice(sorted(LIT)), lit=dice.random() < 0.5)
    _header(board, dice, jumper)
    asked = dice.choice(("where is the jumper?", "which pins has the jumper?"))
    answers = ("there is no jumper", "on pins 1 and 2", "on pins 2 and 3")
    return _row(board, asked, answers[jumper])


def _board(dice: random.Random) -> Picture:
    """Return a bare board, of a green of its own, with traces."""
    green = (dice.randrange(10, 40), dice.randrange(80, 120), dice.randrange(40, 70))
    board = [[green] * SIDE for _ in range(SIDE)]
    for _ in range(2):
        row, shade = dice.randrange(SIDE), dice.randrange(-12, 12)
        for across in range(SIDE):
            board[row][across] = tuple(max(0, each + shade) for each in green)  # type: ignore
    return board


def _places(dice: random.Random, count: int) -> list[tuple[int, int]]:
    """Return the middles of LEDs, which do not touch."""
    columns = [11, 31, 51]
    dice.shuffle(columns)
    return [(each + dice.randrange(-1, 2), 16 + dice.randrange(-1, 2)) for each in columns[:count]]


def _led(
    board: Picture, dice: random.Random, across: int, down: int, colour: str, *, lit: bool
) -> None:
    """Draw an LED; one that is off is grey, with a hint of its colour."""
    full = LIT[colour]
    ink = full if lit else tuple(50 + each // 8 for each in full)
    radius = dice.randrange(5, 7)
    for y in range(max(0, down - radius), min(SIDE, down + radius + 1)):
        for x in range(max(0, across - radius), min(SIDE, across + radius + 1)):
            if (x - across) ** 2 + (y - down) ** 2 <= radius**2:
                board[y][x] = ink  # type: ignore[assignment]


def _header(board: Picture, dice: random.Random, jumper: int) -> None:
    """Draw a header of three pins; the jumper is on none (0), pins 1 and 2 (1), or 2 and 3 (2)."""
    left, top = 16 + dice.randrange(-1, 2), 44 + dice.randrange(-1, 2)
    _fill(board, left, top, 30, 10, (20, 20, 24))
    for pin in range(3):
        _fill(board, left + 2 + 10 * pin, top + 2, 6, 6, (214, 180, 70))
    if jumper:
        _fill(board, left + 1 + 10 * (jumper - 1), top + 1, 18, 8, (240, 240, 245))


def _fill(
    board: Picture, left: int, top: int, width: int, height: int, ink: tuple[int, int, int]
) -> None:
    for y in range(top, min(SIDE, top + height)):
        for x in range(left, min(SIDE, left + width)):
            board[y][x] = ink


def _row(board: Picture, question: str, answer: str) -> dict[str, str]:
    image = "data:image/png;base64," + base64.b64encode(_png(board)).decode()
    return {"image": image, "question": question, "answer": answer}


def _png(board: Picture) -> bytes:
    """Return a PNG of 8-bit RGB (PNG specification, 5 and 11)."""
    rows = b"".join(b"\0" + bytes(each for pixel in row for each in pixel) for row in board)
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(rows, 9)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )


if __name__ == "__main__":
    main()
