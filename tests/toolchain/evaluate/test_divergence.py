"""KL and agreement against distributions made by hand; template parity; room in the context."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.fakes.datasets import Recorder
from tests.fakes.models import SMALL, tiny_llama
from toolchain.chat import encode
from toolchain.errors import ArtifactError
from toolchain.evaluate.divergence import divergence, general_divergence, template_parity
from toolchain.evaluate.reference import Reference
from toolchain.evaluate.room import with_room
from toolchain.models.original import Original
from toolchain.progress import Silent

ONE_LAYER = SMALL | {"layers": 1}
EVEN = np.array([0.5, 0.5])
SURE = np.array([0.9, 0.1])
TURNED = np.array([0.1, 0.9])


def chat(question: str, answer: str) -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
        ]
    }


CHATS = [chat("how hot?", "Eighty degrees."), chat("which cable?", "A short and thick one.")]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder = tiny_llama(tmp_path_factory.mktemp("base") / "base", **ONE_LAYER)
    return Reference.load(Original(base=folder), Silent())


class Expecting:
    """A reference, or a child in its protocol, that expects the same of each token: over the
    vocabulary's first two.
    """

    def __init__(self, tokenizer: Any, probabilities: np.ndarray, context: int = 512) -> None:
        self.tokenizer, self._context = tokenizer, context
        self._probabilities = probabilities
        self.lengths: list[int] = []

    def info(self) -> Mapping[str, Any]:
        return {"context": self._context}

    def log_probabilities(self, ids: Sequence[int]) -> np.ndarray:
        return np.tile(np.log(self._probabilities), (len(ids), 1))

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        self.lengths.append(len(ids))
        return np.tile(np.log(self._probabilities) + 3.0, (len(ids), 1)).astype(np.float32)


def compared(
    reference: Reference, theirs: np.ndarray, ours: np.ndarray, limit: int = 4096
) -> tuple[Any, Any]:
    tokenizer = reference.tokenizer
    child: Any = Expecting(tokenizer, ours)
    model: Any = Expecting(tokenizer, theirs)
    figures, _ = divergence(child, model, CHATS, limit, Silent())
    return figures, general_divergence(child, model, ["Some prose.", "x = 1"], limit, Silent())


def test_the_divergence_of_a_model_from_itself_is_nothing(reference: Reference) -> None:
    figures, general = compared(reference, SURE, SURE)
    assert figures.mean_kl == pytest.approx(0, abs=1e-7)
    assert general.general_kl == pytest.approx(0, abs=1e-7)
    assert figures.agreement == general.general_agreement == 1.0


@pytest.mark.parametrize(
    ("theirs", "ours", "kl", "agreement"),
    [
        (SURE, EVEN, 0.9 * math.log(0.9 / 0.5) + 0.1 * math.log(0.1 / 0.5), 1.0),
        (EVEN, SURE, 0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(0.5 / 0.1), 1.0),
        (SURE, TURNED, 0.8 * math.log(9), 0.0),
    ],
)
def test_the_divergence_is_that_of_the_file_from_the_reference_in_nats(
    reference: Reference, theirs: np.ndarray, ours: np.ndarray, kl: float, agreement: float
) -> None:
    figures, general = compared(reference, theirs, ours)
    assert figures.mean_kl == pytest.approx(kl, rel=1e-5)
    assert figures.kl_error == pytest.approx(0, abs=1e-6)
    assert figures.agreement == agreement
    assert general.general_kl == pytest.approx(kl, rel=1e-5)
    assert general.general_agreement == agreement


def test_held_out_answers_alone_count_and_no_word_of_a_question(reference: Reference) -> None:
    figures, _ = compared(reference, SURE, EVEN)
    labels = [encode(reference.tokenizer, each["messages"], 512)[1] for each in CHATS]
    assert figures.kl_tokens == sum(label != -100 for row in labels for label in row)


def test_every_token_of_general_text_counts_up_to_the_limit(reference: Reference) -> None:
    tokenizer, texts = reference.tokenizer, ["Some prose.", "x = 1"]
    whole = sum(len(tokenizer.encode(text, add_special_tokens=False)) for text in texts)
    assert compared(reference, SURE, EVEN)[1].general_tokens == whole
    first = len(tokenizer.encode(texts[0], add_special_tokens=False))
    assert compared(reference, SURE, EVEN, limit=1)[1].general_tokens == first


def test_a_passage_that_is_longer_than_the_context_is_compared_in_pieces(
    reference: Reference,
) -> None:
    child: Any = Expecting(reference.tokenizer, EVEN, context=32)
    model: Any = Expecting(reference.tokenizer, SURE)
    text = "A quite long passage of nothing in particular. " * 8
    report = Recorder()
    figures = general_divergence(child, model, [text], 4096, report)
    assert len(child.lengths) > 2
    assert max(child.lengths) == 32
    ids = reference.tokenizer.encode(text, add_special_tokens=False)
    assert figures.general_tokens == len(ids)
    assert report.bars == {"compare on general text"}


class Rendering:
    """A child that renders a conversation as its reference does, with tokens more."""

    def __init__(self, reference: Reference, more: Sequence[int]) -> None:
        self._reference, self._more = reference, more

    def render(self, messages: Sequence[Mapping[str, str]], tools: Any = ()) -> list[int]:
        return [*self._reference.prompt(messages), *self._more]


@pytest.mark.parametrize(("more", "mismatches"), [((), 0), ((5,), 2)])
def test_a_template_that_renders_one_token_more_is_a_mismatch(
    reference: Reference, more: Sequence[int], mismatches: int
) -> None:
    child: Any = Rendering(reference, more)
    assert template_parity(child, reference, CHATS).as_json() == {
        "template_chats": 2,
        "template_mismatches": mismatches,
    }


def test_conversations_that_the_context_has_no_room_for_are_left_out_and_counted(
    reference: Reference,
) -> None:
    long = chat("why?", "because " * 200)
    kept, left_out = with_room(reference.tokenizer, [*CHATS, long], 64)
    assert (kept, left_out) == (CHATS, 1)
    with pytest.raises(ArtifactError, match=r"^evaluate: all 1 held-out conversations are longer"):
        with_room(reference.tokenizer, [long], 64)
    with pytest.raises(ArtifactError, match=r"^evaluate: nothing is held out"):
        with_room(reference.tokenizer, [], 64)


@pytest.mark.parametrize(("end", "ends"), [(0, True), (7, False)])
def test_the_reference_says_which_of_its_own_answers_end(
    end: int, ends: bool, tmp_path: Path
) -> None:
    """With a last norm of zeros all scores are alike and the first token is always the next."""
    folder = tiny_llama(tmp_path / "model", **ONE_LAYER)
    model = Reference.load(Original(base=folder), Silent())
    model.model.model.norm.weight.data.zero_()
    model.model.generation_config.eos_token_id = end
    prompts = [[{"role": "user", "content": text}] for text in ("hot?", "how hot is it?")]
    assert model.ends([(prompt, ()) for prompt in prompts], 4) == [ends, ends]
