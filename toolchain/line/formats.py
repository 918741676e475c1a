"""Formats of model files, one row each: who writes one, who runs one, what is known of one.

A new format is a folder of its own under `quantize/`, its row here, its engine in `device/engine/`,
the check of its files in `device/manifest/`, and their tests. Nothing else compares names of
formats: what differs between them is a field of the row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.artifacts import ModelFile
from toolchain.held_out import split
from toolchain.line.flow import Flow
from toolchain.opening import Opening
from toolchain.package import Packing
from toolchain.progress import Reporter
from toolchain.recipe import InFormatSpec, PackageSpec, QuantizeSpec

if TYPE_CHECKING:
    from toolchain.quantize.contents import Contents
    from toolchain.quantize.gguf import Additions
    from toolchain.weighing import Weighed

LEARNED = "+learned"
"""End of a scheme's name whose codes are learned in the format."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Format:
    """One format: a row of `FORMATS`."""

    suffix: str
    """End of a model file's name, with the dot."""
    engine: str
    """Engine that runs it, as targets and manifests spell it."""
    extra: str = ""
    """Extra of the package that making such a file needs."""
    folder_suffix: str = ""
    """End of the names of the folders in which a walk makes it."""
    has_fixed_context: bool = False
    """Whether the length of the context is part of the file."""
    reads_in_pieces: bool = False
    """Whether prompts are read in pieces of the lengths `quantize.prefill`."""
    has_tokenizer: bool = False
    """Whether the tokenizer is part of the file."""
    has_tensor_types: bool = False
    """Whether `quantize.scheme` gives each tensor a type of its own, as llama.cpp's schemes do."""
    has_eyes: bool = False
    """Whether a model that sees keeps its eyes: a projector file beside the model file."""
    has_unmerged_adapter: bool = False
    """Whether an adapter may run in a file of its own beside the model file."""
    quantize: Callable[[Flow, QuantizeSpec, Path], ModelFile]
    """Writes the newest checkpoint as a model file into a folder."""
    plan: Callable[[QuantizeSpec], str]
    """Spec → what `quantize` will do, in a few words."""
    check: Callable[[QuantizeSpec], None]
    """Raises ConfigError for a scheme that does not exist."""
    has_scheme: Callable[[str], bool]
    """Says whether a scheme's name is one of this format's; the first format that has it takes
    it."""
    with_scheme: Callable[[QuantizeSpec, str], QuantizeSpec]
    """Returns a spec that makes this format alone, with another scheme."""
    chooses: Callable[[QuantizeSpec], bool]
    """Says whether conversations decide what the file becomes: the gate must then ask none of
    them."""
    runtime: Callable[[Reporter], Path]
    """Returns the runtime folder with its engine for this computer."""
    inspect: Callable[[Path], "Contents"]
    """Returns what is inside a file, from its header alone."""
    weigh: Callable[[Path, int, int], "Weighed"]
    """File, tokens of context (0: the usual) and bytes of an adapter → what `fit` can ask of it."""
    packing: Packing
    """What a bundle must know of the file: its tensors, its memory, the files that go with it."""

    @property
    def has_knowledge(self) -> bool:
        """Whether its engine also finds documents."""
        return self.packing.has_knowledge


def _with_learnable(spec: QuantizeSpec, name: str, form: str, key: str) -> QuantizeSpec:
    """Return a spec that makes one format with a scheme whose codes may be learned."""
    scheme, learned, _ = name.partition(LEARNED)
    changes = {
        key: scheme,
        "distill": (spec.distill or InFormatSpec()) if learned else None,
        "formats": (form,),
    }
    return spec.model_copy(update=changes)


# GGUF ---------------------------------------------------------------------------------------------


def _quantize_gguf(flow: Flow, spec: QuantizeSpec, out: Path) -> ModelFile:
    from toolchain.quantize.gguf import ModelLabel, quantize

    additions = _additions(flow, spec, is_chosen=_gguf_is_chosen(spec))
    source = flow.source()
    label = flow.label()
    if spec.adapter == "beside":
        # The file is the base's, which several skills share: it says nothing of this recipe.
        source = flow.unmerged or source
        label = ModelLabel(
            name=Path(flow.base_name or "base").name,
            base_model=flow.base_name,
            base_weights=flow.base_weights,
        )
    return quantize(source, spec, label, out, flow.report, additions)


def _additions(flow: Flow, spec: QuantizeSpec, *, is_chosen: bool) -> "Additions":
    """Return what a file of 4 bits may be made with besides the checkpoint."""
    from toolchain.quantize.gguf import Additions

    recipe, importance = flow.recipe, spec.importance
    parts = split(flow.dataset, recipe.evaluate.questions) if flow.dataset else None
    if parts and is_chosen:
        flow.report.note(f"quantize: candidates are compared on {len(parts.trials)} {parts.source}")
    return Additions(
        importance=recipe.folder / importance if isinstance(importance, str) else None,
        calibration=tuple(flow.data().texts()) if importance is True else (),
        lessons=parts.lessons if parts else (),
        trials=parts.trials if parts else (),
        trials_from=parts.source if parts else "",
        seed=recipe.seed,
    )


