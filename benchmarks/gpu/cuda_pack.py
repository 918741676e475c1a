"""Packs what `cuda_run.py` needs on a machine with a GPU and without a network: one folder.

python benchmarks/gpu/cuda_pack.py OUT --model FILE.gguf --prompts held_out.jsonl --shape FILE.gguf…

The folder holds the CPU runtime of this computer, llama.cpp's source, a trained model whose tokens
are compared, and of each shape the header and a sample of each tensor: there the sample is repeated
until the file has its size again, which is all that speed and memory depend on.
"""

import argparse
import base64
import json
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from device.manifest.gguf import read_header
from toolchain import cuda, runtime
from toolchain.agent import cache
from toolchain.forecast import needs_of
from toolchain.progress import SILENT
from toolchain.runtime import source
from toolchain.target import MB

CONTEXT = 1024
"""Tokens of context that memory is measured with."""
SAMPLE_BYTES = 2048
"""Bytes of a tensor's sample, about: whole blocks of its type."""
BLOCK_BYTES = {"Q4_0": 18, "Q4_1": 20, "Q8_0": 34, "Q4_K": 144, "Q5_K": 176, "Q6_K": 210}
"""Bytes of a block of each type (ggml-common.h); a number of any other type is one by itself."""
MOST_BYTES = 60 * MB
_ARCHITECTURE = "@SM@"


def main() -> None:
    """Write the folder and say how large it is."""
    options = _options()
    out: Path = options.out
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    shutil.copytree(runtime.for_this_computer(), out / "runtime")
    _pack_source(out / "llama.cpp.tar.gz")
    shutil.copy(options.model, out / "model.gguf")
    prompts = [json.loads(line) for line in options.prompts.read_text("utf-8").splitlines()]
    shapes = [_pack_shape(file, out) for file in options.shape]
    kit = cuda.Toolkit(jetpack="", cuda="", sm=_ARCHITECTURE, nvcc="@NVCC@")
    about = {
        "context": CONTEXT,
        "prompts": [_asked(row["messages"]) for row in prompts],
        "options": list(cuda.settings(kit, "x86-64-v3")),
        "shapes": shapes,
    }
    (out / "about.json").write_text(json.dumps(about), encoding="utf-8")

    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    print(f"{out}: {size / MB:.1f} MB of {MOST_BYTES / MB:.0f} MB")
    if size > MOST_BYTES:
        raise SystemExit("too large to carry: take a smaller --model")


def _asked(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return a conversation without its last answer."""
    return messages[:-1] if messages[-1]["role"] == "assistant" else messages


def _pack_source(archive: Path) -> None:
    """Write llama.cpp's source, with llama-bench as its one tool."""
    llama = source.fetch(cache() / "cross" / "source", SILENT)
    with tarfile.open(archive, "w:gz") as packed:
        packed.add(llama.path, "llama.cpp")


def _pack_shape(file: Path, out: Path) -> dict[str, Any]:
    """Write a file's header; return its tensors' samples and the memory that `fit` expects."""
    header = read_header(file)
    start = min(tensor.offset for tensor in header.tensors)
    with file.open("rb") as stream:
        (out / f"{file.stem}.head").write_bytes(stream.read(start))
        tensors = []
        for tensor in header.tensors:
            block = BLOCK_BYTES.get(tensor.type, 4)
            stream.seek(tensor.offset)
            sample = stream.read(min(tensor.size, SAMPLE_BYTES // block * block))
            tensors.append([tensor.offset, tensor.size, base64.b64encode(sample).decode()])
    needs = needs_of(header, CONTEXT)
    return {
        "name": file.stem,
        "size": header.size,
        "tensors": tensors,
        "fit_bytes": needs.weights_bytes + needs.kv_bytes + needs.compute_bytes,
    }


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", type=Path, required=True, help="a trained GGUF, for its tokens")
    parser.add_argument("--prompts", type=Path, required=True, help="a JSONL of `messages`")
    parser.add_argument("--shape", type=Path, action="append", default=[])
    return parser.parse_args()


if __name__ == "__main__":
    main()
