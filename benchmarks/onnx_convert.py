"""Checkpoint to an ONNX file of 4 bits: our writer against onnxruntime-genai's own model builder.

Time and peak memory of each as the child process that a user would start, imports and all. Then
what the files compute: ours in float32 against transformers; the builder's codes in our graph
against the builder's own graph; and how far each one's codes are from the model in float32. The
builder lives in another environment: DEMITASSE_GENAI names its Python (docs/onnx.md).
"""

import json
import multiprocessing
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import checkpoints
import measure
import numpy as np
import smollm2
from convert import run as run_child

CONTEXT, TOKENS, STEPS, PREFILL = 2048, 512, 256, 64
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
Figures = dict[str, list[float]]
"""Side → figure of each round."""


def main() -> None:
    """Measure time, memory, exactness and the distance from the model."""
    options = measure.options(__doc__ or "")
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
        claims = [*_costs(root, seconds, peaks), *_computed(root)]

    measure.show(
        claims, {f"{side}, s": found for side, found in seconds.items()}, "s", as_json=options.json
    )


def _convert(root: Path, genai: str, rounds: int) -> tuple[Figures, Figures]:
    model = str(root / "model")
    commands = {
        "ours": [sys.executable, "-c", OURS, model, str(root / "ours"), "int4_b32", str(CONTEXT)],
        "builder": [
            *(genai, "-m", "onnxruntime_genai.models.builder"),
            *("-i", model, "-o", str(root / "builder")),
            *("-p", "int4", "-e", "cpu", "-c", str(root / "cache")),
        ],
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


def _costs(root: Path, seconds: Figures, peaks: Figures) -> list[measure.Claim]:
    sizes = {side: _bytes(root / side) for side in seconds}
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


def _computed(root: Path) -> list[measure.Claim]:
    """Return the claims about what the files compute."""
    exact = root / "exact"
    run_child([sys.executable, "-c", OURS, str(root / "model"), str(exact), "fp32", str(CONTEXT)])
    tokens = _tokens(root / "model")
    steps = tokens[: PREFILL + STEPS]
    expected = _expected(root / "model", steps)[PREFILL - 1 :]
    found = _forced(_file(exact), steps)
    error = float(np.abs(found - expected).max())

    reference = _logits(_file(exact), tokens)
    distances = {
        side: _divergence(reference, _logits(_file(root / side), tokens))
        for side in ("ours", "builder")
    }
    theirs = _logits(_file(root / "builder"), tokens)
    _take_codes(root / "ours", root / "builder")
    same = float(np.abs(_logits(_file(root / "ours"), tokens) - theirs).max())

    conditions: dict[str, object] = {"tokens": len(tokens), "steps": STEPS}
    return [
        measure.claim(
            "largest error of a logit ÷ 1e-4",
            "transformers, float32",
            1.0,
            [error],
            [EXACT],
            conditions,
            better="less",
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


def _file(folder: Path) -> Path:
    return next(folder.glob("*.onnx"))


def _bytes(folder: Path) -> int:
    return sum(each.stat().st_size for each in folder.glob("*.onnx*"))


def _tokens(model: Path) -> list[int]:
    """Return tokens of the general text that the gate reads."""
    from tokenizers import Tokenizer

    import toolchain

    text = (Path(toolchain.__file__).parent / "general.txt").read_text(encoding="utf-8")
    ids: list[int] = Tokenizer.from_file(str(model / "tokenizer.json")).encode(text).ids
    return ids[:TOKENS]


def _session(file: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])


def _empty(session: Any, file: Path) -> dict[str, np.ndarray]:
    """Return empty keys and values; the folder's genai_config.json has their sizes."""
    said = json.loads(file.with_name("genai_config.json").read_text(encoding="utf-8"))
    decoder = said["model"]["decoder"]
    shape = (1, decoder["num_key_value_heads"], 0, decoder["head_size"])
    return {
        each.name: np.zeros(shape, np.float32)
        for each in session.get_inputs()
        if each.name.startswith("past_key_values.")
    }


def _logits(file: Path, tokens: Sequence[int]) -> np.ndarray:
    session = _session(file)
    feeds = {
        "input_ids": np.array([tokens], np.int64),
        "attention_mask": np.ones((1, len(tokens)), np.int64),
    }
    logits: np.ndarray = session.run(["logits"], feeds | _empty(session, file))[0][0]
    return logits


def _forced(file: Path, tokens: Sequence[int]) -> np.ndarray:
    """Return the logits after the first piece and after each token behind it, one at a time."""
    session = _session(file)
    names = [output.name for output in session.get_outputs()]
    past = _empty(session, file)
    rows = []
    for first, end in [(0, PREFILL), *((at, at + 1) for at in range(PREFILL, len(tokens)))]:
        feeds = {
            "input_ids": np.array([tokens[first:end]], np.int64),
            "attention_mask": np.ones((1, end), np.int64),
        }
        found = dict(zip(names, session.run(names, feeds | past), strict=True))
        past = {name: found[name.replace("past_key_values", "present")] for name in past}
        rows.append(found["logits"][0, -1])
    return np.stack(rows)


def _expected(model: Path, tokens: Sequence[int]) -> np.ndarray:
    import torch
    from transformers import AutoModelForCausalLM

    network: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    network.eval()
    with torch.no_grad():
        logits: np.ndarray = network(torch.tensor([list(tokens)])).logits[0].numpy()
    return logits


def _divergence(reference: np.ndarray, other: np.ndarray) -> float:
    """Return the mean KL divergence from the reference, in nats per token."""
    ours, theirs = (_log_chances(each.astype(np.float64)) for each in (reference, other))
    return float((np.exp(ours) * (ours - theirs)).sum(-1).mean())


def _log_chances(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    chances: np.ndarray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return chances


def _take_codes(ours: Path, builder: Path) -> None:
    """Write the builder's codes, scales and angles over ours: both keep them in one layout.

    Its angles differ from ours in the last bit; where activations are rounded to 8 bits, that
    moves logits by more than the limit.
    """
    theirs = _places(_file(builder))
    with (
        Path(f"{_file(ours)}.data").open("r+b") as stream,
        Path(f"{_file(builder)}.data").open("rb") as source,
    ):
        for (place, size), (their_place, _) in zip(_places(_file(ours)), theirs, strict=True):
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
