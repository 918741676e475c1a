"""A tiny random SmolVLM of true structure, made in a second, and pictures that it can look at.

`tiny_smolvlm(folder)` writes what `save_pretrained` writes: a vision tower, a connector and a
Llama, a real BPE tokenizer with the tokens that stand around a picture, and the processor's
settings. The same arguments give the same bytes.
"""

import io
import json
import random
from pathlib import Path
from typing import Any

from tests.fakes.models import TEXTS

TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}{{ ':' }}{% else %}{{ ': ' }}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""SmolVLM's own."""
AROUND = ("<fake_token_around_image>", "<global-img>")
SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<end_of_utterance>",
    *AROUND,
    "<image>",
    "<row_1_col_1>",
)
"""Ids from 0: padding, beginning, end of a turn, what stands around a picture, and its place."""
SIDE = 64
"""Width and height of its one tile."""
POSITIONS = 4
"""Positions that a picture takes: 4 × 4 patches, four of them to a position."""


def tiny_smolvlm(
    folder: Path,
    *,
    hidden: int = 64,
    layers: int = 2,
    seed: int = 0,
    dtype: str = "float32",
    patch: int = 16,
    **text: Any,
) -> Path:
    """Write a SmolVLM with random weights to `folder` and return it.

    `text` overrides fields of its language model's configuration.
    """
    import torch
    from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

    vocabulary = _tokenizer(folder)
    language = {
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "initializer_range": 0.08,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **text,
    }
    vision = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": patch,
        "initializer_range": 0.08,
    }
    config = SmolVLMConfig(
        text_config=language,
        vision_config=vision,
        scale_factor=2,
        image_token_id=SPECIALS.index("<image>"),
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    model = SmolVLMForConditionalGeneration(config)
    _spread(model)
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    _processor(folder)
    return folder


def _spread(model: Any) -> None:
    """Give a model's norms, biases and embeddings values of a trained one's size."""
    import torch

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.normal_(1.0 if name.endswith("weight") else 0.0, 0.2)
            elif "embedding" in name:
                parameter.normal_(0.0, 0.2)


def picture(seed: int, side: int = SIDE, kind: str = "PNG") -> bytes:
    """Return a picture of random stripes, as the bytes of a file."""
    from PIL import Image

    random_ = random.Random(seed)
    image = Image.new("RGB", (side, side), _colour(random_))
    for _ in range(8):
        left, top = random_.randrange(side), random_.randrange(side)
        size = random_.randrange(4, side), random_.randrange(4, side)
        image.paste(_colour(random_), (left, top, left + size[0], top + size[1]))
    written = io.BytesIO()
    image.save(written, kind)
    return written.getvalue()


def pixels(image: bytes) -> "Any":
    """Return a picture of the tile's own size as transformers' `pixel_values`, (1, 1, 3, h, w)."""
    import numpy as np
    import torch
    from PIL import Image

    values = np.asarray(Image.open(io.BytesIO(image)).convert("RGB"), dtype=np.float32)
    scaled = (values / 255 - 0.5) / 0.5
    return torch.from_numpy(scaled.transpose(2, 0, 1).copy())[None, None]


def _colour(random_: random.Random) -> tuple[int, int, int]:
    return (random_.randrange(256), random_.randrange(256), random_.randrange(256))


def _tokenizer(folder: Path) -> int:
    """Train and save the tokenizer; return its size."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512,
        special_tokens=[*SPECIALS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS * 4, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=SPECIALS[1],
        eos_token=SPECIALS[2],
        pad_token=SPECIALS[0],
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = TEMPLATE
    wrapped.save_pretrained(folder)
    return int(tokenizer.get_vocab_size())


def _processor(folder: Path) -> None:
    """Write the settings of pictures as SmolVLM's processor does."""
    settings = {
        "image_processor_type": "SmolVLMImageProcessor",
        "processor_class": "SmolVLMProcessor",
        "do_convert_rgb": True,
        "do_image_splitting": False,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "max_image_size": {"longest_edge": SIDE},
        "rescale_factor": 1 / 255,
        "resample": 1,
        "size": {"longest_edge": SIDE},
    }
    text = json.dumps(settings, indent=2)
    (folder / "preprocessor_config.json").write_text(text, encoding="utf-8")
    processor = {"image_seq_len": POSITIONS, "processor_class": "SmolVLMProcessor"}
    (folder / "processor_config.json").write_text(json.dumps(processor), encoding="utf-8")


def can_see() -> bool:
    """Say whether the installed llama-cpp-python was built with libmtmd."""
    try:
        from llama_cpp import mtmd_cpp  # noqa: F401
    except (ImportError, OSError, RuntimeError):
        return False
    return True


def seeing_files(folder: Path, scheme: str = "F16") -> tuple[Path, Path, Path]:
    """Return a tiny model that sees as its folder, its model file and its projector file."""
    from toolchain.artifacts import external
    from toolchain.progress import Silent
    from toolchain.quantize.gguf import ModelLabel, quantize
    from toolchain.recipe import QuantizeSpec

    model = tiny_smolvlm(folder / "model")
    spec = QuantizeSpec(scheme="F16", projector=scheme)
    label = ModelLabel(name="tiny eyes")
    made = quantize(external(model), spec, label, folder / "files", Silent())
    assert made.projector
    return model, made.file, made.projector


def reference(model: Path) -> "Any":
    """Return a model that sees through transformers, its weights rounded as those of the file."""
    from transformers import SmolVLMForConditionalGeneration

    return SmolVLMForConditionalGeneration.from_pretrained(model).half().float().eval()


def seeing_bundle(folder: Path) -> Path:
    """Make a bundle of a tiny model that sees, with a golden of words and one with a picture."""
    import shutil

    from device.engine.base import Sampling
    from device.manifest import Engine, Manifest, file_entry, to_bytes
    from device.manifest.pictures import PARTS
    from device.model import open_with
    from device.pictures import with_pictures
    from toolchain.models.names import TEMPLATE as TEMPLATE_FILE

    _, text, eyes = seeing_files(folder.parent / f"{folder.name}-made")
    folder.mkdir()
    for file in (text, eyes, text.parent / TEMPLATE_FILE):
        shutil.copy(file, folder / file.name)
    (folder / "picture-1.png").write_bytes(picture(1))
    names = sorted([*(file.name for file in folder.iterdir()), "goldens.jsonl"])
    (folder / "goldens.jsonl").touch()

    def manifest() -> Manifest:
        return Manifest(
            name="tiny-eyes",
            version="1.0",
            counter=1,
            target="x86-64",
            context=512,
            engine=Engine("llama.cpp", "0.3"),
            model=text.name,
            projector=eyes.name,
            files=tuple(file_entry(folder, name) for name in names),
            max_tokens=16,
        )

    from device.engine.base import Settings

    settings = Settings(context=512, projector=folder / eyes.name)
    opened = open_with(folder, manifest(), settings)
    asked = "Is the LED on?"
    goldens = []
    for shown in ({}, {PARTS: [{"picture": "picture-1.png"}, asked]}):
        message = {"role": "user", "content": asked, **shown}
        prompt = opened.prompt(with_pictures([message], folder))
        steps = list(
            opened.engine.generate(prompt.tokens, Sampling(max_tokens=8), prefix=prompt.prefix)
        )
        tokens = [step.id for step in steps if step.id is not None]
        reason = steps[-1].finish_reason
        goldens.append(
            {
                "messages": [message],
                "prompt_tokens": prompt.tokens,
                "tokens": tokens,
                "finish_reason": reason,
            }
        )
    opened.engine.close()
    lines = [json.dumps(golden) + "\n" for golden in goldens]
    (folder / "goldens.jsonl").write_text("".join(lines), encoding="utf-8")
    (folder / "manifest.json").write_bytes(to_bytes(manifest()))
    return folder
