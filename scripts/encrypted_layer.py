"""What one layer costs under homomorphic encryption: the figures of docs/privacy.md.

    python -m venv sealed && sealed/bin/pip install tenseal==0.3.18 numpy
    sealed/bin/python scripts/encrypted_layer.py

TenSEAL's CKKS with polynomials of degree 8192. It is no part of the product.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tenseal

WIDTH = 256
TOKENS = 1661 * 40
"""Tokens of the starter's conversations."""
EPOCHS, LAYERS, DIRECTIONS = 3, 21, 2
BOARDS, COUNTERS = 100, 415


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Return a result, and the processor seconds that it took."""
    began = time.process_time()
    return work(), time.process_time() - began


def main() -> None:
    """Print the cost of a layer, of a training, and of sums."""
    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 40, 60])
    context.global_scale = 2**40
    context.generate_galois_keys()
    draw = np.random.default_rng(0)
    states, weights = draw.normal(size=WIDTH), draw.normal(size=(WIDTH, WIDTH))

    sealed, encrypt_s = timed(lambda: tenseal.ckks_vector(context, states))
    result, layer_s = timed(lambda: sealed.matmul(weights.tolist()))
    error = np.abs(np.array(result.decrypt()) - states @ weights).max()
    years = TOKENS * EPOCHS * LAYERS * DIRECTIONS * layer_s / (365 * 24 * 3600)
    print(f"encrypt {WIDTH} numbers: {encrypt_s * 1e3:.0f} ms, {len(sealed.serialize()):,} bytes")
    print(f"multiply by {WIDTH} × {WIDTH}: {layer_s:.1f} s, error {error:.0e}")
    print(f"keys for it: {len(context.serialize(save_secret_key=False)):,} bytes")
    print(f"the starter's frozen layers in {EPOCHS} epochs: {years:.1f} years")

    counts = draw.integers(0, 1000, (BOARDS, COUNTERS))
    boards, sealing_s = timed(
        lambda: [tenseal.ckks_vector(context, row.tolist()) for row in counts]
    )
    total, adding_s = timed(lambda: sum(boards[1:], boards[0]))
    exact = bool((np.rint(total.decrypt()) == counts.sum(0)).all())
    print(f"sums of {BOARDS} boards: {sealing_s:.2f} s to encrypt, {adding_s:.3f} s, exact {exact}")


if __name__ == "__main__":
    main()
