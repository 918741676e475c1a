"""Pictures through libmtmd: what a model reads in the place of a picture.

A picture stands in a prompt as ids below 0: its sha256 and the number of a position. So all that
compares tokens (batches, prefixes, saved states) tells pictures apart as it tells words apart. The
picture is encoded when its positions are first evaluated; a state that holds them needs no encoding
at all. libmtmd's own marker text is never used: a client that writes it has written text.
"""

import ctypes
import re
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from llama_cpp import llama_cpp as llama
from llama_cpp import mtmd_cpp as mtmd

from device.engine.base import Picture, Settings
from device.engine.llama import objects as opening
from device.engine.llama.unpacking import Unpacker
from device.engine.machine import default_threads
from device.engine.states import BATCH
from device.errors import DeviceError
from device.manifest import ManifestError
from device.manifest.gguf import read_header
from device.manifest.pictures import MAX_PIXELS, Size, digest_of
from device.pictures import checked


@dataclass(frozen=True)
class _Kind:
    """How the models of one kind of projector show a picture."""

    marker: str
    """Text by which their chat templates do."""
    before: str
    """Text before a picture of one tile, as transformers' processor writes it."""
    behind: str
    squeezed: bool = False
    """Whether transformers squeezes a picture into the tile where libmtmd leaves a black rest."""


KINDS = {
    "idefics3": _Kind(
        "<image>", "<fake_token_around_image><global-img>", "<fake_token_around_image>"
    ),
    "gemma3": _Kind(
        "<start_of_image>", "\n\n<start_of_image>", "<end_of_image>\n\n", squeezed=True
    ),
}
"""Kind of a projector → how its models show a picture."""
REMEMBERED = 4
"""Pictures that are kept besides those of waiting questions."""
_BITS = 16
"""Bits of a position's number in an id."""


class Seen(Picture):
    """A picture that was decoded; encoded only when it is evaluated."""

    def __init__(self, digest: str, count: int, chunk: Any, kind: _Kind) -> None:
        places = tuple(_token(digest, place) for place in range(count))
        super().__init__(digest, places, kind.before, kind.behind)
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
        self._kind, self._side = _kind(path)
        self.marker = self._kind.marker
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
        self.is_mutual = bool(mtmd.mtmd_decode_use_non_causal(self._ctx, None))
        """Whether positions of a picture see each other, those behind them too."""
        try:
            self._check_tokens(path, self._kind.before + self._kind.behind)
        except DeviceError:
            self.close()
            raise

    def see(self, image: bytes) -> Seen:
        """Return a picture as it stands in a prompt; raise DeviceError `bad_picture`."""
        digest = digest_of(image)
        seen = self._known.get(digest)
        if seen is None:
            size = checked(image)
            pixels = self._unpacker.rgb(image, size, self._side)
            shown = Size(self._side, self._side) if self._side else size
            seen = self._known[digest] = self._prepared(digest, pixels, shown.width, shown.height)
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
        seen = Seen(digest, count, kept, self._kind)
        if count < 1:
            problem = (
                "a picture takes no position: the projector's tile is smaller than its patches"
            )
            raise DeviceError("bad_model", problem)
        if self.is_mutual and count > BATCH:
            problem = f"a picture takes {count} positions, at most {BATCH} are read at once"
            raise DeviceError("bad_model", problem)
        return seen

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

    def _check_tokens(self, path: Path, text: str) -> None:
        """Raise DeviceError for a control token of a text that the model has not."""
        for token in re.findall("<[^<>]+>", text):
            tokens = (llama.llama_token * (len(token) + 8))()
            raw = token.encode()
            room = len(tokens)
            count = llama.llama_tokenize(self._vocab, raw, len(raw), tokens, room, False, True)
            if count != 1:
                raise DeviceError("bad_model", f"`{path.name}`: the model has no token `{token}`")


def _token(digest: str, place: int) -> int:
    return -((int(digest, 16) << _BITS) + place + 1)


def _place(token: int) -> "tuple[str, int]":
    """Return the picture and the number of the position that an id stands for."""
    number = -token - 1
    return f"{number >> _BITS:064x}", number & ((1 << _BITS) - 1)


def _kind(path: Path) -> "tuple[_Kind, int]":
    """Return the kind of a projector file whose header is sound, and the side of its tile.

    The side is 0 where a picture keeps its size. Raise DeviceError `bad_model`.
    """
    try:
        metadata = read_header(path).metadata
    except ManifestError as error:
        raise DeviceError("bad_model", str(error)) from error
    name = metadata.get("clip.projector_type")
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise DeviceError(
            "bad_model",
            f"`{path.name}`: a projector of the kind `{str(name)[:40]}` is not run here",
            hint=f"kinds: {', '.join(KINDS)}",
        )
    side = metadata.get("clip.vision.image_size", 0)
    if not kind.squeezed:
        return kind, 0
    if type(side) is not int or not 0 < side * side <= MAX_PIXELS:
        problem = f"`{path.name}`: `clip.vision.image_size` is `{str(side)[:40]}`"
        raise DeviceError("bad_model", problem)
    return kind, side
