"""Eyes of a model before any training: what would leave them out, and what no board follows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolchain.checks import Ahead
from toolchain.errors import ConfigError, FitError, ToolError
from toolchain.models.vision import read_eyes, refuse_sight, sight_of
from toolchain.models.weights import open_eyes
from toolchain.tools import llama

_BLIND_STAGES = ("distill", "align", "trim")
"""Stages that know text alone."""


def check_stages(ahead: Ahead, config: Mapping[str, Any]) -> None:
    """Raise an error for stages or formats that leave the eyes of a model that sees out."""
    changing = next((name for name in _BLIND_STAGES if ahead.walks(name)), None)
    if changing:
        refuse_sight(config, f"{ahead.file}: stages: `{changing}`")
    if ahead.walks("tune") and sight_of(config):
        _refuse_text_alone(ahead)
    if ahead.walks("quantize") and not all(row.has_eyes for row in ahead.formats):
        refuse_sight(config, f"{ahead.file}: quantize: formats")
    if ahead.walks("evaluate") and sight_of(config) and not llama.sees():
        raise ToolError(
            "the installed llama-cpp-python reads no pictures: nothing can be measured with them",
            hint="make builds it with libmtmd; so does scripts/engine-wheel.sh",
        )


def check_eyes(
    ahead: Ahead, folder: Path | None, config: Mapping[str, Any], *, whole: bool
) -> None:
    """Raise an error for eyes that no board has, or whose pictures leave a question no room."""
    if folder is None or not (ahead.walks("quantize") and sight_of(config)):
        return
    shapes = None
    if whole:
        with open_eyes(folder) as weights:
            shapes = {name: tensor.shape for name, tensor in weights.tensors.items()}
    eyes = read_eyes(folder, config, shapes)
    package = ahead.recipe.package
    if ahead.walks("package") and package.images and package.context <= eyes.tokens:
        raise FitError(
            f"{ahead.place(['package'], 'context')}: package: context: {package.context} tokens, "
            f"and a picture takes {eyes.tokens} of them",
            hint="make it larger, or set `images = 0`: the board refuses pictures then",
        )


def _refuse_text_alone(ahead: Ahead) -> None:
    """Raise ConfigError for a way of tuning that reads text alone."""
    spec = ahead.recipe.tune
    ways = {"privacy": bool(spec and spec.privacy), "base_bits": bool(spec and spec.base_bits == 4)}
    for key in (name for name, is_set in ways.items() if is_set):
        raise ConfigError(
            f"{ahead.file}: tune: `{key}` is for models that read text alone, and this one sees",
            hint=f"leave `{key}` out, or take a text model as the base",
        )
