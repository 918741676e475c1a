"""Kinds of board: which address names which, and what follows from it."""

import ast
from pathlib import Path

import pytest

from toolchain.board import kind
from toolchain.board.kind import REAL, THIS_COMPUTER, VIRTUAL, Kind, kind_of

TOOLCHAIN = Path(kind.__file__).parents[1]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("local", THIS_COMPUTER),
        ("virtual:rpi-4b-2gb", VIRTUAL),
        ("virtual:rpi-5-8gb:13", VIRTUAL),
        ("pi@raspberrypi.local", REAL),
        ("localhost", REAL),
        ("local-pi", REAL),
        ("virtual", REAL),
    ],
)
def test_an_address_names_a_kind_of_board(address: str, expected: Kind) -> None:
    assert kind_of(address) is expected


def test_the_speed_of_every_simulated_board_is_left_unjudged() -> None:
    assert [bool(each.unjudged) for each in (REAL, THIS_COMPUTER, VIRTUAL)] == [False, True, True]


def test_nobody_else_compares_addresses() -> None:
    asked = [
        path.relative_to(TOOLCHAIN).as_posix()
        for path in sorted(TOOLCHAIN.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Compare | ast.Call)
        and any(
            isinstance(part, ast.Constant) and part.value in (kind.LOCAL, kind.VIRTUAL_PREFIX)
            for part in _operands(node)
        )
    ]
    assert asked == []


def _operands(node: ast.Compare | ast.Call) -> list[ast.expr]:
    """Return what is compared, or the arguments of `startswith` and `removeprefix`."""
    if isinstance(node, ast.Compare):
        return [node.left, *node.comparators]
    asks = isinstance(node.func, ast.Attribute) and node.func.attr in ("startswith", "removeprefix")
    return list(node.args) if asks else []
