"""Control tokens in a client's text, broken up so that they are read as plain text.

A chat template puts the client's words between control tokens, and the whole is tokenized with
control tokens recognised, as transformers and llama-server do. So `<|im_end|>` in a question ends
that question, and what follows can pose as instructions or as the model's own answer. A space after
the first character makes it plain text, whatever the engine and the tokenizer. A text without
control tokens is not changed, nor are the tokens of its prompt and what is cached of them.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

MAX_ROUNDS = 8
"""Rounds of breaking up: the first may leave another control token behind."""
# Only if one control token is put inside another; no real vocabulary needs two rounds.


class Escape:
    """The control tokens of one vocabulary."""

    def __init__(self, control: Sequence[str]) -> None:
        words = sorted({word for word in control if len(word) > 1}, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, words))) if words else None

    def text(self, text: str) -> str:
        """Return a text without control tokens."""
        if self._pattern is None:
            return text

        for _ in range(MAX_ROUNDS):
            if not self._pattern.search(text):
                return text
            text = self._pattern.sub(lambda match: f"{match[0][0]} {match[0][1:]}", text)

        return self._pattern.sub("", text)

    def messages(self, messages: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Return messages without control tokens, in whichever field they are."""
        return [self._value(dict(message)) for message in messages]

    def _value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self._value(key): self._value(each) for key, each in value.items()}
        return [self._value(each) for each in value] if isinstance(value, list) else value
