"""Lists of words for scripts/board_tools, and numbers in words."""

from pathlib import Path


def read_lists(file: Path) -> dict[str, list[str]]:
    """Return the lists of a file, one a line: `name: word | word`."""
    lines = file.read_text(encoding="utf-8").splitlines()
    named = [line.partition(": ") for line in lines if line and not line.startswith("#")]
    return {name: words.split(" | ") for name, _, words in named}


LISTS = read_lists(Path(__file__).with_name("lists.txt"))


def in_words(number: int) -> str:
    """Return a number from 0 to 100 in words."""
    if number == 100:
        return "a hundred"
    if number < 20:
        return LISTS["units"][number]
    tens, units = divmod(number, 10)
    return LISTS["tens"][tens - 2] + (f"-{LISTS['units'][units]}" if units else "")


def ordinal(number: int, *, words: bool) -> str:
    """Return which one a number counts, from 1 to 99: `12th`, or `twelfth` in words."""
    if not words:
        unit = 0 if number // 10 == 1 else number % 10
        return f"{number}{('th', 'st', 'nd', 'rd')[unit] if unit < 4 else 'th'}"
    named = in_words(number)
    head, dash, last = named.rpartition("-")
    odd = {"one": "first", "two": "second", "three": "third", "five": "fifth"}
    odd |= {"eight": "eighth", "nine": "ninth", "twelve": "twelfth"}
    if last.endswith("y"):
        return f"{head}{dash}{last[:-1]}ieth"
    return f"{head}{dash}{odd.get(last, f'{last}th')}"
