"""llama.cpp's threads: kept from token to token, and each on a core of its own where there is one for each of them.

Left alone, llama.cpp starts and ends its threads for each token, and where other programs run the scheduler puts a new thread on
the core of the thread that started it: the two take turns then, although each waits for the other at every step. The same befalls
threads that are kept, when one wakes another. Measured on two cores beside one other program, one that never stops (tokens/s;
SmolLM2-135M, one thread alone 72, two threads on idle cores 104 to 145): kept and each on its core 67, kept and free 26,
started anew 22.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from llama_cpp import llama_cpp as llama

from device.engine.base import MAX_THREADS, usable_cores

SLEEPS = b"BARRIER_SLEEP = 1"
"""What a library says of itself whose threads sleep after a short spin (toolchain/runtime/image/barrier.patch). Those of any other
would spin between two tokens too, for as long as they are kept, so for it llama.cpp starts its own."""


class _Params(ctypes.Structure):
    """`struct ggml_threadpool_params` (ggml.h)."""

    _fields_ = [
        ("cpumask", ctypes.c_bool * MAX_THREADS),
        ("n_threads", ctypes.c_int),
        ("prio", ctypes.c_int),
        ("poll", ctypes.c_uint32),
        ("strict_cpu", ctypes.c_bool),
        ("paused", ctypes.c_bool),
    ]


class Threads:
    """The threads of one context."""

    def __init__(self, ctx: Any) -> None:
        self._ctx = ctx
        self._pools: "dict[tuple[int, tuple[int, ...]], ctypes.c_void_p]" = {}
        """Threads and the cores that they are bound to, if any → the pool. They live as long as the context: llama.cpp pauses the
        last one when it meets the next, and does not know that it was freed."""
        self._core: "int | None" = None
        """Of the thread that asks, which computes too."""

    def use(self, decode: int, prefill: int) -> None:
        """Decode and read with so many threads on the cores of the thread that calls."""
        llama.llama_set_n_threads(self._ctx, decode, prefill)
        cores = sorted(os.sched_getaffinity(0))
        each = decode == prefill == len(cores) == usable_cores() and cores[-1] < MAX_THREADS
        bound = tuple(cores) if each else ()
        pool = self._pool(max(decode, prefill), bound)
        self._core = cores[-1] if pool and bound else None
        _call("llama_attach_threadpool", ctypes.c_void_p(self._ctx), pool, pool)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Keep the thread that asks on its core meanwhile, if it has one."""
        if self._core is None:
            yield
            return

        before = os.sched_getaffinity(0)
        with suppress(OSError):  # the core was taken from this process: it goes on where it may
            os.sched_setaffinity(0, {self._core})
        try:
            yield
        finally:
            with suppress(OSError):
                os.sched_setaffinity(0, before)

    def close(self) -> None:
        """End the threads; the context has been freed."""
        for pool in self._pools.values():
            _call("ggml_threadpool_free", pool)
        self._pools.clear()

    def _pool(self, threads: int, bound: "tuple[int, ...]") -> "ctypes.c_void_p | None":
        """Return a pool that is ready; None where llama.cpp is to start its own threads."""
        if threads == 1 or SLEEPS not in llama.llama_print_system_info():
            return None
        key = (threads, bound)
        if key not in self._pools:
            self._pools[key] = _started(threads, bound)
        # a pool that is paused when work comes binds the thread that brings it, for good
        _call("ggml_threadpool_resume", self._pools[key])
        return self._pools[key]


def _started(threads: int, bound: "tuple[int, ...]") -> ctypes.c_void_p:
    """Return a paused pool; of bound ones llama.cpp gives the lower cores to the threads that it starts."""
    params = _Params()
    _call("ggml_threadpool_params_init", ctypes.byref(params), ctypes.c_int(threads))
    params.paused, params.strict_cpu = True, bool(bound)
    for core in bound:
        params.cpumask[core] = True
    return _call("ggml_threadpool_new", ctypes.byref(params))


def _call(name: str, *arguments: Any) -> ctypes.c_void_p:
    """Call a function that returns a pointer, or nothing that is read."""
    function = getattr(llama._lib, name)
    function.restype = ctypes.c_void_p
    return ctypes.c_void_p(function(*arguments))
