"""The speed of an endpoint, as a client sees it: network, queue, chat template and tokenizer count.

What a server does not show cannot be measured: the engine's own rates, memory, heat. Rows carry
llama-bench's field names where they mean the same, so that reports can be compared; `caveats` says
what they are.
"""

import datetime
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from toolchain.artifacts import Report
from toolchain.endpoint.client import Completion, Endpoint
from toolchain.errors import BoardError
from toolchain.progress import Reporter

_WORDS = (
    *("apple", "river", "stone", "green", "window", "seven", "paper", "light", "table", "north"),
    *("cloud", "summer", "bread", "house", "morning", "silver", "garden", "letter", "music"),
)
_COUNT = "Count upwards from {start} in words, one number after the other, and do not stop."
"""Request for a long answer after a short prompt."""
_READ = "Answer with one word. Is there a colour in this list? {words}"
LEAST_TOKENS = 8
"""Tokens of answers that a rate can be told from."""
MOST_QUESTIONS = 8
"""Questions of one test: a model that was tuned to be brief is asked again."""
HELD_BACK = 20.0
"""How many times as long as its whole stream an answer may have been awaited.

A rate of pieces that were held back and arrive together is the network's."""
_FITTINGS = 3
"""Requests that find how many words a prompt of the wanted length has."""
_TOLERANCE = 0.02


