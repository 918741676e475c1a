"""Labels for 60 % of fresh questions: popularity × novelty against a random choice.

A pool of 2,000 questions is drawn by Zipf's law from the starter's answers, half of them with a
word changed. 1,000 fresh questions are asked in a wording that no pool has. One is right if the
nearest answered question has its answer. The peers are a random choice of the pool's rows, each a
label, and of its questions where equal ones are joined before.
"""

import json
import random
import statistics
from pathlib import Path

import numpy as np

from toolchain.rounds.choose import SAME_WORDS, choose, normal, word_vectors

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "recipes" / "starter" / "help-desk.jsonl"
POOL, FRESH, SEEDS, GOAL = 2000, 1000, 10, 0.6
SKEWS = (0.8, 1.0, 1.2)
MOST_LABELS = 800
T_95 = 2.262
"""Student's t for 95 % of 10 runs."""

Rows = list[tuple[str, int]]
"""Question and the number of its answer."""


def drawn(
    chance: random.Random, phrasings: list[list[str]], skew: float, count: int, order: list[int]
) -> Rows:
    """Return questions that are drawn by Zipf's law, half of them with a word changed."""
    weights = [1 / (rank + 1) ** skew for rank in range(len(order))]
    rows = []
    for answer in chance.choices(order, weights, k=count):
        words = chance.choice(phrasings[answer]).split()
        if chance.random() < 0.5 and len(words) > 2:
            other = chance.choice(phrasings[chance.randrange(len(phrasings))]).split()
            words[chance.randrange(len(words))] = chance.choice(other)
        rows.append((" ".join(words), answer))
    return rows


def needed(order: list[int], answers: list[int], near: np.ndarray, fresh: list[int]) -> int:
    """Return how many of the questions, in their order, must be answered for the goal."""
    wanted, known = np.array(fresh), np.array(answers)
    best, given = np.full(len(fresh), -1.0), np.full(len(fresh), -1)
    for count, at in enumerate(order, 1):
        is_nearer = near[:, at] > best
        best[is_nearer] = near[is_nearer, at]
        given[is_nearer] = known[at]
        if (given == wanted).mean() >= GOAL:
            return count
    return len(order)


def one_run(seed: int, skew: float) -> tuple[int, int, int]:
    """Return the labels that random rows need, that random questions need, and ours."""
    chance = random.Random(seed)
    rows = [json.loads(line) for line in DATA.read_text(encoding="utf-8").splitlines()]
    asked = [row["question"] for row in rows if isinstance(row["question"], list)]
    asked = [each for each in asked if len(each) >= 2]
    order = list(range(len(asked)))
    chance.shuffle(order)
    pool = drawn(chance, [each[:-1] for each in asked], skew, POOL, order)
    fresh = drawn(chance, [each[-1:] for each in asked], skew, FRESH, order)

    unique: dict[str, int] = {}
    counts: dict[str, int] = {}
    for text, answer in pool:
        unique.setdefault(normal(text), answer)
        counts[normal(text)] = counts.get(normal(text), 0) + 1
    texts = list(unique)
    both = word_vectors([*texts, *(text for text, _ in fresh)])
    vectors, asked_fresh = both[: len(texts)], both[len(texts) :]
    near = asked_fresh @ vectors.T
    answers = [unique[text] for text in texts]
    wanted = [answer for _, answer in fresh]

    asked_times = [counts[text] for text in texts]
    ours = choose(vectors, asked_times, vectors[:0], MOST_LABELS, same=SAME_WORDS)
    place = {text: at for at, text in enumerate(texts)}
    rows_at_random = [place[normal(text)] for text, _ in chance.sample(pool, len(pool))]
    # Who joins equal questions first meets a popular one early as well, and labels it once.
    at_random = list(dict.fromkeys(rows_at_random))
    return (
        needed(rows_at_random, answers, near, wanted),
        needed(at_random, answers, near, wanted),
        needed([each.index for each in ours], answers, near, wanted),
    )


def main() -> None:
    """Print a row a skew: labels of each, the shares that are saved, their 95 % intervals."""
    print("| Zipf | random rows | random questions | ours | fewer than rows | than questions |")
    print("|---|---|---|---|---|---|")
    for skew in SKEWS:
        runs = [one_run(seed, skew) for seed in range(SEEDS)]
        medians = (f"{statistics.median(each):g}" for each in zip(*runs, strict=True))
        shares = (saved([1 - run[2] / run[peer] for run in runs]) for peer in (0, 1))
        print(f"| {skew} | {' | '.join([*medians, *shares])} |", flush=True)


def saved(shares: list[float]) -> str:
    """Return the mean of the runs, and the lower end of its 95 % interval."""
    error = T_95 * statistics.stdev(shares) / len(shares) ** 0.5
    mean = statistics.mean(shares)
    return f"{mean:.0%} (≥ {mean - error:.0%})"


if __name__ == "__main__":
    main()
