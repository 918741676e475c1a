"""`adapter_config.json` of a PEFT adapter: reads every field, refuses one that a merge would lose.

The fields are those of peft 0.21's `LoraConfig`. A merge by rows supports a small part of them.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolchain.errors import ArtifactError
from toolchain.models.weights import read_json

CONFIG = "adapter_config.json"
ELSEWHERE = "merge it with peft's `merge_and_unload` and give the merged folder as the base"
REBUILT = ("pissa", "olora")
"""`init_lora_weights` that subtract a part of the base, which can be recomputed from the base."""

PATTERNS = ("rank_pattern", "alpha_pattern")
"""Fields whose keys are regular expressions of modules' names."""

_HANDLED = {
    "r",
    "lora_alpha",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "init_lora_weights",
    "base_model_name_or_path",
    "revision",
    "peft_type",
    "task_type",
}
"""Fields that the merge or a check here uses."""
_WITHOUT_EFFECT = {
    "auto_mapping",
    "inference_mode",
    "peft_version",
    "lora_dropout",
    "runtime_config",
    # the settings of an initialisation say nothing that `init_lora_weights` does not say
    "loftq_config",
    "eva_config",
    "corda_config",
    "lora_ga_config",
    # read by peft only where `megatron_config` or `use_qalora` is set, which are refused
    "megatron_core",
    "qalora_group_size",
}
"""Fields that do not change the meaning of the saved weights."""
_BASE_UNCHANGED = (True, False, "gaussian", "eva", "orthogonal", "mica")
"""`init_lora_weights` that leave the base as it is. `mica` trains A alone and saves B with it."""
_TASKS = (None, "CAUSAL_LM")
_CONVERT = (
    "save it again from the training script with "
    "`save_pretrained(…, path_initial_model_for_weight_conversion=…)`, "
    "or save the base that was trained on, and give that folder as the base"
)


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of an adapter folder.

    Raises ArtifactError for each field that a merge would lose.
    """
    if not (folder / CONFIG).is_file():
        raise ArtifactError(f"{folder.name}: no `{CONFIG}`", hint=_where_it_may_be(folder))

    config = read_json(folder / CONFIG)
    _check_kind(folder, config)

    _check_fields(folder, config)
    _check_task(folder, config)
    _check_initialisation(folder, config)
    _check_numbers(folder, config)
    _check_modules(folder, config)

    return config


def initialisation(config: Mapping[str, Any]) -> str:
    """Return the name in `init_lora_weights` in lower case; empty for true and false."""
    value = config.get("init_lora_weights", True)
    return value.lower() if isinstance(value, str) else ""


def check_base_name(
    folder: Path, name: str, *, near: Path | None = None, revision: str = "", same_as: str = ""
) -> None:
    """Raise ArtifactError for an adapter that names another base, or another revision of it.

    `name` is the recipe's name of the base and `same_as` a second name of the same weights. With
    `near`, the recipe's folder, `revision` is checked only if the base is not a folder there.
    """
    config = read_adapter_config(folder)
    if near is not None and (near / Path(name).expanduser()).is_dir():
        revision = ""

    base = str(config.get("base_model_name_or_path") or "")
    if base and plain_name(base) not in {plain_name(known) for known in (name, same_as) if known}:
        raise ArtifactError(
            f"adapter {folder.name}: made for another base: trained on `{base}`, not on `{name}`",
            hint="where both are the same weights under two names, the recipe says so: "
            f'`[model] adapter_base = "{base}"`',
        )

    trained = str(config.get("revision") or "main")
    if base and revision and trained != "main" and trained != revision:
        raise ArtifactError(
            f"adapter {folder.name}: trained on revision `{trained}` of `{base}`, "
            f"the recipe takes `{revision}`",
            hint=f'`[model] revision = "{trained}"`',
        )


def plain_name(name: str) -> str:
    """Return a model's name in lower case, without owner, folders and suffix of 4-bit copies."""
    if cached := re.search(r"models--[^/\\]+?--([^/\\]+)", name):
        name = cached[1]
    last = [part for part in re.split(r"[/\\]", name.lower()) if part]
    return re.sub(r"(-unsloth)?-bnb-[48]bit$", "", last[-1] if last else "")


