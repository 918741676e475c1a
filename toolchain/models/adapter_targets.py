"""Modules that an adapter's configuration names, by peft's own rules.

The names may be regular expressions of a stranger. One that backtracks for years is stopped by a
child process before this process tries it.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolchain.errors import ArtifactError
from toolchain.models.adapter_config import CONFIG, PATTERNS

SECONDS = 1
"""Processor seconds for all patterns on all modules; a thousand modules take a hundredth of it."""
START_S = 60
"""Seconds until the child is stopped, on a busy computer too."""
_HEAD = "lm_head"
"""The output layer, which peft leaves out of `all-linear`."""

_TRIAL = f"""
import json, re, signal, sys
patterns, modules = json.load(sys.stdin)
signal.setitimer(signal.ITIMER_VIRTUAL, {SECONDS})
for pattern in patterns:
    for module in modules:
        re.match(pattern, module)
"""


def check_targets(folder: Path, config: Mapping[str, Any], modules: Sequence[str]) -> None:
    """Raise ArtifactError for a module with weights that `target_modules` does not name.

    peft ignores such weights. Patterns that cannot be matched in a second are refused too.
    """
    _try_patterns(folder, config, modules)
    for module in modules:
        if not _targeted(config, module):
            raise ArtifactError(
                f"{folder.name}: {CONFIG}: `target_modules` does not name `{module}`, "
                "but its weights are there",
                hint="peft leaves such weights out without a word; "
                "correct the configuration or remove them",
            )


def pattern_value(config: Mapping[str, Any], patterns: str, module: str, default: Any) -> Any:
    """Return the value of the first pattern that matches a module, or `default`.

    `patterns` is `rank_pattern` or `alpha_pattern` (peft, `get_pattern_key`).
    """
    named: Mapping[str, Any] = config.get(patterns) or {}
    values = [value for key, value in named.items() if re.match(_keyed(key), module)]
    return values[0] if values else default


def _try_patterns(folder: Path, config: Mapping[str, Any], modules: Sequence[str]) -> None:
    """Match every pattern once in a child process with little time."""
    patterns = list(_patterns(config))
    if not patterns:
        return

    try:
        done = subprocess.run(
            [sys.executable, "-I", "-c", _TRIAL],
            input=json.dumps([patterns, list(modules)]),
            capture_output=True,
            text=True,
            timeout=START_S,
        )
        matched = done.returncode == 0
    except subprocess.TimeoutExpired:
        matched = False

    if not matched:
        raise ArtifactError(
            f"{folder.name}: {CONFIG}: its regular expressions of modules take longer than "
            f"{SECONDS} s to match",
            hint='list the names instead: `"target_modules": ["q_proj", "v_proj"]`',
        )


def _patterns(config: Mapping[str, Any]) -> Iterable[str]:
    """Yield the regular expressions as they are matched below."""
    for key in ("target_modules", "exclude_modules"):
        if isinstance(config.get(key), str):
            yield config[key]
    for key in PATTERNS:
        yield from map(_keyed, config.get(key) or {})
    if config.get("layers_pattern"):
        yield from map(_layered, _layer_names(config))


def _keyed(key: str) -> str:
    """Return a key of `rank_pattern` or `alpha_pattern` as peft matches it."""
    return rf"(.*\.)?({key})$"


def _layered(name: str) -> str:
    # The first number is the layer's; the last one may be an expert's.
    return rf"(?:^|.*?\.){name}\.(?P<layer>\d+)\."


def _layer_names(config: Mapping[str, Any]) -> Sequence[str]:
    patterns = config.get("layers_pattern") or [r"[^.]*"]
    return [patterns] if isinstance(patterns, str) else patterns


def _targeted(config: Mapping[str, Any], module: str) -> bool:
    """Return whether peft puts an adapter on a module (peft, `check_target_module_exists`)."""
    targets = config["target_modules"]
    excluded = config.get("exclude_modules")
    if excluded and _matches(excluded, module):
        return False
    if targets == "all-linear":
        return module != _HEAD
    return _matches(targets, module) and _in_layers(config, module)


def _matches(patterns: str | list[str], module: str) -> bool:
    if isinstance(patterns, str):
        return re.fullmatch(patterns, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in patterns)


def _in_layers(config: Mapping[str, Any], module: str) -> bool:
    layers = config.get("layers_to_transform")
    if layers is None or layers == []:
        return True

    matches = [
        match for name in _layer_names(config) if (match := re.match(_layered(name), module))
    ]
    indices = [layers] if isinstance(layers, int) else layers

    return bool(matches) and int(matches[0]["layer"]) in indices
