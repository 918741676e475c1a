"""What both engines do alike: one sequence in memory, prefixes that are read apart, and the answer.

An engine of a library inherits from `SequenceEngine` and adds its tokenizer, its rows of logits and
its choice of tokens. The rule to keep: nothing here knows a library.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence

from device.engine.answering import Clock, Stream, Work, answer
from device.engine.base import Description, Picture, Sampling, Token, check_prompt, never
from device.engine.sequence import ReadSequence, arbitrary
from device.errors import DeviceError


class SequenceEngine(ABC):
    """The part of `base.Engine` that is the same for every library."""

    _sequence: ReadSequence
    """The keys and values in memory."""
    _description: Description
    _context: int

    @property
    def description(self) -> Description:
        """What is loaded, and how."""
        return self._description

    @property
    def context(self) -> int:
        """Tokens of prompt and answer together."""
        return self._context

    @property
    @abstractmethod
    def n_vocab(self) -> int:
        """Tokens in the vocabulary."""

    @abstractmethod
    def piece(self, token: int) -> bytes:
        """Return the bytes of a token; none for a control token."""

    @property
    def picture_marker(self) -> str:
        """Text by which the chat template shows a picture; empty if the engine sees none."""
        return ""

    def see(self, image: bytes) -> Picture:
        """Return a picture as it stands in a prompt; raise DeviceError if the engine sees none."""
        raise cannot_see(self._description)

    def knows(self, token: int) -> bool:
        """Say whether an id stands for a position of a picture that is kept."""
        return False

    def marked_piece(self, token: int) -> bytes:
        """Return the bytes of a token, a control token's too if the engine can tell them."""
        return self.piece(token)

    @abstractmethod
    def check(self, tokens: Sequence[int], sampling: "Sampling | None") -> None:
        """Raise the DeviceError of a request that this engine cannot answer."""

    def logits(self, tokens: Sequence[int], prefix: int = 0) -> Iterator[bytes]:
        """Yield a row of float32 for each token after the prefix.

        All tokens after the prefix are evaluated, whatever is in memory.
        """
        check_prompt(tokens, self, answered=False, knows=self.knows)
        self._sequence.begin(tokens[:prefix])
        return self._rows(list(tokens[prefix:]))

    def generate(
        self,
        tokens: Sequence[int],
        sampling: Sampling,
        stop_ids: Sequence[int] = (),
        cancelled: Callable[[], bool] = never,
        prefix: int = 0,
    ) -> Iterator[Token]:
        """Answer a prompt; tokens that are in memory or in the prefix cache are not read again."""
        self.check(tokens, sampling)
        return self._answer(list(tokens), prefix, sampling, frozenset(stop_ids), cancelled)

    def save(self, prefix: Sequence[int]) -> bytes:
        """Return the state after these tokens."""
        check_prompt(prefix, self, knows=self.knows)
        return self._sequence.saved(list(prefix))

    def restore(self, prefix: Sequence[int], state: bytes) -> bool:
        """Load a saved state and pin it in the prefix cache.

        Return False if it is of other tokens.
        """
        check_prompt(prefix, self, knows=self.knows)
        return self._sequence.restore(list(prefix), state)

    def forget(self) -> None:
        """Empty the memory and the prefix cache."""
        self._sequence.forget()

    def time_prompt(self, n_tokens: int) -> float:
        """Return the seconds of a prompt of random tokens."""
        return self._sequence.time_prompt(arbitrary(n_tokens, self.n_vocab))

    def time_decode(self, n_tokens: int) -> float:
        """Return the seconds of random tokens, one at a time, from an empty context."""
        return self._sequence.time_decode(arbitrary(n_tokens, self.n_vocab))

    @abstractmethod
    def _rows(self, tokens: list[int]) -> Iterator[bytes]:
        """Evaluate tokens and yield a row of logits for each."""

    @abstractmethod
    def _chosen(
        self,
        tokens: list[int],
        sampling: Sampling,
        room: int,
        clock: Clock,
        cancelled: Callable[[], bool],
    ) -> Stream:
        """Yield at most `room` tokens that follow a prompt which is in memory."""

    @abstractmethod
    def _ends(self, token: int) -> bool:
        """Say whether the model file names a token as the end of an answer."""

    def _answer(
        self,
        tokens: list[int],
        prefix: int,
        sampling: Sampling,
        stop_ids: frozenset[int],
        cancelled: Callable[[], bool],
    ) -> Iterator[Token]:
        room = min(sampling.max_tokens, self._context - len(tokens))
        work = Work(
            read=lambda: self._sequence.read(tokens, prefix, cancelled),
            chosen=lambda clock: self._chosen(tokens, sampling, room, clock, cancelled),
            ends=lambda token: token in stop_ids or self._ends(token),
            piece=self.marked_piece if sampling.calls_tools else self.piece,
        )
        return answer(tokens, sampling, work, cancelled)


def cannot_see(loaded: Description) -> DeviceError:
    """Return the error of a picture for a model that reads text alone."""
    return DeviceError(
        "cannot_see",
        f"`{loaded.model_filename}` on {loaded.engine} reads text, no pictures",
        hint="a model that sees has a projector file beside it: docs/eyes.md",
        status=400,
    )
