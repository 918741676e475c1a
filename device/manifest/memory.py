"""The shares of memory: the host predicts with these numbers, and the board follows them."""

from device.manifest import Manifest

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


def _fixed_bytes(manifest: Manifest) -> int:
    """Return the memory that is the same for any context: the weights and the documents."""
    return manifest.needs.get("weights_bytes", 0) + manifest.needs.get("knowledge_bytes", 0)
