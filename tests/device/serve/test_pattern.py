"""A pattern becomes a grammar whose strings match it; what a grammar cannot do is refused."""

import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest

from device.engine import load
from device.engine.base import Engine, Sampling, Settings
from device.serve import schema
from device.serve.pattern import PatternError, grammar_of
from tests.fakes.tiny_gguf import tiny_gguf

PATTERNS = (
    "^[0-9]{5}$",
    r"^\d{3}-\d{4}$",
    "^(red|green|bl[ue]{2})$",
    "^[A-Z][a-z]*( [A-Z][a-z]{1,3})?$",
    r"^\w+@\w+\.(com|org)$",
    "[^b]$",
    "^a",
    r"^[^a-f]{2,4}$",
    r"^\S\D\W$",
    r"^\\\"\/$",
    r"^[\]\-^]{2}$",
    "^gr\u00fc(?:n|n e)\u20ac?$",
    r"^(?:\+|-)?\d+(?:\.\d+)?$",
    r"^(?P<y>\d{4})-(?<m>\d{2})$",
    "x|y",
    "^a$|^b$",
    "^(?:[0-9A-F]{2}:){5}[0-9A-F]{2}$|^$",
    r"^[ -~]{3}$",
    r"^\u0041\x42$",
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: Any) -> Engine:
    folder: Path = tmp_path_factory.mktemp("pattern")
    return load(tiny_gguf(folder / "tiny.gguf"), Settings(threads=1))


@pytest.mark.sampled(5)
@pytest.mark.parametrize("pattern", PATTERNS)
def test_each_string_that_a_pattern_allows_matches_it(engine: Engine, pattern: str) -> None:
    grammar = schema.grammar({"type": "string", "pattern": pattern})
    ends = 0
    for seed in range(6):
        free = Sampling(temperature=1, top_k=0, top_p=1, min_p=0, seed=seed, max_tokens=300)
        steps = list(engine.generate([10], Sampling(**{**_fields(free), "grammar": grammar})))
        if steps[-1].finish_reason == "stop":
            ends += 1
            text = json.loads("".join(step.text for step in steps))
            # ECMA-262's classes are those of ASCII, and a replaced character is broken UTF-8.
            assert "\ufffd" in text or re.search(pattern.replace("(?<", "(?P<"), text, re.ASCII)
    assert ends


def _fields(sampling: Sampling) -> dict[str, Any]:
    return {name: getattr(sampling, name) for name in sampling.__dataclass_fields__}


@pytest.mark.parametrize(
    "pattern",
    [
        *("a(?=b)", "(?<!a)b", r"(a)\1", r"\bword", r"\p{L}", "(a", "a)", "[a", "*a", "a{3,1}"),
        *("a{1001}", "(" * 40 + ")" * 40, "a" * 501, '["]', "\\", "a^b", r"\ud800"),
    ],
)
def test_a_pattern_that_no_grammar_can_hold_to_is_refused(pattern: str) -> None:
    names = itertools.count()
    with pytest.raises(PatternError):
        grammar_of(pattern, lambda body: f"r{next(names)}")
