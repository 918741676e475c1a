"""Chat templates are foreign code: a child process with limits tries them first."""

import json
from pathlib import Path

import pytest

from tests.fakes.payloads import BOMBS, CODE, PAYLOADS
from toolchain.errors import ArtifactError
from toolchain.models.template import check_folder, check_template

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LIMITS = "stopped by its limits|MemoryError|RecursionError|more than 1048576 characters"

HOSTILE = [
    ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
    ("{{ messages.append(1) }}", "SecurityError"),
    ("{% for m in messages %}", "TemplateSyntaxError"),
    ("{{ raise_exception('no') }}", "Refusal: no"),
    ("{# nothing #}", "renders to nothing"),
    ("hello", "leaves out the question"),
    ("{{ messages[0]['content'] }}", "leaves out the question"),
    ("{{ messages | length }}", "leaves out the question"),
    ("x" * (2 << 20), "larger than 1 MiB"),
]


@pytest.mark.parametrize(
    "template",
    [
        CHATML,
        "{% if messages[0].role == 'system' %}{{ raise_exception('none here') }}{% endif %}"
        "{{ messages[-1].content }}",
    ],
)
def test_a_plain_template_passes(template: str) -> None:
    check_template(template)


@pytest.mark.sampled(8)
@pytest.mark.parametrize(
    ("template", "reason"), HOSTILE, ids=[row[1] + row[0][:12] for row in HOSTILE]
)
def test_a_hostile_or_broken_template_is_refused_with_its_reason(
    template: str, reason: str
) -> None:
    with pytest.raises(ArtifactError, match=reason):
        check_template(template)


def test_there_are_sixty_payloads() -> None:
    assert (len(set(CODE)), len(set(BOMBS)), len(set(PAYLOADS))) == (50, 10, 60)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(0, 50, 10))
def test_no_payload_runs_code(number: int, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    for template in CODE[number : number + 10]:
        with pytest.raises(
            ArtifactError,
            match=r"chat template: (cannot be rendered|renders to nothing|leaves out)",
        ) as caught:
            check_template(template.replace("{canary}", str(canary)))
        assert "stopped by its limits" not in caught.value.message, template
        assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("template", BOMBS, ids=[bomb[:30] for bomb in BOMBS])
def test_a_bomb_is_stopped_within_its_limits(template: str) -> None:
    with pytest.raises(ArtifactError, match=LIMITS):
        check_template(template)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "files",
    [
        {"chat_template.jinja": CODE[0]},
        {"tokenizer_config.json": json.dumps({"chat_template": CODE[0]})},
        {
            "tokenizer_config.json": json.dumps(
                {
                    "chat_template": [
                        {"name": "default", "template": CHATML},
                        {"name": "x", "template": CODE[0]},
                    ]
                }
            )
        },
    ],
)
def test_the_templates_of_a_strangers_model_are_looked_at_wherever_they_are(
    tmp_path: Path, files: dict[str, str]
) -> None:
    check_folder(tmp_path)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(ArtifactError, match="SecurityError"):
        check_folder(tmp_path)
