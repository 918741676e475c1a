"""Checkpoint → one .tflite, in one streaming pass: signatures `prefill_<n>` and `decode`.

Between `tune` or `distill` and `evaluate`, as `gguf` is, for every LiteRT runtime. The context is
part of the file, as the size of its cache.
Every reason to refuse a model is checked before the first weight is read.
"""

import json
from dataclasses import replace
from pathlib import Path

from toolchain.artifacts import Checkpoint, Figures, ModelFile, Work, keep
from toolchain.config import Frozen
from toolchain.errors import ConfigError
from toolchain.figures import ModelFigures
from toolchain.files import whole_file
from toolchain.models.architecture import Model, read_architecture
from toolchain.models.config_defaults import read_config
from toolchain.models.lora import Merged
from toolchain.models.names import CONFIG, TOKENIZER
from toolchain.models.vision import refuse_sight
from toolchain.models.weights import check_model_folder, open_weights, read_json
from toolchain.progress import Reporter
from toolchain.quantize import four_bits
from toolchain.quantize.companions import (
    Ends,
    read_ends,
    size_in_words,
    write_companions,
)
from toolchain.quantize.four_bits import Codes
from toolchain.quantize.gguf import NOTHING, Additions, fitting
from toolchain.quantize.gguf.metadata import ModelLabel, file_name
from toolchain.quantize.matrices import Promise, write_matrices
from toolchain.quantize.noted import note_of, refuse_longer
from toolchain.quantize.tflite.decoder import Decoder
from toolchain.quantize.tflite.file import write_header
from toolchain.quantize.tflite.litertlm import write_litertlm
from toolchain.quantize.tflite.schemes import (
    LEARNABLE,
    Packer,
    Scheme,
    find_scheme,
    in_q4_0,
    learns,
)
from toolchain.recipe import InFormatSpec, QuantizeSpec
from toolchain.tools.ggml import Type
from toolchain.training.adapters import checkpoint_folder

NOTE = "demitasse"
"""Name of the JSON metadata in the file, which stands for a GGUF header."""


class _Parameters(Frozen):
    scheme: str
    prefill: tuple[int, ...]
    context: int
    label: ModelLabel
    litertlm: bool
    importance: bool
    distill: InFormatSpec | None


def quantize(
    checkpoint: Checkpoint,
    spec: QuantizeSpec,
    label: ModelLabel,
    out: Path,
    report: Reporter,
    *,
    context: int,
    litertlm: bool = False,
    additions: Additions = NOTHING,
) -> ModelFile:
    """Write the checkpoint as a TFLite file with its companions; raise ArtifactError if refused.

    Its adapter is merged while the weights are read. `litertlm` adds one file for LiteRT-LM.
    """
    find_scheme(spec.tflite_scheme)
    check_model_folder(checkpoint.path)
    used = four_bits.used(additions, spec, in_blocks=spec.tflite_scheme == LEARNABLE)
    parameters = _Parameters(
        scheme=spec.tflite_scheme,
        prefill=spec.prefill,
        context=context,
        label=label,
        litertlm=litertlm,
        importance=bool(used.importance or used.calibration),
        distill=spec.distill if learns(spec) else None,
    )
    work = Work(
        stage="quantize",
        inputs={"checkpoint": checkpoint.digest, **used.digests()},
        parameters=parameters,
        seed=used.seed,
        tools=("ai-edge-litert", "flatbuffers", "litert-lm-builder"),
    )
    record, fresh = keep(
        out,
        work,
        lambda folder: ModelFigures.of(_build(checkpoint, parameters, used, folder, report)),
        ModelFigures,
    )

    return ModelFile(path=out, record=record, fresh=fresh)


def _build(
    checkpoint: Checkpoint,
    parameters: _Parameters,
    additions: Additions,
    out: Path,
    report: Reporter,
) -> Figures:
    with checkpoint_folder(checkpoint) as folder, open_weights(folder) as weights:
        refuse_sight(read_json(folder / CONFIG), "quantize: formats: tflite")
        model = read_architecture(folder, weights)
        _check_context(parameters, model)
        lora = fitting(checkpoint.adapter, model, weights, folder.name)
        decoder = Decoder(
            model=model,
            config=read_config(folder),
            weights=Merged(weights, lora) if lora else weights,
            scheme=find_scheme(parameters.scheme),
            context=parameters.context,
        )
        ends = read_ends(folder)
        write_companions(folder, ends.template, out)
        file = out / file_name(parameters.label, parameters.scheme, model, "tflite")
        decoder.blueprint(parameters.prefill)  # refuses before anything is learned
        opened = four_bits.Opened(
            folder=folder,
            model=model,
            lora=lora,
            distill=parameters.distill,
            head=Type.Q8_0,
            pack=in_q4_0,
        )
        codes, more = four_bits.prepare(opened, additions, out, report)
        decoder = replace(decoder, vectors=codes.vectors)
        promised = _write(file, decoder, parameters, ends, codes, report)

    if parameters.litertlm:
        write_litertlm(file, out / TOKENIZER, ends.stop_ids, parameters.context)

    figures = _figures(file, model, parameters, promised, ends) | more
    report.note(size_in_words(figures, parameters.scheme))

    return figures | {"adapter": lora.name if lora else ""}


def _check_context(parameters: _Parameters, model: Model) -> None:
    context = parameters.context
    refuse_longer(context, model)
    if not parameters.prefill or max(parameters.prefill) > context or min(parameters.prefill) < 2:
        raise ConfigError(
            f"quantize: prefill: lengths from 2 to the context of {context} are possible, "
            f"not {parameters.prefill}"
        )


def _write(
    file: Path,
    decoder: Decoder,
    parameters: _Parameters,
    ends: Ends,
    codes: Codes,
    report: Reporter,
) -> dict[Promise, int]:
    blueprint = decoder.blueprint(parameters.prefill)
    note = note_of(decoder.model, parameters.label, parameters.scheme, ends)
    blueprint.note(NOTE, json.dumps(note, sort_keys=True).encode())
    with whole_file(file) as part:
        promised = write_header(part, blueprint, decoder.scheme.name)
        write_matrices(part, decoder.weights, promised, Packer(codes=codes).pack, report)
    return promised


def _figures(
    file: Path,
    model: Model,
    parameters: _Parameters,
    promised: dict[Promise, int],
    ends: Ends,
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
        "stop_ids": list(ends.stop_ids),
        "weights_bytes": stored,
        "kv_bytes_per_token": 2 * model.kv_bytes_per_token,
        "n_vocab": model.sizes["vocab"],
        "kv_type": "f32",
        "prefill": list(parameters.prefill),
        "engines": list(scheme.engines),
    }
