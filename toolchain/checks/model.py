"""The models of a recipe before any training: what each folder is, and typical mistakes.

A model of the hub that is not here yet is judged by its small files; with `--offline`, a note says
what could not be judged.
"""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from toolchain.checks import Ahead, Findings
from toolchain.checks.eyes import check_eyes, check_stages
from toolchain.endpoint.address import is_endpoint
from toolchain.errors import ArtifactError, ConfigError, ToolchainError
from toolchain.models import gguf_parts, hub, origin
from toolchain.models.adapter_config import CONFIG as ADAPTER_CONFIG
from toolchain.models.adapter_config import check_base_name
from toolchain.models.architecture import Model, read_architecture
from toolchain.models.checkpoints import refuse_quantised
from toolchain.models.lora import open_lora, read_lora
from toolchain.models.names import TEMPLATE
from toolchain.models.sights import SIGHTED
from toolchain.models.template import check_folder
from toolchain.models.tokenizer import chat_template
from toolchain.models.weights import check_model_folder, open_weights
from toolchain.recipe import ScratchSpec
from toolchain.texts import json_in

CONFIGURATIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
)
"""Small JSON files of a model folder that later stages read."""
_OTHER_SOURCES = (".gguf",)
"""Suffixes of a `base` that is no folder; such a file is unpacked and judged when it is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A model that a recipe names, as far as it is known."""

    folder: Path | None
    """Path to the model; None if it is trained from nothing."""
    whole: bool
    """Whether its weights are here, too."""
    config: dict[str, Any]
    model: Model | None
    """None for a family that no stage of the walk has to know."""
    template: str = ""
    """Chat template of training; empty if it is not known."""
    tokens: dict[str, str]
    """Texts of special tokens that the template may name: `bos_token`, `eos_token` and others."""
    tokenizer: Path | None = None
    """Path to tokenizer.json."""
    adapter: Path | None = None
    """Path to an adapter; its own template and tokenizer replace the model's."""

    @contextmanager
    def linked_folder(self) -> Iterator[Path]:
        """Yield a folder of links to the model's small files; the adapter's files replace some."""
        with tempfile.TemporaryDirectory() as scratch:
            links = Path(scratch, self.folder.name if self.folder else "model")
            links.mkdir()
            for folder in filter(None, (self.adapter, self.folder)):
                for file in folder.iterdir():
                    link = links / file.name
                    if not link.is_symlink() and file.suffix in (".json", ".jinja", ".txt"):
                        link.symlink_to(file.resolve())
            yield links


@dataclass(frozen=True, slots=True, kw_only=True)
class Bases:
    """The models of a walk."""

    trained: Base
    """Model that the first training stage begins with."""
    quantized: Base
    """Model that is quantized in the end: the same, or a student of `distill`."""


_KEYS = {
    "teacher": "distill: teacher",
    "student": "distill: student",
    "writer": "distill: write: teacher",
}
"""Role → key of the recipe, where it is not in `[model]`."""


def look(ahead: Ahead, findings: Findings) -> Bases | None:
    """Return the models of a walk; None if none is needed, or none can be judged."""
    spec = ahead.recipe.model
    if not ahead.walks("pretrain", "tune", "distill", "align", "trim", "quantize", "evaluate"):
        return None

    distill = ahead.recipe.distill if ahead.walks("distill") else None
    student = distill.student if distill else ""
    is_quantized = bool(ahead.walks("quantize")) and student in ("", spec.base)
    adapter = _adapter(ahead, findings) if spec.adapter else None
    base = (
        _from_nothing(spec.scratch)
        if spec.scratch
        else _named(ahead, "base", spec.base, findings, knows=is_quantized, adapter=adapter)
    )
    if base:
        with findings.gathering():
            check_stages(ahead, base.config)
        with findings.gathering():
            check_eyes(ahead, base.folder, base.config, whole=base.whole)
    if adapter and base and base.folder:
        with findings.gathering():
            _check_adapter(ahead, adapter, base)

    trained, quantized = base, base
    if distill and distill.teacher not in ("", spec.base):
        teacher = _named(ahead, "teacher", distill.teacher, findings, knows=False)
        trained = base if ahead.walks("tune") else teacher
    if student not in ("", spec.base):
        knows = bool(ahead.walks("quantize"))
        quantized = _named(ahead, "student", student, findings, knows=knows)
    elif distill and distill.layers and trained and trained.model:
        layers = _layers(ahead, trained, distill.layers, findings)
        quantized = _with_layers(ahead, trained, layers, findings) if layers else None
    writer = distill.write.teacher if distill and distill.write else ""
    if writer and not is_endpoint(writer):
        _named(ahead, "writer", writer, findings, knows=False)

    return Bases(trained=trained, quantized=quantized) if trained and quantized else None


