"""Which tokens that a grammar puts in place of others change a figure."""

import pytest

from device.engine.figures import is_changed

CHANGED = {
    "140 as 14": ('{"p": 14', "0", "}"),
    "64 as 6, in one token": ('{"p":', " 64", " 6"),
    "64 as nothing yet": ('{"p":', " 64", " "),
    "-5 as 5": ('{"p":', " -", " "),
    "+5 as 15": ('{"p": ', "+", "1"),
    "5 as 50": ('{"p": 5', "}", "0"),
    "5 as 50, after a space": ('{"p": 5', " ", "0"),
    "the end after 5 as 50": ('{"p": 5', "<|im_end|>", "0"),
    "2.5 as 2": ('{"p": 2', ".", "}"),
    "1e3 as 1": ('{"p": 1', "e", "}"),
    "0x40 as 0": ('{"p": 0', "x", "}"),
    "5-10 as 5": ('{"p": 5', "-", "}"),
    "07 as 0": ('{"p": 0', "7", "}"),
    "a second in nanoseconds": ('{"p": 1732800000000000', "0", "}"),
    "null as 0": ('{"p":', " null", " 0"),
    "None as -1": ('{"p": ', "None", "-"),
    "eth2 as eth0": ('{"p": "eth', "2", "0"),
    "1:30 as 11:30": ('{"at": "1', ":", "1"),
    "19:5 as 19:50": ('{"at": "19:5', '"', "0"),
    "25:10 as 20:10": ('{"at": "2', "5", "0"),
    "T31 as T21": ('{"at": "2026-11-28T', "3", "2"),
    "relay_3 as relay_1": ("relay_", "3", "1"),
    "12345 as 1234": ('{"code": "1234', "5", '"'),
    "25:10 in a text without quotes": ("{at:<escape>", "3", "2"),
    "25:10 in Gemma 4's text": ('{at:<|"|>', "3", "2"),
    "99 in a list": ('{"p": [1, 9', "9", "]"),
}
SAME = {
    "a quoted number": ('{"p": ', '"', "7"),
    "a number without its space": ("{p:", " 7", "7"),
    "a number in two tokens": ('{"p":', ' "', " "),
    "a unit": ('{"p": 50', "%", "}"),
    "seconds": ('{"at": "19:30', ":", '"'),
    "a word for another": ('{"mode": "', "purple", "on"),
    "a word for a figure in text": ('{"at": "', "noon", "0"),
    "a word for a number": ('{"pin":', " gpio", " "),
    "a word and its number": ('{"pin": ', "GPIO", "1"),
    "the rest of a name": ('{"net": "wlan', '"', "0"),
    "a list for a number": ('{"p": ', "[", "7"),
    "a key that nobody asked for": ('{"p": 7', ",", "}"),
    "a line break": ('{"p":', "\n", " "),
    "a figure after a call": ("}}\n</tool_call>\n", "1", "<"),
    "a figure after a call of JSON": ('"parameters": {"p": 7}}', " 1", "<|eot_id|>"),
    "a figure after Gemma's call": ("{p:7}<end_function_call>", "1", "<end_of_turn>"),
    "the end of a sentence": ('{"text": "at 5', '.",', '."'),
    "the sixteenth decimal": ('{"p": 0.300000000000000', "0", "}"),
    "no text": ("", "", "f"),
}


@pytest.mark.parametrize("case", CHANGED)
def test_a_figure_that_would_be_another_is_changed(case: str) -> None:
    assert is_changed(*(text.encode() for text in CHANGED[case]))


@pytest.mark.parametrize("case", SAME)
def test_a_form_or_a_word_that_would_be_another_changes_no_figure(case: str) -> None:
    assert not is_changed(*(text.encode() for text in SAME[case]))
