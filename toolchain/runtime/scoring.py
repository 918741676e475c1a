"""A conversation with the device runtime as a child process here: what is measured is what ships.

The child is `RUNTIME score` (device/score.py): JSON lines in, JSON lines and raw float32 rows out.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from device.manifest.moment import RENDERED_AT
from toolchain.errors import ArtifactError

if TYPE_CHECKING:
    import numpy as np

Messages = Sequence[Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer that the runtime generated."""

    prompt: list[int]
    tokens: list[int]
    text: str
    stopped: bool
    """Whether the model ended by itself; False if the length limit ended it."""


class Scorer:
    """The running child process; `scorer` starts one."""

    def __init__(self, child: "subprocess.Popen[bytes]", model: Path) -> None:
        assert child.stdin and child.stdout
        self._child, self._model = child, model
        self._input: IO[bytes] = child.stdin
        self._output: IO[bytes] = child.stdout

    def info(self) -> dict[str, Any]:
        """Return what the engine reports of itself and of the model."""
        return self._call(op="info")

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a text, special tokens recognised."""
        return list(self._call(op="tokenize", text=text)["tokens"])

    def render(self, messages: Messages) -> list[int]:
        """Return the token ids of a conversation in the model's template, ready to be answered.

        A template that reads the clock gets RENDERED_AT.
        """
        return list(self._call(op="render", messages=list(messages), now=RENDERED_AT)["tokens"])

    def rendered(self, messages: Messages) -> str:
        """Return the text of a conversation, rendered with the model's own template."""
        return str(self._call(op="render", messages=list(messages), now=RENDERED_AT)["text"])

    def answer(self, messages: Messages, max_tokens: int) -> Answer:
        """Return the greedy answer to a conversation, as the service would give it."""
        answer = self._call(
            op="generate", messages=list(messages), max_tokens=max_tokens, now=RENDERED_AT
        )
        return Answer(
            list(answer["prompt_tokens"]),
            list(answer["tokens"]),
            str(answer["text"]),
            answer["finish_reason"] == "stop",
        )

    def logits(self, tokens: Sequence[int]) -> "np.ndarray":
        """Return float32 [len(tokens), vocabulary]; row i scores what follows `tokens[: i + 1]`."""
        import numpy as np

        head = self._call(op="logits", tokens=list(tokens))
        size = head["rows"] * head["vocab"] * 4
        raw = self._output.read(size)
        if len(raw) != size:
            raise self._gone()
        return np.frombuffer(raw, np.float32).reshape(head["rows"], head["vocab"])

    def _call(self, **request: Any) -> dict[str, Any]:
        try:
            self._input.write(json.dumps(request).encode() + b"\n")
            self._input.flush()
        except BrokenPipeError as error:
            raise self._gone() from error

        line = self._output.readline()
        if not line:
            raise self._gone()

        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise ArtifactError(
                f"{self._model.name}: {answer['error']['message']}",
                hint=answer["error"].get("hint", ""),
            )

        return answer

    def _gone(self) -> ArtifactError:
        code = self._child.wait(timeout=10)
        by = f"died by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return ArtifactError(f"{self._model.name}: the engine {by} while it was measured")


@contextmanager
def scorer(
    runtime: Path,
    model: Path,
    *,
    context: int,
    adapter: Path | None = None,
    opening: Path | None = None,
    stop_ids: Sequence[int] = (),
    escape: bool = False,
) -> Iterator[Scorer]:
    """Yield a Scorer for a model file, with its unmerged adapter and its opening if there are any.

    `stop_ids` end an answer, as do the tokens that the file itself names. `escape` breaks up
    control tokens in messages. The child ends with the block.
    """
    argv = [
        sys.executable,
        "-B",  # what is measured is what a board runs: the sources, not old byte code
        "-sE",
        str(runtime),
        "score",
        "--model",
        str(model),
        "--context",
        str(context),
    ]
    argv += ["--adapter", str(adapter)] if adapter else []
    argv += ["--opening", str(opening)] if opening else []
    argv += ["--escape"] if escape else []
    argv += ["--stop-ids", ",".join(map(str, stop_ids))] if stop_ids else []

    with subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        try:
            yield Scorer(child, model)
        finally:
            if child.stdin and not child.stdin.closed:
                child.stdin.close()
            try:
                child.wait(timeout=10)
            except subprocess.TimeoutExpired:
                child.kill()
