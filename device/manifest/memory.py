"""The shares of memory: the host predicts with these numbers, and the board follows them."""

from collections import Counter

from device.manifest import Manifest

CUDA_BYTES = 512 << 20
"""Memory of a card that CUDA itself takes: assumed, and called so wherever it is shown."""
# Not measured by us yet: benchmarks/gpu/cuda_run.py prints what it and the rest took on a card.
CONTEXT_STEP = 256
"""llama.cpp rounds a context up to this."""


def prefix_cache_bytes(total_bytes: "int | None") -> int:
    """Return the bytes that the prefix cache may take: a 32nd of the memory, at most 64 MiB."""
    return min((total_bytes or 512 << 20) // 32, 64 << 20)


def largest_context(kv_bytes: int, context: int, spare_bytes: int) -> int:
    """Return the tokens whose keys and values fit into `spare_bytes`, in steps of CONTEXT_STEP.

    `kv_bytes` is the size of the keys and values of `context` tokens.
    """
    return max(0, spare_bytes) * context // kv_bytes // CONTEXT_STEP * CONTEXT_STEP


def fitting_context(manifest: Manifest, available_bytes: int) -> int:
    """Return the context to serve a bundle with: its own, or the largest that fits.

    At least one step.
    """
    needs = manifest.needs
    if not needs.get("kv_bytes"):
        return manifest.context

    spare = available_bytes - _fixed_bytes(manifest) - needs.get("compute_bytes", 0)
    fitting = largest_context(needs["kv_bytes"], manifest.context, spare)
    return min(manifest.context, max(fitting, CONTEXT_STEP))


def fitting_slots(manifest: Manifest, available_bytes: int) -> int:
    """Return how many questions to answer at once: the bundle's number, or as many as fit.

    At least one.

    Each has a cache of the whole context and a batch of its own; the weights are loaded once.
    """
    needs = manifest.needs
    each = needs.get("kv_bytes", 0) + needs.get("compute_bytes", 0)
    fitting = max(0, available_bytes - _fixed_bytes(manifest)) // each if each else 1
    return max(1, min(manifest.slots, fitting))


def fitting_gpu_layers(manifest: Manifest, free_bytes: "int | None") -> int:
    """Return the layers to keep on a graphics card with so much free memory; -1 for all.

    None of a card that does not say how much it has: all are tried, as on a Jetson, whose memory is
    the board's.
    """
    if free_bytes is None or not manifest.needs.get("weights_bytes"):
        return -1

    weights = Counter[int]()
    for each in manifest.tensors:
        weights[layer_of(str(each["name"]))] += int(each["size"])
    rest = weights.pop(-1, 0)
    kv_bytes = manifest.needs.get("kv_bytes", 0) // max(1, len(weights))
    spare = free_bytes - CUDA_BYTES - manifest.needs.get("compute_bytes", 0)
    if rest + weights.total() + kv_bytes * len(weights) <= spare:
        return -1

    # llama.cpp takes the last layers first; what belongs to no layer comes with the very last one
    # more.
    fitting = 0
    for layer in sorted(weights, reverse=True):
        spare -= weights[layer] + kv_bytes
        if spare < 0:
            break
        fitting += 1
    return fitting


def layer_of(name: str) -> int:
    """Return the number of the layer that a tensor belongs to; -1 for none."""
    parts = name.split(".")
    return int(parts[1]) if parts[0] == "blk" and len(parts) > 2 and parts[1].isdigit() else -1


def _fixed_bytes(manifest: Manifest) -> int:
    """Return the memory that is the same for any context: weights, documents, and the eyes."""
    parts = ("weights_bytes", "knowledge_bytes", "vision_bytes")
    return sum(manifest.needs.get(part, 0) for part in parts)
