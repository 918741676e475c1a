"""Decoding: our answering loop against llama-bench, and what speculative decoding brings.

Kernels, file and threads are the same. Ours samples, detokenizes and streams; llama-bench's `tg`
does none of it. The n-gram drafts are tried on three answers: one that copies its prompt of 600
tokens, one that has nothing in common with it, and one whose prompt misleads, since each piece of
it is right for a while and then something else. Weights are random there, but for the heads that
recite. A fourth text is what SmolLM2-135M-Instruct, from its package, answers to general questions,
one after the other in one engine, as on a board. With drafts and without, the tokens are the same,
which is checked. Drafts are measured in seconds of the processor, which other programs do not make
longer.
"""

import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import measure
import models
import smollm2

import toolchain
from device.engine import load
from device.engine.base import Engine, Sampling, Settings
from toolchain import runtime
from toolchain.progress import Silent
from toolchain.runtime import cross

PROFILE = "x86-64-v3"
THREADS = 1
"""One: several threads wait for each other as soon as anything else runs."""
TOKENS, QUICK_TOKENS = 128, 32
ROUNDS, QUICK_ROUNDS = 7, 2
COPIED = 600
QUESTIONS = Path(toolchain.__file__).parent / "general_questions.jsonl"
ASKED = 8
"""General questions to the real model."""
CONTEXT = 2048
PIECE = 12
_ANSWER = """
import json, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from device.engine import load
from device.engine.base import Sampling, Settings
engine = load(Path(sys.argv[2]), Settings(context=int(sys.argv[4]) + 2, threads=int(sys.argv[3])))
list(engine.generate([700], Sampling(max_tokens=2)))
*steps, last = engine.generate([700], Sampling(max_tokens=int(sys.argv[4]) + 1))
print(json.dumps(last.timing.decode_tok_s()))
"""


def main() -> None:
    """Measure the claims."""
    options = measure.options(__doc__ or "")
    tokens, rounds = (QUICK_TOKENS, QUICK_ROUNDS) if options.quick else (TOKENS, ROUNDS)
    noise = models.random_gguf(models.SMOLLM2_135M)
    ours = runtime.for_profile(PROFILE, Silent())
    theirs = cross.build_bench(PROFILE, Silent()) / "bin" / "llama-bench"
    drafts = _Drafts(tokens)
    cases: dict[str, measure.Case] = {
        "ours": lambda: _answered(ours, noise, tokens),
        "llama-bench": lambda: _benched(theirs, noise, tokens),
    }
    cases |= {
        f"{text} {how}": partial(drafts.rate, text, how)
        for text in drafts.prompts
        for how in ("with", "without")
    }
    figures = measure.interleave(cases, rounds)
    conditions = {
        "model": f"{models.SMOLLM2_135M.name}, Q4_0",
        "unit": "tokens/s",
        "threads": THREADS,
        "tokens": tokens,
    }
    claims = [
        measure.claim(
            "llama-bench",
            f"llama-bench tg{tokens}",
            0.98,
            figures["ours"],
            figures["llama-bench"],
            conditions,
        )
    ]

    for text, goal in (("copy", 1.5), ("noise", 0.97), ("misled", 0.97), ("real", 0.97)):
        name = "speculation" if text == "copy" else f"speculation, {text}"
        claims.append(
            measure.claim(
                name,
                "ours without drafts",
                goal,
                figures[f"{text} with"],
                figures[f"{text} without"],
                conditions,
            )
        )

    measure.show(claims, figures, "tokens/s", as_json=options.json)


class _Drafts:
    """Engines with and without drafts, and prompts of four kinds."""

    def __init__(self, tokens: int) -> None:
        draw = random.Random(0)
        text = draw.sample(range(400, 40_000), COPIED)
        begins = range(0, COPIED, PIECE - 3)
        misled = [
            token
            for at in begins
            for token in (*text[at : at + PIECE], draw.randrange(400, 40_000))
        ]
        recites = models.random_gguf(models.SMOLLM2_135M, recites=text)
        noise = models.random_gguf(models.SMOLLM2_135M)
        self._tokens = tokens
        real = smollm2.file()
        self._engines: dict[tuple[Path, str], Engine] = {
            (file, how): load(
                file, Settings(context=CONTEXT, threads=THREADS, speculative=how == "with")
            )
            for file in (recites, noise, real)
            for how in ("with", "without")
        }
        self.prompts: dict[str, tuple[Path, Sequence[Sequence[int]]]] = {
            "copy": (recites, [[*text, text[0]]]),
            "misled": (recites, [[*misled, text[0]]]),
            "noise": (noise, [[*misled, text[0]]]),
            "real": (real, _general(self._engines[real, "with"])),
        }
        self._answers: dict[tuple[str, int], Sequence[int | None]] = {}

    def rate(self, text: str, how: str) -> float:
        """Return the tokens a second of the processor over the answers to a kind of prompts."""
        file, prompts = self.prompts[text]
        tokens, seconds = 0, 0.0
        for number, prompt in enumerate(prompts):
            steps = self._engines[file, how].generate(prompt, Sampling(max_tokens=self._tokens))
            said = [next(steps).id]
            began = time.process_time()
            said += [step.id for step in steps]
            seconds += time.process_time() - began
            tokens += len(said) - 1
            same = self._answers.setdefault((text, number), said)
            assert same == said, f"{text}: drafts changed the answer"
        return tokens / seconds


def _general(engine: Engine) -> list[list[int]]:
    """Return the tokens of general questions, spread over all subjects, in SmolLM2's template."""
    lines = QUESTIONS.read_text(encoding="utf-8").splitlines()
    asked = [json.loads(line)["question"] for line in lines]
    return [
        engine.tokenize(f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")
        for question in asked[:: len(asked) // ASKED][:ASKED]
    ]


def _answered(folder: Path, file: Path, tokens: int) -> float:
    command = [
        sys.executable,
        "-sE",
        "-c",
        _ANSWER,
        str(folder),
        str(file),
        str(THREADS),
        str(tokens),
    ]
    return float(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))


def _benched(program: Path, file: Path, tokens: int) -> float:
    command = [
        str(program),
        "-m",
        str(file),
        "-t",
        str(THREADS),
        "-p",
        "0",
        "-n",
        str(tokens),
        "-r",
        "1",
        "-o",
        "json",
    ]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return float(json.loads(done.stdout)[0]["avg_ts"])


if __name__ == "__main__":
    main()
