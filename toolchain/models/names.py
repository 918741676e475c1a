"""File and tensor names of a Hugging Face model folder, as `save_pretrained` writes it."""

from device.manifest import TEMPLATE as TEMPLATE
from device.manifest import TOKENIZER as TOKENIZER

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
PREPROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
"""Files with the settings of pictures; transformers writes one or both."""
PICTURE_TOKENS = ("<fake_token_around_image>", "<global-img>", "<image>")
"""Tokens around a picture of one tile, at its beginning and in its place, as SmolVLM has them."""

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
