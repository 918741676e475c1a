"""A Hugging Face tokenizer as GGUF metadata.

The exact structure of tokenizer.json decides the kind (`tokenizer_kinds`), never its name.
`tokenizer_proof` shows afterwards that llama.cpp gives the same tokens.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.errors import ArtifactError
from toolchain.models.gguf_file import Metadata
from toolchain.models.names import CONFIG, GENERATION_CONFIG, TEMPLATE, TOKENIZER, TOKENIZER_CONFIG
from toolchain.models.template import behind_an_answer, first_token, template_text
from toolchain.models.tokenizer_kinds import SPACE, Structure, recognise, scores
from toolchain.models.weights import read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TEMPLATE_KEY = "tokenizer.chat_template"
NORMAL, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 3, 4, 5, 6
"""`tokenizer.ggml.token_type` (llama.h, `llama_token_type`)."""
END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>")
"""Tokens that end a turn where they exist (llama-vocab.cpp finds them by the same names)."""
PHI3 = "phi-3"
"""In `general.name`: added tokens of such a model strip the white space after them in llama.cpp."""
_PHI3_PLAIN = {"<unk>", "<s>", "<|endoftext|>"}
BEYOND = ("<image_soft_token>",)
"""Tokens that text-only models list without a row in the embedding (Gemma 3)."""
_SPECIAL_WORDS = ("<pad>", "<mask>", "<2mass>", "[@BOS@]")

BOS, EOS = "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"
_ROLES = {
    "bos": BOS,
    "eos": EOS,
    "pad": "tokenizer.ggml.padding_token_id",
    "unk": "tokenizer.ggml.unknown_token_id",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """A tokenizer, as the model file will have it."""

    metadata: Metadata
    template: str
    stop_ids: tuple[int, ...]
    """Ids of all tokens that end an answer."""
    structure: Structure
    name_mark: str = ""
    """Text that `general.name` must hold for llama.cpp to treat the added tokens correctly."""


def read_vocabulary(folder: Path, rows: int) -> Vocabulary:
    """Return the tokenizer of a checked model folder whose embedding has `rows` rows.

    Raises ArtifactError for an unknown kind.
    """
    fields = without_state(read_json(folder / TOKENIZER))
    settings = read_json(folder / TOKENIZER_CONFIG) if (folder / TOKENIZER_CONFIG).is_file() else {}
    structure = recognise(fields)
    tokens, types = _tokens(fields, rows, structure)
    ids = {token: number for number, token in enumerate(tokens)}
    template = chat_template(folder, settings)
    specials, stop_ids = special_ids(folder, settings, ids, added_tokens(fields))
    metadata = {
        "tokenizer.ggml.model": structure.model,
        "tokenizer.ggml.pre": structure.pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        **_ranks(fields, structure, types),
        **specials,
        **_added_around(load_tokenizer(folder), specials),
        TEMPLATE_KEY: template,
    }
    mark = _name_mark(fields)

    return Vocabulary(
        metadata=metadata, template=template, stop_ids=stop_ids, structure=structure, name_mark=mark
    )


def without_state(fields: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a tokenizer.json without a trainer's state.

    That is the lengths to cut and to pad to, and merge dropout.

    transformers ignores the first two; dropout changes the tokens each time (arXiv:1910.13267).
    """
    model = fields.get("model")
    if isinstance(model, dict) and model.get("dropout") is not None:
        fields = {**fields, "model": {**model, "dropout": None}}
    left = [name for name in ("truncation", "padding") if fields.get(name) is not None]
    return {**fields, **dict.fromkeys(left)} if left else fields


def load_tokenizer(folder: Path) -> "Tokenizer":
    """Return the tokenizer of a model folder, without a trainer's state."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if getattr(tokenizer.model, "dropout", None) is not None:
        tokenizer.model.dropout = None
    return tokenizer


def write_tokenizer(folder: Path, out: Path) -> None:
    """Write a model folder's tokenizer.json to `out`; it is copied if it has no trainer's state."""
    fields = read_json(folder / TOKENIZER)
    clean = without_state(fields)
    if clean is fields:
        shutil.copyfile(folder / TOKENIZER, out / TOKENIZER)
        return
    (out / TOKENIZER).write_text(json.dumps(clean, ensure_ascii=False, indent=2), encoding="utf-8")


def added_tokens(fields: dict[str, Any]) -> list[str]:
    """Return the texts of the tokens that a tokenizer.json adds to its model's."""
    return [str(token["content"]) for token in fields.get("added_tokens") or []]


