"""Files beside a model file of any format (chat template, tokenizer, generation config), and its
size in words.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from toolchain.artifacts import Figures
from toolchain.models import tokenizer
from toolchain.models.names import GENERATION_CONFIG, TEMPLATE, TOKENIZER_CONFIG
from toolchain.models.weights import read_json


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """What a conversation begins and ends with, of formats that carry no tokenizer."""

    template: str
    bos: str
    bos_id: int | None
    eos: str
    stop_ids: tuple[int, ...]


def write_companions(folder: Path, template: str, out: Path) -> None:
    """Write the companions of the checkpoint in `folder` to `out`."""
    (out / TEMPLATE).write_text(template, encoding="utf-8")
    tokenizer.write_tokenizer(folder, out)
    if (folder / GENERATION_CONFIG).is_file():
        shutil.copyfile(folder / GENERATION_CONFIG, out / GENERATION_CONFIG)


def size_in_words(figures: Figures, scheme: str) -> str:
    """Return how large a model file became, beside what its scheme says."""
    return (
        f"{figures['file']}: {figures['size_bytes'] / 1e6:.1f} MB; {scheme} has nominally "
        f"{figures['nominal_bpw']:.2f} bits per weight, here {figures['real_bpw']:.2f}"
    )


def read_ends(folder: Path) -> Ends:
    """Return what a conversation of the checkpoint in `folder` begins and ends with."""
    settings = read_json(folder / TOKENIZER_CONFIG) if (folder / TOKENIZER_CONFIG).is_file() else {}
    encoder = tokenizer.load_tokenizer(folder)
    ids = encoder.get_vocab()
    added = [token.content for token in encoder.get_added_tokens_decoder().values()]
    specials, stop_ids = tokenizer.special_ids(folder, settings, ids, added)
    numbers = (specials.get(f"tokenizer.ggml.{role}_token_id", -1) for role in ("bos", "eos"))
    bos, eos = (encoder.id_to_token(number) if number >= 0 else "" for number in numbers)

    return Ends(
        template=tokenizer.chat_template(folder, settings),
        bos=bos or "",
        bos_id=specials.get("tokenizer.ggml.bos_token_id"),
        eos=eos or "",
        stop_ids=stop_ids,
    )
