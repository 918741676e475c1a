"""Decoding of students against their teacher: SmolLM2-135M, some of its layers, fewer tokens.

Weights are the package's own, cut and quantized as `distill`, `trim` and `quantize` do it: how fast
a file decodes depends on its shape and not on what it learned. Processor seconds of one thread, all
files in turns. Each student stands against a teacher with the same vocabulary. Goal: 1.8 times.
"""

import tempfile
import time
from functools import partial
from pathlib import Path

import measure
import smollm2

from device.engine import load
from device.engine.base import Engine, Settings

ROUNDS, QUICK_ROUNDS = 7, 1
TOKENS, QUICK_TOKENS = 128, 8
SCHEME = "Q4_K_M"
GOAL = 1.8
WHOLE = 30
"""Layers of the teacher."""
TRIMMED = 12_032
"""Tokens of a vocabulary of one subject, of 49,152."""
FILES = {"30 layers": (WHOLE, 0), "15 layers": (15, 0), "11 layers": (11, 0)}
FEWER = {"30 layers, trimmed": (WHOLE, TRIMMED), "15 layers, trimmed": (15, TRIMMED)}
"""Layers and tokens of each file; 0: all tokens."""
PAIRS = (
    ("15 layers", "30 layers"),
    ("11 layers", "30 layers"),
    ("15 layers, trimmed", "30 layers, trimmed"),
)
SUBJECT = "How hot is too hot for a Raspberry Pi? Above eighty degrees it slows itself down."


def main() -> None:
    """Measure the claims."""
    options = measure.options(__doc__ or "")
    tokens, rounds = (QUICK_TOKENS, QUICK_ROUNDS) if options.quick else (TOKENS, ROUNDS)
    with tempfile.TemporaryDirectory() as scratch:
        files = _files(Path(scratch))
        engines = {
            name: load(file, Settings(context=512, threads=1)) for name, file in files.items()
        }
        cases = {name: partial(_rate, engine, tokens) for name, engine in engines.items()}
        figures = measure.interleave(cases, rounds)
        sizes = {name: file.stat().st_size for name, file in files.items()}

    claims = [
        measure.claim(
            f"decode, {student}",
            teacher,
            GOAL,
            figures[student],
            figures[teacher],
            {
                "model": "SmolLM2-135M",
                "scheme": SCHEME,
                "threads": 1,
                "tokens": tokens,
                "unit": "tokens a processor second",
                "file_mb": f"{sizes[student] / 1e6:.1f} against {sizes[teacher] / 1e6:.1f}",
                "bytes": f"1 / {sizes[teacher] / sizes[student]:.2f}",
            },
        )
        for student, teacher in PAIRS
    ]
    measure.show(claims, figures, "tokens/s", as_json=options.json)


def _files(root: Path) -> dict[str, Path]:
    """Write the model files; return them by name."""
    from toolchain import artifacts
    from toolchain.progress import Silent
    from toolchain.quantize.gguf import ModelLabel, quantize
    from toolchain.recipe import QuantizeSpec

    base = smollm2.write(root / "base")
    files = {}
    for name, (layers, tokens) in (FILES | FEWER).items():
        folder = _cut(base, layers, root / f"{layers}")
        if tokens:
            folder = _trimmed(folder, tokens, root / f"{layers}-{tokens}")
        out = root / name
        label = ModelLabel(name="bench")
        quantize(artifacts.external(folder), QuantizeSpec(scheme=SCHEME), label, out, Silent())
        files[name] = next(out.glob("*.gguf"))
    return files


def _cut(base: Path, layers: int, out: Path) -> Path:
    """Return the folder of a model with so many of the base's layers, evenly spaced."""
    from toolchain.models.checkpoints import load_model, load_tokenizer, save_model
    from toolchain.training.influence import evenly
    from toolchain.training.students import from_layers

    if layers == WHOLE:
        return base
    if not out.is_dir():
        save_model(from_layers(load_model(base), evenly(WHOLE, layers)), out)
        load_tokenizer(base).save_pretrained(out)
    return out


def _trimmed(folder: Path, count: int, out: Path) -> Path:
    """Return the folder of the same model with so many of its tokens."""
    from tokenizers import Tokenizer

    from toolchain.models.names import TOKENIZER
    from toolchain.models.vocabulary import Tokens

    out.mkdir()
    tokens = Tokens(folder)
    used = set(Tokenizer.from_file(str(folder / TOKENIZER)).encode(SUBJECT).ids)
    tokens.write(tokens.filled(used, count), out)
    return out


def _rate(engine: Engine, tokens: int) -> float:
    """Return the tokens that are decoded in a second of the processor."""
    began = time.process_time()
    engine.time_decode(tokens)
    return tokens / (time.process_time() - began)


if __name__ == "__main__":
    main()
