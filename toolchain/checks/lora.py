"""Adapters that are to be trained, against the model that they adapt."""

from collections.abc import Iterator

from toolchain.checks import Ahead, Findings
from toolchain.checks.model import Base, Bases
from toolchain.errors import ConfigError, ToolchainError
from toolchain.models.weights import open_weights
from toolchain.recipe import LoraSpec

_WEIGHT = ".weight"


def look(ahead: Ahead, bases: Bases, findings: Findings) -> None:
    """Find a rank, a number of layers or names of modules that the model does not have."""
    # `align` comes behind `distill` and `trim`: what it adapts is what ships.
    adapts = {
        "tune": (bases.trained, ahead.recipe.tune),
        "align": (bases.quantized, ahead.recipe.align),
    }
    for stage in ahead.walks("tune", "align"):
        base, spec = adapts[stage]
        if spec:
            for key, problem, hint in _faults(base, spec):
                where = ahead.place([stage], key)
                findings.errors.append(
                    ConfigError(f"{where}: {stage}: {key}: {problem}", hint=hint)
                )


def _faults(base: Base, spec: LoraSpec) -> Iterator[tuple[str, str, str]]:
    """Yield key, problem and hint of what cannot be adapted: it would be found hours later."""
    width = base.config.get("hidden_size")
    if type(width) is int and spec.r > width:
        # Such an adapter has more weights than what it adapts, and memory ends in the training.
        problem = f"{spec.r:,} is more than the model's width, {width:,}"
        yield "r", problem, "usual ranks are 8 to 64"

    layers = base.config.get("num_hidden_layers")
    if type(layers) is int and spec.layers > layers:
        yield "layers", f"`{spec.layers}`, but the model has {layers}", "0 adapts all of them"

    if base.folder and base.whole and (modules := _modules(base)):
        ends = tuple(f".{name}" for name in spec.target_modules)
        if not any(f".{module}".endswith(ends) for module in modules):
            last = {module.rpartition(".")[2] for module in modules}
            names = ", ".join(spec.target_modules)
            hint = f"this model has {', '.join(sorted(last))}"
            yield "target_modules", f"none of {names} is in the model", hint


def _modules(base: Base) -> list[str]:
    """Return the names of a model's matrices; none if they cannot be read."""
    assert base.folder
    try:
        with open_weights(base.folder) as weights:
            tensors = weights.tensors
    except ToolchainError:  # found where the model is looked at
        return []
    return [
        name.removesuffix(_WEIGHT)
        for name, tensor in tensors.items()
        if name.endswith(_WEIGHT) and len(tensor.shape) == 2
    ]
