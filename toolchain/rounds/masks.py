"""Pairwise masks: numbers that look random one by one, and whose sum over all parties is exact.

Each pair of parties agrees on a key (X25519, then HKDF-SHA256); its stream (ChaCha20) is added by
one of them and subtracted by the other, modulo 2^64. This is the first masking of Bonawitz et al.,
"Practical Secure Aggregation for Privacy-Preserving Machine Learning" (CCS 2017, IACR ePrint
2017/281); docs/adr/0015 says why the second one is not here. The rule to keep: a secret masks one
vector. Two vectors under the same masks tell their difference.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

KEY_BYTES = 32
WORD_BYTES = 8
MODULUS = 1 << (8 * WORD_BYTES)
_USE = b"demitasse sealed tally, pair of "


def new_secret() -> bytes:
    """Return a fresh secret of one party for one round."""
    return X25519PrivateKey.generate().private_bytes_raw()


def public_of(secret: bytes) -> bytes:
    """Return the public half of a secret."""
    return X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def masked(
    values: Sequence[int], own: str, secret: bytes, keys: Mapping[str, bytes], context: bytes
) -> list[int]:
    """Return values under the masks of their party with every other one.

    `keys` has the public key of each party, `own` is the one whose secret it is. `context` says
    what the masks are for: parties that disagree about it get masks that do not cancel out. Raise
    ValueError for a key with which no secret can be agreed on.
    """
    private = X25519PrivateKey.from_private_bytes(secret)
    total = list(values)
    for other, key in keys.items():
        if other == own:
            continue
        shared = private.exchange(X25519PublicKey.from_public_bytes(key))
        first, second = sorted((own, other))
        pair_key = HKDF(
            algorithm=hashes.SHA256(),
            length=KEY_BYTES,
            salt=context,
            info=_USE + f"{first}\0{second}".encode(),
        ).derive(shared)
        sign = 1 if own == first else -1
        words = _words(_stream(pair_key, WORD_BYTES * len(total)))
        total = [value + sign * word for value, word in zip(total, words, strict=True)]
    return [value % MODULUS for value in total]


def summed(vectors: Iterable[Sequence[int]]) -> list[int]:
    """Return the sum of vectors, modulo 2^64."""
    *_, total = accumulate(
        vectors, lambda total, vector: [a + b for a, b in zip(total, vector, strict=True)]
    )
    return [value % MODULUS for value in total]


def to_bytes(values: Sequence[int]) -> bytes:
    """Return numbers below 2^64, little-endian."""
    return b"".join(value.to_bytes(WORD_BYTES, "little") for value in values)


def from_bytes(content: bytes) -> list[int]:
    """Return the numbers of `to_bytes`."""
    return list(_words(content))


def _words(content: bytes) -> tuple[int, ...]:
    starts = range(0, len(content), WORD_BYTES)
    return tuple(int.from_bytes(content[at : at + WORD_BYTES], "little") for at in starts)


def _stream(key: bytes, size: int) -> bytes:
    # A pair's key is of one round and one pair: no nonce is needed to tell streams apart.
    return Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(size))
