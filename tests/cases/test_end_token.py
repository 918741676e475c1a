"""The end that training teaches is an end that the board knows, in every format, whatever the
configuration names.
"""

import json
from pathlib import Path

import pytest

from tests.fakes.models import CHATML, tiny_tokenizer
from toolchain.chat import encode
from toolchain.models.checkpoints import load_tokenizer
from toolchain.models.tokenizer import read_vocabulary
from toolchain.quantize.companions import read_ends

TURN_OVER = "<|turn_over|>"
ROWS = 512
CHAT = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "no"}]
TEMPLATES = {
    "a token of its own": CHATML.replace("<|im_end|>\n{% endfor", TURN_OVER + "\n{% endfor"),
    "behind a space": CHATML.replace("<|im_end|>\n{% endfor", " " + TURN_OVER + "{% endfor"),
    "the tokenizer's own": CHATML.replace("<|im_end|>", "{{ eos_token }}"),
    "a well-known one": CHATML,
    "none at all": (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"
    ),
}


def model_folder(folder: Path, template: str, *, special: bool) -> Path:
    """Write a tokenizer with an end token that no configuration names."""
    tiny_tokenizer(folder)
    (folder / "model.safetensors").touch()
    (folder / "config.json").write_text(json.dumps({"eos_token_id": 0}))
    (folder / "chat_template.jinja").write_text(template)

    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    token = {**tokenizer["added_tokens"][0], "id": ROWS, "content": TURN_OVER, "special": special}
    tokenizer["added_tokens"].append(token)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return folder


@pytest.mark.sampled(5)
@pytest.mark.parametrize("special", [True, False], ids=["special", "added as text"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_board_stops_at_what_training_teaches_as_the_end(
    tmp_path: Path, name: str, special: bool
) -> None:
    folder = model_folder(tmp_path / "model", TEMPLATES[name], special=special)
    taught = encode(load_tokenizer(folder), CHAT, 99)[1][-1]
    assert taught in read_vocabulary(folder, ROWS + 1).stop_ids
    assert taught in read_ends(folder).stop_ids


def test_llama_cpp_is_told_of_the_end_that_the_template_writes(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model", TEMPLATES["a token of its own"], special=True)
    assert read_vocabulary(folder, ROWS + 1).metadata["tokenizer.ggml.eot_token_id"] == ROWS


def test_a_template_that_refuses_to_end_with_an_answer_leaves_the_ends_that_are_named(
    tmp_path: Path,
) -> None:
    refuses = (
        "{% if messages[-1].role == 'assistant' and not add_generation_prompt %}"
        "{{ raise_exception('no') }}{% endif %}"
    )
    folder = model_folder(tmp_path / "model", refuses + CHATML, special=True)
    assert read_vocabulary(folder, ROWS + 1).stop_ids == (0, 2)