def _tokens(fields: dict[str, Any], rows: int, structure: Structure) -> tuple[list[str], list[int]]:
    """Return text and type of each of `rows` tokens; rows that no token has are padding."""
    tokens = {
        number: (text, BYTE if text in structure.bytes else NORMAL)
        for text, number in fields["model"]["vocab"].items()
    }

    for token in fields.get("added_tokens") or []:
        kind = _added_type(token)
        spaced = structure.model == "llama" and token.get("normalized")
        tokens[token["id"]] = (
            token["content"].replace(SPACE, " ") if spaced else token["content"],
            kind,
        )

    tokens = {
        number: token for number, token in tokens.items() if number < rows or token[0] not in BEYOND
    }
    if (highest := max(tokens)) >= rows:
        problem = (
            f"token {highest} (`{tokens[highest][0]}`) has no row "
            f"in `model.embed_tokens.weight` of {rows}"
        )
        raise ArtifactError(f"{TOKENIZER}: {problem}", hint="resize the embedding")

    listed = [tokens.get(number, (f"[PAD{number}]", UNUSED)) for number in range(rows)]
    seen: set[str] = set()
    for text, _ in listed:
        if text in seen:
            raise ArtifactError(f"{TOKENIZER}: two tokens have the text `{text}`")
        seen.add(text)

    return [text for text, _ in listed], [kind for _, kind in listed]


def _added_type(token: dict[str, Any]) -> int:
    """Return an added token's type: control tokens are not always marked as special.

    Source: conversion/base.py, `does_token_look_special`.
    """
    content = token["content"]
    if token.get("lstrip") or token.get("single_word"):
        raise _swallows(content)
    looks_special = (
        (content.startswith("<|") and content.endswith("|>"))
        or content.startswith("<unused")
        or content in _SPECIAL_WORDS
    )
    return CONTROL if token.get("special") or looks_special else USER_DEFINED


def _name_mark(fields: dict[str, Any]) -> str:
    """Return the model name for which llama.cpp strips white space after added tokens.

    It does so for Phi-3's set of added tokens alone; empty if no token strips.
    """
    added = {
        token["content"]: bool(token.get("rstrip")) for token in fields.get("added_tokens") or []
    }
    if not any(added.values()):
        return ""
    for content, strips in added.items():
        if strips == (content in _PHI3_PLAIN):
            raise _swallows(next(content for content, strips in added.items() if strips))
    return PHI3


def _swallows(content: str) -> ArtifactError:
    return ArtifactError(
        f"{TOKENIZER}: added token `{content}` takes white space or words with it, "
        "which llama.cpp does not"
    )


def _ranks(fields: dict[str, Any], structure: Structure, types: list[int]) -> Metadata:
    """Return the order of joins: a list of merges, or a score for each token."""
    if structure.model == "gpt2":
        merges = fields["model"]["merges"]
        return {
            "tokenizer.ggml.merges": [
                merge if isinstance(merge, str) else " ".join(merge) for merge in merges
            ]
        }

    by_id = scores(fields)
    fixed = {CONTROL: -1000.0, USER_DEFINED: -1000.0, UNUSED: -10000.0, BYTE: 0.0}
    listed = [fixed[kind] if kind in fixed else by_id[number] for number, kind in enumerate(types)]
    return {"tokenizer.ggml.scores": listed} | (
        {} if structure.space_prefix else {"tokenizer.ggml.add_space_prefix": False}
    )


