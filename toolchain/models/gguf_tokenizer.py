"""Writes a GGUF file's tokenizer.json, settings and chat template: the inverse of `tokenizer`.

The vocabulary is read as llama.cpp reads it: the library itself is asked for its defaults, for the
tokens with a role, and for those that end an answer. Afterwards both libraries encode a mixed text
(`tokenizer_proof`); one different token refuses the file.
"""

import json
from pathlib import Path
from typing import Any

from toolchain.files import write_whole
from toolchain.models.gguf_read import GgufFile
from toolchain.models.names import TEMPLATE, TOKENIZER
from toolchain.models.template import check_template
from toolchain.models.tokenizer import TEMPLATE_KEY
from toolchain.models.tokenizer_kinds import SPACE, cut, spaces
from toolchain.tools import llama
from toolchain.tools.llama import Rules

_SAME_CUT = {
    "gpt-2": "a.x-4.0 exaone4 gigachat granite-docling jais mellum mpt olmo phi-2 trillion",
    "smollm": "codeshell command-r exaone mellum2 minerva-7b refact starcoder",
    "qwen2": "deepseek-r1-qwen f2llmv2 hunyuan kormo megrez solar-open stablelm2",
    "llama-bpe": "falcon-h1 falcon3 jina-v5-nano lfm2 llama-v3 llama3 midm-2.0 pixtral",
    "smaug-bpe": "dbrx",
    "gpt-4o": "kanana2 llama4 talkie",
}
"""Our `tokenizer.ggml.pre` → others with the same patterns and rules (llama-vocab.cpp)."""
_PRE = {name: known for known, others in _SAME_CUT.items() for name in (known, *others.split())}
_ADDED = llama.CONTROL | llama.USER_DEFINED | llama.UNKNOWN
"""Attributes of tokens that are found before text is split.

Source: llama-vocab.cpp, `cache_special_tokens`.
"""


def write_tokenizer(file: GgufFile, out: Path) -> Rules:
    """Write a model file's tokenizer.json, its two config files and its chat template to `out`.

    The config files are tokenizer_config.json and generation_config.json. Returns llama.cpp's rules
    of the vocabulary. Raises ArtifactError for an unknown kind and for a missing template.
    """
    template = file.metadata.get(TEMPLATE_KEY)
    if not isinstance(template, str) or not template.strip():
        hint = (
            "give the instruct version of this model: "
            "a base without a template has never seen a conversation"
        )
        raise file.fault("no chat template", hint=hint)

    check_template(template)
    tokens = file.strings("tokenizer.ggml.tokens")
    rows = file.shape("token_embd.weight")[0]
    if len(tokens) != rows:
        raise file.fault(f"{len(tokens)} tokens, but `token_embd.weight` has {rows} rows")

    fields = _kind(file, tokens)
    rules = llama.vocabulary_rules(file.path)
    if not rules.ends:
        raise file.fault("no token ends an answer")

    write_whole(out / TOKENIZER, json.dumps(_whole(fields, tokens, rules), ensure_ascii=False))
    _check_readable(file, out)
    write_whole(out / TEMPLATE, template)
    _write_settings(tokens, rules, out)

    return rules


def _check_readable(file: GgufFile, out: Path) -> None:
    from tokenizers import Tokenizer

    try:
        Tokenizer.from_file(str(out / TOKENIZER))
    except Exception as error:  # the tokenizers library raises no narrower type
        raise file.fault(f"its tokenizer cannot be read: {str(error)[:80]}") from error


def _kind(file: GgufFile, tokens: list[str]) -> dict[str, Any]:
    """Return what differs between kinds: normalizer, pre-tokenizer, decoder, and model rules."""
    kind = file.metadata.get("tokenizer.ggml.model", "none")
    if kind == "gpt2":
        return _byte_level(file, tokens)
    if kind == "llama":
        return _sentence_piece(file, tokens)
    raise file.fault(
        f"a tokenizer of the kind `{str(kind)[:40]}` is not known", hint="known: gpt2, llama"
    )


def _byte_level(file: GgufFile, tokens: list[str]) -> dict[str, Any]:
    name = str(file.metadata.get("tokenizer.ggml.pre", "default"))
    found = cut(_PRE.get(name, name))
    if found is None:
        hint = f"known: {', '.join(_SAME_CUT)}"
        if name == "default":
            hint = (
                "convert the model again with a newer llama.cpp: "
                "this file does not say how its text is cut"
            )
        raise file.fault(f"a tokenizer cut as `{name[:40]}` is not known", hint=hint)

    pre_tokenizer, ignore_merges = found
    # A piece may begin with the separating space: llama.cpp searches it from the second byte on.
    listed = file.strings("tokenizer.ggml.merges")
    pairs = [(merge[: merge.find(" ", 1)], merge[merge.find(" ", 1) + 1 :]) for merge in listed]
    known = set(tokens)
    merges = [list(pair) for pair in pairs if {*pair, "".join(pair)} <= known]

    return {
        "normalizer": None,
        "pre_tokenizer": pre_tokenizer,
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": _model(merges, ignore_merges=ignore_merges),
    }


