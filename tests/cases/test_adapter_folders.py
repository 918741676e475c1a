"""What an adapter folder brings: its tokenizer and template as AutoTokenizer reads them, and the
name of its base.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.adapters import tiny_adapter
from tests.fakes.models import CHATML, SMALL, tiny_llama, tiny_tokenizer
from toolchain.errors import ArtifactError
from toolchain.models.adapter_config import check_base_name
from toolchain.models.tokenizer import chat_template
from toolchain.models.tokenizer_files import tokenizer_sources
from toolchain.training.adapters import carry_tokenizer

ONE_LAYER = SMALL | {"layers": 1}
OWN = "own " + CHATML


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("base") / "base", **ONE_LAYER)


def with_tokenizer(folder: Path, *, file: str = "", key: Any = None, more: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    tiny_tokenizer(folder)
    (folder / "chat_template.jinja").unlink()
    if file:
        (folder / "chat_template.jinja").write_text(file)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    if key:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": key}))
    if more:
        (folder / "additional_chat_templates").mkdir()
        (folder / "additional_chat_templates" / "tool_use.jinja").write_text(more)
    return folder


NAMED = [{"name": "default", "template": OWN}, {"name": "tool_use", "template": "tools"}]


@pytest.mark.parametrize(
    "brought",
    [
        {"file": OWN},
        {"key": OWN},
        {"key": NAMED},
        {"file": OWN, "key": "hidden by the file"},
        {"file": OWN, "more": "tools"},
    ],
    ids=["file", "key", "named", "file before key", "several files"],
)
def test_the_adapters_template_is_the_one_that_auto_tokenizer_gives(
    base: Path, tmp_path: Path, brought: dict[str, Any]
) -> None:
    from transformers import AutoTokenizer

    adapter, out = with_tokenizer(tmp_path / "skill", **brought), tmp_path / "out"
    out.mkdir()
    carry_tokenizer(base, adapter, out)
    theirs = AutoTokenizer.from_pretrained(adapter).chat_template
    settings = json.loads((out / "tokenizer_config.json").read_text())
    assert chat_template(out, settings) == OWN
    assert (theirs["default"] if isinstance(theirs, dict) else theirs) == OWN
    assert AutoTokenizer.from_pretrained(out).chat_template == theirs


def test_a_template_without_a_tokenizer_wins_over_the_bases(base: Path, tmp_path: Path) -> None:
    for name, text in (
        ("chat_template.jinja", OWN),
        ("tokenizer_config.json", json.dumps({"chat_template": OWN, "eos_token": "<|im_end|>"})),
    ):
        adapter, out = tmp_path / name, tmp_path / f"out-{name}"
        adapter.mkdir()
        out.mkdir()
        (adapter / name).write_text(text)
        carry_tokenizer(base, adapter, out)
        settings = json.loads((out / "tokenizer_config.json").read_text())
        assert chat_template(out, settings) == OWN


def test_an_adapter_that_brings_nothing_has_the_tokenizer_of_its_base(
    base: Path, tmp_path: Path
) -> None:
    assert tokenizer_sources(base, tmp_path) == tokenizer_sources(base, None)


def test_no_file_of_the_base_is_left_beside_the_adapters_tokenizer(
    base: Path, tmp_path: Path
) -> None:
    (base / "added_tokens.json").write_text("{}")
    sources = tokenizer_sources(base, with_tokenizer(tmp_path / "skill", key=OWN))
    (base / "added_tokens.json").unlink()
    assert {Path(str(source)).parent for source in sources.values()} == {tmp_path / "skill"}


def test_a_tokenizer_that_is_not_saved_as_tokenizer_json_is_refused(
    base: Path, tmp_path: Path
) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"pieces")
    with pytest.raises(ArtifactError, match=r"has `tokenizer\.model` but no `tokenizer\.json`"):
        tokenizer_sources(base, tmp_path)


@pytest.mark.parametrize(
    ("trained_on", "recipe_base"),
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct"),
        ("unsloth/Qwen2.5-0.5B-Instruct-bnb-4bit", "Qwen/Qwen2.5-0.5B-Instruct"),
        ("unsloth/qwen2.5-0.5b-instruct-unsloth-bnb-4bit", "Qwen/Qwen2.5-0.5B-Instruct"),
        ("/content/models/Qwen2.5-0.5B-Instruct/", "models/Qwen2.5-0.5B-Instruct"),
        ("C:\\models\\Qwen2.5-0.5B-Instruct", "Qwen/Qwen2.5-0.5B-Instruct"),
        ("/hub/models--Qwen--Qwen2.5-0.5B-Instruct/snapshots/7ae5", "Qwen/Qwen2.5-0.5B-Instruct"),
        ("", "Qwen/Qwen2.5-0.5B-Instruct"),
    ],
)
def test_the_same_base_under_its_usual_names_is_accepted(
    base: Path, tmp_path: Path, trained_on: str, recipe_base: str
) -> None:
    skill = tiny_adapter(tmp_path / "skill", base, base_model_name_or_path=trained_on)
    check_base_name(skill, recipe_base)


def test_another_base_of_the_same_shape_is_refused_unless_the_recipe_says_so(
    base: Path, tmp_path: Path
) -> None:
    skill = tiny_adapter(tmp_path / "skill", base, base_model_name_or_path="Qwen/Qwen2.5-0.5B")
    with pytest.raises(ArtifactError) as refused:
        check_base_name(skill, "Qwen/Qwen2.5-0.5B-Instruct")
    assert 'adapter_base = "Qwen/Qwen2.5-0.5B"' in refused.value.hint
    check_base_name(skill, "./mine", same_as="Qwen/Qwen2.5-0.5B")
    with pytest.raises(ArtifactError):
        check_base_name(skill, "./mine", same_as="Qwen/Qwen2.5-1.5B")


def test_another_revision_of_the_base_is_refused(base: Path, tmp_path: Path) -> None:
    skill = tiny_adapter(tmp_path / "skill", base, revision="v1.1")
    with pytest.raises(ArtifactError) as refused:
        check_base_name(skill, "tiny/base", revision="main")
    assert refused.value.hint == '`[model] revision = "v1.1"`'
    check_base_name(skill, "tiny/base", revision="v1.1")
