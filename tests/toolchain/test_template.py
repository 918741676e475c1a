"""Chat templates are code from strangers: looked at in a child process with limits before anything renders them."""

import pytest

from toolchain.errors import ArtifactError
from toolchain.template import check_template

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

HOSTILE = [
    ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "SecurityError"),
    ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "SecurityError"),
    ("{{ messages.append(1) }}", "SecurityError"),
    ("{{ 'x' * 900000000 }}", "MemoryError"),
    ("{{ '%0900000000d' % 1 }}", "MemoryError"),
    ("{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}", "stopped by its limits"),
    ("{% for m in messages %}", "TemplateSyntaxError"),
    ("{{ raise_exception('no') }}", "ValueError: no"),
    ("{# nothing #}", "renders to nothing"),
    ("x" * (2 << 20), "larger than 1 MiB"),
]


def test_a_plain_template_passes() -> None:
    check_template(CHATML)


@pytest.mark.parametrize(("template", "reason"), HOSTILE, ids=[row[1] + row[0][:12] for row in HOSTILE])
def test_a_hostile_or_broken_template_is_refused_with_its_reason(template: str, reason: str) -> None:
    with pytest.raises(ArtifactError, match=reason):
        check_template(template)
