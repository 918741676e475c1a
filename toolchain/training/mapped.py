"""Frozen weights that are mapped from a model's file, so that what nobody reads takes no memory.

A training reads a few hundred rows of an embedding. Those are kept; the pages of the file that they
came from are given back, and read again if another row is asked for. The rule to keep: pages are
given back only where the file still has the same bytes.
"""

import ctypes
import mmap
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

_MAPS = Path("/proc/self/smaps")


def forget(weight: Tensor) -> None:
    """Take a tensor out of memory. One that lies in no file loses its values."""
    if weight.device.type != "cpu" or not hasattr(mmap, "MADV_DONTNEED"):
        return
    page = mmap.PAGESIZE
    first = -(-weight.data_ptr() // page) * page
    last = (weight.data_ptr() + weight.nbytes) // page * page
    if first < last and weight.is_contiguous():
        libc = ctypes.CDLL(None)
        libc.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.MADV_DONTNEED)


def is_mapped(weight: Tensor) -> bool:
    """Return whether a tensor lies in a file's mapping in which nothing was changed."""
    if weight.device.type != "cpu" or not weight.is_contiguous() or not _MAPS.is_file():
        return False
    first, last = weight.data_ptr(), weight.data_ptr() + weight.nbytes
    inside = False
    for line in _MAPS.read_text(encoding="utf-8", errors="replace").splitlines():
        word, *rest = line.split()
        if not word.endswith(":"):
            begin, end = (int(number, 16) for number in word.split("-"))
            inside = begin <= first and last <= end and rest[3] != "0"
        elif inside and word == "Anonymous:":
            return rest[0] == "0"
    return False


class _Rows:
    """The rows of an embedding that were asked for, in the order in which they came."""

    def __init__(self, embedding: nn.Embedding) -> None:
        self._weight = embedding.weight.detach()
        self._place = torch.full((len(self._weight),), -1)
        self._rows = self._weight.new_empty((0, self._weight.shape[1]))

    def __call__(self, ids: Tensor) -> Tensor:
        """Return the rows of ids, [..., width]."""
        new = torch.unique(ids[self._place[ids] < 0])
        if len(new):
            self._place[new] = torch.arange(len(self._rows), len(self._rows) + len(new))
            self._rows = torch.cat([self._rows, self._weight[new]])
            forget(self._weight)
        return functional.embedding(self._place[ids], self._rows)


def keep_rows(model: Any) -> bool:
    """Let a frozen embedding that is mapped keep only rows that are read; return whether it does.

    `keep_all` is the way back.
    """
    embedding = model.get_input_embeddings()
    if type(embedding) is not nn.Embedding or embedding.max_norm is not None:
        return False
    if "forward" in vars(embedding):
        return True
    if embedding.weight.requires_grad or not is_mapped(embedding.weight):
        return False
    forget(embedding.weight)
    embedding.__dict__["forward"] = _Rows(embedding)
    return True


def keep_all(model: Any) -> None:
    """Let the embedding of a model be read as ever again."""
    embedding = model.get_input_embeddings()
    if isinstance(vars(embedding).get("forward"), _Rows):
        del embedding.__dict__["forward"]
