"""Checkpoint to an ONNX file of 4 bits: our writer against onnxruntime-genai's own model builder.

Time and peak memory of each as the child process that a user would start, imports and all. Then
what the files compute: ours in float32 against transformers; the builder's codes in our graph
against the builder's own graph; greedy answers of our folder in onnxruntime-genai; and how far each
one's codes are from the model in float32, ours rounded and learned (onnx_learned.py). The builder
lives in another environment: DEMITASSE_GENAI names its Python (docs/onnx.md).
"""

import json
import multiprocessing
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import checkpoints
import measure
import numpy as np
import onnx_learned
import smollm2
from convert import run as run_child
from onnx_stock import Stock, file_of, kl, size_bytes

from toolchain import artifacts

CONTEXT, TOKENS, STEPS, PREFILL = 2048, 512, 256, 64
PROMPTS, PROMPT, ANSWER = 8, 32, 32
"""Greedy answers: their number, and tokens of each and of its prompt."""
CUTS = {"as our engine cuts it": PROMPT - 1, "in one piece": PROMPT}
"""How genai reads a prompt: in words, and the tokens of the first piece."""
# Where activations are rounded to 8 bits, the same prompt in other pieces has other logits: ONNX
# Runtime's own differ by 0.5 to 1.4 here, in one graph. In float32 no token differs.
ROUNDS, QUICK_ROUNDS = 3, 1
EXACT, SAME_CODES = 1e-4, 1e-3
"""Limits of a logit's difference: of a step in float32, and for equal codes."""
BUILDER = "onnxruntime-genai 0.18.0 model builder, -p int4 -e cpu"
QUICK: dict[str, Any] = {
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
OURS = """
import sys
from pathlib import Path
from toolchain import artifacts
from toolchain.progress import Silent
from toolchain.quantize.gguf import ModelLabel
from toolchain.quantize.onnx import quantize
from toolchain.recipe import QuantizeSpec
model, out, scheme, context = sys.argv[1:]
checkpoint = artifacts.external(Path(model))
label = ModelLabel(name="bench")
spec = QuantizeSpec(onnx_scheme=scheme)
quantize(checkpoint, spec, label, Path(out), Silent(), context=int(context))
"""
ANSWERS = """
import json, sys
from pathlib import Path
from device.engine import load
from device.engine.base import Sampling, Settings
folder, prompts, count = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
engine = load(next(Path(folder).glob("*.onnx")), Settings(context=512, speculative=False))
greedy = Sampling(max_tokens=count, temperature=0)
print(json.dumps([[s.id for s in engine.generate(p, greedy) if s.id is not None] for p in prompts]))
"""
THEIR_ANSWERS = """
import json, sys
import numpy as np
import onnxruntime_genai as genai
folder, prompts, count = sys.argv[1], json.loads(sys.argv[2]), int(sys.argv[3])
first = int(sys.argv[4])
model = genai.Model(folder)
answers = []
for prompt in prompts:
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(do_sample=False, max_length=len(prompt) + count)
    generator = genai.Generator(model, parameters)
    generator.append_tokens(np.array([prompt[:first]], np.int32))
    if prompt[first:]:
        generator.append_tokens(np.array([prompt[first:]], np.int32))
    while not generator.is_done():
        generator.generate_next_token()
    answers.append(np.array(generator.get_sequence(0))[len(prompt):].tolist())
print(json.dumps(answers))
"""
Figures = dict[str, list[float]]
"""Side → figure of each round."""


def main() -> None:
    """Measure time, memory, exactness and the distance from the model."""
    options = measure.options(__doc__ or "", learn="learn the codes, keep them and end")
    if options.learn:
        for subject in (onnx_learned.HELP_DESK, onnx_learned.SMOLLM2):
            onnx_learned.learn(subject)
        return
    if not (genai := measure.genai_python(options)):
        return

    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        # A child's peak begins with what its parent holds: the model is made in another process.
        make = (checkpoints.write_qwen2, QUICK) if options.quick else (smollm2.write,)
        maker = multiprocessing.get_context("spawn").Process(
            target=make[0], args=(root / "model", *make[1:])
        )
        maker.start()
        maker.join()
        seconds, peaks = _convert(root, genai, rounds)
        claims = [*_costs(root, seconds, peaks), *_answered(root, genai), *_computed(root)]
        claims += _learned(root, genai, quick=options.quick)

    measure.show(
        claims, {f"{side}, s": found for side, found in seconds.items()}, "s", as_json=options.json
    )


def _convert(root: Path, genai: str, rounds: int) -> tuple[Figures, Figures]:
    model = str(root / "model")
    commands = {
        "ours": [sys.executable, "-c", OURS, model, str(root / "ours"), "int4_b32", str(CONTEXT)],
        "builder": _builder(genai, root / "model", root / "builder"),
    }
    peaks: Figures = {side: [] for side in commands}

    def once(side: str) -> float:
        shutil.rmtree(root / side, ignore_errors=True)
        cost = run_child(commands[side])
        peaks[side].append(cost.peak_mb)
        return cost.seconds

    cases = {side: lambda side=side: once(side) for side in commands}
    seconds = measure.interleave(cases, rounds)
    return seconds, {side: found[-rounds:] for side, found in peaks.items()}


def _builder(genai: str, model: Path, out: Path) -> list[str]:
    return [
        *(genai, "-m", "onnxruntime_genai.models.builder"),
        *("-i", str(model), "-o", str(out)),
        *("-p", "int4", "-e", "cpu", "-c", str(out.with_name("cache"))),
    ]


def _costs(root: Path, seconds: Figures, peaks: Figures) -> list[measure.Claim]:
    sizes = {side: size_bytes(root / side) for side in seconds}
    peak_mb = {side: round(max(found)) for side, found in peaks.items()}
    conditions = {"bytes": sizes, "peak_mb": peak_mb, "context": CONTEXT}
    output_mb = [sizes["ours"] / 1e6] * len(peaks["ours"])
    return [
        measure.claim(
            "wall", BUILDER, 0.25, seconds["ours"], seconds["builder"], conditions, better="less"
        ),
        measure.claim(
            "peak memory", BUILDER, 0.2, peaks["ours"], peaks["builder"], conditions, better="less"
        ),
        measure.claim(
            "peak memory ÷ output",
            "the file that is written",
            1.3,
            peaks["ours"],
            output_mb,
            conditions,
            better="less",
        ),
    ]


def _answered(root: Path, genai: str) -> list[measure.Claim]:
    """Return the claims that stock onnxruntime-genai answers from our folder as our engine does.

    Of tokens that differ the first one counts, and all that follow it.
    """
    tokens = _tokens(root / "model")
    step = (len(tokens) - PROMPT) // PROMPTS
    prompts = json.dumps([tokens[at : at + PROMPT] for at in range(0, step * PROMPTS, step)])
    asked = [str(root / "ours"), prompts, str(ANSWER)]
    ours = json.loads(_said([sys.executable, "-c", ANSWERS, *asked]))
    claims = []
    for cut, first in CUTS.items():
        theirs = json.loads(_said([genai, "-c", THEIR_ANSWERS, *asked, str(first)]))
        # Its answer may end with the token that ends it, ours ends before it.
        pairs = [(mine, its[: len(mine)]) for mine, its in zip(ours, theirs, strict=True)]
        conditions = {"prompts": PROMPTS, "tokens": sum(map(len, ours))}
        claims.append(
            measure.claim(
                f"greedy tokens of our folder that are equal, the prompt {cut}",
                "onnxruntime-genai 0.18.0, stock",
                1.0,
                [sum(_common(*pair) for pair in pairs)],
                [conditions["tokens"]],
                conditions,
            )
        )
    return claims


def _said(command: Sequence[str]) -> str:
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    return ran.stdout.splitlines()[-1]


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the length of the common beginning."""
    pairs = zip(first, second, strict=False)
    return next((n for n, (one, other) in enumerate(pairs) if one != other), len(first))


def _computed(root: Path) -> list[measure.Claim]:
    """Return the claims about what the files compute."""
    exact = root / "exact"
    run_child([sys.executable, "-c", OURS, str(root / "model"), str(exact), "fp32", str(CONTEXT)])
    tokens = _tokens(root / "model")
    steps = tokens[: PREFILL + STEPS]
    found = Stock(exact).forced(steps, PREFILL)
    single, double = (_expected(root / "model", steps, each) for each in ("float32", "float64"))
    errors = {name: _largest(found - each) for name, each in (("32", single), ("64", double))}
    own = {"transformers' own float32 against its float64": _largest(single - double)}

    reference = Stock(exact).logits(tokens)
    distances = {
        side: float(kl(reference, Stock(root / side).logits(tokens)).mean())
        for side in ("ours", "builder")
    }
    theirs = Stock(root / "builder").logits(tokens)
    _take_codes(root / "ours", root / "builder")
    same = float(np.abs(Stock(root / "ours").logits(tokens) - theirs).max())

    conditions: dict[str, object] = {"tokens": len(tokens), "steps": STEPS}
    return [
        *(
            measure.claim(
                "largest error of a logit ÷ 1e-4",
                f"transformers, float{bits}",
                1.0,
                [error],
                [EXACT],
                conditions | own,
                better="less",
            )
            for bits, error in errors.items()
        ),
        measure.claim(
            "largest difference of a logit for equal codes and angles ÷ 1e-3",
            BUILDER,
            1.0,
            [same],
            [SAME_CODES],
            conditions,
            better="less",
        ),
        measure.claim(
            "KL to float32, rounding alone",
            BUILDER,
            1.0,
            [distances["ours"]],
            [distances["builder"]],
            conditions | {"kl": {side: round(each, 4) for side, each in distances.items()}},
            better="less",
        ),
    ]


def _learned(root: Path, genai: str, *, quick: bool) -> list[measure.Claim]:
    """Return the claims about codes that were learned in the format."""
    if quick:
        model = artifacts.external(root / "model")
        return _of_learned(onnx_learned.quick(model, root / "learned"), genai, root / "theirs")
    claims = []
    for subject in (onnx_learned.HELP_DESK, onnx_learned.SMOLLM2):
        files = onnx_learned.learn(subject)
        claims += _of_learned(files, genai, root / f"theirs-{subject.recipe}")
        if subject is onnx_learned.SMOLLM2:
            claims.append(_on_general_text(files, root / f"theirs-{subject.recipe}"))
    return claims


def _of_learned(files: onnx_learned.Files, genai: str, out: Path) -> list[measure.Claim]:
    """Return the claim about held-out answers; write the builder's file into `out`."""
    run_child(_builder(genai, files.checkpoint, out))
    exact = Stock(files.exact)
    sides = {
        side: onnx_learned.divergences(exact, Stock(folder), files.examples)
        for side, folder in (("ours", files.learned), ("builder", out))
    }
    tokens = sides["ours"][1]
    conditions = onnx_learned.said(
        files, tokens, {side: sum(each) / tokens for side, (each, _) in sides.items()}
    )
    return [
        measure.paired(
            f"KL on held-out answers, codes learned: {files.subject.name}",
            f"{BUILDER}, rounding to nearest",
            0.5,
            sides["ours"][0],
            sides["builder"][0],
            conditions | {"bytes": {"ours": size_bytes(files.learned), "builder": size_bytes(out)}},
        )
    ]


def _on_general_text(files: onnx_learned.Files, builder: Path) -> measure.Claim:
    tokens = _tokens(files.checkpoint)
    reference = Stock(files.exact).logits(tokens)
    ours, theirs = (
        float(kl(reference, Stock(folder).logits(tokens)).mean())
        for folder in (files.learned, builder)
    )
    return measure.claim(
        f"KL on general text, of which nothing was learned: {files.subject.name}",
        f"{BUILDER}, rounding to nearest",
        0.5,
        [ours],
        [theirs],
        {"tokens": len(tokens), "kl": {"ours": round(ours, 4), "builder": round(theirs, 4)}},
        better="less",
    )


def _tokens(model: Path) -> list[int]:
    """Return tokens of the general text that the gate reads."""
    from tokenizers import Tokenizer

    import toolchain

    text = (Path(toolchain.__file__).parent / "general.txt").read_text(encoding="utf-8")
    ids: list[int] = Tokenizer.from_file(str(model / "tokenizer.json")).encode(text).ids
    return ids[:TOKENS]


def _expected(model: Path, tokens: Sequence[int], dtype: str) -> np.ndarray:
    """Return transformers' logits from the last token of the first piece on, as float64."""
    import torch
    from transformers import AutoModelForCausalLM

    network: Any = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype))
    network.eval()
    with torch.no_grad():
        logits: np.ndarray = network(torch.tensor([list(tokens)])).logits[0].double().numpy()
    return logits[PREFILL - 1 :]


