"""A verb of the device runtime as a child process here: JSON lines in, JSON lines out.

What is measured through it is what ships: the runtime's own sources, in a process of their own.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from toolchain.errors import ArtifactError


class Child:
    """The running process; `running` starts one."""

    def __init__(self, process: "subprocess.Popen[bytes]", name: str) -> None:
        assert process.stdin and process.stdout
        self._process, self._name = process, name
        self._input: IO[bytes] = process.stdin
        self._output: IO[bytes] = process.stdout

    def call(self, **request: Any) -> dict[str, Any]:
        """Return the answer to a request; raise ArtifactError for an error and a dead child."""
        # A child that could not open its model is gone, and its last line says why.
        with suppress(BrokenPipeError):
            self._input.write(json.dumps(request).encode() + b"\n")
            self._input.flush()

        line = self._output.readline()
        if not line:
            raise self._gone()

        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ArtifactError(
                f"{self._name}: {answer['error']['message']}", hint=answer["error"].get("hint", "")
            )

        return answer

    def read(self, size: int) -> bytes:
        """Return the bytes that follow an answer; raise ArtifactError if the child died."""
        raw = self._output.read(size)
        if len(raw) != size:
            raise self._gone()
        return raw

    def _gone(self) -> ArtifactError:
        code = self._process.wait(timeout=10)
        by = f"died by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return ArtifactError(f"{self._name}: the engine {by} while it was measured")


@contextmanager
def running(runtime: Path, verb: str, options: Sequence[str], name: str) -> Iterator[Child]:
    """Yield a verb of a runtime at work; the child ends with the block.

    `name` is the file that it works on, as errors call it.
    """
    # What is measured is what a board runs: the sources, not old byte code.
    argv = [sys.executable, "-B", "-sE", str(runtime), verb, *options]
    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        try:
            yield Child(process, name)
        finally:
            if process.stdin and not process.stdin.closed:
                with suppress(BrokenPipeError):
                    process.stdin.close()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
