"""A small Llama and its tokenizer, trained from nothing on the data set's own texts.

pretrain(Dataset, ScratchSpec) → Checkpoint: the base that the starter recipe tunes. It has read the
texts and nothing else; it has seen neither a question in the chat format nor a held-out phrasing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolchain.artifacts import Checkpoint, Dataset, Work
from toolchain.errors import ArtifactError
from toolchain.figures import FLAT, StageFigures, TrainFigures
from toolchain.models.names import PICTURE_TOKENS
from toolchain.processes import is_main, keep_together, speaking
from toolchain.progress import Reporter
from toolchain.recipe import ScratchSpec
from toolchain.tool_use import said

TOOLS = ("accelerate", "safetensors", "tokenizers", "torch", "transformers")
PAD, END = "<|endoftext|>", "<|end|>"
SPECIALS = (PAD, END, "<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SEEING_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}"
    "{% if message['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen2 cuts text before merging; llama.cpp knows it as pre-tokenizer `qwen2`
(src/llama-vocab.cpp)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PretrainFigures(StageFigures):
    """What was trained from nothing."""

    parameters: int
    vocabulary: int
    """Number of tokens."""
    texts: int
    training: TrainFigures = field(metadata=FLAT)


def pretrain(
    dataset: Dataset, spec: ScratchSpec, out: Path, report: Reporter, *, seed: int
) -> Checkpoint:
    """Train tokenizer and model on the texts of `dataset` and write the checkpoint to `out`."""
    work = Work(
        stage="pretrain",
        inputs={"dataset": dataset.digest},
        parameters=spec,
        seed=seed,
        tools=TOOLS,
    )
    record, fresh = keep_together(
        out,
        work,
        lambda folder: _build(dataset, spec, folder, speaking(report), seed),
        PretrainFigures,
    )
    return Checkpoint(path=out, record=record, fresh=fresh)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lesson:
    """What is trained from nothing, and on what."""

    tokenizer: Any
    objective: Any
    """Has the `model`."""
    examples: Sequence[Any]
    texts: int


def _build(
    dataset: Dataset, spec: ScratchSpec, out: Path, report: Reporter, seed: int
) -> PretrainFigures:
    from toolchain.models.checkpoints import parameter_count, save_model
    from toolchain.training.loop import Course, train
    from toolchain.training.seeing import write_processor

    lesson = (_seeing if spec.eyes else _reading)(dataset, spec, seed)
    parameters, vocabulary = parameter_count(lesson.objective.model), len(lesson.tokenizer)
    report.note(f"{parameters:,} parameters, {vocabulary} tokens of vocabulary")
    course = Course(
        name="pretrain",
        steps=spec.steps,
        batch_size=spec.batch_size,
        learning_rate=spec.learning_rate,
        warmup_share=spec.warmup_share,
        seed=seed,
    )
    training = train(lesson.objective, lesson.examples, course, out / "resume", report)
    if is_main():
        save_model(lesson.objective.model, out)
        lesson.tokenizer.save_pretrained(out)
        if spec.eyes:
            write_processor(spec.eyes, out)
    return PretrainFigures(
        parameters=parameters,
        vocabulary=vocabulary,
        texts=lesson.texts,
        training=TrainFigures.of(training),
    )


def _reading(dataset: Dataset, spec: ScratchSpec, seed: int) -> _Lesson:
    """Return a model that learns the data set's texts."""
    from toolchain.training.objectives import AnswerLoss

    texts = dataset.texts()
    if not texts:
        raise ArtifactError(
            "data set: no texts to learn from",
            hint="add .md or .txt files, or questions with answers",
        )
    tokenizer = make_tokenizer([*texts, *_spoken(dataset)], spec)
    return _Lesson(
        tokenizer=tokenizer,
        objective=AnswerLoss(_make_model(tokenizer, spec, seed)),
        examples=_examples(tokenizer, texts, spec.context),
        texts=len(texts),
    )


def _seeing(dataset: Dataset, spec: ScratchSpec, seed: int) -> _Lesson:
    """Return a model with eyes that learns conversations: a text teaches nothing about pictures."""
    from toolchain.training.seeing import SeenAnswers, make_seeing, pictured

    assert spec.eyes
    tokenizer = make_tokenizer(_spoken(dataset), spec)
    examples, pixels = pictured(tokenizer, dataset.train(), spec)
    return _Lesson(
        tokenizer=tokenizer,
        objective=SeenAnswers(make_seeing(tokenizer, spec, seed), pixels),
        examples=examples,
        texts=len(examples),
    )


def make_tokenizer(texts: Sequence[str], spec: ScratchSpec) -> Any:
    """Return a byte-level BPE tokenizer with the chat template, trained on `texts`.

    It adds no token at the beginning of a text.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    cut = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer, tokenizer.decoder = (
        pre_tokenizers.Sequence([cut, to_bytes]),
        decoders.ByteLevel(),
    )
    trainer = trainers.BpeTrainer(
        vocab_size=spec.vocab_size,
        special_tokens=[*SPECIALS, *(PICTURE_TOKENS if spec.eyes else ())],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=list(SPECIALS[2:]),
        model_max_length=spec.context,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = SEEING_TEMPLATE if spec.eyes else CHAT_TEMPLATE
    return wrapped


def _make_model(tokenizer: Any, spec: ScratchSpec, seed: int) -> Any:
    """Return a Llama with random weights, ready to be trained."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    end, pad = tokenizer.convert_tokens_to_ids([END, PAD])
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=spec.hidden_size,
        intermediate_size=spec.intermediate_size,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.kv_heads,
        max_position_embeddings=spec.context,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        # At this size, weights of 1/√width and layers that begin by adding nothing (below)
        # halve the steps that are needed, each of them.
        initializer_range=spec.hidden_size**-0.5,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=pad,
    )
    torch.manual_seed(seed)
    model = LlamaForCausalLM(config)
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
        torch.nn.init.zeros_(layer.mlp.down_proj.weight)
    return model


def _examples(tokenizer: Any, texts: Sequence[str], context: int) -> list[Any]:
    """Return each text between two ends, cut into windows of the context where it is longer."""
    from toolchain.training.examples import Example

    pad = tokenizer.convert_tokens_to_ids(PAD)
    whole = [[pad, *tokenizer.encode(text, add_special_tokens=False), pad] for text in texts]
    windows = [
        ids[first : first + context] for ids in whole for first in range(0, len(ids), context)
    ]
    return [Example(ids=window, labels=window) for window in windows]


def _spoken(dataset: Dataset) -> list[str]:
    own = [
        message for row in dataset.train() for message in row["messages"][row.get("opening", 0) :]
    ]
    return [said(message) for message in (*dataset.opening(), *own)]
