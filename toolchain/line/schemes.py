"""Schemes tried on one model, measured as the gate measures them, without its limits."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from toolchain.artifacts import ModelFile, Verdict
from toolchain.errors import ConfigError
from toolchain.line import formats
from toolchain.line.flow import Flow, Settings
from toolchain.line.formats import FORMATS
from toolchain.line.stages import STAGES
from toolchain.line.walk import begin, known, work_folder
from toolchain.recipe import EvaluateSpec, GateSpec, QuantizeSpec, Recipe

USUAL = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_K_S", "Q4_0", "IQ4_NL", "IQ4_XS", "Q3_K_M", "Q2_K")
"""Schemes that are tried where none is named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What one scheme makes of a model."""

    scheme: str
    model: ModelFile
    verdict: Verdict


def try_schemes(recipe: Recipe, settings: Settings, schemes: Sequence[str]) -> Iterator[Tried]:
    """Yield what each scheme makes of a recipe's model, as the gate measures it, without limits.

    `SCHEME+learned` is a scheme whose codes are learned; LiteRT's names make TFLite files. Files
    and figures stay under `schemes/`, and are not made again.
    """
    from toolchain.evaluate import Candidate, Originals, Texts, evaluate

    if "quantize" not in recipe.stages:
        raise ConfigError(f"{recipe.id}.toml: stages: without `quantize` there is nothing to try")
    begin(known(recipe, settings, schemes=schemes), settings.report)
    with work_folder(settings):
        flow = Flow(recipe=recipe, settings=settings)
        for stage in recipe.stages[: recipe.stages.index("quantize")]:
            STAGES[stage].run(flow)

        specs = {name: _spec(recipe, name) for name in schemes}
        # The gate asks the same conversations of all schemes, also of those that need no choice.
        is_chosen = any(formats.is_chosen(spec) for spec in specs.values())
        for name, spec in specs.items():
            row = FORMATS[formats.of_scheme(name)]
            folder = settings.out / "schemes" / name.replace(":", "-")
            model = row.quantize(flow, spec, folder / "quantize")
            verdict = evaluate(
                Candidate(model=model, runtime=row.runtime(settings.report)),
                Originals(reference=flow.reference(), teacher=flow.teacher),
                Texts(
                    dataset=flow.data(),
                    general=flow.general(recipe.evaluate.general),
                    split=is_chosen,
                ),
                open_gate(recipe.evaluate),
                folder / "evaluate",
                settings.report,
            )
            yield Tried(scheme=name, model=model, verdict=verdict)


def _spec(recipe: Recipe, name: str) -> QuantizeSpec:
    return FORMATS[formats.of_scheme(name)].with_scheme(recipe.quantize, name)


def open_gate(spec: EvaluateSpec) -> EvaluateSpec:
    """Return a spec that measures the same and lets everything pass."""
    return spec.model_copy(
        update={
            "gate": GateSpec(
                max_kl=float("inf"),
                min_agreement=0,
                max_general_kl=float("inf"),
                min_general_agreement=0,
                max_teacher_kl=float("inf"),
                min_teacher_agreement=0,
                max_eos_drop=1,
                template_chats=1,
            )
        }
    )