def _plan_gguf(spec: QuantizeSpec) -> str:
    adapter = ", the adapter beside it" if spec.adapter == "beside" else ""
    learned = ", codes learned in the format" if spec.distill else ""
    return f"{spec.scheme} as gguf{adapter}{learned}"


def _check_gguf(spec: QuantizeSpec) -> None:
    from toolchain.quantize.gguf import choice

    choice.check(spec)


def _is_gguf_scheme(name: str) -> bool:
    from toolchain.quantize.gguf.schemes import SCHEMES

    return name.startswith("auto:") or name.removesuffix(LEARNED) in SCHEMES


def _gguf_with_scheme(spec: QuantizeSpec, name: str) -> QuantizeSpec:
    return _with_learnable(spec, name, "gguf", "scheme")


def _gguf_is_chosen(spec: QuantizeSpec) -> bool:
    return bool(spec.distill) or spec.scheme.startswith("auto:")


def _gguf_runtime(report: Reporter) -> Path:
    from toolchain import runtime

    return runtime.for_this_computer()


def _inspect_gguf(file: Path) -> "Contents":
    from toolchain.quantize.contents import read_contents

    return read_contents(file)


def _weigh_gguf(file: Path, context: int, adapter_bytes: int) -> "Weighed":
    from toolchain.weighing import weigh_gguf

    return weigh_gguf(file, context=context, adapter_bytes=adapter_bytes)


def _gguf_tensor_digests(file: Path) -> list[dict[str, Any]]:
    from device.manifest.gguf import tensor_digests

    return tensor_digests(file)


def _gguf_needs(model: ModelFile, context: int) -> dict[str, int]:
    from toolchain.forecast import gguf_needs

    return gguf_needs(model.file, context, model.adapter)


def _gguf_companions(model: ModelFile, spec: PackageSpec, opening: Opening) -> dict[str, str]:
    from toolchain.quantize.gguf.ollama import modelfile

    return {"Modelfile": modelfile(model, spec, opening)}


# TFLite -------------------------------------------------------------------------------------------


def _quantize_tflite(flow: Flow, spec: QuantizeSpec, out: Path) -> ModelFile:
    from toolchain.quantize.tflite import quantize
    from toolchain.quantize.tflite.litertlm import runs_on

    return quantize(
        flow.source(),
        spec,
        flow.label(),
        out,
        flow.report,
        context=flow.recipe.package.context,
        litertlm=spec.litertlm and runs_on(flow.settings.target),
        additions=_additions(flow, spec, is_chosen=_tflite_is_chosen(spec)),
    )


def _plan_tflite(spec: QuantizeSpec) -> str:
    learned = ", codes learned in the format" if _tflite_is_chosen(spec) else ""
    return f"{spec.tflite_scheme} as tflite{learned}"


def _check_tflite(spec: QuantizeSpec) -> None:
    from toolchain.quantize.tflite.schemes import find_scheme

    find_scheme(spec.tflite_scheme)


def _is_tflite_scheme(name: str) -> bool:
    from toolchain.quantize.tflite.schemes import SCHEMES

    return name.removesuffix(LEARNED) in SCHEMES


def _tflite_with_scheme(spec: QuantizeSpec, name: str) -> QuantizeSpec:
    changed = _with_learnable(spec, name, "tflite", "tflite_scheme")
    return changed.model_copy(update={"litertlm": False})


def _tflite_is_chosen(spec: QuantizeSpec) -> bool:
    from toolchain.quantize.tflite.schemes import learns

    return learns(spec)


def _tflite_runtime(report: Reporter) -> Path:
    from toolchain import runtime

    return runtime.lite_for_this_computer(report)


def _inspect_tflite(file: Path) -> "Contents":
    from toolchain.quantize.tflite.contents import read_contents

    return read_contents(file)


def _weigh_tflite(file: Path, context: int, adapter_bytes: int) -> "Weighed":
    from toolchain.weighing import weigh_tflite

    return weigh_tflite(file)


def _tflite_tensor_digests(file: Path) -> list[dict[str, Any]]:
    from device.manifest.tflite import tensor_digests

    return tensor_digests(file)


def _tflite_needs(model: ModelFile, context: int) -> dict[str, int]:
    from toolchain.forecast import sizes_of, tflite_needs

    return tflite_needs(sizes_of(model.figures), context)


# ONNX ---------------------------------------------------------------------------------------------


