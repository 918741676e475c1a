"""Pictures through libmtmd: what a model reads in the place of a picture.

A picture stands in a prompt as ids below 0: its sha256 and the number of a position. So all that
compares tokens (batches, prefixes, saved states) tells pictures apart as it tells words apart. The
picture is encoded when its positions are first evaluated; a state that holds them needs no encoding
at all. libmtmd's own marker text is never used: a client that writes it has written text.
"""

import ctypes
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from llama_cpp import llama_cpp as llama
from llama_cpp import mtmd_cpp as mtmd

from device.engine.base import Picture, Settings
from device.engine.llama import objects as opening
from device.engine.llama.unpacking import Unpacker
from device.engine.machine import default_threads
from device.errors import DeviceError
from device.manifest import ManifestError
from device.manifest.gguf import read_header
from device.manifest.pictures import digest_of
from device.pictures import checked

MARKERS = {"idefics3": "<image>"}
"""Kind of a projector → the text by which its models' chat templates show a picture."""
_AROUND = {"idefics3": ("<fake_token_around_image><global-img>", "<fake_token_around_image>")}
"""Kind of a projector → text before and behind a picture of one tile, as transformers' processor
writes it."""
REMEMBERED = 4
"""Pictures that are kept besides those of waiting questions."""
_BITS = 16
"""Bits of a position's number in an id."""


class Seen(Picture):
    """A picture that was decoded; encoded only when it is evaluated."""

    def __init__(self, digest: str, tokens: "tuple[int, ...]", count: int, chunk: Any) -> None:
        super().__init__(digest, tokens)
        self.count = count
        """Positions that it takes."""
        self._chunk = chunk
        self._rows = b""

    def rows(self, eyes: "Eyes") -> bytes:
        """Return what stands in the place of its positions: float32 [count, width]."""
        with eyes.lock:
            if not self._rows:
                self._rows = eyes.encode(self._chunk, self.count)
                self._free()
            return self._rows

    def _free(self) -> None:
        if self._chunk:
            mtmd.mtmd_input_chunk_free(self._chunk)
            self._chunk = None

    def __del__(self) -> None:
        self._free()