def special_ids(
    folder: Path, settings: dict[str, Any], ids: dict[str, int], added: Sequence[str]
) -> tuple[Metadata, tuple[int, ...]]:
    """Return the ids of special tokens as metadata, and those of tokens that end an answer.

    Raises ArtifactError if no token ends an answer. `added` are the texts of the tokenizer's added
    tokens. The one that the chat template writes after an answer ends it too, whatever the
    configuration says: training teaches it as the end.
    """
    config = read_json(folder / CONFIG)
    generation = (
        read_json(folder / GENERATION_CONFIG) if (folder / GENERATION_CONFIG).is_file() else {}
    )
    _check_ids(CONFIG, config)
    _check_ids(GENERATION_CONFIG, generation)
    metadata: Metadata = {}

    for role, key in _ROLES.items():
        numbers = [
            ids.get(_text(settings.get(f"{role}_token")), -1),
            *_numbers(config.get(f"{role}_token_id")),
        ]
        if known := [number for number in numbers if 0 <= number < len(ids)]:
            metadata[key] = known[0]

    turns = [ids[token] for token in END_OF_TURN if token in ids]
    written = _written_end(folder, settings, added)
    if written in ids and ids[written] != metadata.get(EOS):
        turns = [ids[written], *(number for number in turns if number != ids[written])]

    if turns:
        metadata["tokenizer.ggml.eot_token_id"] = turns[0]

    stops = {
        *_numbers(config.get("eos_token_id")),
        *_numbers(generation.get("eos_token_id")),
        *turns,
    }
    stops |= {metadata[EOS]} if EOS in metadata else set()
    if not stops:
        raise ArtifactError(
            f"{folder.name}: no token ends an answer",
            hint="set `eos_token` in tokenizer_config.json",
        )
    if (highest := max(stops)) >= len(ids):
        raise ArtifactError(
            f"{folder.name}: `eos_token_id` {highest} is not in the vocabulary of {len(ids)}"
        )

    return metadata, tuple(sorted(stops))


def _written_end(folder: Path, settings: dict[str, Any], added: Sequence[str]) -> str:
    """Return the token that the chat template writes after an answer; empty if it writes none."""
    named = {f"{role}_token": _text(settings.get(f"{role}_token")) for role in _ROLES}
    return first_token(behind_an_answer(chat_template(folder, settings), named), added)


def _added_around(tokenizer: "Tokenizer", specials: Metadata) -> Metadata:
    """Return which tokens the tokenizer puts around a text, by encoding one."""
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    whole = tokenizer.encode("a", add_special_tokens=True).ids
    bos, eos = ([specials[key]] if key in specials else [] for key in (BOS, EOS))

    for add_bos in (False, True):
        for add_eos in (False, True):
            if whole == bos * add_bos + bare + eos * add_eos:
                return {
                    "tokenizer.ggml.add_bos_token": add_bos,
                    "tokenizer.ggml.add_eos_token": add_eos,
                }

    raise ArtifactError(
        f"{TOKENIZER}: puts tokens {whole} around `a`, not the begin and end tokens that it names"
    )


def chat_template(folder: Path, settings: dict[str, Any]) -> str:
    """Return the chat template from its own file, or else from tokenizer_config.json.

    transformers looks in the same order.
    """
    if (file := folder / TEMPLATE).is_file():
        return template_text(file)
    template = settings.get("chat_template")
    if isinstance(template, list):
        template = {entry.get("name"): entry.get("template") for entry in template}.get("default")
    if not isinstance(template, str) or not template:
        raise ArtifactError(
            f"{folder.name}: no chat template", hint=f"put `{TEMPLATE}` beside config.json"
        )
    return template


def _check_ids(name: str, config: Mapping[str, Any]) -> None:
    """Raise ArtifactError for ids of special tokens that transformers refuses."""
    for role in _ROLES:
        key = f"{role}_token_id"
        value = config.get(key)
        several = value if isinstance(value, list) and role == "eos" else [value]
        if not all(each is None or type(each) is int for each in several):
            raise ArtifactError(f"{name}: `{key}` is `{value}`, not the number of a token")


def _text(token: Any) -> str:
    return str(token.get("content", "") if isinstance(token, dict) else token or "")


def _numbers(value: Any) -> list[int]:
    return [
        number
        for number in (value if isinstance(value, list) else [value])
        if isinstance(number, int)
    ]
