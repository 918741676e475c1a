"""A small model that sees, from nothing: its tower, its pictures, and what it learns.

All of it is trained, tower, connector and language model: none of them knows anything yet, and half
a million weights are cheaper to train than to choose from. A tower that was trained before would be
frozen.
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from device.manifest.pictures import PICTURE
from toolchain.chat import IGNORED, encode_row
from toolchain.errors import ArtifactError
from toolchain.models.names import PICTURE_TOKENS, PREPROCESSOR, PROCESSOR
from toolchain.models.sights import sight_of_tokenizer
from toolchain.recipe import EyesSpec, ScratchSpec
from toolchain.training.examples import Batch, Example

Encoded = tuple[list[int], list[int]]
"""Ids of a conversation, and their labels: what is learned."""


class SeenAnswers(nn.Module):
    """Cross-entropy of the learned tokens of conversations about pictures."""

    def __init__(self, model: Any, pixels: Tensor) -> None:
        """`pixels` has the picture of each example, (examples, 3, side, side)."""
        super().__init__()
        self.model = model
        self._pixels = pixels

    def forward(self, batch: Batch) -> Tensor:
        """Return the sum over the batch's learned tokens, in nats."""
        seen = self._pixels[list(batch.rows), None].to(batch.ids.device)
        logits = self.model(input_ids=batch.ids, pixel_values=seen).logits[:, :-1]
        targets = batch.labels[:, 1:]
        learned = targets != IGNORED
        return functional.cross_entropy(logits[learned], targets[learned], reduction="sum")


def make_seeing(tokenizer: Any, spec: ScratchSpec, seed: int) -> Any:
    """Return a SmolVLM with random weights."""
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

    eyes = spec.eyes
    assert eyes
    image, end, pad = tokenizer.convert_tokens_to_ids(
        [PICTURE_TOKENS[-1], "<|end|>", "<|endoftext|>"]
    )
    language = {
        "model_type": "llama",
        "vocab_size": len(tokenizer),
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "max_position_embeddings": spec.context,
        "rms_norm_eps": 1e-5,
        "initializer_range": spec.hidden_size**-0.5,
        "bos_token_id": None,
        "eos_token_id": end,
    }
    vision = {
        "hidden_size": eyes.hidden_size,
        "intermediate_size": 2 * eyes.hidden_size,
        "num_hidden_layers": eyes.layers,
        "num_attention_heads": eyes.heads,
        "image_size": eyes.side,
        "patch_size": eyes.patch,
        "initializer_range": eyes.hidden_size**-0.5,
    }
    config = SmolVLMConfig(
        text_config=language,
        vision_config=vision,
        scale_factor=eyes.merge,
        image_token_id=image,
        pad_token_id=pad,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    model = SmolVLMForConditionalGeneration(config)
    model.generation_config.eos_token_id = end
    return model


def pictured(
    tokenizer: Any, rows: Sequence[Mapping[str, Any]], spec: ScratchSpec
) -> tuple[list[Example], Tensor]:
    """Return conversations as examples, and the picture of each, scaled as its tower takes it.

    Raise ArtifactError for a conversation without a picture, or with several.
    """
    eyes = spec.eyes
    assert eyes
    image = tokenizer.convert_tokens_to_ids(PICTURE_TOKENS[-1])
    examples, urls = [], []
    for number, row in enumerate(rows, 1):
        own = [message[PICTURE] for message in row["messages"] if PICTURE in message]
        if len(own) != 1:
            raise ArtifactError(
                f"data set: conversation {number} is about {len(own)} pictures, eyes learn of one",
                hint="give each row an `image`, or leave `model.scratch.eyes` out",
            )
        urls += own
        ids, labels = expanded(
            tokenizer, encode_row(tokenizer, row, spec.context), [[image] * eyes.places]
        )
        examples.append(Example(ids=ids, labels=labels))
    scaler = scaler_of(eyes)
    return examples, torch.stack([scaled(url, scaler) for url in urls])


def scaler_of(eyes: EyesSpec) -> Any:
    """Return transformers' own processor of pictures for a tower that is made from nothing."""
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    return SmolVLMImageProcessorPil(**_scaling(eyes))


def scaled(url: str, scaler: Any) -> Tensor:
    """Return a picture as transformers' own processor scales it, (3, side, side)."""
    from PIL import Image

    image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")
    made = scaler(images=[image], return_tensors="pt")
    pixels: Tensor = made["pixel_values"].reshape(-1, *made["pixel_values"].shape[-3:])
    return pixels[-1]


def write_processor(eyes: EyesSpec, out: Path) -> None:
    """Write how pictures are scaled and scored, as SmolVLM's processor keeps it."""
    settings = {"image_processor_type": "SmolVLMImageProcessor", **_scaling(eyes)}
    (out / PREPROCESSOR).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    kept = {"image_seq_len": eyes.places, "processor_class": "SmolVLMProcessor"}
    (out / PROCESSOR).write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")


def _scaling(eyes: EyesSpec) -> dict[str, Any]:
    """Return the arguments of transformers' processor: one tile, values from -1 to 1."""
    return {
        "do_convert_rgb": True,
        "do_image_splitting": False,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "max_image_size": {"longest_edge": eyes.side},
        "rescale_factor": 1 / 255,
        "resample": 1,
        "size": {"longest_edge": eyes.side},
    }


def expanded(tokenizer: Any, encoded: Encoded, pictures: Sequence[Sequence[int]]) -> Encoded:
    """Return ids and labels of a conversation with its pictures' positions in their places.

    `pictures` has the ids of each one's positions, of which nothing is learned. Raise ArtifactError
    for a text that looks like the mark of a picture: a board breaks it up.
    """
    sight = sight_of_tokenizer(tokenizer)
    assert sight
    for text in (sight.marker, sight.place):
        if encoded[0].count(tokenizer.convert_tokens_to_ids(text)) != len(pictures):
            raise ArtifactError(
                f"data set: a text holds `{text}`, the mark of a picture",
                hint="write it otherwise: a model that sees would take it for one",
            )
    place = tokenizer.convert_tokens_to_ids(sight.place)
    left = iter(pictures)
    ids: list[int] = []
    labels: list[int] = []
    for token, label in zip(*encoded, strict=True):
        seen = next(left) if token == place else [token]
        ids += seen
        labels += [IGNORED] * len(seen) if token == place else [label]
    return ids, labels
