"""A quantised model file and the same one after a small update, written in milliseconds: what a
re-tuned model looks like.
"""

from pathlib import Path

import numpy as np

from toolchain.tools.ggml import Type, quantize_rows, row_bytes

ROWS, COLUMNS = 1024, 1024


def make_update(
    folder: Path,
    *,
    kind: str = "Q4_0",
    relative: float = 0.01,
    changed: int = 2,
    name: str = "tiny",
) -> tuple[Path, Path]:
    """Write `old.gguf` and `new.gguf` of four matrices each; `changed` of them moved by a rank-8
    update of that relative size.
    """
    draw = np.random.default_rng(3)
    old = {
        f"blk.{n}.ffn_up.weight": draw.normal(0, 0.02, (ROWS, COLUMNS)).astype(np.float32)
        for n in range(4)
    }
    new = dict(old)
    for key in list(old)[:changed]:
        step = (draw.normal(0, 1, (ROWS, 8)) @ draw.normal(0, 1, (8, COLUMNS))).astype(np.float32)
        new[key] = old[key] + step * (relative * np.linalg.norm(old[key]) / np.linalg.norm(step))
    return write(folder / "old.gguf", old, kind, name), write(
        folder / "new.gguf", new, kind, f"{name} 2"
    )


def write(path: Path, tensors: dict[str, np.ndarray], kind: str, name: str) -> Path:
    """Write matrices as one type, behind a header with a vocabulary."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_token_list([f"token {number}" for number in range(20_000)])
    writer.add_tensor("output_norm.weight", np.ones(COLUMNS, np.float32))
    for key, weights in tensors.items():
        packed = np.empty(len(weights) * row_bytes(Type[kind], COLUMNS), np.uint8)
        quantize_rows(Type[kind], weights, packed)
        raw = packed.reshape(len(weights), -1)
        writer.add_tensor(key, raw, raw_dtype=gguf.GGMLQuantizationType[kind])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
