"""The SSH agent that the user runs: the keys that it holds, and signatures by them.

Any kind of key works, hardware keys and certificates too: the agent knows what they are, and this
module only carries bytes. Protocol: OpenSSH's PROTOCOL.agent.
"""

import socket
import struct
from dataclasses import dataclass

from toolchain.errors import ToolError

LIST_S = 10.0
SIGN_S = 120.0
"""Seconds to confirm, or to touch a hardware key."""
_MAX_ANSWER_BYTES = 256 << 10
"""Longest message of ssh-agent itself (AGENT_MAX_LEN)."""
_REQUEST_IDENTITIES, _IDENTITIES, _SIGN_REQUEST, _SIGN_RESPONSE = 11, 12, 13, 14
_FLAGS = {"rsa-sha2-256": 2, "rsa-sha2-512": 4}


@dataclass(frozen=True, slots=True)
class SshAgent:
    """An agent, reached by its socket."""

    path: str

    def keys(self) -> dict[bytes, str]:
        """Return the public keys and certificates that it holds, each with its comment.

        Empty if no agent answers.
        """
        try:
            kind, body = self._ask(bytes([_REQUEST_IDENTITIES]), LIST_S)
            if kind != _IDENTITIES:
                return {}
            count, rest = struct.unpack_from(">I", body)[0], body[4:]
            held = {}
            for _ in range(min(count, len(rest))):
                blob, rest = take_string(rest)
                comment, rest = take_string(rest)
                held[blob] = comment.decode(errors="replace")
            return held
        except (OSError, ValueError, struct.error):
            return {}

    def sign(self, blob: bytes, content: bytes, algorithm: str) -> bytes:
        """Return a signature by a key that it holds; raise ToolError if it gives none."""
        flags = _FLAGS.get(algorithm.removesuffix("-cert-v01@openssh.com"), 0)
        request = bytes([_SIGN_REQUEST]) + _packed(blob) + _packed(content)
        try:
            kind, body = self._ask(request + struct.pack(">I", flags), SIGN_S)
            if kind == _SIGN_RESPONSE:
                return take_string(body)[0]
        except (OSError, ValueError, struct.error) as error:
            raise ToolError(f"the SSH agent gives no signature: {error}") from error

        raise ToolError("the SSH agent gives no signature")

    def _ask(self, request: bytes, limit_s: float) -> tuple[int, bytes]:
        with socket.socket(socket.AF_UNIX) as wire:
            wire.settimeout(limit_s)
            wire.connect(self.path)
            wire.sendall(_packed(request))
            size = struct.unpack(">I", _exactly(wire, 4))[0]
            if not 0 < size <= _MAX_ANSWER_BYTES:
                raise ValueError(f"an answer of {size} bytes")
            answer = _exactly(wire, size)
            return answer[0], answer[1:]


def _exactly(wire: socket.socket, size: int) -> bytes:
    content = b""
    while len(content) < size:
        chunk = wire.recv(size - len(content))
        if not chunk:
            raise ValueError("it hung up")
        content += chunk
    return content


def _packed(content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + content


def take_string(content: bytes) -> tuple[bytes, bytes]:
    """Return a string of SSH's format and what follows it; raise an error if it is cut."""
    size = struct.unpack_from(">I", content)[0]
    if size > len(content) - 4:
        raise ValueError("a string that is cut")
    return content[4 : 4 + size], content[4 + size :]
