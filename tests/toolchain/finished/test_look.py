"""Files that people bring, and files made to hurt: one sentence each, before anything runs them."""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from tests.fakes.gguf_bytes import STRING, entry, text, u32, u64
from tests.fakes.gguf_bytes import gguf as raw_gguf
from tests.fakes.tiny_gguf import CHATML, SPECIALS, tiny_gguf
from toolchain.errors import ArtifactError
from toolchain.finished.look import look
from toolchain.finished.source import Source

ARCHITECTURE = "general.architecture"


def written(path: Path, **changes: Any) -> Path:
    """Write a sound header with a single tensor; a change of None leaves an entry out."""
    fields: dict[str, Any] = {
        "architecture": "llama",
        "type": "model",
        "context": 512,
        "template": CHATML,
        "tokens": [*(f"t{number}" for number in range(253)), *SPECIALS],
        "tokenizer": "gpt2",
        "eos": 255,
        "blocks": 1,
        "tensors": 1,
        "extra": {},
        **changes,
    }
    architecture = fields["architecture"]
    writer = gguf.GGUFWriter(path, architecture or "llama")
    if architecture is None:
        writer.kv_data[0].pop(ARCHITECTURE)
    for name, add in (
        ("type", writer.add_type),
        ("context", writer.add_context_length),
        ("template", writer.add_chat_template),
        ("tokens", writer.add_token_list),
        ("tokenizer", writer.add_tokenizer_model),
        ("eos", writer.add_eos_token_id),
        ("blocks", writer.add_block_count),
    ):
        if fields[name] is not None:
            add(fields[name])
    for key, (add, value) in fields["extra"].items():
        getattr(writer, add)(key, value)
    for number in range(fields["tensors"]):
        writer.add_tensor(f"blk.{number}.attn_q.weight", np.ones((32, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def refusal(file: Path, template: Path | None = None) -> str:
    with pytest.raises(ArtifactError) as caught:
        look(Source(file=file, said=file.name), template, file.parent / "room")
    return caught.value.message


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "adapter": ({"type": "adapter"}, "x.gguf: is an adapter, no model: merge it with its base"),
    "projector": ({"type": "mmproj"}, "x.gguf: is the eyes of a vision model"),
    "an old projector": ({"architecture": "clip"}, "x.gguf: is the eyes of a vision model"),
    "imatrix": ({"type": "imatrix"}, "x.gguf: is an importance matrix, no model"),
    "a kind of the future": ({"type": "dream"}, "x.gguf: is of the type `dream`, no model"),
    "bert": ({"architecture": "bert"}, "x.gguf: is an embedding model or an encoder (`bert`)"),
    "t5": ({"architecture": "t5"}, "x.gguf: is an embedding model or an encoder (`t5`)"),
    "pooling": (
        {"extra": {"llama.pooling_type": ("add_uint32", 1)}},
        "x.gguf: is an embedding model or an encoder (`llama`)",
    ),
    "not causal": (
        {"extra": {"llama.attention.causal": ("add_bool", False)}},
        "x.gguf: is an embedding model or an encoder (`llama`)",
    ),
    "a part": (
        {"extra": {"split.count": ("add_uint16", 3)}},
        "x.gguf: is one of 3 parts, and its name is not a part's",
    ),
    "no weights": ({"tensors": 0}, "x.gguf: holds no weights"),
    "no tokens": ({"tokens": None}, "x.gguf: no tokenizer in it"),
    "no tokenizer": ({"tokenizer": "none"}, "x.gguf: no tokenizer in it"),
    "zero context": ({"context": 0}, "x.gguf: `llama.context_length` is 0:"),
    "no context": ({"context": None}, "x.gguf: `llama.context_length` is missing:"),
    "no architecture": ({"architecture": None}, "x.gguf: no `general.architecture`"),
    "no template": ({"template": None}, "x.gguf: no chat template in it"),
    "an empty template": ({"template": "  \n"}, "x.gguf: no chat template in it"),
    "a broken template": ({"template": "{% for x"}, "chat template: cannot be rendered:"),
    "a template without end": (
        {
            "template": "{% for a in range(99999) %}"
            "{% for b in range(99999) %}{% endfor %}{% endfor %}"
        },
        "chat template: cannot be rendered:",
    ),
    "a template that fills memory": (
        {"template": "{% set x = 'a' * 999999999 %}{{ x }}"},
        "chat template: cannot be rendered:",
    ),
    "a template that writes too much": (
        {"template": "{% for a in range(99999) %}{{ 'a' * 999 }}{% endfor %}"},
        "chat template: cannot be rendered:",
    ),
    "a template that leaves the sandbox": (
        {"template": "{{ ''.__class__.__mro__[1].__subclasses__() }}"},
        "chat template: cannot be rendered:",
    ),
    "a template that says nothing": ({"template": "{# #}"}, "chat template: renders to nothing"),
}


@pytest.mark.sampled(6)
@pytest.mark.parametrize("case", REFUSED)
def test_what_answers_no_questions_is_refused_by_name(tmp_path: Path, case: str) -> None:
    changes, message = REFUSED[case]
    assert refusal(written(tmp_path / "x.gguf", **changes)).startswith(message)


def zipped() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    return content.getvalue()


def big_endian() -> bytes:
    return b"GGUF" + (3).to_bytes(4, "big") + (0).to_bytes(8, "big") * 2 + bytes(64)


PICKLE = "x.gguf: is a pickle, which can run code when it is loaded, whatever its name says"
STRANGERS: dict[str, tuple[bytes, str]] = {
    "a zip as torch writes it": (zipped(), PICKLE),
    "a bare pickle": (b"\x80\x04\x95" + bytes(40), PICKLE),
    "safetensors": (
        (64).to_bytes(8, "little") + b'{"a":{"dtype":"F32"}}' + bytes(64),
        "x.gguf: holds safetensors, the weights of a model folder",
    ),
    "the format before": (b"tjgg" + bytes(64), "x.gguf: is of a format older than GGUF"),
    "a pointer": (
        b"version h://git-lfs/spec/v1\noid sha256:0\nsize 9\n",
        "x.gguf: is a pointer of Git LFS, not the file it points to",
    ),
    "a web page": (b"<!DOCTYPE html><html>", "x.gguf: is a web page, not a model"),
    "nothing": (b"", "x.gguf: is empty"),
    "noise": (b"noise" * 20, "x.gguf: is neither GGUF nor TFLite nor LiteRT-LM"),
    "big-endian": (big_endian(), "x.gguf: is big-endian: boards are little-endian"),
    "a version of the future": (raw_gguf([], [], version=9), "x.gguf: version 9 is not known"),
    "giant counts": (
        b"GGUF" + u32(3) + u64(2**63) + u64(2**63),
        "x.gguf: claims 9223372036854775808 tensors",
    ),
    "a lying length": (
        raw_gguf([entry("a", STRING, u64(2**40))], []),
        "x.gguf: metadata `a` is 1099511627776 bytes long",
    ),
    "too many layers": (
        raw_gguf(
            [
                entry(ARCHITECTURE, STRING, text("llama")),
                entry("llama.block_count", 4, u32(1 << 31)),
            ],
            [],
        ),
        "x.gguf: metadata `llama.block_count` is 2147483648",
    ),
}


@pytest.mark.parametrize("case", STRANGERS)
def test_what_is_no_gguf_is_named_for_what_it_is(tmp_path: Path, case: str) -> None:
    content, message = STRANGERS[case]
    (tmp_path / "x.gguf").write_bytes(content)
    assert refusal(tmp_path / "x.gguf").startswith(message)


@pytest.mark.parametrize("share", [0.01, 0.2, 0.7, 0.999])
def test_a_file_that_was_cut_is_refused(tmp_path: Path, share: float) -> None:
    whole = tiny_gguf(tmp_path / "whole.gguf").read_bytes()
    (tmp_path / "x.gguf").write_bytes(whole[: int(share * len(whole))])
    assert refusal(tmp_path / "x.gguf").startswith("x.gguf: ")


def test_a_template_of_the_users_own_goes_before_the_files(tmp_path: Path) -> None:
    file = written(tmp_path / "x.gguf", template=None)
    template = "{% for each in messages %}{{ each['content'] }}<|im_end|>{% endfor %}"
    (tmp_path / "t.jinja").write_text(template)
    seen = look(Source(file=file, said="x"), tmp_path / "t.jinja", tmp_path)
    assert seen.template == template
    (tmp_path / "bad.jinja").write_bytes(b"\xff\xfe")
    assert refusal(file, tmp_path / "bad.jinja") == "bad.jinja: cannot be read as a template"
    assert refusal(file, tmp_path / "none.jinja") == "none.jinja: cannot be read as a template"


def test_a_name_says_nothing_the_first_bytes_do(tmp_path: Path) -> None:
    file = tiny_gguf(tmp_path / "model.bin")
    seen = look(Source(file=file, said=file.name), None, tmp_path)
    assert (seen.format, seen.engine, seen.context) == ("gguf", "llama.cpp", 512)
    assert seen.stop_ids == (258,)


END_IDS: list[tuple[Callable[[Path], Path], tuple[int, ...]]] = [
    (lambda path: written(path), (255,)),
    (lambda path: written(path, eos=None), ()),
    (lambda path: written(path, eos=99_999), ()),
    (
        lambda path: written(path, extra={"tokenizer.ggml.eot_token_id": ("add_uint32", 254)}),
        (254, 255),
    ),
]


@pytest.mark.parametrize(("make", "ids"), END_IDS)
def test_tokens_that_end_an_answer_are_those_of_the_vocabulary(
    tmp_path: Path, make: Callable[[Path], Path], ids: tuple[int, ...]
) -> None:
    file = make(tmp_path / "x.gguf")
    assert look(Source(file=file, said="x"), None, tmp_path).stop_ids == ids
