"""Asks a model questions and scores its answers: exact match, token F1 and losses.

Scores as in SQuAD (arXiv:1606.05250, evaluate-v1.1.py), CJK split by character as in CMRC 2018
(arXiv:1810.00163).
"""

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from device.manifest.tool_calls import read_calls
from toolchain.artifacts import Figures
from toolchain.chat import markup_of_tokenizer, render_prompt
from toolchain.general import pieces
from toolchain.progress import Reporter
from toolchain.tool_use import called, is_called, said
from toolchain.training.examples import Example, batch_of

_CJK = re.compile("([\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff])")
_ARTICLES = {"a", "an", "the"}
BATCH = 64
SLACK_TOKENS = 16
"""Tokens by which an answer may exceed the longest expected answer."""


def words(text: str) -> list[str]:
    """Return the compared words: lower case, no punctuation or articles, CJK by character."""
    plain = unicodedata.normalize("NFKC", text).lower()
    letters = "".join(
        c
        for c in plain
        if c not in string.punctuation and not unicodedata.category(c).startswith("P")
    )
    return [word for word in _CJK.sub(r" \1 ", letters).split() if word not in _ARTICLES]


def exact_match(answer: str, expected: str) -> bool:
    """Return whether both have the same words in the same order."""
    return words(answer) == words(expected)


def token_f1(answer: str, expected: str) -> float:
    """Return the harmonic mean of precision and recall of the words."""
    given, correct = words(answer), words(expected)
    shared = sum((Counter(given) & Counter(correct)).values())
    if not given or not correct or not shared:
        return float(given == correct)
    return 2 * shared / (len(given) + len(correct))


def score(
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Mapping[str, Any]],
    report: Reporter,
    *,
    name: str,
) -> Figures:
    """Score a model's answers to the last questions; return `questions`, `exact_match` and `f1`."""
    return scores(conversations, ask(model, tokenizer, conversations, report, name=name))


def scores(conversations: Sequence[Mapping[str, Any]], given: Sequence[str]) -> Figures:
    """Return the scores of the answers to the last question of each conversation."""
    if not conversations:
        return {"questions": 0, "exact_match": None, "f1": None}
    expected = [said(conversation["messages"][-1]) for conversation in conversations]
    count = len(expected)
    pairs = list(zip(given, expected, strict=True))
    return {
        "questions": count,
        "exact_match": round(sum(exact_match(*pair) for pair in pairs) / count, 4),
        "f1": round(sum(token_f1(*pair) for pair in pairs) / count, 4),
    }


def call_scores(
    tokenizer: Any, conversations: Sequence[Mapping[str, Any]], given: Sequence[str]
) -> Figures:
    """Return the share of answers with exactly the expected calls; nothing where none is expected.

    No grammar held these answers, as the board's would: a call that does not parse counts as text.
    """
    asked = [pair for pair in zip(conversations, given, strict=True) if pair[0].get("tools")]
    if not any(called(row["messages"][-1]) for row, _ in asked):
        return {}
    markup = markup_of_tokenizer(tokenizer)
    right = sum(
        is_called(read_calls(text, markup, cut=True)[1], row["messages"][-1]) for row, text in asked
    )
    return {"tool_questions": len(asked), "tool_accuracy": round(right / len(asked), 4)}


def ask(
    model: Any,
    tokenizer: Any,
    conversations: Sequence[Mapping[str, Any]],
    report: Reporter,
    *,
    name: str,
) -> list[str]:
    """Return a model's answers to the last question of each conversation.

    An answer has at most SLACK_TOKENS more tokens than the longest expected one.
    """
    if not conversations:
        return []
    expected = [said(conversation["messages"][-1]) for conversation in conversations]
    prompts = [_prompt(model, tokenizer, conversation) for conversation in conversations]
    longest = max(len(tokenizer.encode(text, add_special_tokens=False)) for text in expected)
    return answer(model, tokenizer, prompts, longest + SLACK_TOKENS, report, name=name)


def _prompt(model: Any, tokenizer: Any, row: Mapping[str, Any]) -> list[int]:
    """Return the ids after which a model answers the last question, its pictures among them."""
    from toolchain.training.shown import with_pictures

    ids = render_prompt(tokenizer, row["messages"][:-1], row.get("tools", ()))
    return with_pictures(model, tokenizer, row, (ids, ids))[0]


