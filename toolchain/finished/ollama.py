"""Ollama's store on this computer: a manifest names layers, each a file named by its digest.

It is read as Ollama writes it (server/modelpath.go, server/manifest.go, types/model/name.go), and
never changed. What a board can honour is taken over, the rest is reported. Ollama's templates are
Go's, another language than the one in the model file.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from toolchain.config import closest
from toolchain.errors import ArtifactError
from toolchain.finished.source import OLLAMA, Source

REGISTRY, NAMESPACE, TAG = "registry.ollama.ai", "library", "latest"
"""Parts that a name may leave out (types/model/name.go, `DefaultName`)."""
_SERVICE = Path("/usr/share/ollama/.ollama/models")
"""Models of Ollama's Linux service, which runs as a user of its own."""
_KIND = "application/vnd.ollama.image."
_NAME_PART = re.compile(r"\w[\w.-]{0,79}(:\d{1,5})?", re.ASCII)
"""A part of a name; none leads out of the store, and a host may have a port."""
_DIGEST = re.compile(r"sha256[:-]([0-9a-f]{64})")
_MAX_TEXT_BYTES = 1 << 20
_GREEDY = ("temperature", "top_k", "top_p", "min_p", "seed", "typical_p", "repeat_penalty")
"""Parameters of sampling that are left out."""
# A board takes the most likely token unless a request says otherwise.


def stored(name: str) -> Source:
    """Return a model of Ollama's store; raise ArtifactError that names a missing part."""
    root = _root()
    parts = _parts(name)
    manifest = root.joinpath("manifests", *parts)
    layers = _layers(name, manifest, root)
    if "model" not in layers:
        raise ArtifactError(f"{OLLAMA}{name}: its manifest names no model file")
    if len(layers["model"]) > 1:
        raise ArtifactError(f"{OLLAMA}{name}: {len(layers['model'])} model files, one is possible")

    parameters = _parameters(name, layers)
    known = ("num_ctx", "num_predict", "stop")
    file = layers["model"][0]
    return Source(
        file=file,
        said=f"{OLLAMA}{name}",
        immutable=True,
        sha256=file.name.removeprefix("sha256-").removeprefix("sha256:"),
        adapter=next(iter(layers.get("adapter", [])), None),
        system=_text(layers, "system"),
        turns=tuple(_messages(name, layers)),
        stops=tuple(str(text) for text in _listed(parameters.get("stop"))),
        context=_count(parameters.get("num_ctx")),
        max_tokens=_count(parameters.get("num_predict")),
        licences=tuple(_read(path) for path in layers.get("license", [])),
        dropped=tuple(_dropped(layers, {k: v for k, v in parameters.items() if k not in known})),
    )


def _root() -> Path:
    """Return the folder of the store: OLLAMA_MODELS, the user's own, or the service's."""
    if given := os.environ.get("OLLAMA_MODELS"):
        return Path(given).expanduser()
    own = Path.home() / ".ollama" / "models"
    return own if own.is_dir() or not _SERVICE.is_dir() else _SERVICE


def _parts(name: str) -> tuple[str, str, str, str]:
    """Return host, namespace, model and tag of `llama3.2:1b` or `hf.co/OWNER/REPO:Q4_K_M`."""
    *above, last = name.split("/")
    model, _, tag = last.partition(":")
    parts = [*above, model, tag or TAG]
    defaults = {2: [REGISTRY, NAMESPACE], 3: [REGISTRY], 4: []}
    whole = [*defaults.get(len(parts), []), *parts]
    if len(whole) != 4 or not all(_NAME_PART.fullmatch(part) for part in whole):
        raise ArtifactError(
            f"{OLLAMA}{name}: not a name of Ollama's", hint="it is [HOST/][NAMESPACE/]MODEL[:TAG]"
        )

    return whole[0], whole[1], whole[2], whole[3]


