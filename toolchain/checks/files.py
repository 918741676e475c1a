"""The model files of a walk before they are made: schemes, context, tokenizer, memory."""

from collections.abc import Mapping

from toolchain.checks import Ahead, Findings
from toolchain.checks.model import Base, Bases
from toolchain.errors import ArtifactError, ConfigError, FitError
from toolchain.forecast import BATCH, RUNTIME_BYTES
from toolchain.models.architecture import Model
from toolchain.target import Needs, fit
from toolchain.tools.ggml import Type


def check_schemes(ahead: Ahead, findings: Findings) -> None:
    """Find unknown schemes and missing files; no model need be known for that."""
    spec, folder = ahead.recipe.quantize, ahead.recipe.folder
    named = {"trim": ahead.recipe.trim.general, "evaluate": ahead.recipe.evaluate.general}
    for stage, general in named.items():
        if ahead.walks(stage) and general and not (folder / general).is_file():
            findings.errors.append(ArtifactError(f"{stage}: general: no such file `{general}`"))

    brought = {"guard": _guard_files(ahead), "evaluate": [ahead.recipe.evaluate.garak]}
    for stage, files in brought.items():
        for name in filter(None, files):
            if ahead.walks(stage) and not (folder / name).is_file():
                findings.errors.append(ConfigError(f"{stage}: no such file `{name}`"))
            elif ahead.walks(stage):
                with findings.gathering():
                    _read_ahead(ahead, stage, name)

    with findings.gathering():
        _check_guard_model(ahead)
    with findings.gathering():
        _check_secrets(ahead)
    if not ahead.walks("quantize"):
        return

    for row, wish in ahead.files:
        with findings.gathering():
            row.check(wish)

    if isinstance(spec.importance, str) and not (folder / spec.importance).is_file():
        problem = f"{spec.importance}: no such file"
        hint = f"`quantize.importance` is relative to {folder.resolve()}"
        findings.errors.append(ArtifactError(problem, hint=hint))


def _guard_files(ahead: Ahead) -> list[str]:
    """Return the texts that the recipe brings for its guard."""
    spec = ahead.recipe.guard
    return [*spec.unsafe, *spec.safe] if spec else []


def _read_ahead(ahead: Ahead, stage: str, name: str) -> None:
    """Raise the error of a file that a late stage could not read, before hours are spent."""
    from toolchain.guard.texts import brought
    from toolchain.probes.garak_report import read_garak

    if stage == "guard":
        brought([name], ahead.recipe.folder, unsafe=name in _unsafe(ahead))
    else:
        read_garak(ahead.recipe.folder / name)


def _unsafe(ahead: Ahead) -> tuple[str, ...]:
    return ahead.recipe.guard.unsafe if ahead.recipe.guard else ()


def _check_guard_model(ahead: Ahead) -> None:
    """Raise ArtifactError for a guard model that is missing or gives no verdict."""
    from toolchain.guard.judging import find_guard_model

    spec = ahead.recipe.guard
    if spec and spec.model and ahead.walks("guard"):
        find_guard_model(spec.model, ahead.recipe.folder)


def _check_secrets(ahead: Ahead) -> None:
    """Raise ArtifactError for a file of secrets that is missing or has a bad line."""
    from toolchain.evaluate.secrets import find_secrets, read_secrets

    if ahead.walks("evaluate"):
        file = find_secrets(ahead.recipe.folder, ahead.recipe.evaluate.leak.secrets)
        if file:
            read_secrets(file)


def _typed(ahead: Ahead) -> list[str]:
    """Return the schemes of those model files whose scheme chooses types tensor by tensor."""
    return [spec.scheme for row, spec in ahead.files if row.has_tensor_types]


def check_model(ahead: Ahead, bases: Bases, findings: Findings) -> None:
    """Find what makes a model file impossible: tokenizer, types of rows, context, memory."""

    quantized = bases.quantized
    model = bases.quantized.model
    if model is None or not ahead.walks("quantize"):
        return

    with findings.gathering():
        _check_tokenizer(ahead, quantized, model)

    choices = [_types(ahead, name, model, findings) for name in _typed(ahead)]
    _check_context(ahead, model, findings)
    if ahead.walks("package") and choices and choices[0]:
        _check_memory(ahead, model, choices[0], findings)


