"""Peer: stock llama-cpp-python with its own cache on the disk.

Prints a line at the first token, then saves its state.

stdin: {"model", "cache", "tokens", "context", "threads"}.
"""

import json
import sys

from llama_cpp import Llama
from llama_cpp.llama_cache import LlamaDiskCache

asked = json.loads(sys.stdin.read())
model = Llama(
    asked["model"],
    n_ctx=asked["context"],
    n_threads=asked["threads"],
    n_threads_batch=asked["threads"],
    flash_attn=True,
    verbose=False,
)
model.set_cache(LlamaDiskCache(cache_dir=asked["cache"]))
stream = model.create_completion(asked["tokens"], max_tokens=2, temperature=0.0, stream=True)
next(stream)
print("first", flush=True)
for _ in stream:
    pass
