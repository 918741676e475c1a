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
from torch.nn import functional

from device.manifest.pictures import PICTURE
from toolchain.models.checkpoints import load_model
from toolchain.models.names import CONFIG
from toolchain.models.sights import GEMMA3, Sight
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
    sight = sight_of(read_json(folder / CONFIG))
    whole = load_model(folder)
    if sight is None:
        return whole
    urls = {url: None for row in rows for url in _urls(row)}
    return language_of(whole, sight, _encoded(whole, sight, folder, urls))


def language_of(whole: Any, sight: Sight, pictures: Mapping[str, Tensor]) -> Any:
    """Return the language model inside a model that sees, on the same weights."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        alone = AutoModelForCausalLM.from_config(whole.config.text_config)
    alone.model, alone.lm_head = whole.get_submodule(sight.inside.rstrip(".")), whole.lm_head
    alone.generation_config = whole.generation_config
    alone.set_input_embeddings(Shown(alone.get_input_embeddings(), pictures))
    if sight.is_mutual:
        alone.model.register_forward_pre_hook(_mutual, with_kwargs=True)
    return alone.eval()


def _mutual(decoder: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
    """Let the positions of each picture see each other, by the mask that transformers' own model
    makes (a forward pre-hook of a Gemma 3 without its eyes).
    """
    from transformers.models.gemma3 import modeling_gemma3 as own

    ids = args[0] if args else given.get("input_ids")
    first = decoder.get_input_embeddings().words.num_embeddings
    if ids is None or not bool((ids >= first).any()):
        return None
    states = decoder.get_input_embeddings()(ids)
    cache = given.get("past_key_values")
    cached = cache.get_seq_length() if cache is not None else 0
    blocks = own.get_block_sequence_ids_for_mask((ids >= first).long())
    masks = own.create_masks_for_vision_model(
        config=decoder.config,
        inputs_embeds=states,
        attention_mask=given.get("attention_mask"),
        past_key_values=cache,
        position_ids=given.get("position_ids"),
        # They are read by position, from the beginning of the text on.
        block_sequence_ids=functional.pad(blocks, (cached, 0), value=-1),
    )
    return (), {**given, "input_ids": None, "inputs_embeds": states, "attention_mask": masks}


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


def _encoded(whole: Any, sight: Sight, folder: Path, urls: Mapping[str, None]) -> dict[str, Tensor]:
    """Return what a frozen tower and connector make of each picture."""
    scaler = _scaler(sight, folder)
    found = {}
    with torch.inference_mode():
        for url in urls:
            pixels = scaled(url, scaler).to(whole.dtype)[None]
            pixels = pixels if sight is GEMMA3 else pixels[None]
            rows = whole.model.get_image_features(pixel_values=pixels)
            each = getattr(rows, "pooler_output", rows)
            found[url] = torch.cat(list(each)).flatten(0, -2).clone()
    return found


def _scaler(sight: Sight, folder: Path) -> Any:
    """Return transformers' own processor of a folder's pictures, which makes one tile of each."""
    if sight is GEMMA3:
        from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

        return Gemma3ImageProcessorPil.from_pretrained(folder, do_pan_and_scan=False)
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    return SmolVLMImageProcessorPil.from_pretrained(folder, do_image_splitting=False)