class Eyes:
    """A projector file beside a loaded model; all of the model's contexts share it."""

    def __init__(self, model: Any, path: Path, settings: Settings) -> None:
        """Load a projector file; raise DeviceError `bad_model` with the reason."""
        self.kind = _kind(path)
        self.marker = MARKERS[self.kind]
        """Text by which the chat template shows a picture."""
        self._vocab = llama.llama_model_get_vocab(model)
        self.width = int(llama.llama_model_n_embd_inp(model))
        """Numbers of a position."""
        self.lock = threading.Lock()
        """Held while a picture is encoded."""
        self.encoded = 0
        """Number of pictures that were encoded."""
        self._unpacker = Unpacker()
        self._known: "WeakValueDictionary[str, Seen]" = WeakValueDictionary()
        self._recent: "OrderedDict[str, Seen]" = OrderedDict()
        mtmd.mtmd_helper_log_set(opening.log_callback(), None)
        params = mtmd.mtmd_context_params_default()
        params.use_gpu = settings.gpu_layers != 0
        params.print_timings = False
        params.warmup = False  # a picture's time on a slow board
        params.n_threads = settings.threads or default_threads(llama.llama_model_size(model))
        self._ctx = mtmd.mtmd_init_from_file(str(path).encode(), model, params)
        if not self._ctx:
            raise DeviceError("bad_model", f"`{path.name}` cannot be loaded{opening.because()}")
        try:
            before, behind = (self._special(path, text) for text in _AROUND[self.kind])
        except DeviceError:
            self.close()
            raise
        self._around = before, behind

    def see(self, image: bytes) -> Seen:
        """Return a picture as it stands in a prompt; raise DeviceError `bad_picture`."""
        digest = digest_of(image)
        seen = self._known.get(digest)
        if seen is None:
            size = checked(image)
            pixels = self._unpacker.rgb(image, size)
            seen = self._known[digest] = self._prepared(digest, pixels, size.width, size.height)
        self._recent[digest] = seen
        self._recent.move_to_end(digest)
        while len(self._recent) > REMEMBERED:
            self._recent.popitem(last=False)
        return seen

    def knows(self, token: int) -> bool:
        """Say whether an id stands for a position of a picture that is kept."""
        digest, place = _place(token)
        seen = self._known.get(digest)
        return seen is not None and place < seen.count

    def rows(self, token: int, count: int) -> bytes:
        """Return the numbers of `count` positions from one on; raise DeviceError if it is gone."""
        digest, place = _place(token)
        seen = self._known.get(digest)
        if seen is None or place + count > seen.count:
            raise DeviceError("bad_token", "the picture is not kept any more", status=400)
        row = self.width * 4
        return seen.rows(self)[place * row : (place + count) * row]

    def encode(self, chunk: Any, count: int) -> bytes:
        """Return the numbers of a picture; the lock is held."""
        code = mtmd.mtmd_encode_chunk(self._ctx, chunk)
        if code != 0:
            raise DeviceError("engine_failed", f"the picture was not encoded{opening.because()}")
        self.encoded += 1
        return ctypes.string_at(mtmd.mtmd_get_output_embd(self._ctx), count * self.width * 4)

    def close(self) -> None:
        """Give the memory back, before the model's."""
        self._recent.clear()
        self._unpacker.close()
        if self._ctx:
            mtmd.mtmd_free(self._ctx)
            self._ctx = None

    def _prepared(self, digest: str, pixels: bytes, width: int, height: int) -> Seen:
        """Return a picture scaled to its tile."""
        # Not copied once more: four megapixels are 12 MB.
        raw = ctypes.cast(ctypes.c_char_p(pixels), ctypes.POINTER(ctypes.c_uint8))
        bitmap = mtmd.mtmd_bitmap_init(width, height, raw)
        chunks = mtmd.mtmd_input_chunks_init()
        try:
            part = mtmd.mtmd_input_part(None, bitmap)
            parts = (ctypes.POINTER(mtmd.mtmd_input_part) * 1)(ctypes.pointer(part))
            if mtmd.mtmd_tokenize_from_parts(self._ctx, chunks, parts, 1, False) != 0:
                problem = f"the picture cannot be prepared{opening.because()}"
                raise DeviceError("bad_picture", problem, status=400)
            tile = self._tile(chunks)
            count = int(mtmd.mtmd_input_chunk_get_n_tokens(tile))
            kept = mtmd.mtmd_input_chunk_copy(tile)
        finally:
            mtmd.mtmd_input_chunks_free(chunks)
            mtmd.mtmd_bitmap_free(bitmap)
        before, behind = self._around
        places = (_token(digest, place) for place in range(count))
        return Seen(digest, (*before, *places, *behind), count, kept)

    def _tile(self, chunks: Any) -> Any:
        """Return the part that shows the whole picture: the last one, behind any smaller tiles."""
        each = [
            mtmd.mtmd_input_chunks_get(chunks, number)
            for number in range(mtmd.mtmd_input_chunks_size(chunks))
        ]
        tiles = [
            chunk
            for chunk in each
            if mtmd.mtmd_input_chunk_get_type(chunk) == mtmd.MTMD_INPUT_CHUNK_TYPE_IMAGE
        ]
        return tiles[-1]

    def _special(self, path: Path, text: str) -> "tuple[int, ...]":
        """Return the tokens of a text of control tokens; raise DeviceError if one is none."""
        tokens = (llama.llama_token * (len(text) + 8))()
        raw = text.encode()
        count = llama.llama_tokenize(self._vocab, raw, len(raw), tokens, len(tokens), False, True)
        found = tuple(tokens[: max(0, count)])
        if len(found) != text.count("<"):
            raise DeviceError("bad_model", f"`{path.name}`: the model has no tokens `{text}`")
        return found


def _token(digest: str, place: int) -> int:
    return -((int(digest, 16) << _BITS) + place + 1)


def _place(token: int) -> "tuple[str, int]":
    """Return the picture and the number of the position that an id stands for."""
    number = -token - 1
    return f"{number >> _BITS:064x}", number & ((1 << _BITS) - 1)


def _kind(path: Path) -> str:
    """Return the kind of a projector file whose header is sound; raise DeviceError `bad_model`."""
    try:
        kind = read_header(path).metadata.get("clip.projector_type")
    except ManifestError as error:
        raise DeviceError("bad_model", str(error)) from error
    if kind not in MARKERS:
        raise DeviceError(
            "bad_model",
            f"`{path.name}`: a projector of the kind `{str(kind)[:40]}` is not run here",
            hint=f"kinds: {', '.join(MARKERS)}",
        )
    return str(kind)
