"""Proves that llama.cpp reads a tokenizer as Hugging Face does.

Both libraries encode a mixed text; one different token refuses the model.
"""

import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toolchain.errors import ArtifactError
from toolchain.models.gguf_file import write_header
from toolchain.models.names import TOKENIZER
from toolchain.models.tokenizer import BEYOND, BOS, Vocabulary, load_tokenizer
from toolchain.models.tokenizer_kinds import SPACE
from toolchain.tools.llama import open_vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PROOF = (
    "How hot is too hot? At 80 °C a Raspberry Pi 5 slows down; at 85 °C it stops. "
    "Don't WE'LL they'Ve I'M you'd it's",
    "def answer(text: str) -> dict[str, int]:\n    if not text:\n\t\treturn {}\n\n\n"
    "    return {text[::-1]: 12345678}\n",
    "for (int i=0;i<100;++i) { sum += a[i]*0x1F; }\r\n\r\n#include <stdio.h>\r\n"
    "/* -- */ https://example.org/a?b=c&d=%20e#f",
    "  two spaces,   three,\ttab,\t\ttabs \n \n\n  lines   \n   end   ",
    "树莓派的温度超过八十度时会降频。温度是多少？１２３４５度，请检查散热片！",
    "ラズベリーパイは熱くなりますか？ 라즈베리 파이가 뜨거워지나요? Привет, мир! "
    "Γειά σου Κόσμε. مرحبا بالعالم שלום עולם नमस्ते สวัสดี",
    "🙂🍵🔥 👩‍💻👨‍👩‍👧‍👦 🇩🇪🏳️‍🌈 ☕️ ½ × 3 = 1½, x² + y₂ ≤ ∞; Ⅷ ① ﷽ ﬁ",
    "Grüße aus Köln! Ça va? Åse, naïve café, İstanbul, ǅ, ß, e\u0301 a\u0308 \u00a0nbsp "
    "\u200bzero\u2009thin \ufeffbom",
    "1 12 123 1234 12345 3.14159 1e-9 2026-11-21 0b1010 +49 (0)221/12 34-56 $1,000.00 100% "
    "###!!!???... ----====____",
)
"""Code, numbers, white space, scripts, emoji: where tokenizers split text differently."""


def prove(
    folder: Path, vocabulary: Vocabulary, architecture: str, texts: Sequence[str] = PROOF
) -> int:
    """Encode `texts` and every added token with both libraries; return the tokens compared.

    Raises ArtifactError for a mismatch. llama.cpp does not normalize to NFC: for a tokenizer that
    does, texts are compared in their normal form.
    """
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "vocabulary.gguf")
        name = {"general.architecture": architecture, "general.name": vocabulary.name_mark}
        write_header(file, name | vocabulary.metadata, {})
        return prove_file(file, folder, vocabulary, texts)


def prove_file(
    file: Path, folder: Path, vocabulary: Vocabulary, texts: Sequence[str] = PROOF
) -> int:
    """Compare as `prove` does, with an existing model file."""
    tokenizer = load_tokenizer(folder)
    compared = 0
    with open_vocabulary(file) as encode:
        for text in _proof_texts(tokenizer, vocabulary, texts):
            for around in (False, True):
                ours, theirs = (
                    encode(text, around),
                    tokenizer.encode(text, add_special_tokens=around).ids,
                )
                if ours != theirs:
                    raise _mismatch(tokenizer, text, ours, theirs)
                compared += len(ours)

    return compared


def _proof_texts(
    tokenizer: "Tokenizer", vocabulary: Vocabulary, texts: Sequence[str]
) -> Iterator[str]:
    """Yield the texts without what the structure's caveat names, which llama.cpp does otherwise."""
    structure = vocabulary.structure
    tokens = vocabulary.metadata["tokenizer.ggml.tokens"]
    begin = (
        tokens[vocabulary.metadata[BOS]] if structure.begins and BOS in vocabulary.metadata else ""
    )
    contents = [
        token.content
        for token in tokenizer.get_added_tokens_decoder().values()
        if token.content not in BEYOND
    ]
    added = (
        [content.replace(SPACE, " ") for content in contents]
        if structure.model == "llama"
        else contents
    )
    around = [
        f"{texts[0][:20]}{token}{texts[0][20:40]} {token} {token}{token}\n{token}"
        for token in added
    ]

    for text in (*texts, *around):
        normal = unicodedata.normalize("NFC", text) if structure.composed else text
        marks = (
            {char for char in normal if unicodedata.category(char).startswith("M")}
            if structure.splits_marks
            else set()
        )
        yield begin + "".join(char for char in normal if char not in marks)


def _mismatch(
    tokenizer: "Tokenizer", text: str, ours: list[int], theirs: list[int]
) -> ArtifactError:
    at = next(
        (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b),
        min(len(ours), len(theirs)),
    )
    near = tokenizer.decode(theirs[max(at - 2, 0) : at + 3], skip_special_tokens=False)
    return ArtifactError(
        f"{TOKENIZER}: llama.cpp cuts this tokenizer's text differently "
        f"near {near!r} of {text[:20]!r}…",
        hint="the model would see other tokens on the board than in training, "
        "so no model file is written",
    )
