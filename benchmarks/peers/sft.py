"""LoRA on given batches with transformers.Trainer and peft, or with TRL's SFTTrainer.

python sft.py WAY MODEL BATCHES OUT        WAY is `trainer` or `trl`

BATCHES is a JSON list of batches, each a list of [ids, labels]. Both peers get what serves them
best on a CPU: weights in bfloat16 under autocast, no gradient checkpointing, no dropout, batches
of like lengths. Prints {"cpu_s", "wall_s", "tokens", "loss", "peak_bytes"} as JSON: the steps after
the first, the loss of the first step.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

LORA = {
    "r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.0,
    "bias": "none",
    "task_type": "CAUSAL_LM",
    "target_modules": [
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    ],
}
IGNORED = -100


class _Clock(TrainerCallback):  # type: ignore[misc]
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, float]] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Note the end of a step."""
        self.ends.append((time.process_time(), time.monotonic()))


def collate(rows: list[dict[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Return a batch, padded on the right to its longest row."""
    width = max(len(row["input_ids"]) for row in rows)

    def padded(name: str, fill: int) -> torch.Tensor:
        return torch.tensor([row[name] + [fill] * (width - len(row[name])) for row in rows])

    mask = [[1] * len(row["input_ids"]) for row in rows]
    return {
        "input_ids": padded("input_ids", 0),
        "labels": padded("labels", IGNORED),
        "attention_mask": torch.tensor([each + [0] * (width - len(each)) for each in mask]),
    }


def in_order(kind: type[Trainer]) -> type[Trainer]:
    """Return a trainer that takes the batches as they come."""

    class InOrder(kind):  # type: ignore[misc]
        """A trainer without a shuffle."""

        def _get_train_sampler(self, dataset: Any = None) -> SequentialSampler:
            return SequentialSampler(self.train_dataset)

    return InOrder


def settings(batches: list[Any], out: str) -> dict[str, Any]:
    """Return the arguments that both trainers share."""
    return {
        "output_dir": out,
        "per_device_train_batch_size": len(batches[0]),
        "max_steps": len(batches),
        "learning_rate": 1e-3,
        "bf16": True,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_num_workers": 0,
        "seed": 0,
    }


def trainer_of(way: str, folder: str, batches: list[Any], out: str) -> Trainer:
    """Return the trainer of a way, ready to train."""
    rows = [{"input_ids": ids, "labels": labels} for batch in batches for ids, labels in batch]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    shared = settings(batches, out)
    if way == "trainer":
        adapted = get_peft_model(model, LoraConfig(**LORA))
        arguments = TrainingArguments(**shared)
        return in_order(Trainer)(
            model=adapted, args=arguments, train_dataset=rows, data_collator=collate
        )

    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    return in_order(SFTTrainer)(
        model=model,
        args=SFTConfig(**shared, max_length=None, dataset_kwargs={"skip_prepare_dataset": True}),
        train_dataset=Dataset.from_list(rows),
        data_collator=collate,
        processing_class=AutoTokenizer.from_pretrained(folder),
        peft_config=LoraConfig(**LORA),
    )


def peak_bytes() -> int:
    """Return the most memory that this process had resident, by the kernel."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    line = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) << 10


def main(way: str, folder: str, file: str, out: str) -> None:
    """Train on the batches and print what it took."""
    batches = json.loads(Path(file).read_text(encoding="utf-8"))
    torch.manual_seed(0)
    trainer = trainer_of(way, folder, batches, out)
    clock = _Clock()
    trainer.add_callback(clock)
    trainer.train()
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    taken = {
        "cpu_s": clock.ends[-1][0] - clock.ends[0][0],
        "wall_s": clock.ends[-1][1] - clock.ends[0][1],
        "tokens": sum(len(ids) for batch in batches[1:] for ids, _ in batch),
        "loss": float(losses[0]),
        "peak_bytes": peak_bytes(),
    }
    print(json.dumps(taken))


if __name__ == "__main__":
    main(*sys.argv[1:])
