"""Stock onnxruntime-genai on a folder of ours: the referee.

The Python that DEMITASSE_GENAI names runs it as a script, `stock_genai.py JOB OUT.npz`. JOB is JSON
with folder, tokens, the number of them to read at once, and how many to answer.
"""

import json
import sys
from typing import Any

import numpy as np


def run(job: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the logits after the first piece and after each other token, and a greedy answer."""
    import onnxruntime_genai as genai

    model = genai.Model(job["folder"])
    tokens, first = job["tokens"], job["prefill"]

    generator = _generator(genai, model)
    generator.append_tokens(np.array([tokens[:first]], np.int32))
    rows = [np.array(generator.get_output("logits"))[0, -1]]
    for token in tokens[first:]:
        generator.append_tokens(np.array([[token]], np.int32))
        rows.append(np.array(generator.get_output("logits"))[0, -1])

    generator = _generator(genai, model)
    generator.append_tokens(np.array([tokens], np.int32))
    for _ in range(job["answer"]):
        if generator.is_done():
            break
        generator.generate_next_token()
    answer = np.array(generator.get_sequence(0))[len(tokens) :]
    return {"logits": np.array(rows), "answer": answer}


def _generator(genai: Any, model: Any) -> Any:
    parameters = genai.GeneratorParams(model)
    parameters.set_search_options(do_sample=False)
    return genai.Generator(model, parameters)


if __name__ == "__main__":
    np.savez(sys.argv[2], **run(json.loads(sys.argv[1])))
