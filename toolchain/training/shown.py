"""A model that sees, while its language side learns: a picture is rows that stand in a prompt.

Tower and connector are frozen, so each picture is encoded once. From then on the language model is
a text model like any other: its embedding also knows ids behind its vocabulary, one for each
position of each picture. Objectives, packing, prefixes and generation need not know of pictures.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from device.manifest.pictures import PICTURE
from toolchain.models.checkpoints import load_model
from toolchain.models.names import CONFIG
from toolchain.models.vision import sight_of
from toolchain.models.weights import read_json
from toolchain.training.seeing import Encoded, expanded, scaled

Rows = Sequence[Mapping[str, Any]]


class Shown(nn.Module):
    """An embedding of words, and of positions of pictures: ids from `len(words)` on."""

    def __init__(self, words: nn.Embedding, pictures: Mapping[str, Tensor]) -> None:
        """`pictures` has the rows [positions, width] of each picture by its `data:` URL."""
        super().__init__()
        self.words = words
        self._first: dict[str, int] = {}
        """Id of the first position of each picture."""
        self._places = 0
        """Positions that a picture takes."""
        for url, rows in pictures.items():
            self._first[url] = words.num_embeddings + len(self._first) * len(rows)
            self._places = len(rows)
        rows = torch.cat(list(pictures.values())) if pictures else words.weight[:0].detach()
        self.register_buffer("seen", rows, persistent=False)

    @property
    def weight(self) -> Tensor:
        """Rows of the words, [vocabulary, width]."""
        return self.words.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Return the rows of ids, [..., width]."""
        behind = ids - self.words.num_embeddings
        found: Tensor = self.words(torch.where(behind < 0, ids, 0))
        if not bool((behind >= 0).any()):
            return found
        seen = self.get_buffer("seen")[behind.clamp(min=0)].to(found.dtype)
        return torch.where((behind >= 0)[..., None], seen, found)

    def ids_of(self, url: str) -> list[int]:
        """Return the ids of a picture's positions."""
        first = self._first[url]
        return list(range(first, first + self._places))


def load_shown(folder: Path, rows: Rows) -> Any:
    """Return the language model of a folder, which knows the pictures of `rows` if it sees.

    A text model is loaded as ever.
    """
    if not sight_of(read_json(folder / CONFIG)):
        return load_model(folder)
    whole = load_model(folder)
    pictures = _encoded(whole, folder, {url: None for row in rows for url in _urls(row)})
    return language_of(whole, pictures)


def language_of(whole: Any, pictures: Mapping[str, Tensor]) -> Any:
    """Return the language model inside a model that sees, on the same weights."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        alone = AutoModelForCausalLM.from_config(whole.config.text_config)
    alone.model, alone.lm_head = whole.model.text_model, whole.lm_head
    alone.generation_config = whole.generation_config
    alone.set_input_embeddings(Shown(alone.get_input_embeddings(), pictures))
    return alone.eval()


def with_pictures(model: Any, tokenizer: Any, row: Mapping[str, Any], encoded: Encoded) -> Encoded:
    """Return ids and labels of a conversation with its pictures' positions in their places.

    Those of a text model are returned as they are. Raise ArtifactError for a text that looks like
    the mark of a picture.
    """
    embedding = model.get_input_embeddings()
    if not isinstance(embedding, Shown):
        return encoded
    return expanded(tokenizer, encoded, [embedding.ids_of(url) for url in _urls(row)])


def _urls(row: Mapping[str, Any]) -> list[str]:
    """Return the pictures of a conversation, in their order."""
    return [message[PICTURE] for message in row["messages"] if PICTURE in message]


def _encoded(whole: Any, folder: Path, urls: Mapping[str, None]) -> dict[str, Tensor]:
    """Return what a frozen tower and connector make of each picture."""
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    scaler = SmolVLMImageProcessorPil.from_pretrained(folder, do_image_splitting=False)
    found = {}
    with torch.inference_mode():
        for url in urls:
            pixels = scaled(url, scaler).to(whole.dtype)[None, None]
            rows = whole.model.get_image_features(pixel_values=pixels)
            each = getattr(rows, "pooler_output", rows)
            found[url] = torch.cat(list(each)).flatten(0, -2).clone()
    return found