def _check_tokenizer(ahead: Ahead, base: Base, model: Model) -> None:
    """Raise ArtifactError for a tokenizer that no model file can hold."""
    from toolchain.models import tokenizer

    if base.folder is None or base.tokenizer is None:
        return

    try:
        if any(row.has_tokenizer for row in ahead.formats):
            with base.linked_folder() as folder:
                tokenizer.read_vocabulary(folder, model.sizes["vocab"])
        else:
            from tokenizers import Tokenizer

            Tokenizer.from_file(str(base.tokenizer))
    except (ArtifactError, ConfigError):
        raise
    except Exception as error:  # the tokenizers library raises no narrower type
        reason = str(error).strip().partition("\n")[0]
        raise ArtifactError(f"tokenizer.json: cannot be read: {reason}") from error


def _types(ahead: Ahead, scheme: str, model: Model, findings: Findings) -> dict[str, int]:
    """Return the bytes of each tensor under a scheme.

    Empty for a budget, and if a row fits none of the scheme's types.
    """
    from toolchain.quantize.gguf import choice
    from toolchain.tools import ggml

    try:
        weighed = bool(ahead.recipe.quantize.importance)
        chosen = choice.named(scheme, model, weighed=weighed)
    except ConfigError:  # a scheme that does not exist was found before
        return {}
    except ArtifactError as error:
        findings.errors.append(error)
        return {}

    if ahead.recipe.quantize.distill and chosen and not ahead.schemes:
        _check_learned({k.type for n, k in chosen.items() if n.startswith("blk.")}, findings)

    falls = {
        (source.shape[-1], each.requested.name, each.type.name)
        for source in model.tensors
        if (each := chosen.get(source.name)) and each.type != each.requested
    }
    if falls:
        said = "; ".join(
            f"rows of {row} do not fit {wanted}'s blocks, {used} instead"
            for row, wanted, used in sorted(falls)
        )
        findings.notes.append(f"{scheme}: some tensors fall back: {said}")

    sizes = {}
    for source in model.tensors:
        if source.name in chosen:
            row_bytes = ggml.row_bytes(chosen[source.name].type, source.shape[-1])
            sizes[source.name] = row_bytes * source.weights // source.shape[-1]

    return sizes


def _check_learned(kinds: set[Type], findings: Findings) -> None:
    """Find a scheme without any type whose codes are learned."""
    from toolchain.quantize.learned import grids

    if not kinds & set(grids.LAYOUTS):
        known = ", ".join(kind.name for kind in grids.LAYOUTS)
        problem = f"quantize: distill: no tensor is of a type that is learned ({known})"
        hint = "choose scheme `Q4_0` or `Q4_K_M`"
        findings.errors.append(ConfigError(problem, hint=hint))


def _check_context(ahead: Ahead, model: Model, findings: Findings) -> None:
    asked = ahead.recipe.package.context
    if not ahead.walks("package") and not _fixed_context(ahead):
        return

    limit = int(model.metadata[f"{model.family.name}.context_length"])
    if asked > limit:
        problem = f"package: context: the model has {limit} tokens of context, `{asked}` asked"
        hint = f"[package] context = {limit}, or less"
        findings.errors.append(ConfigError(f"{ahead.file}: {problem}", hint=hint))

    prefill = ahead.recipe.quantize.prefill
    in_pieces = any(row.reads_in_pieces for row in ahead.formats)
    if in_pieces and (not prefill or min(prefill) < 2 or max(prefill) > asked):
        problem = f"quantize: prefill: lengths from 2 to the context of {asked} are possible"
        findings.errors.append(ConfigError(f"{ahead.file}: {problem}, not {prefill}"))


def _fixed_context(ahead: Ahead) -> bool:
    """Return whether the context becomes part of one of the model files."""
    return any(row.has_fixed_context for row in ahead.formats)


def _check_memory(ahead: Ahead, model: Model, sizes: Mapping[str, int], findings: Findings) -> None:
    """Find a GGUF file that does not fit in the target's memory.

    If only the machine itself knows its memory, push asks it.
    """
    if ahead.target.memory_mb is None:
        return

    spec = ahead.recipe.package
    width, inner = model.sizes["hidden"], model.sizes["intermediate"]
    needs = Needs(
        context=spec.context,
        weights_bytes=sum(sizes.values()),
        kv_bytes=model.kv_bytes_per_token * spec.context,
        compute_bytes=4 * BATCH * (4 * width + 3 * inner),
        runtime_bytes=RUNTIME_BYTES,
    )
    found = fit(needs, ahead.target)
    if not found.ok:
        message = f"{ahead.target.id}: {'; '.join(found.reasons)}"
        findings.errors.append(FitError(message, hint=found.hint))
