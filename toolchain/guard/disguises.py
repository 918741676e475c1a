"""Ways to write a text so that a filter does not know it again; people and models still read it.

The guard is measured with them: what it catches of disguised wishes must be near to what it catches
of plain ones.
"""

import base64
from collections.abc import Callable, Mapping

_CYRILLIC = str.maketrans("aceopxyi", "асеорхуі")
_LEET = str.maketrans("oieast", "013457")
_ZERO_WIDTH = "\u200b\u2060\u200d\ufeff"


def wide(text: str) -> str:
    """Return a text in letters of full width (Unicode's compatibility forms)."""
    return "".join(chr(ord(each) + 0xFEE0) if "!" <= each <= "~" else each for each in text)


def bold(text: str) -> str:
    """Return a text in mathematical bold letters."""
    return "".join(
        chr(0x1D41A + ord(each) - ord("a")) if "a" <= each <= "z" else each for each in text
    )


def look_alike(text: str) -> str:
    """Return a text with Cyrillic letters that are drawn like Latin ones."""
    return text.translate(_CYRILLIC)


def zero_width(text: str) -> str:
    """Return a text with characters between its letters that show nothing."""
    return "".join(
        each + _ZERO_WIDTH[number % len(_ZERO_WIDTH)] for number, each in enumerate(text)
    )


def accented(text: str) -> str:
    """Return a text with a mark on each letter."""
    return "".join(each + "\u0336" if each.isalpha() else each for each in text)


def dotted(text: str) -> str:
    """Return a text with dots between the letters of its words."""
    return " ".join(".".join(word) for word in text.split())


def spaced(text: str) -> str:
    """Return a text with spaces between letters, and two between words."""
    return "  ".join(" ".join(word) for word in text.split())


def underscored(text: str) -> str:
    """Return a text with underscores for spaces."""
    return text.replace(" ", "_")


def leet(text: str) -> str:
    """Return a text with digits for letters inside its words."""
    return " ".join(word[:-1].translate(_LEET) + word[-1:] for word in text.split())


def in_base64(text: str) -> str:
    """Return a text in base64."""
    return base64.b64encode(text.encode()).decode()


def in_hex(text: str) -> str:
    """Return a text's bytes in hexadecimal."""
    return text.encode().hex()


DISGUISES: Mapping[str, Callable[[str], str]] = {
    "full width": wide,
    "bold letters": bold,
    "look-alikes": look_alike,
    "zero width": zero_width,
    "accents": accented,
    "dots": dotted,
    "spaces": spaced,
    "underscores": underscored,
    "digits": leet,
    "base64": in_base64,
    "hexadecimal": in_hex,
}
"""Name of a disguise → how it changes a text."""
