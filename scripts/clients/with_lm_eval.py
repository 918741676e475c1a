"""lm-eval, with its model `local-completions`: likelihoods of choices, and texts until a stop.

The tasks are written here, since the harness' own ones come from a hub. It cuts texts into tokens
itself, with the model's own tokenizer: a bundle's `tokenizer.json`.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from steps import KEY, MODEL, URL, run

CHOICE = """task: choice
dataset_path: json
dataset_kwargs:
  data_files: {file}
test_split: train
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{label}}}}"
doc_to_choice: "{{{{choices}}}}"
metric_list:
  - metric: acc
"""
GENERATE = """task: words
dataset_path: json
dataset_kwargs:
  data_files: {file}
test_split: train
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  until: ["\\n"]
  max_gen_toks: 8
  temperature: 0
metric_list:
  - metric: exact_match
"""
ROWS = [
    {"question": "The capital of France is", "choices": [" Paris", " xqzw"], "label": 0},
    {"question": "Water is a", "choices": [" liquid", " xqzw"], "label": 0},
]


def evaluated(task: str, described: str) -> dict[str, Any]:
    """Run a task against the service; return its scores."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = [{**row, "answer": "x"} for row in ROWS]
        (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        (folder / "task.yaml").write_text(described.format(file=folder / "rows.jsonl"))
        command = [sys.executable, "-m", "lm_eval", "run", "--model", "local-completions"]
        model = f"model={MODEL},base_url={URL}/completions,num_concurrent=1,max_retries=1"
        command += ["--model_args", f"{model},tokenizer={_tokenizer(folder)}"]
        command += ["--tasks", task, "--include_path", name, "--output_path", f"{name}/out"]
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": f"{name}/home"}
        done = subprocess.run(
            command,
            env={**os.environ, **offline, "OPENAI_API_KEY": KEY},
            capture_output=True,
            text=True,
            check=False,
        )
        results = sorted(folder.glob("out/**/results_*.json"))
        if not results:
            raise RuntimeError(done.stderr[-2000:])
        scores: dict[str, Any] = json.loads(results[0].read_text())["results"][task]
        return scores


def _tokenizer(folder: Path) -> Path:
    """Return a folder as transformers reads a tokenizer from it."""
    (folder / "tokenizer.json").write_bytes(Path(os.environ["CLIENT_TOKENIZER"]).read_bytes())
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(about))
    return folder


def likelihoods() -> object:
    # A model that knows its language takes a word of it for likelier than letters.
    return evaluated("choice", CHOICE)["acc,none"] == 1.0


def turns() -> object:
    return "exact_match,none" in evaluated("words", GENERATE)


run(turns, likelihoods)
