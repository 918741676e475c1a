"""Checkpoint → one ONNX decoder, in one streaming pass: a graph, and its weights beside it.

Between `tune` or `distill` and `evaluate`, as `gguf` is, for every ONNX Runtime. The graph refers
to the data file by its name, `NAME.onnx.data`, so the two travel together (docs/adr/0013). Every
reason to refuse a model is checked before the first weight is read.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device.manifest.external import data_name
from toolchain.artifacts import RESUME, Checkpoint, Figures, ModelFile, Work, keep
from toolchain.config import Frozen
from toolchain.errors import ConfigError
from toolchain.figures import ModelFigures
from toolchain.files import whole_file
from toolchain.models.architecture import Model, read_architecture
from toolchain.models.config_defaults import read_config
from toolchain.models.lora import Lora, Merged
from toolchain.models.names import CONFIG
from toolchain.models.vision import refuse_sight
from toolchain.models.weights import Weights, check_model_folder, open_weights, read_json
from toolchain.progress import Reporter
from toolchain.quantize.companions import Ends, read_ends, size_in_words, write_companions
from toolchain.quantize.gguf import NOTHING, Additions, fitting, importance_of
from toolchain.quantize.gguf.metadata import ModelLabel, file_name
from toolchain.quantize.matrices import Promise, write_matrices
from toolchain.quantize.noted import note_of, refuse_longer
from toolchain.quantize.onnx.blueprint import Blueprint
from toolchain.quantize.onnx.decoder import Decoder
from toolchain.quantize.onnx.genai import write_genai_config
from toolchain.quantize.onnx.schemes import LEARNABLE, Packer, Scheme, find_scheme, learns
from toolchain.recipe import InFormatSpec, QuantizeSpec
from toolchain.training.adapters import checkpoint_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from toolchain.quantize.learned.in_format import Learned

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
    used = _used(additions, spec)
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


def _used(additions: Additions, spec: QuantizeSpec) -> Additions:
    """Return the additions that a scheme uses; others must not cause the work to be redone."""
    if spec.onnx_scheme != LEARNABLE:
        return NOTHING
    if spec.importance and not (additions.importance or additions.calibration):
        raise ConfigError(
            "quantize: `importance` is set, but there is no text to collect it on",
            hint="stage `ingest` gives the text",
        )
    if spec.distill and not additions.lessons:
        raise ConfigError(
            "quantize: distill: there are no conversations to learn on",
            hint="stage `ingest` gives them",
        )
    # A budget of `quantize.scheme` is a GGUF's: its trials are nothing to this file.
    return additions.only_for(spec.model_copy(update={"scheme": "Q4_0"}))


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
        figures = _write(file, source, additions, report)
        write_companions(folder, source.ends.template, out)

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
    packer, vectors, more = _prepared(source, additions, file.parent, report)
    if vectors:
        blueprint = replace(decoder, vectors=vectors).blueprint(data.name)

    promises = blueprint.promises()
    _write_data(data, blueprint, source, packer, report)
    with whole_file(file) as part:
        part.write_bytes(blueprint.serialized({NOTE: json.dumps(_note(source), sort_keys=True)}))

    return _figures(file, data, source, promises) | more


def _prepared(
    source: _Source, additions: Additions, out: Path, report: Reporter
) -> "tuple[Packer, dict[str, NDArray[np.float32]], Figures]":
    """Return how rows become bytes, the learned vectors, and figures of what was learned."""
    matrix = importance_of(additions, source.folder, source.model, source.lora, out, report)
    weighed = matrix.weights() if matrix else {}
    origins = {each.name: each.origin for each in source.model.tensors if each.origin}
    by_origin = {origins[name]: values for name, values in weighed.items() if name in origins}
    chunks: Figures = {"importance_chunks": matrix.chunks if matrix else 0}
    if not source.parameters.distill:
        return Packer(importance=by_origin), {}, chunks

    learned, figures = _learned(source, additions, weighed, out, report)
    packer = Packer(importance=by_origin, learned=learned.packed if learned else {})
    vectors = dict(learned.vectors) if learned else {}
    return packer, vectors, chunks | {"distillation": figures}


def _learned(
    source: _Source,
    additions: Additions,
    weighed: "Mapping[str, NDArray[np.float32]]",
    out: Path,
    report: Reporter,
) -> "tuple[Learned | None, Figures]":
    """Return what was learned on the grid of Q4_0, which is this scheme's too, and its figures."""
    from toolchain.quantize.learned.in_format import Lesson, learn
    from toolchain.tools.ggml import Type

    assert source.parameters.distill
    kinds = {
        each.name: Type.Q4_0 if each.origin and len(each.shape) > 1 else Type.F32
        for each in source.model.tensors
    }
    lesson = Lesson(
        folder=source.folder,
        model=source.model,
        lora=source.lora,
        kinds=kinds,
        importance=weighed,
        lessons=additions.lessons,
        trials=additions.trials,
        spec=source.parameters.distill,
        seed=additions.seed,
    )
    return learn(lesson, out / RESUME, report)


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
