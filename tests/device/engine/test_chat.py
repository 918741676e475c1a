"""Templates render here as transformers renders them, and cannot run code."""

import pytest

from device.engine.chat import ChatTemplate
from device.errors import DeviceError

CONVERSATION = [
    {"role": "system", "content": "You are <b>brief</b> & kind."},
    {"role": "user", "content": "树莓派 🍵?"},
    {"role": "assistant", "content": "ja\n"},
    {"role": "user", "content": 'and "now"?'},
]
TEMPLATES = {
    "chatml": (
        "{% for m in messages %}"
        "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
        "{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "blocks are trimmed": (
        "{% for m in messages %}\n"
        "    {%- if m.role == 'user' %}\n"
        "[U] {{ m.content | trim }}\n"
        "    {% endif %}\n"
        "{% endfor %}\n"
    ),
    "loop controls": (
        "{% for m in messages %}"
        "{% if m.role == 'system' %}{% continue %}{% endif %}"
        "{{ loop.index }}{{ m.content }}"
        "{% if loop.index == 3 %}{% break %}{% endif %}"
        "{% endfor %}"
    ),
    "json is not escaped": "{{ messages | tojson }}{{ messages[0] | tojson(indent=2) }}",
    "namespaces and tokens": (
        "{% set ns = namespace(n=0) %}"
        "{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}"
        "{{ bos_token }}{{ ns.n }}{{ eos_token }}"
    ),
    "generation marks": (
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}"
    ),
    "no tools": (
        "{% if tools is none %}none{% endif %}"
        "{% if documents is defined %}defined{% endif %}"
        "{{ missing }}"
    ),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_renders_as_transformers_renders_it(name: str) -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    theirs, _ = render_jinja_template(
        [CONVERSATION], chat_template=TEMPLATES[name], add_generation_prompt=True, **tokens
    )
    assert ChatTemplate(TEMPLATES[name], tokens).render(CONVERSATION) == theirs[0]


PARTS_ALONE = (
    "{% for m in messages %}{{ m['role'] }}:"
    "{% for part in m['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}"
    "{% else %}<image>{% endif %}{% endfor %};{% endfor %}"
)


def test_a_template_of_a_model_that_sees_shows_texts_with_its_eyes_and_without() -> None:
    asked = [{"role": "user", "content": "a<image>b"}]
    assert ChatTemplate(PARTS_ALONE, {}).render(asked) == "user:a<image>b;"
    seeing = ChatTemplate(PARTS_ALONE.replace("<image>", "[picture]"), {}, "<image>")
    assert seeing.render(asked) == "user:a[picture]b;"
    assert seeing.render([{"role": "user", "content": ""}]) == "user:;"


def test_the_sentence_of_a_template_that_refuses_is_kept() -> None:
    template = ChatTemplate("{{ raise_exception('roles must alternate') }}", {})
    with pytest.raises(DeviceError) as caught:
        template.render(CONVERSATION)
    assert (caught.value.code, caught.value.status) == ("bad_conversation", 400)
    assert (
        caught.value.message
        == "the model's chat template does not take this conversation: roles must alternate"
    )


@pytest.mark.parametrize(
    "attack",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{{ raise_exception.__globals__.json }}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(attack: str) -> None:
    with pytest.raises(DeviceError, match="chat template"):
        ChatTemplate(attack, {}).render(CONVERSATION)


def test_a_broken_template_is_refused_with_its_line() -> None:
    with pytest.raises(DeviceError) as caught:
        ChatTemplate("a\n{% if %}", {})
    assert caught.value.code == "bad_model"
    assert caught.value.message.startswith("the chat template is broken at line 2: ")
