"""A conversation with the device runtime as a child process here: what is measured is what ships.

The child is `RUNTIME score` (device/score.py): JSON lines in, JSON lines and raw float32 rows out.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device.manifest.moment import RENDERED_AT
from toolchain.runtime.child import Child, running

if TYPE_CHECKING:
    import numpy as np

Messages = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer that the runtime generated."""

    prompt: list[int]
    tokens: list[int]
    text: str
    stopped: bool
    """Whether the model ended by itself; False if the length limit ended it."""
    calls: list[Mapping[str, Any]] = field(default_factory=list)
    """Calls of tools that were read in the answer; arguments are texts of JSON."""


class Scorer:
    """The running child process; `scorer` starts one."""

    def __init__(self, child: Child) -> None:
        self._child = child

    def info(self) -> dict[str, Any]:
        """Return what the engine reports of itself and of the model."""
        return self._child.call(op="info")

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of a text, special tokens recognised."""
        return list(self._child.call(op="tokenize", text=text)["tokens"])

    def render(self, messages: Messages, tools: Tools = ()) -> list[int]:
        """Return the token ids of a conversation in the model's template, ready to be answered.

        A template that reads the clock gets RENDERED_AT.
        """
        return list(self._rendered(messages, tools)["tokens"])

    def rendered(self, messages: Messages, tools: Tools = ()) -> str:
        """Return the text of a conversation, rendered with the model's own template."""
        return str(self._rendered(messages, tools)["text"])

    def _rendered(self, messages: Messages, tools: Tools) -> dict[str, Any]:
        request = {"messages": list(messages), "tools": list(tools), "now": RENDERED_AT}
        return self._child.call(op="render", **request)

    def answer(
        self, messages: Messages, max_tokens: int, tools: Tools = (), *, held: bool = False
    ) -> Answer:
        """Return the greedy answer to a conversation, as the service would give it.

        The service holds an answer to the grammar of its tools; here that is done where `held`.
        """
        answer = self._child.call(
            op="generate",
            messages=list(messages),
            max_tokens=max_tokens,
            now=RENDERED_AT,
            tools=list(tools),
            held=held,
        )
        return Answer(
            list(answer["prompt_tokens"]),
            list(answer["tokens"]),
            str(answer["text"]),
            answer["finish_reason"] == "stop",
            list(answer.get("calls", ())),
        )

    def continued(self, tokens: Sequence[int], max_tokens: int) -> str:
        """Return the text that follows some tokens, greedily."""
        answer = self._child.call(
            op="generate", tokens=list(tokens), max_tokens=max_tokens, now=RENDERED_AT
        )
        return str(answer["text"])

    def logits(self, tokens: Sequence[int], prefix: int = 0) -> "np.ndarray":
        """Return float32 [len(tokens) - prefix, vocabulary].

        Row i scores what follows `tokens[: prefix + i + 1]`.
        """
        import numpy as np

        head = self._child.call(op="logits", tokens=list(tokens), prefix=prefix)
        raw = self._child.read(head["rows"] * head["vocab"] * 4)
        return np.frombuffer(raw, np.float32).reshape(head["rows"], head["vocab"])


@contextmanager
def scorer(
    runtime: Path,
    model: Path,
    *,
    context: int,
    adapter: Path | None = None,
    projector: Path | None = None,
    opening: Path | None = None,
    stop_ids: Sequence[int] = (),
    escape: bool = False,
) -> Iterator[Scorer]:
    """Yield a Scorer for a model file, with its unmerged adapter, its projector and its opening.

    `stop_ids` end an answer, as do the tokens that the file itself names. `escape` breaks up
    control tokens in messages. The child ends with the block.
    """
    options = ["--model", str(model), "--context", str(context)]
    options += ["--adapter", str(adapter)] if adapter else []
    options += ["--projector", str(projector)] if projector else []
    options += ["--opening", str(opening)] if opening else []
    options += ["--escape"] if escape else []
    options += ["--stop-ids", ",".join(map(str, stop_ids))] if stop_ids else []

    with running(runtime, "score", options, model.name) as child:
        yield Scorer(child)
