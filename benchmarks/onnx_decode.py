"""Decoding SmolLM2-135M in 4 bits: our engine on ONNX Runtime, onnxruntime-genai, our llama.cpp.

The first two run the same file. Each side is a child process with one thread, its figure tokens per
second of processor time, prompt apart: one thread waits for nothing, and other programs' time is
not counted. llama.cpp's file has another size, so what is compared with it is the bytes of weights
that are read for tokens in a second. The peer lives in another environment: DEMITASSE_GENAI names
its Python (docs/onnx.md).
"""

import json
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import measure
import smollm2

from toolchain import artifacts
from toolchain.progress import Silent
from toolchain.quantize import gguf, onnx
from toolchain.quantize.gguf import ModelLabel
from toolchain.recipe import QuantizeSpec

CONTEXT, PROMPT, STEPS = 512, 64, 96
ROUNDS, QUICK_ROUNDS = 7, 1
OURS = """
import json, sys, time
from pathlib import Path
from device.engine import load, streamed_bytes
from device.engine.base import Sampling, Settings
file, tokens, steps = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
engine = load(file, Settings(threads=1, context=512, speculative=False))
answer = engine.generate(tokens, Sampling(max_tokens=steps))
next(answer)
began = time.process_time()
count = sum(step.id is not None for step in answer)
seconds = time.process_time() - began
print(json.dumps([count / seconds, streamed_bytes(file)]))
"""
GENAI = """
import json, sys, time
import numpy as np
import onnxruntime_genai as genai
folder, tokens, steps = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
config = genai.Config(folder)
options = {"model": {"decoder": {"session_options": {"intra_op_num_threads": 1}}}}
config.overlay(json.dumps(options))
model = genai.Model(config)
parameters = genai.GeneratorParams(model)
parameters.set_search_options(do_sample=False, max_length=512)
generator = genai.Generator(model, parameters)
generator.append_tokens(np.array([tokens], np.int32))
generator.generate_next_token()
began = time.process_time()
count = 0
while count < steps - 1 and not generator.is_done():
    generator.generate_next_token()
    count += 1
print(json.dumps([count / (time.process_time() - began), 0]))
"""


def main() -> None:
    """Measure how fast each side decodes."""
    options = measure.options(__doc__ or "")
    if not (genai := measure.genai_python(options)):
        return

    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        files = _files(root)
        tokens = json.dumps(_tokens(root / "model"))
        commands = {
            "ours": [sys.executable, "-c", OURS, str(files["onnx"])],
            "genai": [genai, "-c", GENAI, str(files["onnx"].parent)],
            "llama.cpp": [sys.executable, "-c", OURS, str(files["gguf"])],
        }
        read: dict[str, float] = {}

        def rate(side: str) -> float:
            ran = subprocess.run(
                [*commands[side], tokens, str(STEPS)], check=True, capture_output=True, text=True
            )
            figure, read[side] = json.loads(ran.stdout.splitlines()[-1])
            return float(figure)

        rounds = QUICK_ROUNDS if options.quick else ROUNDS
        rates = measure.interleave({side: partial(rate, side) for side in commands}, rounds)

    conditions: dict[str, object] = {
        "clock": "processor time, one thread",
        "bytes read for a token": {side: read[side] for side in ("ours", "llama.cpp")},
        "prompt": PROMPT,
        "steps": STEPS,
    }
    streamed = {side: [each * read[side] for each in rates[side]] for side in ("ours", "llama.cpp")}
    claims = [
        measure.claim(
            "decode",
            "onnxruntime-genai 0.18.0, same file",
            0.98,
            rates["ours"],
            rates["genai"],
            conditions,
        ),
        measure.claim(
            "bytes of weights a second while decoding",
            "our llama.cpp engine, Q4_0",
            0.95,
            streamed["ours"],
            streamed["llama.cpp"],
            conditions,
        ),
    ]
    measure.show(
        claims,
        {f"{side}, tok/s": found for side, found in rates.items()},
        "tok/s",
        as_json=options.json,
    )


def _files(root: Path) -> dict[str, Path]:
    base = artifacts.external(smollm2.write(root / "model"))
    label = ModelLabel(name="bench")
    four = QuantizeSpec(scheme="Q4_0")
    made = onnx.quantize(base, four, label, root / "onnx", Silent(), context=CONTEXT)
    return {
        "onnx": made.file,
        "gguf": gguf.quantize(base, four, label, root / "gguf", Silent()).file,
    }


def _tokens(model: Path) -> list[int]:
    from tokenizers import Tokenizer

    import toolchain

    text = (Path(toolchain.__file__).parent / "general.txt").read_text(encoding="utf-8")
    ids: list[int] = Tokenizer.from_file(str(model / "tokenizer.json")).encode(text).ids
    return ids[:PROMPT]


if __name__ == "__main__":
    main()
