"""What engines of files without a tokenizer do alike: it lies beside the file, which has a note.

The note names the tokens that end an answer. Each step evaluates one token and gives one row of
logits, from which numpy chooses. The rule to keep: nothing here knows a library of model files.
"""

import os
import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from device.engine.answering import Clock, Stream
from device.engine.base import FieldError, Sampling, check_biases, check_prompt, never
from device.engine.reading import SequenceEngine
from device.engine.rows import RowCells
from device.engine.sampling import Sampler
from device.engine.tokenizer import HuggingFaceTokenizer
from device.errors import DeviceError


class NotedEngine(SequenceEngine):
    """A model file with a note, and a tokenizer beside it."""

    _cells: RowCells

    def __init__(self, folder: Path, note: dict[str, Any]) -> None:
        """Read the tokenizer in the folder of the model file."""
        self._tokenizer = HuggingFaceTokenizer(folder)
        self._note = note
        self._stops = frozenset(_ids(note.get("stop_ids")))
        self._all_cpus = os.sched_getaffinity(0)

    @abstractmethod
    def _open(self, threads: int) -> None:
        """Open the file with so many threads and an empty memory."""

    def use_threads(self, decode: int, prefill: int, cpus: Sequence[int] = ()) -> None:
        """Decode and read with `decode` threads on these cores; the memory is emptied."""
        self._use_cores(cpus)
        self._sequence.close()
        self._open(decode)
        self._description = replace(self._description, threads=decode, threads_batch=decode)

    def close(self) -> None:
        """Give the memory and the cores back."""
        os.sched_setaffinity(0, self._all_cpus)
        self._sequence.close()

    def _use_cores(self, cpus: Sequence[int]) -> None:
        os.sched_setaffinity(0, set(cpus) & self._all_cpus or self._all_cpus)

    @property
    def n_vocab(self) -> int:
        """Tokens in the vocabulary."""
        return self._cells.n_vocab

    @property
    def chat_template(self) -> str:
        """Empty: the template is a file beside the model file."""
        return ""

    def special_tokens(self) -> dict[str, str]:
        """Return `bos_token` and `eos_token` as text, if the file names them."""
        return {
            name: str(self._note[name])
            for name in ("bos_token", "eos_token")
            if self._note.get(name)
        }

    def control_tokens(self) -> list[str]:
        """Return the text of every special token of the tokenizer."""
        return self._tokenizer.special_texts()

    def tokenize(self, text: str, *, begin: bool = False) -> list[int]:
        """Return token ids; special tokens are recognised.

        `begin` adds what the model expects before a text.
        """
        return self._tokenizer.encode(text, begin=begin)

    def piece(self, token: int) -> bytes:
        """Return the bytes of a token; none for a control token."""
        return self._tokenizer.piece(token)

    def check(self, tokens: Sequence[int], sampling: "Sampling | None") -> None:
        """Raise DeviceError for a prompt or a request that such a file cannot serve."""
        if sampling is None:
            # The graphs give the scores of tokens, not what the last layer makes of them.
            raise DeviceError(
                "unsupported",
                "this model's file gives no embeddings",
                hint="push it as GGUF",
                status=400,
            )

        check_prompt(tokens, self)
        check_biases(sampling.logit_bias, self.n_vocab)
        if sampling.grammar:
            raise FieldError(
                "tools" if sampling.calls_tools else "response_format",
                "this engine cannot hold an answer to a grammar: use a GGUF of the model",
            )

    def embed(
        self, tokens: Sequence[int], cancelled: Callable[[], bool] = never
    ) -> "list[float] | None":
        """Raise DeviceError `unsupported`: these graphs give no embeddings."""
        self.check(tokens, None)
        return None

    def _rows(self, tokens: list[int]) -> Iterator[bytes]:
        for token in tokens:
            self._sequence.decode([token])
            yield self._cells.rows[-1].tobytes()

    def _chosen(
        self,
        tokens: list[int],
        sampling: Sampling,
        room: int,
        clock: Clock,
        cancelled: Callable[[], bool],
    ) -> Stream:
        sampler = Sampler(sampling)
        chosen = sampler.choose(self._cells.rows[-1])
        yield chosen
        for _ in range(room - 1):
            if cancelled():
                return

            began = time.perf_counter()
            self._sequence.decode([chosen[0]])
            chosen = sampler.choose(self._cells.rows[-1])
            clock.ran(1, began)
            yield chosen

    def _ends(self, token: int) -> bool:
        return token in self._stops


def kind_of(note: dict[str, Any]) -> str:
    """Return a model's type as llama.cpp names it: architecture and scheme."""
    return f"{note.get('architecture', 'a decoder')} {note.get('scheme', '')}".strip()


def count_of(note: dict[str, Any], key: str) -> int:
    """Return a whole number of a note; 0 if it has none."""
    value = note.get(key)
    return value if isinstance(value, int) else 0


def _ids(found: Any) -> Iterator[int]:
    for number in found if isinstance(found, list) else ():
        if isinstance(number, int):
            yield number