def _where_it_may_be(folder: Path) -> str:
    """Return a hint for a folder without a configuration: a checkpoint in it may have one."""
    for file in sorted(folder.glob(f"*/{CONFIG}")):
        return f'did you mean "{folder.name}/{file.parent.name}"?'
    return "an adapter folder is what peft's `save_pretrained` writes"


def _check_kind(folder: Path, config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind is None:
        raise ArtifactError(
            f"{folder.name}: {CONFIG}: no `peft_type`: not an adapter of peft's",
            hint="an adapter of MLX is joined with its base by `mlx_lm.fuse`: "
            "give the fused folder as the base",
        )
    if kind != "LORA":
        raise ArtifactError(
            f"{folder.name}: adapters of kind `{kind}` are not merged", hint=ELSEWHERE
        )


def _check_fields(folder: Path, config: Mapping[str, Any]) -> None:
    for key, value in config.items():
        if key in _HANDLED or key in _WITHOUT_EFFECT:
            continue
        # Other fields of LoraConfig have empty defaults; unknown fields are taken to have one too.
        if value in (None, False, "none", "", 0) or value == [] or value == {}:
            continue
        raise ArtifactError(f"{folder.name}: an adapter with `{key}` is not merged", hint=ELSEWHERE)


def _check_task(folder: Path, config: Mapping[str, Any]) -> None:
    if config.get("task_type") not in _TASKS:
        raise ArtifactError(
            f"{folder.name}: {CONFIG}: `task_type` is `{config['task_type']}`, not `CAUSAL_LM`"
        )


def _check_initialisation(folder: Path, config: Mapping[str, Any]) -> None:
    value = config.get("init_lora_weights", True)
    if value is None or value in _BASE_UNCHANGED or initialisation(config) in REBUILT:
        return
    raise ArtifactError(
        f"{folder.name}: `init_lora_weights` is `{value}`: "
        "its base was changed before it was trained, and cannot be made again",
        hint=_CONVERT,
    )


def _check_numbers(folder: Path, config: Mapping[str, Any]) -> None:
    alpha = config.get("lora_alpha")
    r = config.get("r", 8)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float):
        raise ArtifactError(f"{folder.name}: {CONFIG}: `lora_alpha` is `{alpha}`, not a number")
    if type(r) is not int or r < 1:
        raise ArtifactError(f"{folder.name}: {CONFIG}: `r` is `{r}`, not a rank")

    for key in PATTERNS:
        patterns = config.get(key) or {}
        if not isinstance(patterns, dict) or not all(
            isinstance(value, int | float) for value in patterns.values()
        ):
            raise ArtifactError(f"{folder.name}: {CONFIG}: `{key}` is not a table of numbers")
        for pattern in patterns:
            _check_pattern(folder, key, pattern)


def _check_modules(folder: Path, config: Mapping[str, Any]) -> None:
    """Raise ArtifactError for fields that name modules in no form of peft's."""
    for key in ("target_modules", "exclude_modules", "layers_pattern"):
        named = config.get(key)
        if isinstance(named, str):
            _check_pattern(folder, key, named)
        elif not _is_list_of(str, named):
            raise ArtifactError(f"{folder.name}: {CONFIG}: `{key}` is not a list of names")
        elif key == "layers_pattern":
            for pattern in named or ():
                _check_pattern(folder, key, pattern)

    # peft fills an empty field from a table of its own version before it saves it.
    if not config.get("target_modules"):
        raise ArtifactError(
            f"{folder.name}: {CONFIG}: `target_modules` names no module",
            hint="name those that were trained: peft would choose some by itself "
            "and leave the other weights out without a word",
        )

    layers = config.get("layers_to_transform")
    if type(layers) is not int and not _is_list_of(int, layers):
        raise ArtifactError(
            f"{folder.name}: {CONFIG}: `layers_to_transform` is not a list of numbers"
        )


def _is_list_of(kind: type, value: object) -> bool:
    """Return whether a value is a list of one kind, or null."""
    return value is None or (isinstance(value, list) and all(type(each) is kind for each in value))


def _check_pattern(folder: Path, key: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ArtifactError(
            f"{folder.name}: {CONFIG}: `{key}`: `{pattern}` is not a regular expression"
        ) from error
