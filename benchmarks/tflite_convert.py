"""Checkpoint to a float32 TFLite file: our writer against litert-torch and TensorFlow's converter.

How fast each file decodes is measured too. The peers do not fit into this environment:
DEMITASSE_REFEREE names the Python of another one that has them (docs/tflite.md). Without it nothing
is measured. Each side converts in a child process, imports and all. A child's peak begins with what
its parent holds, so the model is made in a process of its own. The files then run in the same
interpreter, in turn, with one thread.
"""

import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import checkpoints
import measure
import numpy as np
from convert import Cost
from convert import run as run_child

CONTEXT, PREFILL, STEPS = 256, 64, 48
ROUNDS, QUICK_ROUNDS = 5, 1
SAME_MODEL = 1e-4
"""Limit of a logit's difference from Hugging Face's: another model would prove nothing."""
Figures = dict[str, list[float]]
"""Side → figure of each round."""
SHAPE: dict[str, Any] = {
    "vocab_size": 4096,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
}
QUICK = SHAPE | {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
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
label = ModelLabel(name="bench")
quantize(artifacts.external(Path(model)), spec, label, Path(out), Silent(), context=int(context))
"""
TENSORFLOW = Path(__file__).parent / "peers" / "tensorflow_convert.py"
LITERT_TORCH = """
import sys
from litert_torch.generative.export_hf.export import export
model, out, prefill, context = sys.argv[1:]
export(model=model, output_dir=out, prefill_lengths=[int(prefill)],
       cache_length=int(context), quantization_recipe="none",
       bundle_litert_lm=False, keep_temporary_files=True)
"""


@dataclass(frozen=True, slots=True)
class Peer:
    """One way that others convert."""

    name: str
    program: tuple[str, ...]
    behind: str = ""
    """End of the names of its claims."""


PEERS = {
    "litert-torch": Peer("litert-torch 0.10.0 export_hf", ("-c", LITERT_TORCH)),
    "tensorflow": Peer("TensorFlow 2.21.0 TFLiteConverter", (str(TENSORFLOW),), ", TensorFlow"),
}


def main() -> None:
    """Measure time, memory, exactness and speed."""
    options = measure.options(__doc__ or "")
    referee = os.environ.get("DEMITASSE_REFEREE", "")
    if not referee:
        print(
            "DEMITASSE_REFEREE names no Python with litert-torch and tensorflow: "
            "nothing is measured",
            file=sys.stderr,
        )
        if options.json:
            print("[]")
        return

    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        maker = multiprocessing.get_context("spawn").Process(
            target=checkpoints.write_qwen2,
            args=(root / "model", QUICK if options.quick else SHAPE),
            kwargs={"telling": True},
        )
        maker.start()
        maker.join()
        seconds, peaks = _convert(root, referee, rounds)
        files = {side: next((root / side).rglob("*.tflite")) for side in seconds}
        errors = _errors(root / "model", files)
        rates = _rates(files, rounds)
        size_mb = round(files["ours"].stat().st_size / 1e6)

    conditions: dict[str, object] = {"file_mb": size_mb, "context": CONTEXT}
    conditions |= {"peak_mb": {side: round(max(found)) for side, found in peaks.items()}}
    exact = measure.claim(
        "largest error of a logit ÷ 1e-4",
        "transformers, float32",
        1.0,
        [errors["ours"]],
        [1e-4],
        conditions,
        better="less",
    )
    claims = [claim for side in PEERS for claim in _claims(side, seconds, peaks, rates, conditions)]
    measure.show(
        [*claims, exact],
        {f"{side}, s": found for side, found in seconds.items()},
        "s",
        as_json=options.json,
    )


def _claims(
    side: str, seconds: Figures, peaks: Figures, rates: Figures, conditions: dict[str, object]
) -> list[measure.Claim]:
    peer, behind = PEERS[side].name, PEERS[side].behind
    clock = conditions | {"clock": "processor time, one thread"}
    return [
        measure.claim(
            f"wall{behind}", peer, 0.1, seconds["ours"], seconds[side], conditions, better="less"
        ),
        measure.claim(
            f"peak memory{behind}",
            peer,
            0.125,
            peaks["ours"],
            peaks[side],
            conditions,
            better="less",
        ),
        measure.claim(
            f"decode{behind}", f"{peer}, same interpreter", 1.0, rates["ours"], rates[side], clock
        ),
    ]


def _convert(root: Path, referee: str, rounds: int) -> tuple[Figures, Figures]:
    peaks: Figures = {side: [] for side in ("ours", *PEERS)}
    arguments = (str(PREFILL), str(CONTEXT))

    def once(side: str, command: list[str]) -> float:
        shutil.rmtree(root / side, ignore_errors=True)
        (root / side).mkdir()
        cost: Cost = run_child([*command, str(root / "model"), str(root / side), *arguments])
        peaks[side].append(cost.peak_mb)
        return cost.seconds

    commands = {"ours": [sys.executable, "-c", OURS]} | {
        side: [referee, *peer.program] for side, peer in PEERS.items()
    }
    cases = {side: lambda side=side: once(side, commands[side]) for side in commands}
    seconds = measure.interleave(cases, rounds)
    return seconds, {side: found[-rounds:] for side, found in peaks.items()}


def _tokens(vocabulary: int) -> list[int]:
    return [
        int(token) for token in np.random.default_rng(0).integers(3, vocabulary, PREFILL + STEPS)
    ]


def _errors(model: Path, files: dict[str, Path]) -> dict[str, float]:
    """Return the largest difference of a logit from Hugging Face's, by file; teacher-forced."""
    import torch
    from transformers import AutoModelForCausalLM

    network: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    network.eval()
    tokens = _tokens(network.config.vocab_size)

    with torch.no_grad():
        expected = network(torch.tensor([tokens])).logits[0].numpy()[PREFILL:]

    found = {
        side: float(np.abs(_Running(file).decoded(tokens) - expected).max())
        for side, file in files.items()
    }
    if wrong := {side: found[side] for side in PEERS if found[side] > SAME_MODEL}:
        raise SystemExit(f"not the same model: logits are off by {wrong}")
    return found


def _rates(files: dict[str, Path], rounds: int) -> Figures:
    """Return tokens per second of processor time, with one thread.

    One thread waits for nothing, and other programs' time is not counted.
    """
    running = {side: _Running(file) for side, file in files.items()}
    tokens = _tokens(SHAPE["vocab_size"])

    def rate(side: str) -> float:
        running[side].read(tokens)
        began = time.process_time()
        running[side].steps(tokens)
        return STEPS / (time.process_time() - began)

    return measure.interleave({side: partial(rate, side) for side in running}, max(rounds, 5))


class _Running:
    """A file in the stock interpreter, one thread, driven by its signatures."""

    def __init__(self, file: Path) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self._interpreter = Interpreter(str(file), num_threads=1)
        self._decode = self._interpreter.get_signature_runner("decode")
        self._prefill = self._interpreter.get_signature_runner(f"prefill_{PREFILL}")
        details = self._decode.get_input_details()
        self._caches = {
            name: np.zeros(each["shape"], np.float32)
            for name, each in details.items()
            if name.startswith("kv_")
        }

    def read(self, tokens: list[int]) -> None:
        """Read the prompt."""
        self._call(self._prefill, tokens[:PREFILL], 0)

    def steps(self, tokens: list[int]) -> np.ndarray:
        """Read the rest token by token; return the logits."""
        found = [
            self._call(self._decode, [tokens[at]], at)["logits"].reshape(-1)
            for at in range(PREFILL, len(tokens))
        ]
        return np.stack(found)

    def decoded(self, tokens: list[int]) -> np.ndarray:
        """Return the logits of all tokens behind the prompt."""
        self.read(tokens)
        return self.steps(tokens)

    def _call(self, runner: Any, part: list[int], start: int) -> dict[str, np.ndarray]:
        position = np.arange(start, start + len(part), dtype=np.int32)
        mask = np.where(np.arange(CONTEXT) <= position[:, None], 0, -1e9).astype(np.float32)[
            None, None
        ]
        answer: dict[str, np.ndarray] = runner(
            tokens=np.array([part], np.int32), input_pos=position, mask=mask, **self._caches
        )
        self._caches = {name: answer[name] for name in self._caches}
        return answer


if __name__ == "__main__":
    main()
