"""Trims a vocabulary: finds the tokens that a text needs, writes a model folder with those alone.

Only byte-pair vocabularies. Text is joined pair by pair, the best first. A part of the vocabulary
gives the same joins if it has every intermediate token. So a token is kept together with all the
tokens that it is joined from.
"""

import itertools
import json
import math
import re
import shutil
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.errors import ArtifactError, ConfigError
from toolchain.files import write_whole
from toolchain.models.names import (
    CONFIG,
    EMBEDDING,
    GENERATION_CONFIG,
    HEAD,
    TEMPLATE,
    TOKENIZER,
    TOKENIZER_CONFIG,
)
from toolchain.models.weights import (
    INDEX,
    MAX_HEADER_BYTES,
    WHOLE,
    Tensor,
    check_model_folder,
    open_weights,
    read_header,
    read_json,
    weight_files,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CONFIGS = (CONFIG, GENERATION_CONFIG)
CARRIED = (TEMPLATE, "special_tokens_map.json")
"""Files that are copied: they name tokens by their text."""
# Other files with a vocabulary (tokenizer.model, vocab.json) would contradict the new one.
ROUND = 64
"""The number of tokens is rounded up to a multiple of this."""
# Kernels take rows in groups.
_RESERVED = re.compile(r"[<\[]\|?(reserved|unused)\D*\d+\|?[>\]]")
"""Tokens reserved for later use (Llama 3, Gemma)."""
SPELLING, ENDING = 16, 4
"""How much sooner other spellings and other endings of used words are taken."""
# Chosen on the starter's training text alone, with one more phrasing of each question held out in
# turn.
STEM, ENDING_LETTERS = 4, 3
"""Least number of shared letters, and largest number of other letters after them."""
_BY_ID = (
    "suppress_tokens",
    "begin_suppress_tokens",
    "bad_words_ids",
    "forced_decoder_ids",
    "sequence_bias",
)
_NOT_PLAIN = ("dropout", "continuing_subword_prefix", "end_of_word_suffix")


class Tokens:
    """The tokens of a model folder, and the pairs that they are joined from."""

    def __init__(self, folder: Path) -> None:
        check_model_folder(folder)
        self.folder = folder
        self.fields = read_json(folder / TOKENIZER)
        self._model = self.fields.get("model") or {}
        kind = self._model.get("type", "unknown")
        words = self._model.get("vocab")
        if (
            kind != "BPE"
            or not isinstance(words, dict)
            or any(self._model.get(key) for key in _NOT_PLAIN)
        ):
            hint = "leave out stage `trim`; what Llama, Qwen, Gemma, Phi and SmolLM have is trimmed"
            raise ArtifactError(
                f"{TOKENIZER}: a vocabulary of kind `{kind}` is not trimmed", hint=hint
            )

        self._added = {
            str(token["content"]): int(token["id"])
            for token in self.fields.get("added_tokens") or []
        }
        self._ids: dict[str, int] = {**words, **self._added}
        self._texts = {number: text for text, number in self._ids.items()}
        self._pairs = list(_pairs(self._model))
        self._ranks = {pair: rank for rank, pair in enumerate(self._pairs)}

    def __len__(self) -> int:
        return len(self._texts)

    def needed(self, used: Iterable[int]) -> set[int]:
        """Return the smallest set of tokens that encodes `used` as before and any text at all.

        It holds bytes, special tokens, and all tokens that these are joined from.
        """
        special = {number for text, number in self._added.items() if not _RESERVED.fullmatch(text)}
        unknown = {self._ids[text] for text in [self._model.get("unk_token")] if text in self._ids}
        roots = {*used, *self._bytes(), *special, *unknown, *self._named()}
        return {part for root in roots for part in self._made_of(root)}

    def filled(self, used: Set[int], size: int) -> set[int]:
        """Return the needed tokens and the likeliest others, up to `size` rounded up to ROUND."""
        full = self.needed(used)
        if size and len(full) > size:
            raise ConfigError(
                f"trim: vocabulary: the recipe's text needs {len(full)} tokens, `{size}` asked"
            )

        size = -(-max(size, len(full)) // ROUND) * ROUND
        for token in itertools.chain(self._likely(used), sorted(self._texts)):
            if len(full) == size:
                break
            missing = set(self._made_of(token)) - full
            if len(full) + len(missing) <= size:
                full |= missing

        return full

    def _likely(self, used: Set[int]) -> list[int]:
        """Return the unused joined tokens, first those that a similar question is likely to use.

        Merges are ordered by frequency in general text. Each kind of token is taken in that order,
        at a pace that grows with the kind's share of the used tokens. Other spellings and endings
        of used words come sooner.
        """
        texts = self._plain()
        words = {_word(texts[token]) for token in used}
        kinds = Counter(_kind(texts[token]) for token in used)

        places: Counter[Hashable] = Counter()
        ranks: dict[int, float] = {}
        for left, right in self._pairs:
            token = self._ids.get(left + right, -1)
            if token >= 0 and token not in ranks and token not in used:
                kind = _kind(texts[token])
                nearness = _nearness(_word(texts[token]), words)
                places[kind] += 1
                pace = nearness * max(kinds[kind], int(nearness > 1))
                ranks[token] = places[kind] / pace if pace else math.inf

        return sorted(ranks, key=lambda token: ranks[token])

    def _plain(self) -> dict[int, str]:
        """Return the tokens as readable text."""
        from tokenizers import decoders

        if self._model.get("byte_fallback"):
            return {token: text.replace("▁", " ") for token, text in self._texts.items()}
        byte_level = decoders.ByteLevel()
        return {token: byte_level.decode([text]) for token, text in self._texts.items()}

    def _bytes(self) -> set[int]:
        """Return the tokens of single bytes, which can encode any text."""
        from tokenizers import pre_tokenizers

        fallback = (f"<0x{byte:02X}>" for byte in range(256))
        texts = (
            fallback if self._model.get("byte_fallback") else pre_tokenizers.ByteLevel.alphabet()
        )
        return {self._ids[text] for text in texts if text in self._ids}

    def _named(self) -> set[int]:
        """Return the tokens that the configuration names by their ids."""
        return {
            number
            for file in CONFIGS
            for _, numbers in _token_ids(self.folder / file)
            for number in numbers
            if number >= 0
        }

    def _made_of(self, token: int) -> list[int]:
        """Return a token and every token that its text passes through while it is joined."""
        text = self._texts.get(token)
        if text is None:
            return []

        parts = list(text) if text not in self._added else []
        seen = [token, *(self._ids[part] for part in parts if part in self._ids)]
        while len(parts) > 1:
            rank, at = min(
                (self._ranks.get((parts[i], parts[i + 1]), len(self._pairs)), i)
                for i in range(len(parts) - 1)
            )
            if rank == len(self._pairs):
                break
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
            seen.append(self._ids[parts[at]])

        return seen

    def write(self, kept: set[int], out: Path) -> None:
        """Write the model folder with the kept tokens alone, in their old order.

        Raises ArtifactError for configurations and tokenizers that cannot be trimmed.
        """
        places = {old: new for new, old in enumerate(sorted(kept))}
        _write_weights(self.folder, sorted(kept), out)
        write_whole(out / TOKENIZER, json.dumps(self._trimmed(places), ensure_ascii=False))

        for name in CONFIGS:
            if (self.folder / name).is_file():
                write_whole(
                    out / name, json.dumps(_renumbered(self.folder / name, places), indent=2) + "\n"
                )

        if (self.folder / TOKENIZER_CONFIG).is_file():
            settings = read_json(self.folder / TOKENIZER_CONFIG)
            listed = settings.get("added_tokens_decoder") or {}
            settings["added_tokens_decoder"] = {
                str(places[int(old)]): token for old, token in listed.items() if int(old) in places
            }
            write_whole(
                out / TOKENIZER_CONFIG, json.dumps(settings, ensure_ascii=False, indent=2) + "\n"
            )

        for name in CARRIED:
            if (self.folder / name).is_file():
                shutil.copyfile(self.folder / name, out / name)

    def _trimmed(self, places: dict[int, int]) -> dict[str, Any]:
        words = {text: places[old] for text, old in self._model["vocab"].items() if old in places}
        merges = [list(pair) for pair in self._pairs if {*pair, "".join(pair)} <= words.keys()]
        added = [
            {**token, "id": places[token["id"]]}
            for token in self.fields.get("added_tokens") or []
            if token["id"] in places
        ]
        after = _post_processor(self.fields.get("post_processor"), places)

        return self.fields | {
            "added_tokens": added,
            "post_processor": after,
            "model": {**self._model, "vocab": words, "merges": merges},
        }


def _word(text: str) -> str:
    return text.strip().lower()


def _kind(text: str) -> Hashable:
    """Return a token's kind: for a word or its part the scripts, the case and a leading space."""
    word = text.removeprefix(" ")
    if not word.isalpha():
        return "\ufffd" in word  # a part of a character, or no letters
    scripts = frozenset(
        "ASCII" if letter.isascii() else unicodedata.name(letter, "").partition(" ")[0]
        for letter in word
    )
    return text != word, scripts, word.islower(), word.isupper(), word.istitle()


def _nearness(word: str, words: Set[str]) -> int:
    """Return how much sooner than others a word is taken: other spelling or ending of `words`."""
    if word in words:
        return SPELLING
    stems = (word[:end] for end in range(max(STEM, len(word) - ENDING_LETTERS), len(word)))
    return ENDING if word.isalpha() and any(stem in words for stem in stems) else 1


def _pairs(model: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for merge in model.get("merges") or []:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        yield left, right


def _token_ids(file: Path) -> Iterator[tuple[str, list[int]]]:
    """Yield each key of a configuration that holds token ids, and the ids."""
    for key, value in (read_json(file) if file.is_file() else {}).items():
        if key in _BY_ID and value:
            raise ArtifactError(
                f"{file.name}: `{key}` lists tokens by their ids, which is not trimmed",
                hint="take it out",
            )
        if key.endswith("_token_id") and value is not None:
            yield key, value if isinstance(value, list) else [value]


def _renumbered(file: Path, places: dict[int, int]) -> dict[str, Any]:
    fields = read_json(file)
    for key, numbers in _token_ids(file):
        if lost := [number for number in numbers if number >= 0 and number not in places]:
            raise ArtifactError(
                f"{file.name}: `{key}` is {lost[0]}, and {TOKENIZER} has no such token"
            )
        new = [places.get(number, number) for number in numbers]
        fields[key] = new if isinstance(fields[key], list) else new[0]
    return fields | ({"vocab_size": len(places)} if "vocab_size" in fields else {})


def _post_processor(processor: Any, places: dict[int, int]) -> Any:
    """Return the post-processor with the new ids of its special tokens."""
    match processor and processor["type"]:
        case None | "ByteLevel":
            return processor
        case "Sequence":
            return processor | {
                "processors": [_post_processor(one, places) for one in processor["processors"]]
            }
        case "TemplateProcessing":
            tokens = processor["special_tokens"]
            return processor | {
                "special_tokens": {
                    text: token | {"ids": [places[old] for old in token["ids"]]}
                    for text, token in tokens.items()
                }
            }
        case kind:
            raise ArtifactError(f"{TOKENIZER}: a post-processor of kind `{kind}` is not trimmed")


def _write_weights(folder: Path, kept: Sequence[int], out: Path) -> None:
    with open_weights(folder) as weights:
        per_token = {
            name: weights.tensors[name] for name in (EMBEDDING, HEAD) if name in weights.tensors
        }

    if EMBEDDING not in per_token:
        raise ArtifactError(
            f"{folder.name}: no tensor `{EMBEDDING}`, so there is no vocabulary to trim"
        )

    for name, tensor in per_token.items():
        if kept[-1] >= tensor.rows:
            raise ArtifactError(
                f"{tensor.file.name}: tensor `{name}` has {tensor.rows} rows, "
                f"{TOKENIZER} has token {kept[-1]}"
            )

    total = sum(_write_shard(file, kept, out / file.name) for file in weight_files(folder))
    if (folder / INDEX).is_file() and not (folder / WHOLE).is_file():
        index = read_json(folder / INDEX)
        write_whole(
            out / INDEX, json.dumps(index | {"metadata": {"total_size": total}}, indent=2) + "\n"
        )


def _write_shard(file: Path, kept: Sequence[int], out: Path) -> int:
    """Write a safetensors file with the kept rows of embedding and head; return its data bytes."""
    tensors = sorted(read_header(file).items(), key=lambda item: item[1].offset)
    raw = {
        name: _raw(tensor, kept if name in (EMBEDDING, HEAD) else None) for name, tensor in tensors
    }
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0

    for name, tensor in tensors:
        first, end = end, end + raw[name].size
        shape = (len(raw[name]), *tensor.shape[1:]) if name in (EMBEDDING, HEAD) else tensor.shape
        header[name] = {"dtype": tensor.dtype, "shape": shape, "data_offsets": [first, end]}

    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    assert len(text) <= MAX_HEADER_BYTES

    with out.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for values in raw.values():
            values.tofile(stream)

    return end


def _raw(tensor: Tensor, kept: Sequence[int] | None) -> "NDArray[np.uint8]":
    """Return a tensor's bytes as stored, one row of it in each row; only the kept rows if given."""
    import numpy as np

    shape = max(tensor.rows, 1), tensor.size_bytes // max(tensor.rows, 1)
    whole = np.memmap(tensor.file, np.uint8, "r", tensor.offset, shape)
    return whole if kept is None else whole[list(kept)]
