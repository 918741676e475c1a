"""A Hugging Face tokenizer as GGUF metadata, and the proof that llama.cpp reads it as the same tokenizer.

How text is cut before merging (`tokenizer.ggml.pre`) is decided by the exact structure of tokenizer.json, never by a likely name;
then a mixed text is encoded by both libraries, and one different token refuses the model.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.errors import ArtifactError
from toolchain.quantize.gguf_families import Metadata
from toolchain.quantize.gguf_file import write_header
from toolchain.tools.llama import open_vocabulary
from toolchain.weights import read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER = "tokenizer.json"
TEMPLATE = "chat_template.jinja"
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""`tokenizer.ggml.token_type` (llama.h, `llama_token_type`)."""
END_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<|end|>", "<end_of_turn>")
"""Tokens that end a turn where they exist (llama-vocab.cpp finds them by the same names)."""

_QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


def _byte_level(*, use_regex: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": False, "use_regex": use_regex}


def _split(pattern: str) -> list[dict[str, Any]]:
    cut = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    return [cut, _byte_level(use_regex=False)]


_STRUCTURES = {
    "gpt-2": ([_byte_level(use_regex=True)], False),
    "smollm": ([{"type": "Digits", "individual_digits": True}, _byte_level(use_regex=True)], False),
    "qwen2": (_split(_QWEN2), False),
    "llama-bpe": (_split(_LLAMA3), True),
}
"""`tokenizer.ggml.pre` → the pre-tokenizers that it stands for, and `ignore_merges` (llama-vocab.cpp, `llm_tokenizer_bpe`)."""

_BOS, _EOS = "tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id"
_ROLES = {"bos": _BOS, "eos": _EOS, "pad": "tokenizer.ggml.padding_token_id", "unk": "tokenizer.ggml.unknown_token_id"}

_PLAIN_MODEL = {
    "type": "BPE", "dropout": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "byte_fallback": False,
}  # fmt: skip

PROOF = (
    "How hot is too hot? At 80 °C a Raspberry Pi 5 slows down; at 85 °C it stops. Don't WE'LL they'Ve I'M you'd it's",
    "def answer(text: str) -> dict[str, int]:\n    if not text:\n\t\treturn {}\n\n\n    return {text[::-1]: 12345678}\n",
    "for (int i=0;i<100;++i) { sum += a[i]*0x1F; }\r\n\r\n#include <stdio.h>\r\n/* -- */ https://example.org/a?b=c&d=%20e#f",
    "  two spaces,   three,\ttab,\t\ttabs \n \n\n  lines   \n   end   ",
    "树莓派的温度超过八十度时会降频。温度是多少？１２３４５度，请检查散热片！",
    "ラズベリーパイは熱くなりますか？ 라즈베리 파이가 뜨거워지나요? Привет, мир! Γειά σου Κόσμε. مرحبا بالعالم שלום עולם नमस्ते สวัสดี",
    "🙂🍵🔥 👩‍💻👨‍👩‍👧‍👦 🇩🇪🏳️‍🌈 ☕️ ½ × 3 = 1½, x² + y₂ ≤ ∞; Ⅷ ① ﷽ ﬁ",
    "Grüße aus Köln! Ça va? Åse, naïve café, İstanbul, ǅ, ß, e\u0301 a\u0308 \u00a0nbsp \u200bzero\u2009thin \ufeffbom",
    "1 12 123 1234 12345 3.14159 1e-9 2026-11-21 0b1010 +49 (0)221/12 34-56 $1,000.00 100% ###!!!???... ----====____",
)
"""Code, numbers, white space, scripts, emoji: what cuts text in different places in different tokenizers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Vocabulary:
    """A tokenizer understood and proved."""

    metadata: Metadata
    template: str
    stop_ids: tuple[int, ...]
    """Every token that ends an answer."""


def understand(folder: Path, rows: int) -> Vocabulary:
    """Return the tokenizer of a checked model folder whose embedding has `rows`; raise ArtifactError for one that is not known."""
    from tokenizers import Tokenizer

    fields = read_json(folder / TOKENIZER)
    settings = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    tokens, types = _tokens(fields, rows)
    ids = {token: number for number, token in enumerate(tokens)}
    template = _template(folder, settings)
    specials, stop_ids = _special_ids(folder, settings, ids)
    metadata = {
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": _pre(fields), "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types, "tokenizer.ggml.merges": _merges(fields), **specials,
        **_added_around(Tokenizer.from_file(str(folder / TOKENIZER)), specials), "tokenizer.chat_template": template,
    }  # fmt: skip
    return Vocabulary(metadata=metadata, template=template, stop_ids=stop_ids)


def prove(folder: Path, metadata: Metadata, architecture: str, texts: Sequence[str] = PROOF) -> int:
    """Encode `texts` and every added token with both libraries; return the tokens compared, raise ArtifactError for a mismatch.

    llama.cpp does not normalize: where the tokenizer does (NFC), texts are compared in their normal form.
    """
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    normalize = tokenizer.normalizer.normalize_str if tokenizer.normalizer else str
    compared = 0
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "vocabulary.gguf")
        write_header(file, {"general.architecture": architecture} | metadata, {})
        with open_vocabulary(file) as encode:
            for text in [normalize(text) for text in (*texts, *_with_added(tokenizer, texts[0]))]:
                for around in (False, True):
                    ours, theirs = encode(text, around), tokenizer.encode(text, add_special_tokens=around).ids
                    if ours != theirs:
                        raise _mismatch(tokenizer, text, ours, theirs)
                    compared += len(ours)
    return compared


def _with_added(tokenizer: "Tokenizer", text: str) -> list[str]:
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    return [f"{text[:20]}{token}{text[20:40]} {token} {token}{token}\n{token}" for token in added]


def _mismatch(tokenizer: "Tokenizer", text: str, ours: list[int], theirs: list[int]) -> ArtifactError:
    at = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    near = tokenizer.decode(theirs[max(at - 2, 0) : at + 3], skip_special_tokens=False)
    return ArtifactError(
        f"{TOKENIZER}: llama.cpp cuts this tokenizer's text differently near {near!r} of {text[:20]!r}…",
        hint="the model would see other tokens on the board than in training, so no model file is written",
    )


def _pre(fields: dict[str, Any]) -> str:
    model, first = fields.get("model") or {}, fields.get("pre_tokenizer") or {}
    steps = first.get("pretokenizers", []) if first.get("type") == "Sequence" else [first]
    steps = [{key: value for key, value in step.items() if key != "trim_offsets"} for step in steps]
    plain = all((model.get(key) or value) == value for key, value in _PLAIN_MODEL.items())
    if plain and fields.get("normalizer") in (None, {"type": "NFC"}):
        for name, (structure, ignore_merges) in _STRUCTURES.items():
            if steps == structure and bool(model.get("ignore_merges")) == ignore_merges:
                return name
    kind = "+".join(str(step.get("type", "nothing")) for step in steps)
    hint = f"known: byte-level BPE cut as {', '.join(_STRUCTURES)} do it"
    raise ArtifactError(f"{TOKENIZER}: tokenizer not recognised: {model.get('type', 'no')} model after {kind}", hint=hint)


def _tokens(fields: dict[str, Any], rows: int) -> tuple[list[str], list[int]]:
    """Return text and type of each of `rows` tokens; rows that no token has are padding."""
    normal = (fields.get("model") or {}).get("vocab")
    if not isinstance(normal, dict):
        raise ArtifactError(f"{TOKENIZER}: tokenizer not recognised: no vocabulary")
    found = {number: (text, NORMAL) for text, number in normal.items()}
    for token in fields.get("added_tokens") or []:
        found[token["id"]] = token["content"], _added_type(token)
    if (highest := max(found)) >= rows:
        raise ArtifactError(f"{TOKENIZER}: token {highest} has no row in the embedding of {rows}", hint="resize the embedding")
    listed = [found.get(number, (f"[PAD{number}]", UNUSED)) for number in range(rows)]
    if len({text for text, _ in listed}) != rows:
        raise ArtifactError(f"{TOKENIZER}: two tokens have the same text")
    return [text for text, _ in listed], [kind for _, kind in listed]


def _added_type(token: dict[str, Any]) -> int:
    """Say whether a token steers or is text: not all that steer are marked (`does_token_look_special`, conversion/base.py)."""
    content = token["content"]
    if token.get("lstrip") or token.get("rstrip") or token.get("single_word"):
        raise ArtifactError(f"{TOKENIZER}: added token `{content}` takes white space or words with it, which llama.cpp does not")
    looks_special = content.startswith("<|") and content.endswith("|>")
    return CONTROL if token.get("special") or looks_special else USER_DEFINED


def _merges(fields: dict[str, Any]) -> list[str]:
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in fields["model"]["merges"]]


def _special_ids(folder: Path, settings: dict[str, Any], ids: dict[str, int]) -> tuple[Metadata, tuple[int, ...]]:
    config = read_json(folder / "config.json")
    generation = read_json(folder / "generation_config.json") if (folder / "generation_config.json").is_file() else {}
    metadata: Metadata = {}
    for role, key in _ROLES.items():
        numbers = [ids.get(_text(settings.get(f"{role}_token")), -1), *_numbers(config.get(f"{role}_token_id"))]
        if known := [number for number in numbers if 0 <= number < len(ids)]:
            metadata[key] = known[0]
    turns = [ids[token] for token in END_OF_TURN if token in ids]
    if turns:
        metadata["tokenizer.ggml.eot_token_id"] = turns[0]
    stops = {*_numbers(config.get("eos_token_id")), *_numbers(generation.get("eos_token_id")), *turns}
    stops |= {metadata[_EOS]} if _EOS in metadata else set()
    if not stops:
        raise ArtifactError(f"{folder.name}: no token ends an answer", hint="set `eos_token` in tokenizer_config.json")
    if (highest := max(stops)) >= len(ids):
        raise ArtifactError(f"{folder.name}: `eos_token_id` {highest} is not in the vocabulary of {len(ids)}")
    return metadata, tuple(sorted(stops))


def _added_around(tokenizer: "Tokenizer", specials: Metadata) -> Metadata:
    """Return which tokens the tokenizer puts around a text, found by encoding one."""
    bare, dressed = (tokenizer.encode("a", add_special_tokens=around).ids for around in (False, True))
    bos, eos = ([specials[key]] if key in specials else [] for key in (_BOS, _EOS))
    for add_bos in (False, True):
        for add_eos in (False, True):
            if dressed == bos * add_bos + bare + eos * add_eos:
                return {"tokenizer.ggml.add_bos_token": add_bos, "tokenizer.ggml.add_eos_token": add_eos}
    raise ArtifactError(f"{TOKENIZER}: puts tokens {dressed} around `a`, not the begin and end tokens that it names")


def _template(folder: Path, settings: dict[str, Any]) -> str:
    """Return the chat template where transformers looks for it: a file of its own, then tokenizer_config.json."""
    if (file := folder / TEMPLATE).is_file():
        return file.read_text(encoding="utf-8")
    found = settings.get("chat_template")
    if isinstance(found, list):
        found = {entry.get("name"): entry.get("template") for entry in found}.get("default")
    if not isinstance(found, str) or not found:
        raise ArtifactError(f"{folder.name}: no chat template", hint=f"put `{TEMPLATE}` beside config.json")
    return found


def _text(token: Any) -> str:
    return str(token.get("content", "") if isinstance(token, dict) else token or "")


def _numbers(value: Any) -> list[int]:
    return [number for number in (value if isinstance(value, list) else [value]) if isinstance(number, int)]