def _sentence_piece(file: GgufFile, tokens: list[str]) -> dict[str, Any]:
    prefix = file.metadata.get("tokenizer.ggml.add_space_prefix", True) is True
    replace = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    decoders: list[dict[str, Any]] = [replace, {"type": "ByteFallback"}, {"type": "Fuse"}]
    if prefix:
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "normalizer": spaces(prefix=prefix),
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _model(_merges(file, tokens), byte_fallback=True, fuse_unk=True),
    }


def _merges(file: GgufFile, tokens: list[str]) -> list[list[str]]:
    """Return merges in the order of scores (convert_slow_tokenizer.py, `generate_merges`).

    Of equal scores the longest left part comes first, as llama.cpp joins the leftmost pair.
    """
    scores = file.numbers("tokenizer.ggml.scores")
    if scores is None or len(scores) != len(tokens):
        raise file.fault(f"no scores for its {len(tokens)} tokens")

    types = file.numbers("tokenizer.ggml.token_type")
    joined = [
        (float(scores[number]), text)
        for number, text in enumerate(tokens)
        if len(text) > 1 and (types is None or types[number] == 1)
    ]
    known = set(tokens)
    pairs = [
        (score, text[:at], text[at:])
        for score, text in joined
        for at in range(1, len(text))
        if text[:at] in known and text[at:] in known
    ]
    # The text comes last, so that equal files give equal bytes.
    pairs.sort(key=lambda pair: (-pair[0], -len(pair[1]), -len(pair[2]), pair[1] + pair[2]))

    return [[left, right] for _, left, right in pairs]


def _model(
    merges: list[list[str]],
    *,
    ignore_merges: bool = False,
    byte_fallback: bool = False,
    fuse_unk: bool = False,
) -> dict[str, Any]:
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": fuse_unk,
        "byte_fallback": byte_fallback,
        "ignore_merges": ignore_merges,
        "merges": merges,
    }


def _whole(fields: dict[str, Any], tokens: list[str], rules: Rules) -> dict[str, Any]:
    """Return tokenizer.json: the kind with its vocabulary, added tokens and post-processor."""
    roles = set(rules.roles.values())
    used = [
        number
        for number, text in enumerate(tokens)
        if text and (number in roles or not rules.attributes[number] & llama.UNUSED)
    ]
    added = [
        _added(number, tokens[number], rules.attributes[number])
        for number in used
        if number in roles or rules.attributes[number] & _ADDED
    ]
    unknown = [
        text for text, kind in zip(tokens, rules.attributes, strict=True) if kind & llama.UNKNOWN
    ]
    model = fields["model"] | {
        "unk_token": unknown[0] if unknown and fields["model"]["byte_fallback"] else None,
        "vocab": {tokens[number]: number for number in used},
    }

    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": fields["normalizer"],
        "pre_tokenizer": fields["pre_tokenizer"],
        "post_processor": _around(tokens, rules),
        "decoder": fields["decoder"],
        "model": model,
    }


def _added(number: int, text: str, attributes: int) -> dict[str, Any]:
    return {
        "id": number,
        "content": text,
        "single_word": False,
        "lstrip": False,
        "rstrip": bool(attributes & llama.TAKES_SPACE),
        "normalized": False,
        "special": bool(attributes & (llama.CONTROL | llama.UNKNOWN)),
    }


def _around(tokens: list[str], rules: Rules) -> dict[str, Any] | None:
    """Return the post-processor for begin and end tokens; None if llama.cpp adds neither."""
    before = [rules.roles["bos"]] if rules.add_bos and "bos" in rules.roles else []
    behind = [rules.roles["eos"]] if rules.add_eos and "eos" in rules.roles else []
    if not before + behind:
        return None

    def once(sequence: str, place: int) -> list[dict[str, Any]]:
        """Return one sequence with the tokens around it."""
        texts = [{"Sequence": {"id": sequence, "type_id": place}}]
        front, end = (
            [{"SpecialToken": {"id": tokens[number], "type_id": place}} for number in numbers]
            for numbers in (before, behind)
        )
        return front + texts + end

    named = {
        tokens[number]: {"id": tokens[number], "ids": [number], "tokens": [tokens[number]]}
        for number in before + behind
    }

    return {
        "type": "TemplateProcessing",
        "single": once("A", 0),
        "pair": once("A", 0) + once("B", 1),
        "special_tokens": named,
    }


def _write_settings(tokens: list[str], rules: Rules, out: Path) -> None:
    named = {f"{role}_token": tokens[number] for role, number in rules.roles.items()}
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **named,
    }
    ids = {f"{role}_token_id": number for role, number in rules.roles.items()}
    generation = {**ids, "eos_token_id": list(rules.ends)}

    for name, content in (
        ("tokenizer_config.json", settings),
        ("generation_config.json", generation),
    ):
        write_whole(out / name, json.dumps(content, ensure_ascii=False, indent=2) + "\n")
