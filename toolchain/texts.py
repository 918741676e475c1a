"""Text as people write it, and JSON as it is: read whole, or refused in one sentence with its line.

Everything that is valid JSON or TOML and that Python cannot work with (half characters, numbers of
ten thousand digits, a thousand brackets, a key twice) ends here, where the line is still known, and
not in a traceback behind it.
"""

import codecs
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from toolchain.errors import ArtifactError

MAX_DEPTH = 100
"""Maximum depth of nested brackets."""
# A refusal names the line; Python's readers end at their recursion limit.
MAX_DIGITS = 300
"""Maximum number of digits of a number."""
# No float has more before its point, and Python reads no more than 4300 (CVE-2020-10735).
_BYTE_ORDERS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
"""UTF-32 first: its mark begins with UTF-16's."""
_AS_UTF8 = "save it as UTF-8: in an editor `Save as`, or `iconv -f {} -t UTF-8`"
NOT_UTF8 = (
    "save it as UTF-8: `iconv -f WINDOWS-1252 -t UTF-8 OLD > NEW`; of a Chinese Windows: "
    "`iconv -f GB18030 -t UTF-8 OLD > NEW`"
)
"""What helps a text in an encoding that nothing names."""
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_DIGITS = re.compile(rf"\d{{{MAX_DIGITS + 1},}}")
HALF_CHARACTERS = re.compile("[\ud800-\udfff]")
"""Surrogates that stand alone: JSON may spell them, UTF-8 has no bytes for them."""
NUL = re.compile("\0")
"""Ends a text wherever C reads it: file names, templates, tokenizers."""
_HALF = re.compile(
    r"\\u(?:[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    r"|(?<!\\u[dD][89abAB]..\\u)[dD][c-fC-F][0-9a-fA-F]{2})"
)


class Unreadable(ValueError):  # noqa: N818 - what a text is, and not what went wrong with us
    """A text that cannot be used: the line, what is wrong with it, and what helps."""

    def __init__(self, line: int, problem: str, *, hint: str = "") -> None:
        super().__init__(problem)
        self.line = line
        self.problem = problem
        self.hint = hint


def decoded(content: bytes) -> str:
    """Return the text of a file in UTF-8, without a byte order mark; raise Unreadable."""
    for mark, name in _BYTE_ORDERS.items():
        if content.startswith(mark):
            raise Unreadable(1, f"text in {name}, not in UTF-8", hint=_AS_UTF8.format(name))
    content = content.removeprefix(codecs.BOM_UTF8)
    if (at := content.find(b"\0")) >= 0:
        line = content.count(b"\n", 0, at) + 1
        wide = content[:200].count(b"\0") * 3 > len(content[:200])
        hint = _AS_UTF8.format("UTF-16") if wide else "a text file holds none: is it another kind?"
        raise Unreadable(line, "holds a NUL byte", hint=hint)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        before = content[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        raise Unreadable(line, f"not valid UTF-8 at byte {column} of the line") from error


def text_of(name: str, path: Path) -> str:
    """Return a file's text with plain line ends."""
    return "\n".join(line for _, line in lines_of(name, path))


def lines_of(name: str, path: Path) -> Iterator[tuple[str, str]]:
    """Yield (`file:line`, text); only a line feed ends a line, as JSON strings may hold U+2028."""
    try:
        text = decoded(path.read_bytes())
    except Unreadable as error:
        raise ArtifactError(f"{name}:{error.line}: {error.problem}", hint=error.hint) from error
    except OSError as error:
        raise ArtifactError(f"{name}: cannot be read: {error.strerror}") from error
    for number, line in enumerate(text.split("\n"), 1):
        yield f"{name}:{number}", line.removesuffix("\r")


def parse_json(text: str) -> Any:
    """Return the value of a JSON text; raise Unreadable if it is not valid or not usable."""
    _check_numbers(text)
    try:
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_no_number)
    except Unreadable as error:
        raise Unreadable(_line_of(text, error.hint), error.problem) from error
    except json.JSONDecodeError as error:
        raise Unreadable(error.lineno, "not valid JSON") from error
    except RecursionError as error:
        raise too_deep(text) from error
    if half := first_of(HALF_CHARACTERS, value):
        found = _HALF.search(text)
        raise Unreadable(
            text.count("\n", 0, found.start()) + 1 if found else 1,
            f"half a character (`\\u{ord(half):04x}` without its other half)",
            hint="what wrote the file cut an emoji in two: write it again as whole text",
        )
    return value


