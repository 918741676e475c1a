"""Looks at a finished model before anything runs it: its format, its needs, or why it is refused.

Only headers are read, within the bounds of device.manifest. The engine is asked later (`take`) for
what a header does not tell.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from device.manifest import ManifestError
from device.manifest import gguf as gguf_files
from toolchain.errors import ArtifactError
from toolchain.finished.source import Source
from toolchain.fitting import weigh
from toolchain.forecast import trained_context
from toolchain.line.formats import FORMATS, Format
from toolchain.models import gguf_parts
from toolchain.models.template import MAX_BYTES, check_template
from toolchain.models.tokenizer import CONTROL, USER_DEFINED
from toolchain.progress import SILENT
from toolchain.quantize.contents import Contents, read_contents
from toolchain.weighing import Weighed

_TEMPLATE_KEY = "tokenizer.chat_template"
_NO_TEMPLATE = (
    "give the one it was trained with: "
    "--template FILE (the chat_template of its tokenizer_config.json, "
    "or chat_template.jinja)"
)
_ENCODERS = ("t5", "t5encoder", "bert", "nomic-bert", "nomic-bert-moe", "jina-bert-v2", "neo-bert")
_KINDS = {
    "adapter": "an adapter, no model: merge it with its base, or give both to a recipe",
    "mmproj": "the eyes of a vision model, no model that answers",
    "imatrix": "an importance matrix, no model",
    "vocab": "a vocabulary without weights",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a file's header says for a release."""

    format: str
    file: Path
    weighed: Weighed
    contents: Contents
    template: str
    context: int
    """Tokens that the model was trained for, or that its file has room for."""
    stop_ids: tuple[int, ...]
    """Ids of the tokens that end an answer, by the file."""
    begins: str = ""
    """Text of the token that the file wants before every text; empty for none."""
    tokenizer: Path | None = None
    """Path to `tokenizer.json`; None if the file contains its tokenizer."""
    kv_type: str = "f16"
    is_special: Callable[[int], bool]
    """Returns whether a token is special, so that no ordinary text makes it."""
    prefill: tuple[int, ...] | None = None
    """Lengths of the pieces in which it reads prompts; None for any length."""
    kv_bytes_per_token: int | None = None
    """Bytes of keys and values per token; None if the header says it itself."""

    @property
    def row(self) -> Format:
        """Row of its format."""
        return FORMATS[self.format]

    @property
    def engine(self) -> str:
        """Name of the engine that runs it."""
        return self.row.engine


def look(source: Source, template: Path | None, room: Path) -> Seen:
    """Return what a finished model is; raise ArtifactError with the fault and what would mend it.

    A container is unpacked, and the parts of a model are joined, in `room`.
    """
    given = _given(template) if template else ""
    return _LOOKS[_kind(source.file)](source, given, room)


# The kind of a file is what its first bytes say, whatever its name --------------------------------


_MAGIC = {"gguf": (0, b"GGUF"), "litertlm": (0, b"LITERTLM"), "tflite": (4, b"TFL3")}
"""Kind of file → offset of its mark, and the mark."""


def _kind(file: Path) -> str:
    """Return the kind of a file; raise ArtifactError for a kind that no board runs."""
    with file.open("rb") as stream:
        head = stream.read(512)
    for kind, (start, mark) in _MAGIC.items():
        if head[start : start + len(mark)] == mark:
            return kind
    problem, hint = _stranger(head)
    raise ArtifactError(f"{file.name}: {problem}", hint=hint)


def _stranger(head: bytes) -> tuple[str, str]:
    """Return what a foreign file is, and what to do about it."""
    again = "download it again"
    if not head:
        return "is empty", again
    if head[:4] == b"PK\3\4" or (head[:1] == b"\x80" and head[1:2] in b"\2\3\4\5"):
        return (
            "is a pickle, which can run code when it is loaded, whatever its name says",
            "save the model as safetensors, or convert it to GGUF",
        )
    if head[:4] in (b"lmgg", b"fmgg", b"tjgg"):
        return "is of a format older than GGUF", "convert the original model again"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 27:
        return (
            "holds safetensors, the weights of a model folder",
            "a recipe with `base = FOLDER` quantizes a model folder",
        )
    if head.startswith(b"version ") and b"git-lfs" in head:
        return "is a pointer of Git LFS, not the file it points to", "git lfs pull"
    if head.lstrip()[:1] == b"<":
        return "is a web page, not a model", again
    return "is neither GGUF nor TFLite nor LiteRT-LM", again


# GGUF ---------------------------------------------------------------------------------------------


def _gguf(source: Source, template: str, room: Path) -> Seen:
    _header(source.file)
    file = _joined(gguf_parts.parts_of(source.file), room)
    header = _header(file)
    name = file.name
    said = header.metadata
    architecture = str(said.get("general.architecture", ""))
    _refuse_no_decoder(name, header, architecture)
    found = said.get(_TEMPLATE_KEY)
    template = template or (found if isinstance(found, str) else "")
    if not template.strip():
        raise ArtifactError(f"{name}: no chat template in it", hint=_NO_TEMPLATE)

    check_template(template)
    context = trained_context(header)
    if not context:
        raise ArtifactError(
            f"{name}: `{architecture}.context_length` is "
            f"{said.get(f'{architecture}.context_length', 'missing')}: "
            "nobody can say how much context it has",
            hint="convert the original model again",
        )

    contents = read_contents(file)
    return Seen(
        format="gguf",
        file=file,
        weighed=weigh(file),
        contents=contents,
        template=template,
        context=context,
        stop_ids=_stop_ids(said, contents.vocabulary),
        begins=_begins(said, contents),
        is_special=partial(_is_special, file),
    )