def _named(
    ahead: Ahead,
    role: str,
    name: str,
    findings: Findings,
    *,
    knows: bool,
    adapter: Path | None = None,
) -> Base | None:
    """Return a model by its name; `knows` says whether its family must be one that is quantized."""
    if name.lower().endswith(_OTHER_SOURCES) or ":" in name.partition("://")[0]:
        with findings.gathering():
            if file := origin.find(name, ahead.recipe.folder):
                gguf_parts.parts_of(file.file)
        return None

    before = len(findings.errors)
    with findings.gathering():
        _check_name(ahead, role, name)
        folder, whole = _find(ahead, role, name, findings)
        if folder is None:
            return None
        _check_mistakes(role, name, folder, whole=whole)
        configs = {file: _config(folder / file, findings) for file in CONFIGURATIONS}
        if len(findings.errors) > before:
            return None
        if whole:
            check_model_folder(folder)
        refuse_quantised(folder)
        checked = len(findings.errors)
        with findings.gathering():
            check_folder(folder)
        model = _model(folder, findings, whole=whole, knows=knows)
        base = _spoken(folder, whole, configs, model, adapter, findings)
        # A template that fails, or that never ends, is not rendered again with the data.
        return base if len(findings.errors) == checked else replace(base, template="")

    return None


def _check_name(ahead: Ahead, role: str, name: str) -> None:
    where = f"{ahead.file}: {_KEYS.get(role, f'model: {role}')}"
    if "://" in name:
        last = "/".join(name.rstrip("/").split("/")[3:5])
        hint = f'a model of the hub is named without its address: {role} = "{last or "owner/name"}"'
        if role == "teacher":
            hint += f'; an endpoint writes: [distill.write] teacher = "{name}"'
        raise ConfigError(f"{where}: `{name}` is an address, not a name", hint=hint)

    try:
        is_file = (ahead.recipe.folder / Path(name).expanduser()).is_file()
    except (OSError, RuntimeError) as error:  # too long a name, or a user without a home
        problem = f"{where}: `{name[:60]}` is no name of a folder: {str(error).lower()[:80]}"
        raise ConfigError(problem) from error

    if is_file:
        hint = f'name its folder: {role} = "{Path(name).parent.as_posix()}"'
        raise ArtifactError(f"model `{name}`: a file, not a model folder", hint=hint)


def _find(ahead: Ahead, role: str, name: str, findings: Findings) -> tuple[Path | None, bool]:
    """Return the folder of a model and whether it is whole.

    A model of the hub that is not here gets a folder of its small files.
    """
    recipe = ahead.recipe
    revision = recipe.model.revision if role == "base" else "main"
    local = (recipe.folder / Path(name).expanduser()).is_dir()
    try:
        folder = hub.look(name, revision=revision, near=recipe.folder, offline=ahead.offline)
    except hub.NotHere as error:
        findings.notes.append(f"model `{name}`: not judged before the walk: {error.reason}")
        return None, False

    return folder, local


def _check_mistakes(role: str, name: str, folder: Path, *, whole: bool) -> None:
    """Raise ArtifactError for a folder that is no model, with what was probably meant."""
    has_config, has_adapter = (
        (folder / file).is_file() for file in ("config.json", ADAPTER_CONFIG)
    )
    if has_adapter and not has_config:
        trained_on = str(json_in(folder / ADAPTER_CONFIG).get("base_model_name_or_path") or "")
        hint = f'adapter = "{name}", and {role} = "{trained_on or "the model it was trained on"}"'
        raise ArtifactError(f"model `{name}`: an adapter, not a model", hint=hint)
    if has_adapter and whole:
        hint = (
            f"put the adapter's files into a folder of their own and name it in `adapter`; "
            f"if it is merged already, "
            f"take {ADAPTER_CONFIG} away"
        )
        raise ArtifactError(f"model `{name}`: model and adapter in one folder", hint=hint)
    if has_config:
        return

    inside = sorted(each.parent.name for each in folder.glob("*/config.json"))
    files = sorted(each.name for each in folder.glob("*.gguf"))
    if inside:
        hint = f'did you mean "{name.rstrip("/")}/{inside[-1]}"?'
    elif files:
        hint = f'did you mean "{name.rstrip("/")}/{files[0]}"?'
    else:
        hint = "a model folder is what `save_pretrained` writes"

    raise ArtifactError(f"{folder.name}: no `config.json`", hint=hint)


def _config(path: Path, findings: Findings) -> dict[str, Any]:
    with findings.gathering():
        return json_in(path) if path.is_file() else {}
    return {}


def _model(folder: Path, findings: Findings, *, whole: bool, knows: bool) -> Model | None:
    """Return what config.json says, and the headers of the weights if they are here.

    None for an unknown family.
    """
    try:
        if not whole:
            return read_architecture(folder, None)
        with open_weights(folder) as weights:
            return read_architecture(folder, weights)
    except ToolchainError as error:
        if knows:
            findings.errors.append(error)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # A value of a kind that no configuration has: only the reader that failed knows which.
        problem = f"{folder.name}: config.json: a value that no family has: {error}"
        findings.errors.append(ArtifactError(problem))

    return None


