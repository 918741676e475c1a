"""Runs llama.cpp's own converter on model folders, in a process of its own.

python llama_cpp_convert.py SOURCE < jobs.json

A byte-level tokenizer that it does not know by hash gets the name that ours has proved.
SentencePiece tokenizers need their original `tokenizer.model`, which the tiny models do not have:
their vocabulary is left out.
"""

import json
import sys
from pathlib import Path
from typing import Any


def main(source: Path) -> None:
    """Convert every job of standard input, to BF16 unless it names another type."""
    sys.path[:0] = [str(source), str(source / "gguf-py")]
    import gguf
    import torch
    from conversion import ModelType, get_model_architecture, get_model_class
    from conversion.base import ModelBase, TextModel

    from toolchain.models.tokenizer_kinds import recognise

    for job in json.loads(sys.stdin.read()):
        folder = Path(job["model"])
        structure = recognise(json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")))
        hparams = ModelBase.load_hparams(folder, False)
        kind: Any = get_model_class(get_model_architecture(hparams, ModelType.TEXT))
        byte_level = structure.model == "gpt2"
        kind.get_vocab_base_pre = lambda self, tokenizer, pre=structure.pre: pre
        kind.set_vocab = TextModel._set_vocab_gpt2 if byte_level else TextModel._set_vocab_none
        with torch.inference_mode():
            kind(
                folder, gguf.LlamaFileType[job.get("type", "MOSTLY_BF16")], Path(job["out"])
            ).write()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
