"""What a model answers, and how good that is: exact match and token F1 as SQuAD scores them, CJK by character.

Source of the scores: arXiv:1606.05250 and its evaluate-v1.1.py; of the split by character: arXiv:1810.00163 (CMRC 2018).
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from toolchain.artifacts import Figures
from toolchain.chat import render_prompt
from toolchain.general import pieces
from toolchain.progress import Reporter
from toolchain.training.examples import Example, batch_of

_CJK = re.compile("([\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff])")
_ARTICLES = {"a", "an", "the"}
BATCH = 64
SLACK_TOKENS = 16
"""How much longer than the longest expected answer an answer may become."""


def words(text: str) -> list[str]:
    """Return what is compared: lower case, without punctuation and articles, each CJK character a word."""
    plain = unicodedata.normalize("NFKC", text).lower()
    kept = "".join(
        c
        for c in plain
        if c not in string.punctuation and not unicodedata.category(c).startswith("P")
    )
    return [word for word in _CJK.sub(r" \1 ", kept).split() if word not in _ARTICLES]


def exact_match(answer: str, expected: str) -> bool:
    """Return whether both say the same words in the same order."""
    return words(answer) == words(expected)


def token_f1(answer: str, expected: str) -> float:
    """Return the harmonic mean of precision and recall of the words."""
    given, wanted = words(answer), words(expected)
    shared = sum((Counter(given) & Counter(wanted)).values())
    if not given or not wanted or not shared:
        return float(given == wanted)
    return 2 * shared / (len(given) + len(wanted))


def score(
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Mapping[str, Any]],
    report: Reporter,
    *,
    name: str,
) -> Figures:
    """Let a model answer the last question of each conversation; return `questions`, `exact_match` and `f1`."""
    return scores(conversations, ask(model, tokenizer, conversations, report, name=name))


def scores(conversations: Sequence[Mapping[str, Any]], given: Sequence[str]) -> Figures:
    """Return how good the answers to the last question of each conversation are."""
    if not conversations:
        return {"questions": 0, "exact_match": None, "f1": None}
    expected = [conversation["messages"][-1]["content"] for conversation in conversations]
    count, pairs = len(expected), list(zip(given, expected, strict=True))
    return {
        "questions": count,
        "exact_match": round(sum(exact_match(*pair) for pair in pairs) / count, 4),
        "f1": round(sum(token_f1(*pair) for pair in pairs) / count, 4),
    }


def ask(
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Mapping[str, Any]],
    report: Reporter,
    *,
    name: str,
) -> list[str]:
    """Return a model's answers to the last question of each conversation, a little longer than the expected ones at most."""
    if not conversations:
        return []
    expected = [conversation["messages"][-1]["content"] for conversation in conversations]
    prompts = [
        render_prompt(tokenizer, conversation["messages"][:-1]) for conversation in conversations
    ]
    limit = (
        max(len(tokenizer.encode(text, add_special_tokens=False)) for text in expected)
        + SLACK_TOKENS
    )
    return answer(model, tokenizer, prompts, limit, report, name=name)


@contextmanager
def in_float32(model: Any) -> Iterator[None]:
    """Let a model compute in float32, and have its own types again behind.

    In bf16 the noise of a 135M model's own scores was a KL of 0.0013 and 2.2 % of its next tokens.
    """
    import torch

    tensors = [*model.parameters(), *model.buffers()]
    rounded = [
        (tensor, tensor.data)
        for tensor in tensors
        if tensor.is_floating_point() and tensor.dtype != torch.float32
    ]
    for tensor, own in rounded:
        tensor.data = own.float()
    try:
        yield
    finally:
        for tensor, own in rounded:
            tensor.data = own


def loss_per_byte(model: Any, tokenizer: Any, texts: Sequence[str]) -> float:
    """Return the mean loss on plain texts in nats per byte, which does not depend on how a tokenizer cuts them."""
    import torch

    total = 0.0
    with in_float32(model), torch.inference_mode():
        for ids in (piece for text in texts for piece in pieces(tokenizer, text)):
            row = torch.tensor([ids], device=model.device)
            known = model(input_ids=row).logits[0, :-1].log_softmax(-1)
            total -= float(known.gather(1, row[0, 1:, None]).double().sum())
    return round(total / sum(len(text.encode()) for text in texts), 4)


def loss_per_token(model: Any, examples: Sequence[Example]) -> float | None:
    """Return the mean cross-entropy of the learned tokens in nats; None where there are none."""
    import torch

    from toolchain.training.objectives import AnswerLoss

    if not (count := sum(example.targets for example in examples)):
        return None
    objective = AnswerLoss(model).eval()
    with in_float32(model), torch.inference_mode():
        parts = [
            float(
                objective(
                    batch_of(examples, range(first, min(first + BATCH, len(examples)))).to(
                        model.device
                    )
                )
            )
            for first in range(0, len(examples), BATCH)
        ]
    return round(sum(parts) / count, 6)


def answer(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    report: Reporter,
    *,
    name: str,
) -> list[str]:
    """Return the greedy continuation of each prompt as text, without special tokens; prompts are batched by length."""
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    answers = [""] * len(prompts)
    for first in range(0, len(order), BATCH):
        rows = order[first : first + BATCH]
        for row, ids in zip(
            rows,
            _continue(model, tokenizer, [prompts[row] for row in rows], max_new_tokens),
            strict=True,
        ):
            answers[row] = tokenizer.decode(ids, skip_special_tokens=True).strip()
        report.step(name, min(first + BATCH, len(order)), len(order), "answers")
    return answers


def _continue(
    model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int
) -> list[list[int]]:
    """Return the new ids of each prompt; prompts are padded on the left, so that all answers begin at one place."""
    import torch
    from transformers import GenerationConfig

    width = max(len(prompt) for prompt in prompts)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ids = torch.tensor(
        [[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=model.device
    )
    mask = torch.tensor(
        [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=model.device
    )
    # Every setting is given: generate() takes those that are missing from the model's folder.
    greedy = GenerationConfig(  # type: ignore[no-untyped-call]
        max_new_tokens=max_new_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        eos_token_id=model.generation_config.eos_token_id,
        pad_token_id=pad,
    )
    with in_float32(model), torch.inference_mode():
        sequences = model.generate(input_ids=ids, attention_mask=mask, generation_config=greedy)
    continuations: list[list[int]] = sequences[:, width:].tolist()
    return continuations
