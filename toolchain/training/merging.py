"""The merge of a trained adapter as a checkpoint: weights, configuration and tokenizer.

The sums are those of `training.adapters`; here stands what travels with them, and what is said.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from toolchain.errors import ArtifactError
from toolchain.figures import StageFigures
from toolchain.models.names import GENERATION_CONFIG, PREPROCESSOR, PROCESSOR
from toolchain.models.weights import open_weights, read_json
from toolchain.progress import Reporter


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeError(StageFigures):
    """Share of an adapter's changes that rounding loses, by the type of the merged weights."""

    rounded: float
    float32: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeFigures(StageFigures):
    """What a merge changed."""

    merged_tensors: int
    dtypes: list[str]
    """Types of the base's weights."""
    merge_error: MergeError | None = None
    """None for a base in float32, which loses nothing."""
    written_as: str | None = None


def merge_folders(base: Path, adapter: Path, out: Path, report: Reporter) -> MergeFigures:
    """Write the merged model, with the base's configuration and the adapter's tokenizer."""
    from toolchain.models.checkpoints import carry, refuse_quantised
    from toolchain.training.adapters import carry_tokenizer, merge_into

    refuse_quantised(base)
    with open_weights(base) as weights:
        dtypes = sorted({tensor.dtype for tensor in weights.tensors.values()})
    touched, error = merge_into(base, adapter, out)
    carry(base, out, "config.json", GENERATION_CONFIG, PREPROCESSOR, PROCESSOR)
    if error.whole:
        _say_float32(out / "config.json")
    carry_tokenizer(base, adapter, out)
    _check_vocabulary(adapter, out)
    note = f"merged {touched} tensors onto {', '.join(dtypes)} weights"
    if dtypes == ["F32"]:
        report.note(note)
        return MergeFigures(merged_tensors=touched, dtypes=dtypes)

    note += f"; rounding to them loses {error.own:.2%} of the changes"
    if error.whole:
        note += ", so the merge is written in float32"
    report.note(note)
    return MergeFigures(
        merged_tensors=touched,
        dtypes=dtypes,
        merge_error=MergeError(rounded=error.own, float32=error.float32),
        written_as="F32" if error.whole else "as the base",
    )


def _say_float32(file: Path) -> None:
    """Set float32 in a config.json: transformers rounds weights to the type that stands there."""
    config = read_json(file)
    config.pop("torch_dtype", None)
    file.write_text(json.dumps(config | {"dtype": "float32"}, indent=2) + "\n", encoding="utf-8")


def _check_vocabulary(adapter: Path, merged: Path) -> None:
    from tokenizers import Tokenizer

    known = Tokenizer.from_file(str(merged / "tokenizer.json")).get_vocab_size()
    if known > (rows := read_json(merged / "config.json").get("vocab_size", known)):
        hint = (
            "its embeddings were resized in training; save the whole model instead of the adapter"
        )
        raise ArtifactError(
            f"adapter {adapter.name}: its tokenizer has {known} tokens, "
            f"the base has room for {rows}",
            hint=hint,
        )
