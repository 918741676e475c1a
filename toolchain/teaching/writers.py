"""Who writes: a model folder here, or a model behind any endpoint with OpenAI's API."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from toolchain.endpoint.client import Endpoint

Messages = Sequence[Mapping[str, str]]
BATCH = 32
"""Conversations that a model here continues at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What a teacher answered to a conversation."""

    text: str
    whole: bool
    """Whether it ended by itself."""
    read: int = 0
    """Tokens of the conversation; 0 where nobody counted."""
    written: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """How an answer is drawn: the likeliest at temperature 0."""

    max_tokens: int
    temperature: float = 0.0
    seed: int = 0


class Writer(Protocol):
    """A teacher that continues conversations."""

    @property
    def name(self) -> str:
        """What the record calls it: never an address with a key, never a path of this machine."""

    @property
    def digest(self) -> str:
        """What decides its answers: the digest of a folder, an endpoint's address and model."""

    @property
    def together(self) -> int:
        """Number of conversations that it is asked at once."""

    @property
    def parameters(self) -> int | None:
        """Number of its parameters; None where nobody says it."""

    def say(self, conversations: Sequence[Messages], how: How) -> list[Said]:
        """Return the answer to each conversation."""

    def release(self) -> None:
        """Give back the memory of what was loaded."""


class FolderWriter:
    """A model folder; loaded when it is first asked."""

    together = BATCH

    def __init__(self, folder: Path, digest: str) -> None:
        self._folder = folder
        self._loaded: tuple[Any, Any] | None = None
        self.name = folder.name
        self.digest = digest

    @property
    def parameters(self) -> int:
        """Number of the model's parameters."""
        from toolchain.models.checkpoints import parameter_count

        return parameter_count(self._model()[0])

    def say(self, conversations: Sequence[Messages], how: How) -> list[Said]:
        """Return the answers, computed in one batch."""
        from toolchain.chat import render_prompt
        from toolchain.training.answers import Sampling, continuations

        model, tokenizer = self._model()
        prompts = [render_prompt(tokenizer, list(messages)) for messages in conversations]
        drawn = Sampling(temperature=how.temperature, seed=how.seed) if how.temperature else None
        new = continuations(model, tokenizer, prompts, how.max_tokens, drawn)
        ends = model.generation_config.eos_token_id
        stops = set(ends if isinstance(ends, list) else [ends])
        return [
            _said(tokenizer, prompt, ids, stops) for prompt, ids in zip(prompts, new, strict=True)
        ]

    def release(self) -> None:
        """Give back the model's memory: a student is trained next."""
        self._loaded = None

    def _model(self) -> tuple[Any, Any]:
        if self._loaded is None:
            import torch

            from toolchain.models.checkpoints import load_model, load_tokenizer

            device = "cuda" if torch.cuda.is_available() else "cpu"
            model = load_model(self._folder, dtype="float32").to(device)
            self._loaded = (model, load_tokenizer(self._folder))
        return self._loaded


def _said(tokenizer: Any, prompt: Sequence[int], ids: Sequence[int], stops: set[int]) -> Said:
    end = next((at for at, token in enumerate(ids) if token in stops), None)
    own = ids if end is None else ids[:end]
    return Said(
        text=tokenizer.decode(own, skip_special_tokens=True).strip(),
        whole=end is not None,
        read=len(prompt),
        written=len(own),
    )


class EndpointWriter:
    """A model behind an endpoint. Its key comes from the environment alone (DEMITASSE_API_KEY)."""

    together = 1
    parameters = None

    def __init__(self, address: str, model: str) -> None:
        """Raise ConfigError for an address that cannot be called, or that holds a key."""
        self._endpoint = Endpoint(address, model)
        self.name = model or "a model behind an endpoint"
        # What weights stand behind an address is not known.
        named = f"{self._endpoint.where}\0{model}"
        self.digest = hashlib.sha256(named.encode()).hexdigest()

    def say(self, conversations: Sequence[Messages], how: How) -> list[Said]:
        """Return the answers, one request after the other."""
        return [self._say(messages, how) for messages in conversations]

    def release(self) -> None:
        """Do nothing: nothing was loaded here."""

    def _say(self, messages: Messages, how: How) -> Said:
        optional = {
            "max_tokens": how.max_tokens,
            "temperature": how.temperature,
            "seed": how.seed,
        }
        given = self._endpoint.complete(messages, optional, stream=False)
        return Said(
            text=given.text.strip(),
            whole=given.finish_reason == "stop",
            read=given.usage.prompt_tokens or 0,
            written=given.usage.completion_tokens or 0,
        )