Answers = tuple[Completion, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is measured."""

    pp: int
    """Tokens of a prompt, by the server's own count."""
    tg: int
    """Tokens of an answer, at most."""
    repeat: int


def measure(endpoint: Endpoint, plan: Plan, report: Reporter) -> Report:
    """Return the rates of an endpoint as its client sees them.

    Raises BoardError for a server whose answers tell no rate.
    """
    draw = random.Random()  # noqa: S311 - a prompt that no run before has left in a cache
    # llama-cpp-python's server counts tokens only in answers that it does not stream.
    stream = _prompt(endpoint, 1, draw, stream=True).usage.prompt_tokens is not None
    words = _fitted(endpoint, plan, draw, stream=stream)
    _answers(endpoint, plan, draw)  # warms the server up

    prompts: list[Completion] = []
    answers: list[Answers] = []
    for number in range(1, plan.repeat + 1):
        prompts.append(_prompt(endpoint, words, draw, stream=stream))
        answers.append(_answers(endpoint, plan, draw))
        report.step("measure", number, plan.repeat, "times")

    rows = [*_prompt_rows(endpoint, plan, prompts), _answer_row(endpoint, plan, answers)]
    return Report(
        board=endpoint.where, emulated=False, rows=rows, measured=_measured(prompts, answers)
    )


def _fitted(endpoint: Endpoint, plan: Plan, draw: random.Random, *, stream: bool) -> int:
    """Return the number of words of a prompt with about the wanted tokens."""
    words = max(1, plan.pp)
    for _ in range(_FITTINGS):
        tokens = _prompt(endpoint, words, draw, stream=stream).usage.prompt_tokens
        if not tokens or abs(tokens - plan.pp) <= _TOLERANCE * plan.pp:
            break
        words = max(1, round(words * plan.pp / tokens))
    return words


def _prompt(endpoint: Endpoint, words: int, draw: random.Random, *, stream: bool) -> Completion:
    """Return the answer to a prompt that shares nothing with the ones before."""
    said = _READ.format(words=" ".join(draw.choice(_WORDS) for _ in range(words)))
    # Caches compare from the beginning: a number there makes all that follows new.
    message = f"{draw.randrange(10**9)}: {said}"
    fields = {"max_tokens": 1, "temperature": 0}
    return endpoint.complete([{"role": "user", "content": message}], fields, stream=stream)


def _answers(endpoint: Endpoint, plan: Plan, draw: random.Random) -> Answers:
    """Return answers to short prompts that have about the wanted tokens together."""
    answers: list[Completion] = []
    while len(answers) < MOST_QUESTIONS and _tokens(answers) < plan.tg:
        message = _COUNT.format(start=draw.randrange(100, 1000))
        fields = {"max_tokens": plan.tg, "temperature": 0, "ignore_eos": True}
        answers.append(endpoint.complete([{"role": "user", "content": message}], fields))
        _check_pieces(endpoint, answers[-1])

    if _tokens(answers) < LEAST_TOKENS:
        raise BoardError(
            f"{endpoint.where}: {len(answers)} answers of {_tokens(answers)} tokens: "
            "too short to measure",
            hint="raise --tg" if plan.tg < LEAST_TOKENS else "its model ends answers at once",
        )
    if sum(each.ttft_s for each in answers) > HELD_BACK * sum(each.stream_s for each in answers):
        raise BoardError(
            f"{endpoint.where}: the pieces of its answer arrived together: "
            "how fast it writes cannot be told",
            hint="something in between holds the stream back: ask the server itself",
        )
    return tuple(answers)


def _check_pieces(endpoint: Endpoint, answer: Completion) -> None:
    if not answer.streamed or len(answer.arrivals_s) < 2:
        raise BoardError(
            f"{endpoint.where}: its answer came in one piece: how fast it writes cannot be told",
            hint="a server that streams is measured; a proxy may hold pieces back",
        )


def _tokens(answers: Sequence[Completion]) -> int:
    return sum(each.tokens for each in answers)


def _rate(answers: Answers) -> float:
    """Return the tokens a second after the first piece of each answer."""
    return sum(each.later_tokens for each in answers) / sum(each.stream_s for each in answers)


def _prompt_rows(
    endpoint: Endpoint, plan: Plan, prompts: Sequence[Completion]
) -> list[dict[str, Any]]:
    """Return the row of prompts; none if the server does not count their tokens."""
    rates = [
        (each.usage.prompt_tokens - _cached(each)) / each.ttft_s
        for each in prompts
        if each.usage.prompt_tokens and each.ttft_s > 0
    ]
    row = {**_common(endpoint), "n_prompt": plan.pp, "n_gen": 0}
    # A prompt that was in the server's memory tells no rate either.
    is_told = len(rates) == len(prompts) and all(rates)
    return [{**row, **_samples(plan.pp, rates)}] if is_told else []


def _cached(prompt: Completion) -> int:
    details = prompt.usage.prompt_tokens_details
    cached = (details.cached_tokens if details else None) or 0
    return min(cached, prompt.usage.prompt_tokens or 0)


def _answer_row(endpoint: Endpoint, plan: Plan, answers: Sequence[Answers]) -> dict[str, Any]:
    rates = [_rate(each) for each in answers]
    row = {**_common(endpoint), "n_prompt": 0, "n_gen": plan.tg}
    return {**row, **_samples(plan.tg, rates)}


def _common(endpoint: Endpoint) -> dict[str, Any]:
    """Return the fields that both rows share; what a client cannot know is 0 or empty."""
    return {
        "engine": "OpenAI's API",
        "engine_version": "",
        "backends": "",
        "model_filename": endpoint.model(),
        "model_type": endpoint.model(),
        "model_size": 0,
        "model_n_params": 0,
        "n_threads": 0,
        "n_depth": 0,
    }


def _samples(tokens: int, rates: Sequence[float]) -> dict[str, Any]:
    """Return llama-bench's figures of a test, from its rates."""
    seconds = [tokens / rate for rate in rates]
    deviation = statistics.stdev(rates) if len(rates) > 1 else 0.0
    tenth = statistics.quantiles(rates, n=10, method="inclusive")[0] if len(rates) > 1 else rates[0]
    return {
        "test_time": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "avg_ns": round(statistics.mean(seconds) * 1e9),
        "stddev_ns": round(statistics.stdev(seconds) * 1e9) if len(seconds) > 1 else 0,
        "avg_ts": round(statistics.mean(rates), 4),
        "stddev_ts": round(deviation, 4),
        "median_ts": round(statistics.median(rates), 4),
        "p10_ts": round(tenth, 4),
        "samples_ns": [round(each * 1e9) for each in seconds],
        "samples_ts": [round(rate, 4) for rate in rates],
    }


def _measured(prompts: Sequence[Completion], answers: Sequence[Answers]) -> dict[str, Any]:
    """Return all but the rows: waiting times, what was counted by whom, the server's own rates."""
    every = [one for each in answers for one in each]
    waits = [each.ttft_s for each in prompts]
    return {
        "ttft_warm_s": round(statistics.median(waits), 4),
        "ttft_warm_samples_s": [round(each, 4) for each in waits],
        "connect_s": round(statistics.median(each.connect_s for each in (*prompts, *every)), 4),
        "client_side": {
            "prompt_tokens": [each.usage.prompt_tokens for each in prompts],
            "cached_tokens": [_cached(each) for each in prompts],
            "answers": [len(each) for each in answers],
            "answer_tokens": [_tokens(each) for each in answers],
            "counted_by": "server" if every[0].usage.completion_tokens else "pieces",
            "server_prompt_tok_s": _median([each.server_prompt_tok_s for each in prompts]),
            "server_decode_tok_s": _median([each.server_decode_tok_s for each in every]),
        },
    }


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return round(statistics.median(known), 4) if known else None
