"""Bytes of tokens become whole characters, and stop texts never show."""

import pytest

from device.engine.text import TextStream


def fed(pieces: list[bytes], stop: tuple[str, ...] = ()) -> tuple[list[str], TextStream]:
    stream = TextStream(stop)
    texts = [stream.feed(piece) for piece in pieces]
    return [*texts, stream.end()], stream


@pytest.mark.parametrize("text", ["树莓派", "🍵👩‍💻", "é½×", "plain"])
def test_a_character_split_over_tokens_comes_out_whole_and_no_part_of_it_before(text: str) -> None:
    texts, _ = fed([bytes([byte]) for byte in text.encode()])
    assert "".join(texts) == text
    assert "\ufffd" not in "".join(texts)


def test_bytes_that_never_become_a_character_are_replaced_and_hold_nothing_back() -> None:
    assert fed([b"\xff", b"a", b"\xe6\xa0"])[0] == ["\ufffd", "a", "", "\ufffd"]


def test_a_stop_text_over_several_tokens_ends_the_text_before_it() -> None:
    texts, stream = fed([b"one\nUs", b"er", b": two"], ("\nUser:",))
    assert texts == ["one", "", "", ""]
    assert stream.stopped


def test_what_only_began_like_a_stop_text_is_released() -> None:
    texts, stream = fed([b"a\nUs", b"ual"], ("\nUser:",))
    assert texts == ["a", "\nUsual", ""]
    assert not stream.stopped


def test_the_beginning_of_a_stop_text_at_the_very_end_is_released() -> None:
    assert fed([b"a\nUs"], ("\nUser:",))[0] == ["a", "\nUs"]


def test_the_earliest_of_several_stop_texts_counts() -> None:
    assert "".join(fed([b"abcdef"], ("e", "cd"))[0]) == "ab"


def test_a_stop_text_of_several_bytes_a_character_is_found() -> None:
    texts, stream = fed([bytes([byte]) for byte in "好。再见".encode()], ("。",))
    assert "".join(texts) == "好"
    assert stream.stopped
