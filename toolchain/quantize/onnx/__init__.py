"""Checkpoint → one ONNX decoder, in one streaming pass: a graph, and its weights beside it.

Between `tune` or `distill` and `evaluate`, as `gguf` is, for every ONNX Runtime. The graph refers
to the data file by its name, `NAME.onnx.data`, so the two travel together (docs/adr/0013). Every
reason to refuse a model is checked before the first weight is read.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from device.manifest.external import data_name
from toolchain.artifacts import Checkpoint, Figures, ModelFile, Work, keep
from toolchain.config import Frozen
from toolchain.figures import ModelFigures
from toolchain.files import whole_file
from toolchain.models.architecture import Model, read_architecture
from toolchain.models.config_defaults import read_config
from toolchain.models.lora import Lora, Merged
from toolchain.models.names import CONFIG
from toolchain.models.vision import refuse_sight
from toolchain.models.weights import Weights, check_model_folder, open_weights, read_json
from toolchain.progress import Reporter
from toolchain.quantize import four_bits
from toolchain.quantize.companions import (
    Ends,
    read_ends,
    size_in_words,
    write_companions,
)
from toolchain.quantize.gguf import NOTHING, Additions, fitting
from toolchain.quantize.gguf.metadata import ModelLabel, file_name
from toolchain.quantize.matrices import Promise, write_matrices
from toolchain.quantize.noted import note_of, refuse_longer
from toolchain.quantize.onnx.blueprint import Blueprint
from toolchain.quantize.onnx.decoder import Decoder
from toolchain.quantize.onnx.genai import write_genai_config
from toolchain.quantize.onnx.schemes import LEARNABLE, Packer, Scheme, find_scheme, learns
from toolchain.recipe import InFormatSpec, QuantizeSpec
from toolchain.training.adapters import checkpoint_folder

NOTE = "demitasse"
"""Name of the JSON metadata in the file, which stands for a GGUF header."""
KV_TYPE = "f32"
"""Type of keys and values: ONNX Runtime's CPU attention has no smaller one for float32 inputs."""


class _Parameters(Frozen):
    scheme: str
    context: int
    label: ModelLabel
    importance: bool
    distill: InFormatSpec | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """A checkpoint that was opened and checked, and what is made of it."""

    folder: Path
    model: Model
    weights: Weights | Merged
    lora: Lora | None
    ends: Ends
    parameters: _Parameters

    @property
    def scheme(self) -> Scheme:
        """How its matrices are stored."""
        return find_scheme(self.parameters.scheme)


def quantize(
    checkpoint: Checkpoint,
    spec: QuantizeSpec,
    label: ModelLabel,
    out: Path,
    report: Reporter,
    *,
    context: int,
    additions: Additions = NOTHING,
) -> ModelFile:
    """Write the checkpoint as an ONNX file with its data; raise ArtifactError if refused.

    Its adapter is merged while the weights are read.
    """
    find_scheme(spec.onnx_scheme)
    check_model_folder(checkpoint.path)
    used = four_bits.used(additions, spec, in_blocks=spec.onnx_scheme == LEARNABLE)
    parameters = _Parameters(
        scheme=spec.onnx_scheme,
        context=context,
        label=label,
        importance=bool(used.importance or used.calibration),
        distill=spec.distill if learns(spec) else None,
    )
    work = Work(
        stage="quantize",
        inputs={"checkpoint": checkpoint.digest, **used.digests()},
        parameters=parameters,
        seed=used.seed,
        tools=("onnx", "llama-cpp-python"),
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
        refuse_sight(read_json(folder / CONFIG), "quantize: formats: onnx")
        model = read_architecture(folder, weights)
        refuse_longer(parameters.context, model)
        lora = fitting(checkpoint.adapter, model, weights, folder.name)
        source = _Source(
            folder=folder,
            model=model,
            weights=Merged(weights, lora) if lora else weights,
            lora=lora,
            ends=read_ends(folder),
            parameters=parameters,
        )
        file = out / file_name(parameters.label, parameters.scheme, model, "onnx")
        # First, for the tokenizer's JSON takes memory, a tenth of a small model's file.
        write_companions(folder, source.ends.template, out)
        figures = _write(file, source, additions, report)

    write_genai_config(file, model, parameters.context, source.ends)
    report.note(size_in_words(figures, parameters.scheme))

    return figures | {"adapter": lora.name if lora else ""}


def _write(file: Path, source: _Source, additions: Additions, report: Reporter) -> Figures:
    parameters = source.parameters
    decoder = Decoder(
        model=source.model,
        config=read_config(source.folder),
        weights=source.weights,
        scheme=source.scheme,
        context=parameters.context,
    )
    data = file.with_name(data_name(file.name))
    blueprint = decoder.blueprint(data.name)  # refuses before anything is learned
    opened = four_bits.Opened(
        folder=source.folder, model=source.model, lora=source.lora, distill=parameters.distill
    )
    codes, more = four_bits.prepare(opened, additions, file.parent, report)
    if codes.vectors:
        blueprint = replace(decoder, vectors=codes.vectors).blueprint(data.name)

    promises = blueprint.promises()
    _write_data(data, blueprint, source, Packer(codes=codes), report)
    with whole_file(file) as part:
        part.write_bytes(blueprint.serialized({NOTE: json.dumps(_note(source), sort_keys=True)}))

    return _figures(file, data, source, promises) | more


def _write_data(
    data: Path, blueprint: Blueprint, source: _Source, packer: Packer, report: Reporter
) -> None:
    with whole_file(data) as part:
        with part.open("wb") as stream:
            stream.truncate(blueprint.data_bytes)
            for place, content in blueprint.contents():
                stream.seek(place)
                stream.write(content)
        write_matrices(part, source.weights, blueprint.promises(), packer.pack, report)


def _note(source: _Source) -> dict[str, Any]:
    parameters = source.parameters
    note = note_of(source.model, parameters.label, parameters.scheme, source.ends)
    return note | {"context": parameters.context}


def _figures(file: Path, data: Path, source: _Source, promises: dict[Promise, int]) -> Figures:
    model = source.model
    stored = sum(promise.size_bytes for promise in promises)
    return {
        "file": file.name,
        "data_file": data.name,
        "scheme": source.scheme.name,
        "size_bytes": file.stat().st_size + data.stat().st_size,
        "nominal_bpw": source.scheme.nominal_bpw,
        "real_bpw": round(stored * 8 / model.parameters, 4),
        "parameters": model.parameters,
        "context": source.parameters.context,
        "stop_ids": list(source.ends.stop_ids),
        "weights_bytes": stored,
        "kv_bytes_per_token": 2 * model.kv_bytes_per_token,
        "n_vocab": model.sizes["vocab"],
        "kv_type": KV_TYPE,
    }