def _joined(parts: tuple[Path, ...], room: Path) -> Path:
    """Return the file of a model, joined in `room` if it came in parts and is not there yet."""
    if len(parts) == 1:
        return parts[0]

    file = room / gguf_parts.whole_name(parts[0].name)
    newest = max(part.stat().st_mtime_ns for part in parts)
    if not file.is_file() or file.stat().st_mtime_ns < newest:
        room.mkdir(parents=True, exist_ok=True)
        gguf_parts.join(parts, file, SILENT)
    return file


def _is_special(file: Path, token: int) -> bool:
    types = gguf_files.read_header(file).metadata.get("tokenizer.ggml.token_type")
    return _number(file, types, token) in (CONTROL, USER_DEFINED)


def _number(file: Path, array: object, place: int) -> int:
    """Return an item of an array of 32-bit numbers, also of one that was not read; -1 for none."""
    if isinstance(array, tuple):
        return int(array[place]) if place < len(array) else -1
    if not isinstance(array, gguf_files.Array) or array.kind not in (4, 5) or place >= array.count:
        return -1
    with file.open("rb") as stream:
        stream.seek(array.offset + 4 * place)
        return int.from_bytes(stream.read(4), "little")


def _header(file: Path) -> gguf_files.Header:
    try:
        return gguf_files.read_header(file)
    except ManifestError as error:
        with file.open("rb") as stream:
            version = stream.read(8)[4:]
        if int.from_bytes(version, "big") in (1, 2, 3) and version[:1] == b"\0":
            raise ArtifactError(
                f"{file.name}: is big-endian: boards are little-endian",
                hint="`gguf-convert-endian FILE little` of the Python package gguf turns it round",
            ) from error
        raise ArtifactError(str(error), hint="download or copy the file again") from error


def _refuse_no_decoder(name: str, header: gguf_files.Header, architecture: str) -> None:
    """Raise ArtifactError for a GGUF file that answers no questions."""
    said = header.metadata
    kind = said.get("general.type", "model")
    if kind != "model" or architecture == "clip":
        what = _KINDS.get(str(kind), _KINDS["mmproj"] if architecture == "clip" else "")
        raise ArtifactError(f"{name}: is {what or f'of the type `{kind}`, no model'}")
    if not architecture:
        raise ArtifactError(f"{name}: no `general.architecture`: no engine can tell what it is")

    pooled = said.get(f"{architecture}.pooling_type", 0)
    if architecture in _ENCODERS or pooled or said.get(f"{architecture}.attention.causal") is False:
        raise ArtifactError(
            f"{name}: is an embedding model or an encoder (`{architecture}`): "
            "it answers no questions",
            hint="give an instruct or chat model",
        )
    if not header.tensors:
        raise ArtifactError(f"{name}: holds no weights", hint="give the model file itself")
    if said.get("tokenizer.ggml.model", "none") in ("none", "no_vocab") or not said.get(
        "tokenizer.ggml.tokens"
    ):
        raise ArtifactError(
            f"{name}: no tokenizer in it", hint="convert the original model with its tokenizer"
        )


def _stop_ids(said: Mapping[str, Any], vocabulary: int) -> tuple[int, ...]:
    """Return the header's tokens that end an answer, without those outside of the vocabulary."""
    named = [said.get(f"tokenizer.ggml.{role}_token_id") for role in ("eos", "eot", "eom")]
    return tuple(sorted({each for each in named if type(each) is int and 0 <= each < vocabulary}))


def _begins(said: Mapping[str, Any], contents: Contents) -> str:
    """Return the text of the token that llama.cpp puts before every prompt of this file."""
    if said.get("tokenizer.ggml.add_bos_token") is not True:
        return ""
    return next((special.text for special in contents.specials if special.role == "bos"), "")


def _given(template: Path) -> str:
    """Return the text of a template file; raise ArtifactError for one that cannot be read."""
    try:
        if template.stat().st_size > MAX_BYTES:
            raise ArtifactError(f"{template.name}: larger than {MAX_BYTES >> 20} MiB")
        return template.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{template.name}: cannot be read as a template") from error


def _tflite(source: Source, template: str, room: Path) -> Seen:
    from toolchain.finished import lite

    return lite.seen(source, template)


def _litertlm(source: Source, template: str, room: Path) -> Seen:
    from toolchain.finished import lite

    return lite.seen(lite.taken_apart(source, room), template)


_LOOKS: dict[str, Callable[[Source, str, Path], Seen]] = {
    "gguf": _gguf,
    "litertlm": _litertlm,
    "tflite": _tflite,
}
"""Kind of file → function that looks at one."""