def json_in(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; raise ArtifactError with file and line if there is none."""
    try:
        value = parse_json(decoded(path.read_bytes()))
    except Unreadable as error:
        raise ArtifactError(
            f"{path.name}:{error.line}: {error.problem}", hint=error.hint
        ) from error
    except OSError as error:
        raise ArtifactError(f"{path.name}: cannot be read: {error.strerror}") from error
    if not isinstance(value, dict):
        raise ArtifactError(f"{path.name}: not a JSON object")
    return value


def first_of(characters: re.Pattern[str], value: Any) -> str:
    """Return the first of some characters among the keys and texts of a value, or ""."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, str):
            if found := characters.search(each):
                return found[0]
        elif isinstance(each, dict):
            waiting += [*each, *each.values()]
        elif isinstance(each, list):
            waiting += each
    return ""


def existing(names: tuple[str, ...], folder: Path, key: str) -> dict[str, Path]:
    """Return the files that a recipe's `key` names, relative to its folder.

    Raise ArtifactError for one that is missing.
    """
    files = {name: folder / name for name in names}
    for name, path in files.items():
        try:
            if not path.is_file() or not os.access(path, os.R_OK):
                raise _missing(name, path, folder, key)
        except OSError as error:
            raise ArtifactError(f"{name[:200]}: cannot be read: {error.strerror}") from error
    return files


def _missing(name: str, path: Path, folder: Path, key: str) -> ArtifactError:
    hint = f"`{key}` is relative to {folder.resolve()}"
    if path.is_dir():
        return ArtifactError(
            f"{name}: a folder, not a file", hint="name the files in it one by one"
        )
    if path.is_file():
        return ArtifactError(f"{name}: cannot be read: permission denied")
    if path.exists():
        return ArtifactError(f"{name}: not a plain file")
    if any(sign in name for sign in "*?["):
        return ArtifactError(f"{name}: no such file", hint="patterns are not read: name each file")
    return ArtifactError(f"{name}: no such file", hint=hint)


def _check_numbers(text: str) -> None:
    """Raise Unreadable for a number that no float holds; digits in strings do not count."""
    if not _DIGITS.search(text):
        return
    bare = _STRING.sub(lambda found: "\n" * found[0].count("\n"), text)
    if found := _DIGITS.search(bare):
        problem = f"a number of {len(found[0]):,} digits, at most {MAX_DIGITS} are read"
        raise Unreadable(bare.count("\n", 0, found.start()) + 1, problem)


def too_deep(text: str) -> Unreadable:
    """Return the refusal of brackets that are nested too deeply, with their line."""
    problem = f"more than {MAX_DEPTH} brackets within one another"
    depth, bare = 0, _STRING.sub(lambda found: "\n" * found[0].count("\n"), text)
    for found in re.finditer(r"[\[{}\]]", bare):
        depth += 1 if found[0] in "[{" else -1
        if depth > MAX_DEPTH:
            return Unreadable(bare.count("\n", 0, found.start()) + 1, problem)
    return Unreadable(1, problem)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key, each in pairs:
        if key in value:
            raise Unreadable(
                1, f"key `{key[:60]}` stands twice in one object", hint=json.dumps(key)
            )
        value[key] = each
    return value


def _no_number(name: str) -> NoReturn:
    raise Unreadable(1, f"`{name}` is not valid JSON", hint=name)


def _line_of(text: str, word: str) -> int:
    """Return the line on which a word stands for the last time, 1 where it does not."""
    return text.count("\n", 0, max(0, text.rfind(word))) + 1
