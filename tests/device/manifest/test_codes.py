"""The list of error codes is complete: the board uses no other code, each code is used, and the
docs show it.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from device.manifest import codes
from tests.fakes.attacks import ATTACKS
from toolchain.board.device import ERRORS

ROOT = Path(__file__).resolve().parents[3]
RAISES = {"DeviceError": None, "ManifestError": None, "FieldError": "invalid_value", "Rule": None}
"""Class that carries a code → the code where a call names none."""


def literal_codes(tree: ast.AST) -> Iterator[str]:
    """Yield the codes that calls spell, both of a conditional expression too."""
    for call in ast.walk(tree):
        name = getattr(getattr(call, "func", None), "id", "")
        if not isinstance(call, ast.Call) or name not in RAISES:
            continue
        named = [keyword.value for keyword in call.keywords if keyword.arg == "code"]
        first = [] if name in ("FieldError", "Rule") else call.args[:1]
        for value in named or first:
            yield from _texts(value)
        if name == "FieldError" and not named:
            yield "invalid_value"


def _texts(value: ast.expr) -> Iterator[str]:
    if isinstance(value, ast.Constant):
        yield str(value.value)
    elif isinstance(value, ast.IfExp):
        yield from _texts(value.body)
        yield from _texts(value.orelse)


SOURCES = sorted((ROOT / "device").rglob("*.py"))
NAMES = [path.relative_to(ROOT).as_posix() for path in SOURCES]


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_the_board_uses_no_code_that_is_not_listed(path: Path) -> None:
    spelled = set(literal_codes(ast.parse(path.read_text(encoding="utf-8"))))
    assert spelled <= set(codes.CODES)


def test_every_listed_code_is_used() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in SOURCES if path.name != "codes.py")
    assert [code for code in codes.CODES if f'"{code}"' not in text] == []


def test_no_code_stands_in_two_groups() -> None:
    assert len(codes.CODES) == sum(map(len, codes.GROUPS.values()))


def test_a_runtime_prefix_never_makes_another_code() -> None:
    prefixed = {codes.RUNTIME_PREFIX + code for code in codes.CODES}
    assert not prefixed & set(codes.CODES)


def test_the_host_chooses_its_error_by_the_list() -> None:
    assert set(ERRORS) <= set(codes.CODES)
    assert set(codes.TRUST) <= set(ERRORS)


def test_the_codes_of_all_attacks_are_listed() -> None:
    seen = {code for _, code, _ in ATTACKS}
    assert {code.removeprefix(codes.RUNTIME_PREFIX) for code in seen} <= set(codes.CODES)


def test_the_page_of_codes_is_the_list() -> None:
    page = (ROOT / "docs" / "error-codes.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert rows == [
        f"| `{code}` | {group} | {what} |"
        for group, listed in codes.GROUPS.items()
        for code, what in listed.items()
    ]
