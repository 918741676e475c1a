"""llama.cpp's threads: kept from token to token, each bound to a core if there are enough cores.

By default llama.cpp starts and ends its threads for each token. While other programs run, the
scheduler puts a new thread on the core of the thread that started it: the two take turns, although
each waits for the other at every step. The same happens to threads that are kept, when one wakes
another.
"""
# Measured on two cores beside one other busy program (tokens/s; SmolLM2-135M; one thread alone 72,
# two threads on idle cores 104 to 145): kept and bound 67, kept and free 26, started anew 22.

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from llama_cpp import llama_cpp as llama

from device.engine.base import MAX_THREADS
from device.engine.machine import usable_cores

SLEEPS = b"BARRIER_SLEEP = 1"
"""Text in the system info of a library whose threads sleep after a short spin
(toolchain/runtime/image/barrier.patch)."""
# Threads of any other library would spin between two tokens too, as long as they are kept. For such
# a library llama.cpp starts its own threads.


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
        """(threads, cores that they are bound to) → the pool."""
        # A pool lives as long as the context: llama.cpp pauses the last one when it gets the next,
        # and does not know that it was freed.
        self._core: "int | None" = None
        """Core of the calling thread, which computes too."""

    def use(self, decode: int, prefill: int) -> None:
        """Decode and read with these numbers of threads, on the cores of the calling thread."""
        llama.llama_set_n_threads(self._ctx, decode, prefill)
        cores = sorted(os.sched_getaffinity(0))
        each = decode == prefill == len(cores) == usable_cores() and cores[-1] < MAX_THREADS
        bound = tuple(cores) if each else ()
        pool = self._pool(max(decode, prefill), bound)
        self._core = cores[-1] if pool and bound else None
        _call("llama_attach_threadpool", ctypes.c_void_p(self._ctx), pool, pool)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Keep the calling thread on its core during this context, if it has one."""
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
        """End the threads. The context must have been freed before."""
        for pool in self._pools.values():
            _call("ggml_threadpool_free", pool)
        self._pools.clear()

    def _pool(self, threads: int, bound: "tuple[int, ...]") -> "ctypes.c_void_p | None":
        """Return a pool that is ready; None if llama.cpp should start its own threads."""
        if threads == 1 or SLEEPS not in llama.llama_print_system_info():
            return None

        key = (threads, bound)
        if key not in self._pools:
            self._pools[key] = _started(threads, bound)

        # a pool that is paused when work comes binds the thread that brings it, for good
        _call("ggml_threadpool_resume", self._pools[key])
        return self._pools[key]


def _started(threads: int, bound: "tuple[int, ...]") -> ctypes.c_void_p:
    """Return a paused pool.

    llama.cpp gives the lower ones of bound cores to the threads that it starts.
    """
    params = _Params()
    _call("ggml_threadpool_params_init", ctypes.byref(params), ctypes.c_int(threads))
    params.paused, params.strict_cpu = True, bool(bound)

    for core in bound:
        params.cpumask[core] = True

    return _call("ggml_threadpool_new", ctypes.byref(params))


def _call(name: str, *arguments: Any) -> ctypes.c_void_p:
    """Call a function that returns a pointer, or a value that nobody reads."""
    function = getattr(llama._lib, name)
    function.restype = ctypes.c_void_p
    return ctypes.c_void_p(function(*arguments))
