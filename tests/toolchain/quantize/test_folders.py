"""`inspect FOLDER` of a checkpoint, an adapter and a bundle: contents, and later refusals."""

import json
from pathlib import Path

import pytest

from tests.fakes.knowing import knowing_bundle
from tests.fakes.models import tiny_llama
from tests.fakes.tiny_gguf import tiny_bundle
from toolchain.errors import ArtifactError
from toolchain.quantize.folders import describe, model_file


def test_a_checkpoint_says_its_shape_tokenizer_and_template(tmp_path: Path) -> None:
    found = describe(tiny_llama(tmp_path / "base"))
    rows = dict(found.rows)
    assert (found.kind, found.name, found.warnings) == ("checkpoint", "base", ())
    assert rows["kind"] == "LlamaForCausalLM"
    assert "M parameters, F32" in rows["size"]
    assert rows["shape"].startswith("2 layers, 256 width")
    assert rows["template"].endswith("of chat_template.jinja")


def test_what_a_later_stage_would_refuse_is_a_warning(tmp_path: Path) -> None:
    folder = tiny_llama(tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").unlink()
    (folder / "adapter_config.json").write_text("{}")
    warnings = " ".join(describe(folder).warnings)
    assert "quantized already" in warnings
    assert "no chat template" in warnings
    assert "an adapter lies in the same folder" in warnings


def test_an_adapter_says_its_base_and_rank(tmp_path: Path) -> None:
    said = {"peft_type": "LORA", "base_model_name_or_path": "some/base", "r": 8, "lora_alpha": 16}
    (tmp_path / "adapter_config.json").write_text(json.dumps(said | {"target_modules": ["q_proj"]}))
    (tmp_path / "adapter_model.bin").write_bytes(b"\x80")
    found = describe(tmp_path)
    rows = dict(found.rows)
    assert (found.kind, rows["base"], rows["rank"]) == ("adapter", "some/base", "8, alpha 16")
    assert rows["changes"] == "q_proj"
    assert any("is a pickle" in warning for warning in found.warnings)


def test_a_bundle_with_documents_says_how_many_and_who_words_answers(tmp_path: Path) -> None:
    bundle = knowing_bundle(tmp_path / "quoting" / "bundle")
    assert dict(describe(bundle).rows)["documents"] == "3 passages, quoted as they stand"
    bundle = knowing_bundle(tmp_path / "wording" / "bundle", answer="model")
    assert dict(describe(bundle).rows)["documents"] == "3 passages, worded by the model"
    (bundle / "knowledge.db").write_bytes(b"no index" * 4096)
    assert "`knowledge.db` cannot be read" in dict(describe(bundle).rows)["documents"]
    assert "documents" not in dict(describe(tiny_bundle(tmp_path / "plain")).rows)


def test_a_bundle_says_its_release_and_what_is_missing(tmp_path: Path) -> None:
    folder = tiny_bundle(tmp_path / "bundle")
    found = describe(folder)
    rows = dict(found.rows)
    assert (found.kind, rows["made for"], rows["gate"]) == (
        "bundle",
        "x86-64",
        "nothing was measured against a reference",
    )
    assert model_file(folder) == folder / "tiny.gguf"
    (folder / "goldens.jsonl").write_text("x")
    (folder / "tiny.gguf").unlink()
    assert describe(folder).warnings == (
        "`tiny.gguf` is missing",
        "`goldens.jsonl` has 1 bytes, the manifest says 0",
    )
    assert model_file(folder) is None


@pytest.mark.parametrize("content", ["{", "[]", "[" * 50_000])
def test_json_that_cannot_be_read_is_a_warning(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    assert describe(tmp_path).warnings


def test_any_other_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not a model, adapter or bundle folder"):
        describe(tmp_path)
