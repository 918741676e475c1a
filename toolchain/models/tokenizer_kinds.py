"""Recognises the kind of a tokenizer by the exact structure of its tokenizer.json.

Two kinds exist in llama.cpp too. Byte-level BPE splits text by one of a few patterns
(`tokenizer.ggml.pre`). SentencePiece BPE has byte fallback; llama.cpp knows its scores instead of
merges, so the merges must be the ones that the scores imply.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from toolchain.errors import ArtifactError
from toolchain.models.names import TOKENIZER

SPACE = "▁"
_BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))

QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENDING}"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ENDING}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """A kind of tokenizer that llama.cpp has."""

    model: str
    """`tokenizer.ggml.model`: `gpt2` or `llama`."""
    pre: str = "default"
    space_prefix: bool = True
    """Whether a space is put before text, after each special token too (SentencePiece)."""
    begins: bool = False
    """Only Hugging Face puts a space before text that does not begin with a special token."""
    composed: bool = False
    """Text is normalized to NFC first."""
    splits_marks: bool = False
    """llama.cpp cuts before combining marks, Hugging Face does not."""
    bytes: frozenset[str] = frozenset()
    """Tokens that stand for a byte."""

    @property
    def caveat(self) -> str:
        """Difference of llama.cpp in one line; empty if there is none."""
        if self.begins:
            return (
                "text that begins with no special token has no space before it in llama.cpp; "
                "chats begin with one and are the same"
            )
        return (
            "combining marks (Hindi, Thai, decomposed accents) are cut off their letters "
            "in llama.cpp"
            if self.splits_marks
            else ""
        )


def _byte_level(*, use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "use_regex": use_regex}


def _split(pattern: str) -> list[dict[str, Any]]:
    cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return [cut, _byte_level(use_regex=False)]


_CUTS = {
    "gpt-2": ([_byte_level(use_regex=True)], False),
    "smollm": ([{"type": "Digits", "individual_digits": True}, _byte_level(use_regex=True)], False),
    "qwen2": (_split(QWEN2), False),
    "llama-bpe": (_split(_LLAMA3), True),
    "smaug-bpe": (_split(_LLAMA3), False),
    "gpt-4o": (_split(_GPT4O), False),
}
"""`tokenizer.ggml.pre` → its pre-tokenizers, and `ignore_merges`.

