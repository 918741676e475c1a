"""Checkpoint → one .tflite, in one streaming pass, for every LiteRT runtime: signatures `prefill_<n>` and `decode`.

Between `tune` or `distill` and `evaluate`, as `gguf` is. The context is part of the file: its cache has that many places.
Everything that could refuse the model is asked before the first weight is read.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.artifacts import Checkpoint, Figures, ModelFile, Work, keep
from toolchain.config import Frozen
from toolchain.errors import ConfigError
from toolchain.figures import ModelFigures
from toolchain.models import architecture as gguf_model
from toolchain.models import tokenizer as gguf_tokenizer
from toolchain.models.architecture import Model
from toolchain.models.config_defaults import read_config
from toolchain.models.gguf_file import whole_file
from toolchain.models.lora import Merged
from toolchain.models.tokenizer import TEMPLATE
from toolchain.models.tokenizer_kinds import TOKENIZER
from toolchain.models.weights import check_model_folder, open_weights, read_json
from toolchain.progress import Reporter
from toolchain.quantize.gguf import ModelLabel, file_name, fitting
from toolchain.quantize.tflite.decoder import Decoder
from toolchain.quantize.tflite.file import write_header
from toolchain.quantize.tflite.graph import Promise
from toolchain.quantize.tflite.litertlm import write_litertlm
from toolchain.quantize.tflite.schemes import Scheme, find_scheme
from toolchain.quantize.tflite.write import write_matrices
from toolchain.recipe import QuantizeSpec
from toolchain.training.adapters import dressed
from toolchain.training.checkpoints import GENERATION_CONFIG

NOTE = "demitasse"
"""Name of the metadata in the file: what a GGUF says in its header, as JSON."""


class _Parameters(Frozen):
    scheme: str
    prefill: tuple[int, ...]
    context: int
    label: ModelLabel
    litertlm: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Vocabulary:
    template: str
    bos: str
    eos: str
    stop_ids: tuple[int, ...]


def quantize(
    checkpoint: Checkpoint,
    spec: QuantizeSpec,
    label: ModelLabel,
    out: Path,
    report: Reporter,
    *,
    context: int,
    litertlm: bool = False,
) -> ModelFile:
    """Write the checkpoint as a TFLite file, tokenizer and chat template beside it; raise ArtifactError for what is refused.

    Its adapter is merged while the weights are read. `litertlm` has the same written as one file for LiteRT-LM too.
    """
    find_scheme(spec.tflite_scheme)
    check_model_folder(checkpoint.path)
    parameters = _Parameters(
        scheme=spec.tflite_scheme,
        prefill=spec.prefill,
        context=context,
        label=label,
        litertlm=litertlm,
    )
    work = Work(
        stage="quantize",
        inputs={"checkpoint": checkpoint.digest},
        parameters=parameters,
        tools=("ai-edge-litert", "flatbuffers", "litert-lm-builder"),
    )
    record, fresh = keep(
        out,
        work,
        lambda folder: ModelFigures.of(_build(checkpoint, parameters, folder, report)),
        ModelFigures,
    )
    return ModelFile(path=out, record=record, fresh=fresh)


def _build(checkpoint: Checkpoint, parameters: _Parameters, out: Path, report: Reporter) -> Figures:
    with dressed(checkpoint) as folder, open_weights(folder) as weights:
        model = gguf_model.understand(folder, weights)
        _check_context(parameters, model)
        lora = fitting(checkpoint.adapter, model, weights, folder.name)
        decoder = Decoder(
            model=model,
            config=read_config(folder),
            weights=Merged(weights, lora) if lora else weights,
            scheme=find_scheme(parameters.scheme),
            context=parameters.context,
        )
        vocabulary = _vocabulary(folder)
        file = out / file_name(parameters.label, parameters.scheme, model, "tflite")
        promised = _write(file, decoder, parameters, vocabulary, report)
        _write_companions(folder, vocabulary, out)
    if parameters.litertlm:
        write_litertlm(file, out / TOKENIZER, vocabulary.stop_ids, parameters.context)
    figures = _figures(file, model, parameters, promised, vocabulary)
    size, nominal, real = figures["size_bytes"] / 1e6, figures["nominal_bpw"], figures["real_bpw"]
    report.note(
        f"{file.name}: {size:.1f} MB; {parameters.scheme} has nominally {nominal:.2f} bits per weight, here {real:.2f}"
    )
    return figures | {"adapter": lora.name if lora else ""}


def _check_context(parameters: _Parameters, model: Model) -> None:
    context, longest = parameters.context, model.sizes["context"]
    if context > longest:
        raise ConfigError(
            f"package: context: the model has {longest} tokens of context, `{context}` asked"
        )
    if not parameters.prefill or max(parameters.prefill) > context or min(parameters.prefill) < 2:
        raise ConfigError(
            f"quantize: prefill: lengths from 2 to the context of {context} are possible, not {parameters.prefill}"
        )


def _vocabulary(folder: Path) -> _Vocabulary:
    settings = (
        read_json(folder / "tokenizer_config.json")
        if (folder / "tokenizer_config.json").is_file()
        else {}
    )
    tokenizer = gguf_tokenizer.load_tokenizer(folder)
    ids = tokenizer.get_vocab()
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    specials, stop_ids = gguf_tokenizer.special_ids(folder, settings, ids, added)
    texts = {number: text for text, number in ids.items()}
    bos, eos = (
        texts.get(specials.get(f"tokenizer.ggml.{role}_token_id", -1), "")
        for role in ("bos", "eos")
    )
    return _Vocabulary(
        template=gguf_tokenizer.chat_template(folder, settings), bos=bos, eos=eos, stop_ids=stop_ids
    )


def _write(
    file: Path, decoder: Decoder, parameters: _Parameters, vocabulary: _Vocabulary, report: Reporter
) -> dict[Promise, int]:
    blueprint = decoder.blueprint(parameters.prefill)
    blueprint.note(
        NOTE, json.dumps(_note(decoder, parameters, vocabulary), sort_keys=True).encode()
    )
    with whole_file(file) as part:
        promised = write_header(part, blueprint, decoder.scheme.name)
        write_matrices(part, decoder.weights, promised, report)
    return promised


def _note(decoder: Decoder, parameters: _Parameters, vocabulary: _Vocabulary) -> dict[str, Any]:
    model, label = decoder.model, parameters.label
    return {
        "architecture": model.family.name,
        "scheme": parameters.scheme,
        "parameters": model.parameters,
        "context_train": model.sizes["context"],
        "bos_token": vocabulary.bos,
        "eos_token": vocabulary.eos,
        "stop_ids": list(vocabulary.stop_ids),
        "name": label.name,
        "version": label.version,
        "licence": label.licence,
        "base_model": label.base_model,
        "base_weights": label.base_weights,
    }


def _write_companions(folder: Path, vocabulary: _Vocabulary, out: Path) -> None:
    (out / TEMPLATE).write_text(vocabulary.template, encoding="utf-8")
    gguf_tokenizer.write_tokenizer(folder, out)
    if (folder / GENERATION_CONFIG).is_file():
        shutil.copyfile(folder / GENERATION_CONFIG, out / GENERATION_CONFIG)


def _figures(
    file: Path,
    model: Model,
    parameters: _Parameters,
    promised: dict[Promise, int],
    vocabulary: _Vocabulary,
) -> Figures:
    scheme: Scheme = find_scheme(parameters.scheme)
    stored = sum(promise.size_bytes for promise in promised)
    return {
        "file": file.name,
        "scheme": scheme.name,
        "size_bytes": file.stat().st_size,
        "nominal_bpw": scheme.nominal_bpw,
        "real_bpw": round(stored * 8 / model.parameters, 4),
        "parameters": model.parameters,
        "context": parameters.context,
        "stop_ids": list(vocabulary.stop_ids),
        "weights_bytes": stored,
        "kv_bytes_per_token": 2 * model.kv_bytes_per_token,
        "n_vocab": model.sizes["vocab"],
        "kv_type": "f32",
        "prefill": list(parameters.prefill),
        "engines": list(scheme.engines),
    }
