"""`inspect` of a GGUF file: its figures, its special tokens as text, and warnings."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest
from typer.testing import CliRunner

from tests.fakes.models import CHATML
from tests.fakes.tiny_gguf import tiny_gguf
from tests.toolchain.quantize.conftest import Quantized
from toolchain.cli import app
from toolchain.errors import ArtifactError
from toolchain.quantize.contents import Special, read_contents
from toolchain.tools import ggml

Family = Callable[[str], Path]


def test_the_figures_are_those_of_the_stage(family: Family, quantized: Quantized) -> None:
    model = quantized(family("qwen3"), "Q8_0")
    found, figures = read_contents(model.file), model.record.figures
    assert (found.architecture, found.kind, found.scheme, found.licence, found.base) == (
        "qwen3",
        "model",
        "Q8_0",
        "Apache-2.0",
        "someone/tiny",
    )
    assert (found.parameters, found.size_bytes, found.context) == (
        figures["parameters"],
        figures["size_bytes"],
        figures["context"],
    )
    assert found.bits == pytest.approx(figures["real_bpw"], abs=1e-3)
    assert found.shape == {
        "layers": 3,
        "width": 128,
        "inner width": 256,
        "heads": 4,
        "key heads": 2,
        "head width": 64,
    }
    assert (found.rope, found.tokenizer, found.vocabulary) == (
        "base 1e+06",
        "gpt2 qwen2",
        figures["n_vocab"],
    )
    assert sum(share.size_bytes for share in found.types) == figures["weights_bytes"]
    assert [(share.type, share.bits) for share in found.types] == [("Q8_0", 8.5), ("F32", 32.0)]
    assert found.warnings == ()


def test_special_tokens_are_shown_by_their_text(family: Family, quantized: Quantized) -> None:
    found = read_contents(quantized(family("qwen2.5"), "Q8_0").file)
    assert Special(role="eos", id=2, text="<|im_end|>") in found.specials
    assert Special(role="padding", id=0, text="<|endoftext|>") in found.specials
    assert found.template_line == CHATML.partition("\n")[0][:100]


def test_a_scheme_that_mostly_fell_back_is_no_such_scheme(
    family: Family, quantized: Quantized
) -> None:
    found = read_contents(quantized(family("llama 3.2"), "Q4_K_M").file)
    assert found.warnings == ("labelled Q4_K_M, but only 25% of the weights are Q4_K",)


def written(path: Path, *, without: tuple[str, ...] = (), **more: Any) -> Path:
    """Write a tiny file and then its header anew: without some keys, with other token ids."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_token_list(["<pad>", "<end>", "a"])
    said = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.chat_template": "{{ x }}",
    }
    for key, value in said.items():
        if key not in without:
            writer.add_string(key, value)
    for role, number in more.items():
        writer.add_uint32(f"tokenizer.ggml.{role}_token_id", number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


ODD: dict[str, tuple[dict[str, Any], str]] = {
    "no end": ({}, "no token ends an answer"),
    "end is padding": (
        {"eos": 1, "padding": 1},
        "padding is the token that ends an answer: "
        "a model trained with padding masked may never have learned to stop",
    ),
    "end out of reach": ({"eos": 9}, "the eos token 9 is not in the vocabulary of 3"),
    "no template": (
        {"without": ("tokenizer.chat_template",), "eos": 1},
        "no chat template: engines will guess one",
    ),
    "no cut": (
        {"without": ("tokenizer.ggml.pre",), "eos": 1},
        "no `tokenizer.ggml.pre`: text is cut in a default way before it is merged",
    ),
}


@pytest.mark.parametrize("case", ODD)
def test_what_is_odd_is_said(tmp_path: Path, case: str) -> None:
    settings, warning = ODD[case]
    assert read_contents(written(tmp_path / "odd.gguf", **settings)).warnings == (warning,)


def test_a_file_with_everything_has_no_warning(tmp_path: Path) -> None:
    assert read_contents(written(tmp_path / "fine.gguf", eos=1, padding=0)).warnings == ()


def test_the_verb_shows_one_screen(tmp_path: Path) -> None:
    shown = CliRunner().invoke(app, ["inspect", str(tiny_gguf(tmp_path / "tiny.gguf"))])
    assert shown.exit_code == 0
    assert len(shown.stdout.splitlines()) < 25
    for text in (
        "llama model, F32",
        "gpt2 gpt-2, 259 tokens",
        "eos 258 `<|im_end|>`",
        "32.00 bits per weight",
    ):
        assert text in shown.stdout
    assert "blk.0.attn_q.weight" not in shown.stdout


def test_tensors_are_listed_when_asked_for(tmp_path: Path) -> None:
    file = str(tiny_gguf(tmp_path / "tiny.gguf"))
    assert "blk.0.attn_q.weight" in CliRunner().invoke(app, ["inspect", file, "--tensors"]).stdout
    assert "tensors" not in json.loads(CliRunner().invoke(app, ["inspect", file, "--json"]).stdout)
    listed = json.loads(CliRunner().invoke(app, ["inspect", file, "--json", "--tensors"]).stdout)[
        "tensors"
    ]
    assert ("blk.0.attn_q.weight", "F32") in {(tensor["name"], tensor["type"]) for tensor in listed}


def test_no_engine_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> None:
        raise AssertionError("the engine was asked")

    monkeypatch.setattr(ggml, "_library", refused)
    assert read_contents(tiny_gguf(tmp_path / "tiny.gguf")).parameters > 0


def test_a_hostile_header_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "bad.gguf"
    file.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 1 << 60, 0) + bytes(64))
    with pytest.raises(ArtifactError) as caught:
        read_contents(file)
    assert caught.value.message == f"bad.gguf: claims {1 << 60} tensors and 0 metadata entries"
