"""Stock interpreters of TFLite files, driven by hand over litert-torch's contract: the referee.

It needs numpy and one of three libraries, nothing of this project: the Python that
DEMITASSE_REFEREE names runs it as a script, `stock_litert.py LIBRARY FILE PREFILL TOKENS OUT.npy`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def interpreter(file: Path, library: str = "ai_edge_litert") -> Any:
    """Return an interpreter of one of three libraries; all have the same interface."""

    if library == "tensorflow":
        import tensorflow

        return tensorflow.lite.Interpreter(str(file), num_threads=1)
    import importlib

    return importlib.import_module(f"{library}.interpreter").Interpreter(str(file), num_threads=1)


def teacher_forced(
    file: Path, tokens: list[int], prefill: int = 64, library: str = "ai_edge_litert"
) -> np.ndarray:
    """Return the logits after each token but the first `prefill`, which one call reads at once."""
    running = interpreter(file, library)
    decode = running.get_signature_runner("decode")
    shapes = {name: detail["shape"] for name, detail in decode.get_input_details().items()}
    caches = {
        name: np.zeros(shape, np.float32)
        for name, shape in shapes.items()
        if name.startswith("kv_cache_")
    }
    keys = np.arange(shapes["mask"][-1])

    def call(runner: Any, part: list[int], start: int) -> dict[str, np.ndarray]:
        position = np.arange(start, start + len(part), dtype=np.int32)
        mask = np.where(keys <= position[:, None], 0, -1e9).astype(np.float32)
        answer = runner(
            tokens=np.array([part], np.int32), input_pos=position, mask=mask[None, None], **caches
        )
        caches.update({name: answer[name] for name in caches})
        return answer

    call(running.get_signature_runner(f"prefill_{prefill}"), tokens[:prefill], 0)
    return np.stack(
        [call(decode, [tokens[at]], at)["logits"].reshape(-1) for at in range(prefill, len(tokens))]
    )


if __name__ == "__main__":
    _, wanted, model, piece, ids, out = sys.argv
    np.save(out, teacher_forced(Path(model), json.loads(ids), int(piece), wanted))
