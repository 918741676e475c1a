"""Decoding with a vocabulary trimmed to a subject, against the same model with all its tokens.

The shape is that of Qwen2.5-0.5B, with random weights: the bytes that are read for each token
decide the speed, not their values. Each round is a child process that loads one file and decodes. A
prompt's speed hardly changes, since only one row of scores is computed for it.
"""

import multiprocessing
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import checkpoints
import measure

SCHEME = "Q4_0"
KEPT, QUICK_KEPT = 16384, 1024
ROUNDS, QUICK_ROUNDS = 7, 1
TOKENS = 64
QUICK = checkpoints.QWEN_05B | {"vocab_size": 8192, "num_hidden_layers": 2}
SUBJECT = "How hot is too hot for a Raspberry Pi? Above eighty degrees it slows itself down."
DECODE = """
import sys
from pathlib import Path
from device.engine import load
from device.engine.base import Settings
engine = load(Path(sys.argv[1]), Settings(context=512))
engine.time_decode(8)
print(int(sys.argv[2]) / engine.time_decode(int(sys.argv[2])))
"""


def main() -> None:
    """Measure the claim."""
    options = measure.options(__doc__ or "")
    shape, kept, rounds = (
        (QUICK, QUICK_KEPT, QUICK_ROUNDS) if options.quick else (checkpoints.QWEN_05B, KEPT, ROUNDS)
    )
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        maker = multiprocessing.get_context("spawn").Process(target=_make, args=(root, shape, kept))
        maker.start()
        maker.join()
        files = {side: next((root / side).glob("*.gguf")) for side in ("trimmed", "whole")}
        figures = measure.interleave(
            {side: partial(_decode, file) for side, file in files.items()}, rounds
        )
        conditions = {
            "shape": "small" if options.quick else "Qwen2.5-0.5B",
            "scheme": SCHEME,
            "tokens": f"{shape['vocab_size']} → {kept}",
            "file_mb": {side: round(file.stat().st_size / 1e6) for side, file in files.items()},
            "decoded": TOKENS,
        }

    claims = [
        measure.claim(
            "decode",
            "the same model untrimmed, same runtime",
            1.5,
            figures["trimmed"],
            figures["whole"],
            conditions,
        )
    ]
    measure.show(claims, figures, "tokens/s", as_json=options.json)


def _make(root: Path, shape: dict[str, int], kept: int) -> None:
    """Write both model files."""
    from tokenizers import Tokenizer

    from toolchain import artifacts
    from toolchain.models.vocabulary import Tokens
    from toolchain.progress import Silent
    from toolchain.quantize.gguf import ModelLabel, quantize
    from toolchain.recipe import QuantizeSpec

    folder = checkpoints.write_qwen2(root / "model", shape, tokens=shape["vocab_size"])
    tokens = Tokens(folder)
    used = set(Tokenizer.from_file(str(folder / "tokenizer.json")).encode(SUBJECT).ids)
    (root / "small").mkdir()
    tokens.write(tokens.filled(used, kept), root / "small")

    for name, side in (("model", "whole"), ("small", "trimmed")):
        checkpoint = artifacts.external(root / name)
        quantize(
            checkpoint, QuantizeSpec(scheme=SCHEME), ModelLabel(name="bench"), root / side, Silent()
        )


def _decode(file: Path) -> float:
    """Return the tokens a second of one process."""
    command = [sys.executable, "-c", DECODE, str(file), str(TOKENS)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


if __name__ == "__main__":
    main()
