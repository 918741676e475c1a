"""Finished TFLite decoders: a `.tflite` with its tokenizer beside it, or a `.litertlm` with all.

`.litertlm` is LiteRT-LM's container: a head, a FlatBuffer that names sections by kind and place,
and the sections, each a file. It is hostile until its places have been checked here; nothing of it
is run.
"""

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from device.manifest import TEMPLATE, TOKENIZER, ManifestError
from device.manifest import tflite as tflite_files
from toolchain import extras
from toolchain.errors import ArtifactError, ToolError
from toolchain.finished.look import Seen
from toolchain.finished.source import Source
from toolchain.fitting import weigh
from toolchain.forecast import lite_sizes
from toolchain.models import tokenizer as tokenizers
from toolchain.models.template import check_template
from toolchain.models.weights import read_json
from toolchain.quantize.tflite.contents import read_contents

_CONTRACT = "a decoder has the signatures `prefill_<n>` and `decode`, as litert-torch writes them"
_NO_TEMPLATE = f"put `{TEMPLATE}` beside it, or give --template FILE"
_HEAD_BYTES, _MAX_TABLE_BYTES, _MAX_TOKENIZER_BYTES = 32, 1 << 20, 256 << 20
_STOPS = "stop_ids.json"
"""File beside a container's unpacked parts, with the ids of its end tokens."""


def seen(source: Source, template: str) -> Seen:
    """Return what a TFLite decoder and the files beside it are.

    Raises ArtifactError with what is missing.
    """
    file = source.file
    folder = source.folder or source.file.parent
    header = _header(file)
    sizes = lite_sizes(header)
    if not sizes.context or not sizes.n_vocab:
        raise ArtifactError(f"{file.name}: is no decoder of text", hint=_CONTRACT)
    if foreign := tflite_files.foreign_operators(header):
        raise ArtifactError(
            f"{file.name}: computes with operators that boards do not run, such as {foreign[0]}"
        )
    if not (folder / TOKENIZER).is_file():
        raise ArtifactError(
            f"{file.name}: no `{TOKENIZER}` beside it", hint="copy it from the model's own folder"
        )

    template = template or _template(folder, file.name)
    check_template(template)
    ends = stop_ids(folder, header, file.name)
    return Seen(
        format="tflite",
        file=file,
        weighed=weigh(file),
        contents=read_contents(file),
        template=template,
        context=sizes.context,
        stop_ids=ends,
        is_special=ends.__contains__,
        tokenizer=folder / TOKENIZER,
        kv_type="f32",
        prefill=sizes.prefill,
        kv_bytes_per_token=sizes.kv_bytes_per_token,
    )


def _header(file: Path) -> tflite_files.Header:
    try:
        return tflite_files.read_header(file)
    except ManifestError as error:
        raise ArtifactError(str(error), hint="download or copy the file again") from error


def _template(folder: Path, name: str) -> str:
    settings = folder / "tokenizer_config.json"
    try:
        return tokenizers.chat_template(folder, read_json(settings) if settings.is_file() else {})
    except ArtifactError as error:
        raise ArtifactError(f"{name}: no chat template beside it", hint=_NO_TEMPLATE) from error


def stop_ids(folder: Path, header: tflite_files.Header, name: str) -> tuple[int, ...]:
    """Return the tokens that end an answer.

    The file's own note names them, or the container, or the JSON files beside it.
    """
    noted = header.note.get("stop_ids")
    if isinstance(noted, list) and noted and all(type(each) is int for each in noted):
        return tuple(noted)
    if (folder / _STOPS).is_file():
        return tuple(json.loads((folder / _STOPS).read_text(encoding="utf-8")))
    if (folder / "config.json").is_file():
        file = folder / "tokenizer_config.json"
        settings = read_json(file) if file.is_file() else {}
        return tokenizers.special_ids(folder, settings, *_vocabulary(folder))[1]

    ids, _ = _vocabulary(folder)
    known = tuple(sorted(ids[token] for token in tokenizers.END_OF_TURN if token in ids))
    if not known:
        raise ArtifactError(
            f"{name}: no token ends an answer",
            hint="put the model's `config.json` and `tokenizer_config.json` beside it: "
            "they name it",
        )

    return known


def _vocabulary(folder: Path) -> tuple[dict[str, int], list[str]]:
    """Return the id of each token, and the texts of the added tokens."""
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception as error:  # the library raises no narrower one
        raise ArtifactError(f"{TOKENIZER}: cannot be read: {str(error)[:200]}") from error

    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    return dict(tokenizer.get_vocab()), added


# Containers ---------------------------------------------------------------------------------------


