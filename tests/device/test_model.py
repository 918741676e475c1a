"""The common prefix of conversations is found without knowing how a template works."""

import pytest

from device.engine.chat import ChatTemplate
from device.manifest.opening import Messages, opening_of
from device.model import Model
from tests.fakes.engine import FakeEngine
from tests.fakes.tiny_gguf import CHATML

GEMMA = (
    "{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\n' %}"
    "{% set messages = messages[1:] %}{% endif %}"
    "{% for message in messages %}<{{ message.role }}>{{ first if loop.first }}{{ "
    "message.content }}{% endfor %}<model>"
)
"""Puts the instructions into the first question, as Gemma's templates do."""
STRICT = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no instructions here') }}{% endif %}"
    + CHATML
)
ASKED = {"role": "user", "content": "how hot?"}


TURNS = ({"role": "user", "content": "is it on?"}, {"role": "assistant", "content": "yes"})
SHOWN = "<|im_start|>user\nis it on?<|im_end|>\n<|im_start|>assistant\nyes<|im_end|>\n"


def model(template: str, system: str = "", turns: Messages = ()) -> Model:
    return Model(FakeEngine(), ChatTemplate(template, {}), (), opening_of(system, turns))


@pytest.mark.parametrize(
    ("template", "prefix"),
    [
        (CHATML, "<|im_start|>system\nbe very brief<|im_end|>\n<|im_start|>user\n"),
        (GEMMA, "<user>be very brief\n"),
    ],
)
def test_the_prefix_ends_where_the_first_question_begins(template: str, prefix: str) -> None:
    bundled = model(template, "be very brief")
    prompt = bundled.prompt([ASKED])
    assert bytes(prompt.tokens[: prompt.prefix]).decode() == prefix
    assert bytes(bundled.prefix()).decode() == prefix


def test_instructions_of_the_conversation_have_a_prefix_of_their_own() -> None:
    prompt = model(CHATML, "be very brief").prompt([{"role": "system", "content": "sing"}, ASKED])
    assert (
        bytes(prompt.tokens[: prompt.prefix]).decode()
        == "<|im_start|>system\nsing<|im_end|>\n<|im_start|>user\n"
    )


@pytest.mark.parametrize("system", ["", "be very brief"])
def test_the_prefix_covers_the_turns_that_every_conversation_begins_with(system: str) -> None:
    bundled = model(CHATML, system, TURNS)
    instructed = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
    assert bytes(bundled.prefix()).decode() == f"{instructed}{SHOWN}<|im_start|>user\n"
    assert (
        bundled.render([ASKED])
        == f"{instructed}{SHOWN}<|im_start|>user\nhow hot?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert bundled.prompt([ASKED]).prefix == len(bundled.prefix())


@pytest.mark.parametrize("system", ["", "be very brief"])
def test_a_conversation_that_begins_with_the_opening_does_not_get_it_twice(system: str) -> None:
    bundled = model(CHATML, system, TURNS)
    assert bundled.prompt([*bundled.opening, ASKED]) == bundled.prompt([ASKED])


def test_a_conversation_that_went_on_keeps_its_opening() -> None:
    bundled = model(CHATML, "be very brief", TURNS)
    further = [
        ASKED,
        {"role": "assistant", "content": "80"},
        {"role": "user", "content": "and then?"},
    ]
    assert bundled.prompt(further).prefix == len(bundled.prefix())


def test_instructions_of_the_conversation_take_the_place_of_the_whole_opening() -> None:
    asked = [{"role": "system", "content": "sing"}, ASKED]
    assert model(CHATML, "be very brief", TURNS).prompt(asked) == model(CHATML).prompt(asked)


def test_a_few_tokens_are_no_prefix() -> None:
    assert (
        model("{% for message in messages %}{{ message.content }}{% endfor %}", "brief")
        .prompt([ASKED])
        .prefix
        == 0
    )


def test_a_conversation_that_does_not_begin_with_a_question_has_no_prefix() -> None:
    answered = [{"role": "assistant", "content": "hello"}, ASKED]
    assert model(CHATML, "be very brief").prompt(answered).prefix == 0


def test_a_template_that_refuses_instructions_refuses_the_conversation_and_has_no_prefix() -> None:
    assert model(STRICT, "be very brief").prefix() == ()


def test_prefixes_of_many_clients_are_bounded() -> None:
    asked = model(CHATML)
    for number in range(100):
        asked.prompt([{"role": "system", "content": f"instruction {number}"}, ASKED])
    assert len(asked._prefixes) <= 16
