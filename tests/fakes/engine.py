"""An engine without a model: it counts, waits where it is told to, and remembers what was asked of
it.
"""

import threading
from collections.abc import Callable, Iterator, Sequence

from device.engine.base import Description, Picture, Sampling, Timing, Token, check_prompt, never
from device.engine.chat import ChatTemplate
from device.errors import DeviceError
from device.manifest.opening import Messages, opening_of
from device.model import Model
from tests.fakes.tiny_gguf import CHATML


class FakeEngine:
    """Answers with `word` as often as `max_tokens` says, each time only once `go` is set;
    implements device.engine.base.Engine.
    """

    def __init__(self, *, word: str = "tick ", context: int = 512) -> None:
        self.word, self.context, self.n_vocab, self.chat_template = word, context, 256, CHATML
        self.description = Description(
            "fake", "1", "fake.gguf", "fake", 1, 1, context, 512, 512, 1, 1, "f16"
        )
        self.go = threading.Event()
        self.go.set()
        self.began = threading.Event()
        self.ended = threading.Event()
        """Set when an answer ended, by itself or because it was cancelled."""
        self.prompts: list[bytes] = []
        self.prefixes: list[int] = []
        self.states: dict[bytes, bytes] = {}
        """Prefixes that were saved or restored → their states."""
        self.state_kind = "fake"
        self.failure: Exception | None = None
        self.others: list[FakeEngine] = []
        """Contexts on the same weights."""

    def special_tokens(self) -> dict[str, str]:
        return {}

    def control_tokens(self) -> list[str]:
        return ["<|im_start|>", "<|im_end|>"]

    def tokenize(self, text: str, *, begin: bool = False) -> list[int]:
        return list(text.encode())

    @property
    def picture_marker(self) -> str:
        return ""

    def see(self, image: bytes) -> Picture:
        raise DeviceError("cannot_see", "the fake engine sees no pictures", status=400)

    def piece(self, token: int) -> bytes:
        return bytes([token])

    def logits(self, tokens: Sequence[int], prefix: int = 0) -> Iterator[bytes]:
        return iter([b"\0" * 1024 for _ in tokens[prefix:]])

    def generate(
        self,
        tokens: Sequence[int],
        sampling: Sampling,
        stop_ids: Sequence[int] = (),
        cancelled: Callable[[], bool] = never,
        prefix: int = 0,
    ) -> Iterator[Token]:
        check_prompt(tokens, self)
        self.prompts.append(bytes(tokens))
        self.prefixes.append(prefix)
        return self._answer(len(tokens), sampling.max_tokens, cancelled)

    def _answer(self, prompt: int, length: int, cancelled: Callable[[], bool]) -> Iterator[Token]:
        self.began.set()
        for count in range(length):
            while not self.go.wait(0.01) and not cancelled():
                continue
            if cancelled():
                self.ended.set()
                return
            if self.failure:
                raise self.failure
            yield Token(count % 256, self.word)
        self.ended.set()
        yield Token(None, "", "length", Timing(prompt, 0, 0.5, length, length - 1, 0.25))

    def save(self, prefix: Sequence[int]) -> bytes:
        self.states.setdefault(bytes(prefix), b"state of " + bytes(prefix))
        return self.states[bytes(prefix)]

    def restore(self, prefix: Sequence[int], state: bytes) -> bool:
        whole = state == b"state of " + bytes(prefix)
        if whole:
            self.states[bytes(prefix)] = state
        return whole

    def forget(self) -> None:
        pass

    def check(self, tokens: Sequence[int], sampling: "Sampling | None") -> None:
        check_prompt(tokens, self, answered=sampling is not None)

    def embed(
        self, tokens: Sequence[int], cancelled: Callable[[], bool] = never
    ) -> "list[float] | None":
        self.check(tokens, None)
        self.prompts.append(bytes(tokens))
        self.began.set()
        while not self.go.wait(0.01) and not cancelled():
            continue
        if cancelled():
            self.ended.set()
            return None
        return [float(tokens.count(token)) for token in range(256)]

    def use_threads(self, decode: int, prefill: int, cpus: Sequence[int] = ()) -> None:
        self.threads = (decode, prefill, tuple(cpus))

    def time_prompt(self, n_tokens: int) -> float:
        return n_tokens / 1000

    def time_decode(self, n_tokens: int) -> float:
        return n_tokens / 100

    def new_context(self) -> "FakeEngine":
        self.others.append(type(self)(word=self.word, context=self.context))
        return self.others[-1]

    def close(self) -> None:
        pass

    def model(self, system: str = "", turns: Messages = (), slots: int = 1) -> Model:
        """Return a Model of this engine."""
        return Model(self, ChatTemplate(CHATML, {}), (), opening_of(system, turns), slots)