def taken_apart(source: Source, room: Path) -> Source:
    """Write model, tokenizer, template and end tokens of a `.litertlm` into `room`.

    Returns the model as a source.
    """
    try:
        from litert_lm_builder import litertlm_header_schema_py_generated as schema
    except ImportError as error:
        raise ToolError(
            "litert-lm-builder is not installed", hint=extras.remedy("tflite")
        ) from error

    kinds = schema.AnySectionDataType
    name = source.file.name
    try:
        sections = list(_sections(source.file, schema))
    except (struct.error, IndexError, ValueError, TypeError) as error:
        raise ArtifactError(
            f"{name}: its table of sections cannot be read", hint="download or copy the file again"
        ) from error

    models = [place for kind, place in sections if kind == kinds.TFLiteModel]
    if len(models) != 1:
        raise ArtifactError(
            f"{name}: has {len(models)} TFLite models, a board runs one",
            hint="give the .tflite of its decoder with the tokenizer beside it",
        )

    room.mkdir(parents=True, exist_ok=True)
    file = room / Path(name).with_suffix(".tflite").name
    _copy(source.file, models[0], file)
    (room / TOKENIZER).write_bytes(_tokenizer(source.file, sections, kinds))

    for kind, place in sections:
        if kind == kinds.LlmMetadataProto:
            _write_metadata(_bytes(source.file, place, _MAX_TABLE_BYTES), room)

    return replace(source, file=file, folder=room, immutable=True)


def _sections(file: Path, schema: Any) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield kind and place of each section, each place being inside the file.

    Source: litert_lm_builder's litertlm_peek.py.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        end = struct.unpack_from("<Q", stream.read(_HEAD_BYTES), 24)[0]
        if not _HEAD_BYTES < end <= min(size, _MAX_TABLE_BYTES):
            raise ValueError("the head is longer than the file")
        table = stream.read(end - _HEAD_BYTES)

    described = schema.LiteRTLMMetaData.GetRootAs(table, 0).SectionMetadata()
    count = described.ObjectsLength()
    if count > 256:
        raise ValueError("too many sections")

    for number in range(count):
        section = described.Objects(number)
        begin, stop = int(section.BeginOffset()), int(section.EndOffset())
        if not end <= begin <= stop <= size:
            raise ValueError("a section outside of the file")
        yield int(section.DataType()), (begin, stop)


def _tokenizer(file: Path, sections: list[tuple[int, tuple[int, int]]], kinds: Any) -> bytes:
    """Return tokenizer.json; LiteRT-LM stores its unpacked length, then the zlib stream."""
    for kind, place in sections:
        if kind == kinds.HF_Tokenizer_Zlib:
            packed = _bytes(file, place, _MAX_TOKENIZER_BYTES)
            try:
                unpacker = zlib.decompressobj()
                return unpacker.decompress(packed[8:], _MAX_TOKENIZER_BYTES)
            except zlib.error as error:
                raise ArtifactError(f"{file.name}: its tokenizer cannot be unpacked") from error

    raise ArtifactError(
        f"{file.name}: no Hugging Face tokenizer in it",
        hint="boards read tokenizer.json; a SentencePiece model alone is not enough",
    )


def _write_metadata(content: bytes, room: Path) -> None:
    """Write the end tokens and the template from LiteRT-LM's metadata."""
    from litert_lm_builder.runtime.proto import llm_metadata_pb2

    about = llm_metadata_pb2.LlmMetadata()
    try:
        about.ParseFromString(content)
    except Exception as error:  # protobuf's own kind differs by its implementation
        raise ArtifactError("the metadata of the .litertlm cannot be read") from error

    ids = [number for each in about.stop_tokens for number in each.token_ids.ids]
    if ids:
        (room / _STOPS).write_text(json.dumps(sorted(set(ids))), encoding="utf-8")
    if about.jinja_prompt_template:
        (room / TEMPLATE).write_text(about.jinja_prompt_template, encoding="utf-8")


def _bytes(file: Path, place: tuple[int, int], most: int) -> bytes:
    begin, end = place
    if end - begin > most:
        raise ArtifactError(f"{file.name}: a section of {end - begin:,} bytes, {most:,} at most")
    with file.open("rb") as stream:
        stream.seek(begin)
        return stream.read(end - begin)


def _copy(file: Path, place: tuple[int, int], out: Path) -> None:
    begin = place[0]
    left = place[1] - place[0]
    with file.open("rb") as stream, out.open("wb") as target:
        stream.seek(begin)
        while left and (chunk := stream.read(min(left, 1 << 20))):
            target.write(chunk)
            left -= len(chunk)
