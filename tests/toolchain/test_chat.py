"""chat: the ids that are learned are the ids that are asked."""

from typing import Any

import pytest

from tests.fakes.models import tiny_tokenizer
from toolchain.chat import IGNORED, TooLong, encode, render_prompt
from toolchain.errors import ArtifactError

ASKED = [
    {"role": "user", "content": "How hot is too hot?"},
    {"role": "assistant", "content": "At 80 degrees, 树莓派 🍵."},
]
TWICE = [
    *ASKED,
    {"role": "user", "content": "And then?"},
    {"role": "assistant", "content": "It stops."},
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


def learned(tokenizer: Any, labels: list[int]) -> str:
    return str(tokenizer.decode([label for label in labels if label != IGNORED]))


def test_only_the_answer_and_its_end_token_are_learned(tokenizer: Any) -> None:
    ids, labels = encode(tokenizer, ASKED, 512)
    assert learned(tokenizer, labels) == "At 80 degrees, 树莓派 🍵.<|im_end|>"
    assert len(ids) == len(labels)
    assert all(label in (IGNORED, id) for id, label in zip(ids, labels, strict=True))


def test_the_ids_begin_with_the_prompt_that_is_asked(tokenizer: Any) -> None:
    prompt = render_prompt(tokenizer, ASKED[:1])
    ids, labels = encode(tokenizer, ASKED, 512)
    assert ids[: len(prompt)] == prompt
    assert labels[: len(prompt)] == [IGNORED] * len(prompt)


def test_each_answer_of_a_conversation_is_learned(tokenizer: Any) -> None:
    _, labels = encode(tokenizer, TWICE, 512)
    assert learned(tokenizer, labels) == "At 80 degrees, 树莓派 🍵.<|im_end|>It stops.<|im_end|>"


def test_answers_of_the_opening_are_not_learned(tokenizer: Any) -> None:
    ids, labels = encode(tokenizer, TWICE, 512, opening=2)
    assert learned(tokenizer, labels) == "It stops.<|im_end|>"
    assert ids == encode(tokenizer, TWICE, 512)[0]


def test_a_question_after_the_last_answer_is_left_out(tokenizer: Any) -> None:
    assert encode(tokenizer, TWICE[:3], 512) == encode(tokenizer, TWICE[:2], 512)


def test_where_a_template_writes_no_end_token_the_tokenizers_own_is_learned(tokenizer: Any) -> None:
    template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    _, labels = encode(with_template(tokenizer, template), ASKED, 512)
    assert learned(tokenizer, labels) == " At 80 degrees, 树莓派 🍵.<|im_end|>"


def test_a_conversation_that_cannot_fit_is_refused_before_it_is_read(tokenizer: Any) -> None:
    class Unread:
        """The tokenizer without a way to tokens."""

        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

        def __call__(self, *_: Any, **__: Any) -> Any:
            raise AssertionError("30 MB were tokenized")

    talk = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "word " * 6_000_000}]
    with pytest.raises(TooLong, match=r"^conversation: at least \d+ tokens, 512 are allowed$"):
        encode(Unread(), talk, 512)


def test_a_conversation_that_is_too_long_is_refused_by_its_tokens(tokenizer: Any) -> None:
    length = len(encode(tokenizer, ASKED, 512)[0])
    with pytest.raises(TooLong, match=f"^conversation: {length} tokens, {length - 1} are allowed$"):
        encode(tokenizer, ASKED, length - 1)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (
            (
                "{{ 'x' if add_generation_prompt else 'y' }}{% for m in messages %}"
                "{{ m['content'] }}{% endfor %}"
            ),
            "chat template: message 2: the prompt is not how the conversation begins",
        ),
        (
            "{{ raise_exception('only one system prompt') }}",
            "chat template: only one system prompt",
        ),
        ("", "tokenizer: no chat template"),
    ],
)
def test_a_template_that_cannot_be_trained_with_is_refused(
    tokenizer: Any, template: str, message: str
) -> None:
    with pytest.raises(ArtifactError) as refused:
        encode(with_template(tokenizer, template), ASKED, 512)
    assert refused.value.message == message


def with_template(tokenizer: Any, template: str) -> Any:
    import copy

    other = copy.deepcopy(tokenizer)
    other.chat_template = template
    return other
