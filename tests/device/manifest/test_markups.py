"""Rows of markups: what a call looks like in each, and the ids that some of them write."""

import pytest

from device.engine.base import Trigger
from device.manifest.markups import (
    GENERIC,
    HERMES,
    MISTRAL_IDS,
    MISTRAL_LIST,
    NATIVE,
    Markup,
    short_id,
)


def test_an_id_becomes_nine_letters_and_digits_and_stays_the_same() -> None:
    assert short_id("call00000") == "call00000"
    assert short_id("call_1") == short_id("call_1") != short_id("call_2")
    assert len(short_id("")) == 9 and short_id("call_1").isalnum()


def test_a_call_is_the_first_of_several() -> None:
    call = {"id": "abcdefghi", "function": {"name": "f", "arguments": {"a": 1}}}
    for markup in (*NATIVE, GENERIC):
        assert markup.call("f", {"a": 1}, "abcdefghi") == markup.calls([call])


@pytest.mark.parametrize("markup", [HERMES, MISTRAL_IDS])
def test_only_markups_with_ids_shorten_them(markup: object) -> None:
    assert getattr(markup, "has_ids") == (markup is MISTRAL_IDS)  # noqa: B009


@pytest.mark.parametrize("markup", [MISTRAL_IDS, MISTRAL_LIST])
def test_the_place_of_an_id_is_known(markup: Markup) -> None:
    trigger = Trigger(markup.trigger, before_id=markup.before_id)
    call = markup.call("f", {"id": "12", "at": {"id": "34"}}, "abcdefghi").encode()
    at = call.index(b"abcdefghi")
    assert [end for end in range(len(call)) if trigger.in_id(call[:end])] == [*range(at, at + 10)]
    assert not HERMES.before_id
    assert not Trigger(HERMES.trigger).in_id(call[:at])
