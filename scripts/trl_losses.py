"""DPO's and KTO's losses as TRL computes them, for the test that compares ours with them.

It runs in an environment of its own, with TRL installed: TRL asks for packages that the product
does not need. A tiny model and a copy of it with other weights are policy and reference.

    python scripts/trl_losses.py > tests/toolchain/training/trl_losses.json
"""

import importlib
import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
PROMPTS = [[5, 9, 14, 3], [7, 7, 21], [30, 2, 8, 11, 40], [6, 17]]
WANTED = [[44, 12, 2], [51, 2], [13, 60, 61, 2], [70, 71, 2]]
REJECTED = [[80, 81, 82, 83, 84, 2], [90, 91, 2], [9, 2], [33, 34, 35, 36, 2]]
LABELS = [True, False, True, False]
BETA = 0.3
MOVED = 0.1
"""Largest difference of a weight between policy and reference."""


def model(folder: Path, *, is_moved: bool) -> Any:
    """Return the tiny model, with other weights where it is the policy."""
    import torch

    from toolchain.models.checkpoints import load_model

    tiny_llama = importlib.import_module("tests.fakes.models").tiny_llama

    found = load_model(tiny_llama(folder, hidden=64, intermediate=64, heads=2, kv_heads=1))
    if is_moved:
        with torch.no_grad():
            for parameter in found.parameters():
                wave = torch.sin(torch.arange(parameter.numel(), dtype=torch.float32))
                parameter.add_(MOVED * wave.view_as(parameter))
    return found


def tokenized() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return rows of pairs, and rows of rated answers with mismatched ones."""
    pairs = [
        {"prompt_ids": prompt, "chosen_ids": wanted, "rejected_ids": other}
        for prompt, wanted, other in zip(PROMPTS, WANTED, REJECTED, strict=True)
    ]
    answers = [
        wanted if good else other
        for wanted, other, good in zip(WANTED, REJECTED, LABELS, strict=True)
    ]
    rated = [
        {
            "prompt_ids": prompt,
            "completion_ids": answer,
            "KL_completion_ids": answers[at - 1],
            "label": good,
        }
        for at, (prompt, answer, good) in enumerate(zip(PROMPTS, answers, LABELS, strict=True))
    ]
    return pairs, rated


def settings(folder: Path, kind: Any, **more: Any) -> Any:
    """Return a trainer's settings on the CPU."""
    return kind(
        output_dir=str(folder),
        per_device_train_batch_size=len(PROMPTS),
        beta=BETA,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        **more,
    )


def loss_of(trainer: Any, rows: list[dict[str, Any]]) -> float:
    """Return the loss of one batch."""
    import torch

    trainer.model.eval()
    batch = trainer.data_collator(rows)
    with torch.no_grad():
        return float(trainer.compute_loss(trainer.model, batch))


def main() -> None:
    """Print the losses as JSON."""
    import trl
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer

    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        reference, policy = model(folder / "a", is_moved=False), model(folder / "b", is_moved=True)
        tokenizer = AutoTokenizer.from_pretrained(folder / "a")
        pairs, rated = tokenized()
        texts = [{"prompt": "a", "chosen": "b", "rejected": "c"}] * 4
        kto_texts = [{"prompt": "a", "completion": "b", "label": each} for each in LABELS]
        found: dict[str, Any] = {"trl": trl.__version__, "beta": BETA}
        for name, kind in (("dpo", "sigmoid"), ("dpo_by_token", "sigmoid_norm")):
            trainer = DPOTrainer(
                model=policy,
                ref_model=reference,
                args=settings(folder / name, DPOConfig, loss_type=[kind]),
                train_dataset=Dataset.from_list(texts),
                processing_class=tokenizer,
            )
            found[name] = loss_of(trainer, pairs)
        for name, weights in (("kto", (1.0, 1.0)), ("kto_weighted", (0.5, 1.5))):
            trainer = KTOTrainer(
                model=policy,
                ref_model=reference,
                args=settings(
                    folder / name,
                    KTOConfig,
                    desirable_weight=weights[0],
                    undesirable_weight=weights[1],
                ),
                train_dataset=Dataset.from_list(kto_texts),
                processing_class=tokenizer,
            )
            found[name] = loss_of(trainer, rated)
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
