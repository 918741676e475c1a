"""Arguments in Google's form: written, and turned into JSON however they are cut."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from device.manifest.braces import ToJson, in_order, is_bare, written

QUOTE = "<escape>"
TEXTS = some.text(some.characters(codec="utf-8")).filter(lambda text: "<" not in text)
KEYS = some.text("abcXYZ019_.-", min_size=1, max_size=4)
VALUES = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False) | TEXTS,
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


def read(text: str, size: int) -> Any:
    reader = ToJson(QUOTE)
    rest, whole = "", ""
    for at in range(0, len(text), size):
        part, rest = reader.feed(rest + text[at : at + size])
        whole += part
    assert (reader.is_over, rest) == (True, "")
    return json.loads(whole)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(some.dictionaries(KEYS, VALUES, max_size=4), some.integers(1, 9))
def test_what_is_written_is_read_back_however_it_is_cut(value: dict[str, Any], size: int) -> None:
    text = written(value, QUOTE)
    if "inf" not in text.lower():
        assert read(text, size) == value


def test_words_of_python_are_values_and_other_bare_words_are_texts() -> None:
    text = "{a:None,b:True,c:kitchen lamp,d:False,2:1}"
    assert read(text, 3) == {"a": None, "b": True, "c": "kitchen lamp", "d": False, "2": 1}


def test_names_come_in_the_order_of_dictsort() -> None:
    assert list(in_order({"b": 1, "A": 2, "a": 3})) == ["A", "a", "b"]


@pytest.mark.parametrize(("name", "bare"), [("pin_1", True), ("a b", False), ("", False)])
def test_only_plain_names_can_be_written(name: str, bare: bool) -> None:
    assert is_bare(name) == bare
