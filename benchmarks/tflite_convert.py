"""From a checkpoint to a float32 TFLite file: our writer against litert-torch's `export_hf`, and how fast each file decodes.

litert-torch cannot live beside what is installed here: DEMITASSE_REFEREE names the Python of an environment that has it
(`pip install litert-torch==0.10.0 torch==2.13.0`). Without it nothing is measured. Each side converts in a child process, imports
and all; both files then run in the same interpreter, in turn, one thread.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import checkpoints
import measure
import numpy as np
from convert import Cost
from convert import run as run_child

CONTEXT, PREFILL, STEPS = 256, 64, 48
ROUNDS, QUICK_ROUNDS = 5, 1
SHAPE: dict[str, Any] = {
    "vocab_size": 4096, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 8, "num_attention_heads": 8,
    "num_key_value_heads": 2,
}  # fmt: skip
QUICK = SHAPE | {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 4}
OURS = """
import sys
from pathlib import Path
from toolchain import artifacts
from toolchain.progress import Silent
from toolchain.quantize.gguf import ModelLabel
from toolchain.quantize.tflite import quantize
from toolchain.recipe import QuantizeSpec
model, out, prefill, context = sys.argv[1:]
spec = QuantizeSpec(tflite_scheme="fp32", prefill=(int(prefill),))
quantize(artifacts.external(Path(model)), spec, ModelLabel(name="bench"), Path(out), Silent(), context=int(context))
"""
PEER = """
import sys
from litert_torch.generative.export_hf.export import export
model, out, prefill, context = sys.argv[1:]
export(model=model, output_dir=out, prefill_lengths=[int(prefill)], cache_length=int(context), quantization_recipe="none",
       bundle_litert_lm=False, keep_temporary_files=True)
"""


def main() -> None:
    """Measure time, memory, exactness and speed."""
    options = measure.options(__doc__ or "")
    referee = os.environ.get("DEMITASSE_REFEREE", "")
    if not referee:
        print("DEMITASSE_REFEREE names no Python with litert-torch: nothing is measured", file=sys.stderr)
        if options.json:
            print("[]")
        return
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        checkpoints.write_qwen2(root / "model", QUICK if options.quick else SHAPE)
        seconds, peaks = _convert(root, referee, rounds)
        ours, theirs = (next((root / side).rglob("*.tflite")) for side in ("ours", "peer"))
        conditions: dict[str, object] = {"file_mb": round(ours.stat().st_size / 1e6), "context": CONTEXT}
        exact, rates = _exactness(root / "model", ours), _rates({"ours": ours, "peer": theirs}, rounds)
    peer = "litert-torch 0.10.0 export_hf"
    claims = [
        measure.claim("wall", peer, 0.1, seconds["ours"], seconds["peer"], conditions, better="less"),
        measure.claim("peak memory", peer, 0.125, peaks["ours"], peaks["peer"], conditions, better="less"),
        measure.claim("largest error of a logit ÷ 1e-4", "transformers, float32", 1.0, [exact], [1e-4], conditions, better="less"),
        measure.claim("decode", f"{peer}, same interpreter", 1.0, rates["ours"], rates["peer"], conditions),
    ]
    measure.show(claims, {f"{side}, s": found for side, found in seconds.items()}, "s", as_json=options.json)


def _convert(root: Path, referee: str, rounds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    peaks: dict[str, list[float]] = {"ours": [], "peer": []}
    arguments = (str(PREFILL), str(CONTEXT))

    def once(side: str, python: str, code: str) -> float:
        (root / side / "record.json").unlink(missing_ok=True)
        cost: Cost = run_child([python, "-c", code, str(root / "model"), str(root / side), *arguments])
        peaks[side].append(cost.peak_mb)
        return cost.seconds

    cases = {"ours": lambda: once("ours", sys.executable, OURS), "peer": lambda: once("peer", referee, PEER)}
    seconds = measure.interleave(cases, rounds)
    return seconds, {side: found[-rounds:] for side, found in peaks.items()}


def _tokens(vocabulary: int) -> list[int]:
    return [int(token) for token in np.random.default_rng(0).integers(3, vocabulary, PREFILL + STEPS)]


def _exactness(model: Path, file: Path) -> float:
    """Return the largest difference of a logit from Hugging Face's, teacher-forced after a prompt."""
    import torch
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    tokens = _tokens(network.config.vocab_size)
    with torch.no_grad():
        expected = network(torch.tensor([tokens])).logits[0].numpy()[PREFILL:]
    return float(np.abs(_Running(file).decoded(tokens) - expected).max())


def _rates(files: dict[str, Path], rounds: int) -> dict[str, list[float]]:
    import time

    running = {side: _Running(file) for side, file in files.items()}

    def rate(side: str) -> float:
        tokens = _tokens(4096)
        running[side].read(tokens)
        began = time.perf_counter()
        running[side].steps(tokens)
        return STEPS / (time.perf_counter() - began)

    return measure.interleave({side: lambda side=side: rate(side) for side in running}, max(rounds, 5))


class _Running:
    """A file in the stock interpreter, one thread, driven by its signatures."""

    def __init__(self, file: Path) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(str(file), num_threads=1)
        self._decode = self._interpreter.get_signature_runner("decode")
        self._prefill = self._interpreter.get_signature_runner(f"prefill_{PREFILL}")
        details = self._decode.get_input_details()
        self._caches = {name: np.zeros(each["shape"], np.float32) for name, each in details.items() if name.startswith("kv_")}

    def read(self, tokens: list[int]) -> None:
        """Read the prompt."""
        self._call(self._prefill, tokens[:PREFILL], 0)

    def steps(self, tokens: list[int]) -> np.ndarray:
        """Read the rest token by token; return the logits."""
        found = [self._call(self._decode, [tokens[at]], at)["logits"].reshape(-1) for at in range(PREFILL, len(tokens))]
        return np.stack(found)

    def decoded(self, tokens: list[int]) -> np.ndarray:
        """Return the logits of all tokens behind the prompt."""
        self.read(tokens)
        return self.steps(tokens)

    def _call(self, runner: Any, part: list[int], start: int) -> dict[str, np.ndarray]:
        position = np.arange(start, start + len(part), dtype=np.int32)
        mask = np.where(np.arange(CONTEXT) <= position[:, None], 0, -1e9).astype(np.float32)[None, None]
        answer: dict[str, np.ndarray] = runner(tokens=np.array([part], np.int32), input_pos=position, mask=mask, **self._caches)
        self._caches = {name: answer[name] for name in self._caches}
        return answer


if __name__ == "__main__":
    main()
