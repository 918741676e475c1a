"""Loads and saves model folders: safetensors only, and no code from the folder."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from toolchain.errors import ArtifactError
from toolchain.models.names import CONFIG
from toolchain.models.vision import sight_of
from toolchain.models.weights import check_model_folder, read_json


def load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer of a model folder with its chat template."""
    from transformers import AutoTokenizer

    check_model_folder(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # the tokenizers library raises no narrower type
        raise ArtifactError(
            f"{folder.name}: the tokenizer cannot be read: {_first_line(error)}"
        ) from error

    if getattr(tokenizer.backend_tokenizer.model, "dropout", None) is not None:
        tokenizer.backend_tokenizer.model.dropout = None

    return tokenizer


def load_model(folder: Path, *, dtype: str = "auto") -> Any:
    """Return a folder's model in evaluation mode; `dtype` "auto" keeps its type.

    It is a causal language model, or one of pictures and text where the folder's model sees.

    Raises ArtifactError for pickles, quantised weights, and a missing or misshapen tensor.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.utils import logging

    check_model_folder(folder)
    refuse_quantised(folder)
    logging.disable_progress_bar()
    # With `output_loading_info` a pair is returned; the declared type names the model alone.
    sees = sight_of(read_json(folder / CONFIG))
    kind: Any = AutoModelForImageTextToText if sees else AutoModelForCausalLM
    load = cast(Callable[..., tuple[Any, dict[str, Any]]], kind.from_pretrained)

    try:
        model, loading = load(
            folder,
            output_loading_info=True,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ArtifactError(
            f"{folder.name}: the model cannot be loaded: {_first_line(error)}"
        ) from error

    if loading["missing_keys"]:
        raise ArtifactError(f"{folder.name}: tensor `{min(loading['missing_keys'])}` is missing")

    return model.eval()


def refuse_quantised(folder: Path) -> None:
    """Raise ArtifactError for a base of 4 or 8 bits, with the reason."""
    settings = read_json(folder / CONFIG).get("quantization_config")
    if not settings:
        return

    method = (
        settings.get("quant_method", "unknown method")
        if isinstance(settings, dict)
        else "unknown method"
    )
    raise ArtifactError(
        f"{folder.name}: a quantised base ({method}): "
        "an adapter is merged onto 16-bit or 32-bit weights only",
        hint="rounded weights plus a delta are not the model that was trained "
        "(transformers#31293); give the 16-bit original",
    )


def save_model(model: Any, out: Path) -> None:
    """Write config.json, safetensors and generation_config.json."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    model.save_pretrained(out)


def carry(source: Path, out: Path, *names: str) -> None:
    """Copy the named files that exist in a folder, byte for byte."""
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)


def parameter_count(model: Any) -> int:
    """Return the number of parameters of a model; tied ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
