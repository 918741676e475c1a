"""Randomness of a private training: which units a step reads, and the noise of its gradient.

All of it follows from a key of the operating system and the number of the step, as the key stream
of ChaCha20 (RFC 8439). So a killed training goes on with the numbers that it would have had. The
rule to keep: whoever has the key can take the noise out again, so the key lies in the folder that a
stage deletes when it is done, and nowhere else.
"""

# torch's generator on a CPU takes 32 bits of its seed: manual_seed(1) and manual_seed(1 + 2**32)
# give the same numbers. And a Mersenne twister can be run backwards from its state.

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from toolchain.errors import ArtifactError
from toolchain.files import kept_secret

if TYPE_CHECKING:
    import numpy as np

KEY_FILE = "noise.key"
KEY_BYTES = 32
_SAMPLE, _NOISE = 0, 1
"""What a key stream is for."""
_WORD = 1 << 64
_LONGEST = 1 << 20
"""Normal numbers that are drawn at once."""


class Randomness:
    """Numbers that nobody can foresee without the key."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    @classmethod
    def kept_in(cls, folder: Path) -> "Randomness":
        """Return the randomness of the training that keeps its state in a folder.

        A training that begins takes a new key from the operating system; one that goes on finds
        its own. Raise ArtifactError for a damaged key.
        """
        folder.mkdir(parents=True, exist_ok=True)
        key = kept_secret(folder / KEY_FILE, lambda: os.urandom(KEY_BYTES))
        if len(key) != KEY_BYTES:
            raise ArtifactError(
                f"{KEY_FILE}: the key of the interrupted training is damaged",
                hint=f"delete `{folder}`: the training begins again",
            )
        return cls(key)

    def sample(self, step: int, units: int, rate: float) -> list[int]:
        """Return the numbers of the units that a step reads, each with the same probability."""
        import numpy as np

        words = np.frombuffer(self._stream(step, _SAMPLE, 8 * units), dtype="<u8")
        if rate >= 1:
            return list(range(units))
        chosen: list[int] = np.flatnonzero(words < np.uint64(int(rate * _WORD))).tolist()
        return chosen

    def normals(self, step: int, count: int) -> "Iterator[np.ndarray]":
        """Yield standard normal numbers of a step, `count` in all, in pieces.

        By the method of Box and Muller (1958), in double precision.
        """
        import numpy as np

        for piece, first in enumerate(range(0, count, _LONGEST)):
            wanted = min(_LONGEST, count - first)
            pairs = -(-wanted // 2)
            raw = self._stream(step, _NOISE + piece, 16 * pairs)
            words = np.frombuffer(raw, dtype="<u8").reshape(2, pairs)
            # 53 bits each; the first lies above 0, of which there is no logarithm.
            first_half = ((words[0] >> np.uint64(11)) + 1.0) * 2.0**-53
            angle = (words[1] >> np.uint64(11)) * (2.0**-53 * 2 * np.pi)
            radius = np.sqrt(-2 * np.log(first_half))
            both = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
            yield both[:wanted]

    def _stream(self, step: int, purpose: int, size: int) -> bytes:
        """Return bytes of the key stream of a step and a purpose, which no other shares."""
        from cryptography.hazmat.primitives.ciphers import Cipher
        from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

        # 16 bytes: a counter of blocks, which begins at 0, and the nonce.
        nonce = bytes(4) + purpose.to_bytes(4, "little") + step.to_bytes(8, "little")
        encryptor = Cipher(ChaCha20(self._key, nonce), mode=None).encryptor()
        return encryptor.update(bytes(size))
