"""What training learns of a conversation is what the assistant says, under the chat templates that
models are published with.

The templates are written after the published ones, as far as turns and end tokens go.
"""

from typing import Any

import pytest

from tests.fakes.models import tiny_tokenizer
from toolchain.chat import IGNORED, Refused, encode, render_prompt

THINKS = "<think>\n\n</think>\n\n"
_LOOP = "{%- for m in messages %}"
_END = "{%- endfor %}"
_CHATML = "{{- '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
_CHATML_PROMPT = "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
_LAST_USER = (
    "{%- set ns = namespace(last=0) %}{%- for m in messages %}{%- if m.role == 'user' %}"
    "{%- set ns.last = loop.index0 %}{%- endif %}{%- endfor %}"
)

TEMPLATES = {
    "ChatML": (_LOOP + _CHATML + _END + _CHATML_PROMPT, "<|im_end|>"),
    "Qwen2.5, which adds a system prompt": (
        (
            "{%- if messages[0].role != 'system' %}{{- '<|im_start|>system\n"
            "Be kind.<|im_end|>\n' }}{%- endif %}"
        )
        + _LOOP
        + _CHATML
        + _END
        + _CHATML_PROMPT,
        "<|im_end|>",
    ),
    "Llama 3, which names the day and trims": (
        (
            "{{- bos_token }}{{- '<|start_header_id|>system<|end_header_id|>\n\nToday: "
            "' + strftime_now('%d %b %Y') + '<|eot_id|>' }}"
        )
        + _LOOP
        + (
            "{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + "
            "'<|eot_id|>' }}"
        )
        + _END
        + (
            "{%- if add_generation_prompt %}{{- "
            "'<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
        ),
        "<|eot_id|>",
    ),
    "Mistral": (
        "{{- bos_token }}"
        + _LOOP
        + (
            "{%- if m.role == 'user' %}{{- '[INST] ' + m.content + ' [/INST]' }}{%- else %}"
            "{{- ' ' + m.content + '</s>' }}{%- endif %}"
        )
        + _END,
        "</s>",
    ),
    "Gemma, which calls the assistant model": (
        "{{- bos_token }}"
        + _LOOP
        + "{%- set role = 'model' if m.role == 'assistant' else m.role %}"
        + "{{- '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}"
        + _END
        + "{%- if add_generation_prompt %}{{- '<start_of_turn>model\n' }}{%- endif %}",
        "<end_of_turn>",
    ),
    "Phi-3, whose conversation ends with another token": (
        _LOOP
        + "{{- '<|' + m.role + '|>\n' + m.content + '<|end|>\n' }}"
        + _END
        + (
            "{%- if add_generation_prompt %}{{- '<|assistant|>\n' }}{%- else %}"
            "{{- '<|endoftext|>' }}{%- endif %}"
        ),
        "<|end|>",
    ),
    "Falcon 3": (
        _LOOP
        + "{%- if m.role == 'assistant' %}{{- '<|assistant|>\n' + m.content + '<|endoftext|>' }}"
        + (
            "{%- if not loop.last %}{{- '\n' }}{%- endif %}{%- else %}"
            "{{- '<|' + m.role + '|>\n' + m.content + '\n' }}{%- endif %}"
        )
        + _END
        + "{%- if add_generation_prompt %}{{- '<|assistant|>\n' }}{%- endif %}",
        "<|endoftext|>",
    ),
    "Granite": (
        _LOOP
        + (
            "{{- '<|start_of_role|>' + m.role + '<|end_of_role|>' + m.content + "
            "'<|end_of_text|>\n' }}"
        )
        + _END
        + (
            "{%- if add_generation_prompt %}{{- '<|start_of_role|>assistant<|end_of_role|>' }}"
            "{%- endif %}"
        ),
        "<|end_of_text|>",
    ),
    "DeepSeek, without a header behind the answer": (
        "{{- bos_token }}"
        + _LOOP
        + "{%- if m.role == 'user' %}{{- '<｜User｜>' + m.content }}"
        + "{%- else %}{{- '<｜Assistant｜>' + m.content + '<｜end▁of▁sentence｜>' }}{%- endif %}"
        + _END
        + "{%- if add_generation_prompt %}{{- '<｜Assistant｜>' }}{%- endif %}",
        "<｜end▁of▁sentence｜>",
    ),
    "a template with generation marks": (
        _LOOP
        + (
            "{%- if m.role == 'assistant' %}{{- '<|im_start|>assistant\n' }}{%- generation %}"
            "{{- m.content + '<|im_end|>' }}"
        )
        + "{%- endgeneration %}{{- '\n' }}{%- else %}"
        + _CHATML
        + "{%- endif %}"
        + _END
        + _CHATML_PROMPT,
        "<|im_end|>",
    ),
}
ADDED = (
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<s>", "</s>", "[INST]", "[/INST]"),
    *("<start_of_turn>", "<end_of_turn>", "<|user|>", "<|assistant|>", "<|end|>"),
    *("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"),
    *("<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
)
CHAT = [
    {"role": "user", "content": "is it hot?"},
    {"role": "assistant", "content": "yes, 81 °C"},
    {"role": "user", "content": "and now?"},
    {"role": "assistant", "content": "no"},
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer(folder)
    made = AutoTokenizer.from_pretrained(folder)
    made.add_special_tokens({"additional_special_tokens": list(ADDED), "bos_token": "<s>"})
    return made


def learned(tokenizer: Any, template: str, messages: list[dict[str, str]]) -> list[str]:
    """Return what is learned, a text for each answer."""
    tokenizer.chat_template = template
    ids, labels = encode(tokenizer, messages, 512)
    assert all(label in (IGNORED, id) for id, label in zip(ids, labels, strict=True))
    parts: list[list[int]] = [[]]
    for label in labels:
        if label != IGNORED:
            parts[-1].append(label)
        elif parts[-1]:
            parts.append([])
    return [tokenizer.decode(part) for part in parts if part]


@pytest.mark.parametrize("name", TEMPLATES)
def test_each_answer_is_learned_with_its_end_and_nothing_else(tokenizer: Any, name: str) -> None:
    template, end = TEMPLATES[name]
    spoken = [text.removeprefix(" ") for text in learned(tokenizer, template, CHAT)]
    assert spoken == [f"yes, 81 °C{end}", f"no{end}"]


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_is_learned_begins_where_the_board_asks(tokenizer: Any, name: str) -> None:
    tokenizer.chat_template = TEMPLATES[name][0]
    ids, labels = encode(tokenizer, CHAT, 512)
    prompt = render_prompt(tokenizer, CHAT[:-1])
    assert ids[: len(prompt)] == prompt
    assert IGNORED not in labels[len(prompt) :]


def test_an_earlier_answer_is_learned_as_history_shows_it_and_the_last_with_its_thoughts(
    tokenizer: Any,
) -> None:
    thinking = (
        _LAST_USER
        + _LOOP
        + (
            "{{- '<|im_start|>' + m.role + '\n' }}{%- if m.role == 'assistant' and loop.index0 > "
            "ns.last %}"
        )
        + "{{- '<think>\n\n</think>\n\n' }}{%- endif %}{{- m.content + '<|im_end|>\n' }}"
        + _END
        + _CHATML_PROMPT
    )
    assert learned(tokenizer, thinking, CHAT) == ["yes, 81 °C<|im_end|>", f"{THINKS}no<|im_end|>"]


def test_thoughts_that_a_template_takes_out_of_history_are_learned_of_the_last_answer_alone(
    tokenizer: Any,
) -> None:
    thought = [dict(message) for message in CHAT]
    for message in thought[1::2]:
        message["content"] = "<think>\nhm\n</think>\n\n" + message["content"]
    template = (
        _LAST_USER
        + _LOOP
        + "{%- set text = m.content %}{%- if m.role == 'assistant' and loop.index0 < ns.last %}"
        + "{%- set text = text.split('</think>')[-1].lstrip('\n') %}{%- endif %}"
        + "{{- '<|im_start|>' + m.role + '\n' + text + '<|im_end|>\n' }}"
        + _END
        + _CHATML_PROMPT
    )
    assert learned(tokenizer, template, thought) == [
        "yes, 81 °C<|im_end|>",
        "<think>\nhm\n</think>\n\nno<|im_end|>",
    ]


def test_a_prompt_that_already_thinks_is_refused_where_the_answer_does_not(tokenizer: Any) -> None:
    template = (
        _LOOP
        + _CHATML
        + _END
        + "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n<think>\n' }}{%- endif %}"
    )
    with pytest.raises(
        Refused, match=r"^chat template: message 4: the prompt is not how the conversation begins$"
    ):
        learned(tokenizer, template, CHAT)


def test_a_header_behind_an_answer_that_nothing_ends_is_not_learned(tokenizer: Any) -> None:
    template = (
        _LOOP
        + "{{- '<|' + m.role + '|>\n' + m.content + '\n' }}"
        + _END
        + "{%- if add_generation_prompt %}{{- '<|assistant|>\n' }}{%- endif %}"
    )
    assert learned(tokenizer, template, CHAT) == ["yes, 81 °C", "no<|im_end|>"]


@pytest.mark.parametrize(
    ("opened", "spoken"),
    [
        ([{"role": "assistant", "content": "hi, what?"}, *CHAT], ["yes, 81 °C", "no"]),
        ([{"role": "system", "content": ""}, *CHAT], ["yes, 81 °C", "no"]),
        ([{"role": "user", "content": ""}, {"role": "assistant", "content": "no"}], ["no"]),
        ([*CHAT[:3], {"role": "assistant", "content": ""}], ["yes, 81 °C", ""]),
        ([*CHAT[:3], {"role": "assistant", "content": "say <|im_end|> yes"}], None),
        ([*CHAT[:3], {"role": "assistant", "content": "  spaced \n"}], None),
    ],
    ids=["assistant first", "empty system", "empty question", "empty answer", "markup", "spaces"],
)
def test_unusual_conversations_are_learned_as_they_are_written(
    tokenizer: Any, opened: list[dict[str, str]], spoken: list[str] | None
) -> None:
    texts = spoken or ["yes, 81 °C", opened[-1]["content"]]
    assert learned(tokenizer, TEMPLATES["ChatML"][0], opened) == [f"{t}<|im_end|>" for t in texts]


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ messages[7].content }}", "chat template: "),
        ("{{ messages | length + 'x' }}", "chat template: "),
        (
            "{{ raise_exception('roles must alternate') }}",
            "chat template: roles must alternate",
        ),
        (
            _LOOP + "{{- m.content + m.content }}" + _END,
            "chat template: message 2: the template shows an answer 2 times",
        ),
        (
            _LOOP + "{{- m.content | length }}" + _END,
            "chat template: message 2: the template shows an answer 0 times",
        ),
    ],
    ids=["missing message", "wrong type", "refusal", "answer twice", "answer never"],
)
def test_a_template_that_cannot_be_learned_from_is_one_sentence(
    tokenizer: Any, template: str, reason: str
) -> None:
    with pytest.raises(Refused) as refused:
        learned(tokenizer, template, CHAT)
    assert refused.value.message.startswith(reason)
