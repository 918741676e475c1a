"""Who does the jobs: this process, several of this computer, or a Ray cluster.

All of them do the same functions (`jobs.work`); none decides anything.
"""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import toolchain
from toolchain import errors, extras
from toolchain.config import Frozen
from toolchain.errors import ToolchainError, ToolError
from toolchain.ingest.shards.jobs import work
from toolchain.recipe import IngestSpec

Progress = Callable[[int], None]
"""Is told how many jobs are done."""
WORKER = "toolchain.ingest.shards.worker"


def run(jobs: Sequence[Frozen], spec: IngestSpec, progress: Progress) -> None:
    """Do all jobs; raise ToolchainError for one that cannot be done."""
    texts = [job.model_dump_json() for job in jobs]
    if spec.engine == "ray" and len(texts) > 1:
        _by_ray(texts, spec.address, progress)
        return
    processes = min(spec.processes or len(os.sched_getaffinity(0)), len(texts))
    if processes > 1:
        _by_processes(texts, processes, progress)
        return
    for done, text in enumerate(texts, 1):
        work(text)
        progress(done)


# Processes ----------------------------------------------------------------------------------------


def _by_processes(texts: Sequence[str], count: int, progress: Progress) -> None:
    left: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    for text in texts:
        left.put(text)
    answers: queue.SimpleQueue[ToolchainError | None] = queue.SimpleQueue()
    workers = [_Worker() for _ in range(count)]
    threads = []
    try:
        for worker in workers:
            left.put(None)
            thread = threading.Thread(target=worker.serve, args=(left, answers), daemon=True)
            threads.append(thread)
            thread.start()
        for done in range(1, len(texts) + 1):
            if error := answers.get():
                raise error
            progress(done)
    finally:
        for worker in workers:
            worker.end()
        for thread in threads:
            thread.join()


class _Worker:
    """A process that does one job after the other."""

    def __init__(self) -> None:
        root = str(Path(toolchain.__file__).parents[1])
        known = os.environ.get("PYTHONPATH", "")
        self._process = subprocess.Popen(
            [sys.executable, "-m", WORKER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env={**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{known}" if known else root},
        )

    def serve(
        self,
        left: "queue.SimpleQueue[str | None]",
        answers: "queue.SimpleQueue[ToolchainError | None]",
    ) -> None:
        """Have jobs done until none is left."""
        while text := left.get():
            error = self._done(text)
            answers.put(error)
            if error:
                return

    def end(self) -> None:
        """End the process, whatever it does."""
        self._process.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                stream.close()
        self._process.wait()

    def _done(self, text: str) -> ToolchainError | None:
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(text + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except (OSError, ValueError):
            answer = ""
        if not answer:
            status = self._process.poll()
            return ToolError(
                f"ingest: a process that reads shards ended ({status})",
                hint="what is read stays read: run it again, with fewer `[ingest] processes` "
                "where memory is short",
            )
        return error_of(json.loads(answer))


def error_of(answer: Sequence[str]) -> ToolchainError | None:
    """Return the error that a worker answered with; None for a job that was done."""
    if not answer:
        return None
    kind, message, hint = answer
    error: ToolchainError = getattr(errors, kind)(message, hint=hint)
    return error


# Ray ----------------------------------------------------------------------------------------------


def _by_ray(texts: Sequence[str], address: str, progress: Progress) -> None:
    extras.require("ray", "[ingest] engine")
    import ray

    begun = not ray.is_initialized()
    if begun:
        root = str(Path(toolchain.__file__).parents[1])
        ray.init(
            address=address or None,
            log_to_driver=False,
            # The nodes run this tree, which lies where all of them find it.
            runtime_env={"env_vars": {"PYTHONPATH": root}},
        )
    try:
        remote: Any = ray.remote(num_cpus=1)(on_a_node)
        waiting = [remote.remote(text) for text in texts]
        done = 0
        while waiting:
            ready, waiting = ray.wait(waiting)
            for answer in ray.get(ready):
                if error := error_of(answer):
                    raise error
                done += 1
                progress(done)
    finally:
        if begun:
            ray.shutdown()


def on_a_node(text: str) -> list[str]:
    """Do a job on a node; return the error, nothing for a job that was done."""
    return answered(text)


def answered(text: str) -> list[str]:
    """Do a job; return what `error_of` reads."""
    try:
        work(text)
    except ToolchainError as error:
        return [type(error).__name__, error.message, error.hint]
    return []