def _quantize_onnx(flow: Flow, spec: QuantizeSpec, out: Path) -> ModelFile:
    from toolchain.quantize.onnx import quantize

    return quantize(
        flow.source(),
        spec,
        flow.label(),
        out,
        flow.report,
        context=flow.recipe.package.context,
        additions=_additions(flow, spec, is_chosen=_onnx_is_chosen(spec)),
    )


def _plan_onnx(spec: QuantizeSpec) -> str:
    learned = ", codes learned in the format" if _onnx_is_chosen(spec) else ""
    return f"{spec.onnx_scheme} as onnx{learned}"


def _check_onnx(spec: QuantizeSpec) -> None:
    from toolchain.quantize.onnx.schemes import find_scheme

    find_scheme(spec.onnx_scheme)


def _is_onnx_scheme(name: str) -> bool:
    from toolchain.quantize.onnx.schemes import SCHEMES

    return name.removesuffix(LEARNED) in SCHEMES


def _onnx_with_scheme(spec: QuantizeSpec, name: str) -> QuantizeSpec:
    return _with_learnable(spec, name, "onnx", "onnx_scheme")


def _onnx_is_chosen(spec: QuantizeSpec) -> bool:
    from toolchain.quantize.onnx.schemes import learns

    return learns(spec)


def _onnx_runtime(report: Reporter) -> Path:
    from toolchain import runtime

    return runtime.ort_for_this_computer(report)


def _inspect_onnx(file: Path) -> "Contents":
    from toolchain.quantize.onnx.contents import read_contents

    return read_contents(file)


def _weigh_onnx(file: Path, context: int, adapter_bytes: int) -> "Weighed":
    from toolchain.weighing import weigh_onnx

    return weigh_onnx(file, context)


def _onnx_tensor_digests(file: Path) -> list[dict[str, Any]]:
    from device.manifest.onnx import tensor_digests

    return tensor_digests(file)


def _onnx_needs(model: ModelFile, context: int) -> dict[str, int]:
    from toolchain.forecast_onnx import needs_of, sizes_of

    return needs_of(sizes_of(model.figures), context)


FORMATS: dict[str, Format] = {
    "gguf": Format(
        suffix=".gguf",
        engine="llama.cpp",
        has_tokenizer=True,
        has_tensor_types=True,
        has_eyes=True,
        has_unmerged_adapter=True,
        quantize=_quantize_gguf,
        plan=_plan_gguf,
        check=_check_gguf,
        has_scheme=_is_gguf_scheme,
        with_scheme=_gguf_with_scheme,
        chooses=_gguf_is_chosen,
        runtime=_gguf_runtime,
        inspect=_inspect_gguf,
        weigh=_weigh_gguf,
        packing=Packing(
            tensor_digests=_gguf_tensor_digests,
            needs=_gguf_needs,
            companions=_gguf_companions,
            has_knowledge=True,
            has_slots=True,
        ),
    ),
    "tflite": Format(
        suffix=".tflite",
        engine="litert",
        extra="tflite",
        folder_suffix="-tflite",
        has_fixed_context=True,
        reads_in_pieces=True,
        quantize=_quantize_tflite,
        plan=_plan_tflite,
        check=_check_tflite,
        has_scheme=_is_tflite_scheme,
        with_scheme=_tflite_with_scheme,
        chooses=_tflite_is_chosen,
        runtime=_tflite_runtime,
        inspect=_inspect_tflite,
        weigh=_weigh_tflite,
        packing=Packing(tensor_digests=_tflite_tensor_digests, needs=_tflite_needs),
    ),
    "onnx": Format(
        suffix=".onnx",
        engine="ort",
        extra="onnx",
        folder_suffix="-onnx",
        has_fixed_context=True,
        quantize=_quantize_onnx,
        plan=_plan_onnx,
        check=_check_onnx,
        has_scheme=_is_onnx_scheme,
        with_scheme=_onnx_with_scheme,
        chooses=_onnx_is_chosen,
        runtime=_onnx_runtime,
        inspect=_inspect_onnx,
        weigh=_weigh_onnx,
        packing=Packing(tensor_digests=_onnx_tensor_digests, needs=_onnx_needs),
    ),
}
"""Name of a format in recipes → its row."""
# The first one takes all files and schemes that no other row knows.


def of_file(file: Path) -> Format:
    """Return the format of a file by the end of its name; GGUF for a name without a known end."""
    # Ollama's store and the cache of a hub name files by their digest.
    rows = list(FORMATS.values())
    return next((row for row in rows if row.suffix == file.suffix), rows[0])


def of_scheme(name: str) -> str:
    """Return the format that has a scheme; llama.cpp's for a name that nobody knows."""
    return next(
        (form for form, row in FORMATS.items() if row.has_scheme(name)), next(iter(FORMATS))
    )


def is_chosen(spec: QuantizeSpec) -> bool:
    """Say whether conversations decide what a model file becomes: the gate must not ask these."""
    return any(FORMATS[form].chooses(spec) for form in spec.formats)
