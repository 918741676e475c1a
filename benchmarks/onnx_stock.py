"""A folder in onnxruntime-genai's contract, read by stock ONNX Runtime: logits and their distance.

Shared by the benchmarks of ONNX files. Nothing here is code of the toolchain or of the device: it
judges both.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np


class Stock:
    """A decoder in a session of ONNX Runtime with its defaults."""

    def __init__(self, folder: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        self._session: Any = onnxruntime.InferenceSession(
            str(file_of(folder)), options, providers=["CPUExecutionProvider"]
        )
        said = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
        decoder = said["model"]["decoder"]
        shape = (1, decoder["num_key_value_heads"], 0, decoder["head_size"])
        self._empty = {
            each.name: np.zeros(shape, np.float32)
            for each in self._session.get_inputs()
            if each.name.startswith("past_key_values.")
        }

    def logits(self, tokens: Sequence[int]) -> np.ndarray:
        """Return the logits after each token, [tokens, vocabulary]."""
        logits: np.ndarray = self._session.run(["logits"], _fed(tokens, 0) | self._empty)[0][0]
        return logits

    def forced(self, tokens: Sequence[int], prefill: int) -> np.ndarray:
        """Return the logits after `prefill` tokens at once, and after each later token alone."""
        names = [output.name for output in self._session.get_outputs()]
        past = self._empty
        rows = []
        for first, end in [(0, prefill), *((at, at + 1) for at in range(prefill, len(tokens)))]:
            feeds = _fed(tokens[first:end], first) | past
            found = dict(zip(names, self._session.run(names, feeds), strict=True))
            past = {name: found[name.replace("past_key_values", "present")] for name in past}
            rows.append(found["logits"][0, -1])
        return np.stack(rows)


def _fed(tokens: Sequence[int], past: int) -> dict[str, np.ndarray]:
    return {
        "input_ids": np.array([tokens], np.int64),
        "attention_mask": np.ones((1, past + len(tokens)), np.int64),
    }


def file_of(folder: Path) -> Path:
    """Return the graph of a folder."""
    return next(folder.glob("*.onnx"))


def size_bytes(folder: Path) -> int:
    """Return the bytes of graph and weights."""
    return sum(each.stat().st_size for each in folder.glob("*.onnx*"))


def kl(reference: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the KL divergence from the reference at each row of logits, in nats."""
    theirs, ours = (_log_chances(each.astype(np.float64)) for each in (reference, other))
    divergence: np.ndarray = (np.exp(theirs) * (theirs - ours)).sum(-1)
    return divergence


def _log_chances(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    chances: np.ndarray = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return chances
