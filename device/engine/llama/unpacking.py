"""The child process that decodes pictures: what a broken one kills is not the service.

stb_image, inside libmtmd, is C and reads what strangers send. It runs here alone, with little
memory, and with a deadline; a child that dies or is late is replaced with the next picture. The
parent checks kind, bytes and pixels first (device/manifest/pictures.py), and the size once more.
"""

import contextlib
import ctypes
import resource
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from device.child import UNCOMPILED, die_with_parent
from device.errors import DeviceError
from device.manifest.pictures import Size

DEADLINE_S = 20.0
"""Seconds that a picture may take."""
# A Pi Zero 2 W decodes 4 megapixels in about two seconds.
ROOM_BYTES = 192 << 20
"""Bytes of memory that decoding may take, beside the library."""
# 4 megapixels of 16-bit RGBA are 32 MiB, twice while they are unpacked, and 12 MiB as a result.
_MMAP_THRESHOLD = -3
"""M_MMAP_THRESHOLD of glibc's malloc.h."""
_ASKED, _ANSWERED = struct.Struct("<II"), struct.Struct("<II")
"""Bytes of a picture and the side of its tile, 0 for its own size; width and height."""


class Unpacker:
    """The child process, started with the first picture; safe to use from several threads."""

    def __init__(self) -> None:
        self._child: "subprocess.Popen[bytes] | None" = None
        self._line: "socket.socket | None" = None
        self._lock = threading.Lock()
        self.started = 0
        """Number of children so far."""

    def rgb(self, image: bytes, size: Size, side: int = 0) -> bytes:
        """Return a picture's pixels, width × height × 3 bytes; raise DeviceError `bad_picture`.

        With `side`, it is squeezed into a square of so many pixels across and down.
        """
        size = Size(side, side) if side else size
        with self._lock:
            line = self._line or self._start()
            deadline = time.monotonic() + DEADLINE_S
            try:
                # A timeout of `sendall` is that of all it sends; one of `recv` is that of a part.
                line.settimeout(DEADLINE_S)
                line.sendall(_ASKED.pack(len(image), side) + image)
                width, height = _ANSWERED.unpack(_exactly(line, _ANSWERED.size, deadline))
                # What the header promised bounds what is read from the child.
                if (width, height) not in ((0, 0), (size.width, size.height)):
                    self._stop()
                    raise _broken()
                pixels = _exactly(line, width * height * 3, deadline)
            except (OSError, EOFError) as error:
                self._stop()
                raise _broken() from error
        if not pixels:
            raise _broken()
        return pixels

    def close(self) -> None:
        """End the child."""
        with self._lock:
            self._stop()

    def __del__(self) -> None:
        self._stop()

    def _start(self) -> socket.socket:
        from llama_cpp import llama_cpp

        ours, theirs = socket.socketpair()
        code = (
            "import sys; sys.path[:0] = sys.argv[1:]; "
            "from device.engine.llama.unpacking import serve; serve()"
        )
        places = [Path(__file__).parents[3], Path(llama_cpp.__file__).parents[1]]
        with theirs:
            self._child = subprocess.Popen(
                [sys.executable, *UNCOMPILED, "-sE", "-c", code, *map(str, places)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                preexec_fn=die_with_parent,
            )
        self._line = ours
        self.started += 1
        return ours

    def _stop(self) -> None:
        if self._line:
            self._line.close()
        if self._child:
            self._child.kill()
            self._child.wait()
        self._child = self._line = None


def serve() -> None:
    """Decode pictures from stdin, a socket, until it is closed: the child's side."""
    from llama_cpp import mtmd_cpp as mtmd

    _hold_memory()
    _give_back()
    line = socket.socket(fileno=0)
    with contextlib.suppress(EOFError):
        while True:
            length, side = _ASKED.unpack(_exactly(line, _ASKED.size))
            line.sendall(_decoded(mtmd, _exactly(line, length), side))


def _decoded(mtmd: Any, image: bytes, side: int) -> bytes:
    """Return the answer to a picture: width, height and pixels; zeros for a broken one."""
    buffer = (ctypes.c_uint8 * len(image)).from_buffer_copy(image)
    options = mtmd.mtmd_helper_init_opt_default()
    bitmap = mtmd.mtmd_helper_bitmap_init_from_buf_wrapper(
        None, buffer, len(image), False, options
    ).bitmap
    if not bitmap:
        return _ANSWERED.pack(0, 0)
    try:
        width, height = mtmd.mtmd_bitmap_get_nx(bitmap), mtmd.mtmd_bitmap_get_ny(bitmap)
        pixels = ctypes.string_at(mtmd.mtmd_bitmap_get_data(bitmap), width * height * 3)
    finally:
        mtmd.mtmd_bitmap_free(bitmap)
    if side:
        # Imported here: a model whose tile libmtmd fills itself needs none of it.
        from device.engine.llama.scaling import squeezed

        return _ANSWERED.pack(side, side) + squeezed(pixels, width, height, side)
    return _ANSWERED.pack(width, height) + pixels


def _hold_memory() -> None:
    """Let this process take no more than ROOM_BYTES from now on, and write no core file."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    most = pages * resource.getpagesize() + ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _give_back() -> None:
    """Let glibc give large blocks back to the system as soon as they are free."""
    # Its threshold grows with the first block that is freed, and the rest stays with the process:
    # 81 MiB instead of 28 after a picture of 4 megapixels was squeezed.
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        mallopt(_MMAP_THRESHOLD, 1 << 20)


def _exactly(line: socket.socket, count: int, deadline: "float | None" = None) -> bytes:
    """Return so many bytes; raise EOFError if the other side ends before, TimeoutError if late.

    `deadline` is a time of the monotonic clock; None waits for ever.
    """
    received = bytearray()
    while len(received) < count:
        if deadline is not None:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            line.settimeout(left_s)
        part = line.recv(min(count - len(received), 1 << 20))
        if not part:
            raise EOFError
        received += part
    return bytes(received)


def _broken() -> DeviceError:
    return DeviceError(
        "bad_picture", "the picture cannot be decoded", "save it again as JPEG or PNG", status=400
    )
