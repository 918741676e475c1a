"""A tiny random BERT of true structure with a WordPiece tokenizer, as sentence-transformers saves an embedder."""

import json
from pathlib import Path

_WORDS = (
    "the pi fan spins hot board card how is my why cafe naive 8 80 degrees power over night "
    "##s ##ning ##er ##y ##t ##o ##w ##a ##e ! ? . , ' - a b c d e f g h i j k l m n o p q r s t u v w x y z "
    "树 莓 派 太 热 ##树"
)
WORDS = _WORDS.split()
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TEXTS = (
    "How hot is my Pi?",
    "The fan spins over night, why?",
    "Café NAÏVE",
    "树莓派太热",
    "powerers 🙂 a",
    "x " * 60,
    "",
)


def tiny_bert(folder: Path, *, layers: int = 2, hidden: int = 64, seed: int = 0) -> Path:
    """Write an embedder with random weights to `folder` and return it."""
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(SPECIALS) + len(WORDS),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=64,
    )
    BertModel(config).eval().save_pretrained(folder)
    _write_tokenizer(folder)
    (folder / "modules.json").write_text(
        json.dumps(
            [
                {"type": f"sentence_transformers.models.{name}"}
                for name in ("Transformer", "Pooling", "Normalize")
            ]
        )
    )
    (folder / "1_Pooling").mkdir()
    pooling = {"word_embedding_dimension": hidden, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {token: number for number, token in enumerate((*SPECIALS, *WORDS))}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(list(SPECIALS))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", vocabulary["[CLS]"]), ("[SEP]", vocabulary["[SEP]"])],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