def _largest(differences: np.ndarray) -> float:
    return float(np.abs(differences).max())


def _take_codes(ours: Path, builder: Path) -> None:
    """Write the builder's codes, scales and angles over ours: both keep them in one layout.

    Its angles differ from ours in the last bit; where activations are rounded to 8 bits, that
    moves logits by more than the limit.
    """
    theirs = _places(file_of(builder))
    with (
        Path(f"{file_of(ours)}.data").open("r+b") as stream,
        Path(f"{file_of(builder)}.data").open("rb") as source,
    ):
        for (place, size), (their_place, _) in zip(_places(file_of(ours)), theirs, strict=True):
            source.seek(their_place)
            stream.seek(place)
            stream.write(source.read(size))


def _places(file: Path) -> list[tuple[int, int]]:
    """Return offset and size of codes, scales and angles, in the order in which they are used."""
    import onnx

    graph = onnx.load(str(file), load_external_data=False).graph
    places = {
        tensor.name: {entry.key: entry.value for entry in tensor.external_data}
        for tensor in graph.initializer
    }
    inputs = {"GroupQueryAttention": (7, 8), "MatMulNBits": (1, 2)}
    return [
        (int(places[name]["offset"]), int(places[name]["length"]))
        for node in graph.node
        for name in (node.input[place] for place in inputs.get(node.op_type, ()))
    ]


if __name__ == "__main__":
    main()