def _layers(name: str, manifest: Path, root: Path) -> dict[str, list[Path]]:
    """Return the files of a manifest by kind, after a check of their sizes."""
    try:
        described = json.loads(_read(manifest))
        entries = [
            (str(layer["mediaType"]), str(layer["digest"]), int(layer["size"]))
            for layer in described["layers"]
        ]
    except OSError as error:
        raise ArtifactError(
            f"{OLLAMA}{name}: not in Ollama's store", hint=_others(root, manifest)
        ) from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{OLLAMA}{name}: its manifest cannot be read") from error

    found: dict[str, list[Path]] = {}
    for kind, digest, size in entries:
        path = _blob(name, root, digest)
        seen = path.stat().st_size if path.is_file() else -1
        if seen != size:
            problem = "is missing" if seen < 0 else f"has {seen:,} bytes of {size:,}"
            raise ArtifactError(
                f"{OLLAMA}{name}: its file {path.name[:19]}… {problem}",
                hint=f"ollama pull {name}",
            )
        found.setdefault(kind.removeprefix(_KIND), []).append(path)

    return found


def _blob(name: str, root: Path, digest: str) -> Path:
    """Return the file of a digest; older stores name them with a colon."""
    matched = _DIGEST.fullmatch(digest)
    if not matched:
        raise ArtifactError(f"{OLLAMA}{name}: its manifest names no digest: `{digest[:40]}`")
    old, new = (root / "blobs" / f"sha256{sign}{matched[1]}" for sign in ":-")
    return old if old.is_file() else new


def _others(root: Path, manifest: Path) -> str:
    """Return a hint: the nearest model in the store, or how to get one."""
    known = {
        f"{tag.parent.name}:{tag.name}" for tag in root.glob("manifests/*/*/*/*") if tag.is_file()
    }
    if not known:
        return f"there is none in {root}; OLLAMA_MODELS names another store"
    return closest(f"{manifest.parent.name}:{manifest.name}", sorted(known))


def _parameters(name: str, layers: Mapping[str, list[Path]]) -> dict[str, Any]:
    try:
        fields = json.loads(_text(layers, "params") or "{}")
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{OLLAMA}{name}: its parameters are not valid JSON") from error
    return fields if isinstance(fields, dict) else {}


def _messages(name: str, layers: Mapping[str, list[Path]]) -> Iterator[dict[str, str]]:
    """Yield the turns of a Modelfile's MESSAGE lines; none unless they alternate properly."""
    try:
        rows = json.loads(_text(layers, "messages") or "[]")
        turns = [{"role": str(row["role"]), "content": str(row["content"])} for row in rows]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{OLLAMA}{name}: its messages cannot be read") from error
    if [turn["role"] for turn in turns] == ["user", "assistant"] * (len(turns) // 2):
        yield from turns


def _dropped(layers: Mapping[str, list[Path]], parameters: Mapping[str, Any]) -> Iterator[str]:
    """Yield a sentence for each setting that a board does not honour as Ollama does."""
    if "template" in layers:
        yield "Ollama's own template, which is Go's: the one inside the model file is used"
    if "projector" in layers:
        yield "its eyes (a projector file): a board answers text alone"
    if len(layers.get("adapter", [])) > 1:
        yield "its adapters after the first"
    if "messages" in layers and not list(_messages("", layers)):
        yield "its messages, which are not questions with their answers"

    drawn = [name for name in parameters if name in _GREEDY]
    others = [name for name in parameters if name not in _GREEDY]
    if drawn:
        yield (
            f"its parameters {', '.join(sorted(drawn))}: "
            "a board takes the likeliest token unless a request says otherwise"
        )
    if others:
        yield f"its parameters {', '.join(sorted(others))}"


def _text(layers: Mapping[str, list[Path]], kind: str) -> str:
    return _read(layers[kind][0]) if layers.get(kind) else ""


def _read(path: Path) -> str:
    with path.open("rb") as stream:
        return stream.read(_MAX_TEXT_BYTES).decode("utf-8", "replace")


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _count(value: Any) -> int:
    return value if type(value) is int and value > 0 else 0