Source: llama-vocab.cpp, `llm_tokenizer_bpe`.
"""


def cut(pre: str) -> tuple[dict[str, Any], bool] | None:
    """Return the pre-tokenizer of a `tokenizer.ggml.pre` and `ignore_merges`; None if unknown."""
    if pre not in _CUTS:
        return None
    steps, ignore_merges = _CUTS[pre]
    steps = [
        step | {"trim_offsets": True} if step["type"] == "ByteLevel" else step for step in steps
    ]
    whole = steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps}
    return whole, ignore_merges


_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_PREPEND = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": SPACE}, _REPLACE]}
_NOT_CUT = {
    "type": "Split",
    "pattern": {"String": " "},
    "behavior": "MergedWithPrevious",
    "invert": False,
}


def _metaspace(scheme: str) -> dict[str, Any]:
    return {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": scheme, "split": False}


_SPACES: tuple[tuple[Any, Any, bool, bool], ...] = (
    (_PREPEND, None, True, False),
    (_REPLACE, None, False, False),
    (_REPLACE, _NOT_CUT, False, False),
    (None, _metaspace("never"), False, False),
    (None, _metaspace("first"), False, True),
)
"""Normalizer, pre-tokenizer, `space_prefix` and `begins` of Llama 2, Gemma and Mistral."""
_PLAIN_MODEL = {
    "type": "BPE",
    "dropout": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
}


def spaces(*, prefix: bool) -> dict[str, Any]:
    """Return the normalizer of a SentencePiece kind, with or without a space before the text."""
    return _PREPEND if prefix else _REPLACE


def recognise(fields: dict[str, Any]) -> Structure:
    """Return the kind of tokenizer; raise ArtifactError for an unknown one."""
    model = fields.get("model") or {}
    first = fields.get("pre_tokenizer") or {}
    steps = first.get("pretokenizers", []) if first.get("type") == "Sequence" else [first]
    if not isinstance(model.get("vocab"), dict | list):
        raise ArtifactError(f"{TOKENIZER}: tokenizer not recognised: no vocabulary")

    if all((model.get(key) or value) == value for key, value in _PLAIN_MODEL.items()):
        structure = (
            _sentence_piece(fields, model)
            if model.get("byte_fallback")
            else _bytes_first(fields, model, steps)
        )
        if structure:
            return structure

    kind = "+".join(str(step.get("type", "nothing")) for step in steps)
    hint = (
        f"known: byte-level BPE cut as {', '.join(_CUTS)} do it, "
        "and SentencePiece BPE as Llama 2 and Gemma have it"
    )
    raise ArtifactError(
        f"{TOKENIZER}: tokenizer not recognised: {model.get('type', 'no')} model after {kind}",
        hint=hint,
    )


def _bytes_first(
    fields: dict[str, Any], model: dict[str, Any], steps: list[dict[str, Any]]
) -> Structure | None:
    plain = [{key: value for key, value in step.items() if key != "trim_offsets"} for step in steps]
    normalizer = fields.get("normalizer")
    for name, (cuts, ignore_merges) in _CUTS.items():
        if (
            plain == cuts
            and bool(model.get("ignore_merges")) == ignore_merges
            and normalizer in (None, {"type": "NFC"})
        ):
            return Structure(
                model="gpt2",
                pre=name,
                composed=normalizer is not None,
                splits_marks=name == "gpt-4o",
            )

    return None


def _sentence_piece(fields: dict[str, Any], model: dict[str, Any]) -> Structure | None:
    for normalizer, cut, prefix, begins in _SPACES:
        if (
            fields.get("normalizer") == normalizer
            and fields.get("pre_tokenizer") == cut
            and not model.get("ignore_merges")
        ):
            _check_bytes(model["vocab"])
            return Structure(
                model="llama", bytes=frozenset(_BYTES), space_prefix=prefix, begins=begins
            )
    return None


def _check_bytes(vocabulary: dict[str, int]) -> None:
    for text in _BYTES:
        if text not in vocabulary:
            raise ArtifactError(
                f"{TOKENIZER}: no token `{text}` for a byte, so some text could not be written"
            )


def scores(fields: dict[str, Any]) -> dict[int, float]:
    """Return the score of each token id, so that joining the best pair first follows the merges.

    Raises ArtifactError for merges that no scores imply. The merges of a token must be all the ways
    to split it in two, one after the other.
    """
    vocabulary: dict[str, int] = fields["model"]["vocab"]
    pairs = list(_pairs(fields))
    ways = Counter(left + right for left, right in pairs)
    added = {token["content"] for token in fields.get("added_tokens") or []} | set(_BYTES)

    for text in vocabulary.keys() - added:
        cuts = sum(
            text[:at] in vocabulary and text[at:] in vocabulary for at in range(1, len(text))
        )
        if cuts != ways[text]:
            raise _no_scores(text)

    ranks = {text: rank for rank, block in enumerate(_blocks(pairs)) for text in block}
    others = sorted((vocabulary[text], text) for text in vocabulary.keys() - added - ranks.keys())
    ranks |= {text: len(ranks) + place for place, (_, text) in enumerate(others)}
    return {vocabulary[text]: float(-rank) for text, rank in ranks.items() if text in vocabulary}


def _blocks(pairs: list[tuple[str, str]]) -> Iterator[list[str]]:
    """Yield the tokens of equal score, the best first.

    Several tokens have one score if their merges are mixed. Then the longest left part must come
    first: of equal scores llama.cpp joins the leftmost pair, as merges in that order do (Gemma).
    """
    last = {left + right: at for at, (left, right) in enumerate(pairs)}
    block: list[str] = []
    first = end = 0

    for at, (left, right) in enumerate(pairs):
        if left + right not in block:
            block.append(left + right)
        end = max(end, last[left + right])
        if at == end:
            lengths = [(len(one), len(other)) for one, other in pairs[first : at + 1]]
            if len(block) > 1 and lengths != sorted(lengths, reverse=True):
                raise _no_scores(block[0])
            yield block
            block, first, end = [], at + 1, at + 1


def _pairs(fields: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for merge in fields["model"].get("merges") or []:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        yield left, right


def _no_scores(text: str) -> ArtifactError:
    return ArtifactError(
        f"{TOKENIZER}: the merges of `{text}` are not those of a SentencePiece model, "
        "and llama.cpp knows no others",
        hint="train the tokenizer with SentencePiece, or use a byte-level one",
    )