@contextmanager
def in_float32(model: Any) -> Iterator[None]:
    """Let a model compute in float32 in this context, then restore its own types."""
    import torch

    # In bf16 the noise of a 135M model's scores was a KL of 0.0013 and 2.2 % of its next tokens.

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
    """Return the mean loss on plain texts in nats per byte, comparable between tokenizers."""
    import torch

    total = 0.0
    with in_float32(model), torch.inference_mode():
        for ids in (piece for text in texts for piece in pieces(tokenizer, text)):
            row = torch.tensor([ids], device=model.device)
            known = model(input_ids=row).logits[0, :-1].log_softmax(-1)
            total -= float(known.gather(1, row[0, 1:, None]).double().sum())
    return round(total / sum(len(text.encode()) for text in texts), 4)


def loss_per_token(model: Any, examples: Sequence[Example]) -> float | None:
    """Return the mean cross-entropy of the learned tokens in nats; None if there are none."""
    import torch

    from toolchain.training.objectives import AnswerLoss

    if not (count := sum(example.targets for example in examples)):
        return None

    objective = AnswerLoss(model).eval()
    with in_float32(model), torch.inference_mode():
        total = 0.0
        for first in range(0, len(examples), BATCH):
            batch = batch_of(examples, range(first, min(first + BATCH, len(examples))))
            total += float(objective(batch.to(model.device)))

    return round(total / count, 6)


def answer(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    report: Reporter,
    *,
    name: str,
) -> list[str]:
    """Return the greedy continuation of each prompt as text, without special tokens."""
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    answers = [""] * len(prompts)
    for first in range(0, len(order), BATCH):
        rows = order[first : first + BATCH]
        batch = [prompts[row] for row in rows]
        new = continuations(model, tokenizer, batch, max_new_tokens)
        for row, ids in zip(rows, new, strict=True):
            answers[row] = tokenizer.decode(ids, skip_special_tokens=True).strip()
        report.step(name, min(first + BATCH, len(order)), len(order), "answers")
    return answers


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How answers are drawn, where they are not the likeliest."""

    temperature: float
    seed: int


def continuations(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    sampling: Sampling | None = None,
) -> list[list[int]]:
    """Return the new ids of each prompt, padding included: the likeliest, or drawn ones.

    Padding is on the left of what a prompt has of its own, so that answers are aligned.
    """
    import torch
    from transformers import GenerationConfig

    from toolchain.training.shared import read_prefix, shared_tokens

    shared = shared_tokens(prompts)
    with in_float32(model), torch.inference_mode():
        first = torch.tensor([prompts[0][:shared]], device=model.device)
        prefix = read_prefix(model.base_model, first, len(prompts)) if shared else None
    shared = shared if prefix else 0
    width = max(len(prompt) for prompt in prompts)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ids, mask = (
        torch.tensor(
            [_padded(prompt, shared, width, fill) for prompt, fill in rows], device=model.device
        )
        for rows in (
            [(prompt, pad) for prompt in prompts],
            [([1] * len(prompt), 0) for prompt in prompts],
        )
    )
    # Every setting is given: generate() takes those that are missing from the model's folder.
    drawn = {"temperature": sampling.temperature, "top_k": 0, "top_p": 1.0} if sampling else {}
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=sampling is not None,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        eos_token_id=model.generation_config.eos_token_id,
        pad_token_id=pad,
        **drawn,
    )

    if sampling:
        torch.manual_seed(sampling.seed)
    with in_float32(model), torch.inference_mode():
        cache = {"past_key_values": prefix[1]} if prefix else {}
        sequences = model.generate(
            input_ids=ids, attention_mask=mask, generation_config=settings, **cache
        )

    new: list[list[int]] = sequences[:, width:].tolist()
    return new


def _padded(row: Sequence[int], shared: int, width: int, fill: int) -> list[int]:
    """Return a row of this width, filled up behind the tokens that it shares with the others."""
    return [*row[:shared], *[fill] * (width - len(row)), *row[shared:]]