def _spoken(
    folder: Path,
    whole: bool,
    configs: dict[str, dict[str, Any]],
    model: Model | None,
    adapter: Path | None,
    findings: Findings,
) -> Base:
    """Return a model with the template and the tokenizer of its training: its adapter's if any."""
    source = folder
    settings = configs["tokenizer_config.json"]
    own = adapter / "tokenizer_config.json" if adapter else None
    if adapter and own and own.is_file():
        with findings.gathering():
            theirs = json_in(own)
            settings = settings | theirs
            if theirs.get("chat_template") or (adapter / TEMPLATE).is_file():
                source = adapter

    template = ""
    with findings.gathering():
        template = chat_template(source, settings)

    tokenizers = [each / "tokenizer.json" for each in (adapter, folder) if each]
    return Base(
        folder=folder,
        whole=whole,
        config=configs["config.json"],
        model=model,
        template=template,
        tokens=_special_tokens(configs["special_tokens_map.json"] | settings),
        tokenizer=next((file for file in tokenizers if file.is_file()), None),
        adapter=adapter,
    )


def _special_tokens(settings: dict[str, Any]) -> dict[str, str]:
    """Return the special tokens of a tokenizer's configuration, as a template sees them."""
    found = {}
    for key, value in settings.items():
        text = value.get("content") if isinstance(value, dict) else value
        if key.endswith("_token") and isinstance(text, str):
            found[key] = text
    return found


def _from_nothing(spec: ScratchSpec) -> Base:
    """Return the model that `pretrain` will make, by its future configuration."""
    language = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "max_position_embeddings": spec.context,
        "tie_word_embeddings": True,
        "rms_norm_eps": 1e-5,
        "hidden_act": "silu",
    }
    with _folder_with(language) as folder:
        model = read_architecture(folder, None)

    seeing = {"architectures": [next(iter(SIGHTED))], "text_config": language}
    config = seeing if spec.eyes else language
    return Base(folder=None, whole=True, config=config, model=model, tokens={})


def _layers(
    ahead: Ahead, base: Base, layers: int | tuple[int, ...], findings: Findings
) -> tuple[int, ...]:
    """Return the layers of a student, none if there cannot be so many.

    Of a number only the size counts here: which layers they are is measured later.
    """
    if not isinstance(layers, int):
        return layers
    assert base.model
    count = base.model.sizes["layers"]
    if layers > count:
        problem = f"{ahead.file}: distill: layers: `{layers}` layers cannot be kept"
        findings.errors.append(ConfigError(problem, hint=f"the teacher has {count}"))
        return ()
    return (*range(layers - 1), count - 1)


def _with_layers(
    ahead: Ahead, base: Base, layers: tuple[int, ...], findings: Findings
) -> Base | None:
    """Return a base with some of its layers, as `distill` makes it."""
    assert base.model
    count = base.model.sizes["layers"]
    if wrong := [layer for layer in layers if not 0 <= layer < count]:
        problem = f"{ahead.file}: distill: layers: `{wrong[0]}` is not a layer of the teacher"
        findings.errors.append(ConfigError(problem, hint=f"it has layers 0 to {count - 1}"))
        return None

    config = {
        key: [value[layer] for layer in layers]
        if isinstance(value, list) and len(value) == count
        else value
        for key, value in base.config.items()
    }
    config["num_hidden_layers"] = len(layers)
    try:
        with _folder_with(config) as folder:
            model = read_architecture(folder, None)
    except ToolchainError:  # layers whose kinds no longer alternate as the family has them
        return None

    return Base(
        folder=base.folder,
        whole=base.whole,
        config=config,
        model=model,
        template=base.template,
        tokens=base.tokens,
        tokenizer=base.tokenizer,
    )


@contextmanager
def _folder_with(config: dict[str, Any]) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch, "config.json").write_text(json.dumps(config), encoding="utf-8")
        yield Path(scratch)


def _adapter(ahead: Ahead, findings: Findings) -> Path | None:
    """Return the folder of the recipe's adapter; None if it has none, or it is not here."""
    name = ahead.recipe.model.adapter
    with findings.gathering():
        try:
            folder = hub.look(
                name, revision="main", near=ahead.recipe.folder, offline=ahead.offline, whole=True
            )
        except hub.NotHere as error:
            findings.notes.append(f"adapter `{name}`: not judged before the walk: {error.reason}")
            return None
        if not (folder / ADAPTER_CONFIG).is_file() and (folder / "config.json").is_file():
            hint = f'if it is the merged model: base = "{name}", without `adapter`'
            raise ArtifactError(f"adapter `{name}`: a model, not an adapter", hint=hint)
        if (folder / ADAPTER_CONFIG).is_file():
            json_in(folder / ADAPTER_CONFIG)
        return folder

    return None


def _check_adapter(ahead: Ahead, adapter: Path, base: Base) -> None:
    """Raise ArtifactError for an adapter of another kind, or made for another base."""
    assert base.folder
    spec = ahead.recipe.model
    check_base_name(
        adapter,
        spec.base,
        near=ahead.recipe.folder,
        revision=spec.revision,
        same_as=spec.adapter_base,
    )
    if not base.whole:
        read_lora(adapter)
        return

    with open_weights(base.folder) as weights:
        open_lora(adapter, weights, base.folder.name)
