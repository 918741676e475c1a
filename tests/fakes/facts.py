"""Twelve small facts in four phrasings each, enough for a model that is trained in seconds."""

from typing import Any

_FACTS = {
    "key": "The key is under the blue pot.",
    "cat": "The cat sleeps on the stove.",
    "bread": "Bread is baked on Monday.",
    "garden": "The garden gate is green.",
    "water": "Water the plants at noon.",
    "lamp": "The lamp needs a new bulb.",
    "clock": "The clock runs five minutes fast.",
    "bicycle": "The bicycle has a flat tyre.",
    "letter": "The letter came from Köln.",
    "tea": "Tea is in the red tin 🍵.",
    "piano": "The piano was tuned in May.",
    "钥匙": "钥匙在蓝色花盆下面。",
}


def _phrasings(thing: str) -> list[str]:
    return [
        f"what about the {thing}?",
        f"tell me of the {thing}",
        f"where is the {thing} kept?",
        f"{thing}, please",
    ]


QUESTIONS: list[dict[str, Any]] = [
    {"question": _phrasings(thing), "answer": answer} for thing, answer in _FACTS.items()
]
