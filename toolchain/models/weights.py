"""The tensors of a Hugging Face model folder, found without loading them and read row by row.

Every stage checks a given folder with `check_model_folder` first. Safetensors only: pickles run
code when they are loaded.
"""

import json
import math
import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.errors import ArtifactError
from toolchain.models.names import CONFIG, TOKENIZER
from toolchain.models.sights import eyes_name, language_name
from toolchain.models.vision import sight_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
"""Files that transformers looks for, in this order; others beside them are not read."""
MAX_HEADER_BYTES = 100_000_000
"""The format's own bound on a header (safetensors `MAX_HEADER_SIZE`)."""
ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2, "I64": 8}
"""The element types that are known, and their bytes."""
_WEIGHTS = ("F32", "F16", "BF16")
"""The element types that weights are read from."""
_PICKLES = (".bin", ".pt", ".pth", ".pkl")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """Position of one tensor in its file."""

    file: Path
    dtype: str
    """`F32`, `F16` or `BF16`."""
    shape: tuple[int, ...]
    offset: int
    """Offset of its first byte in the file."""

    @property
    def columns(self) -> int:
        """Elements in one row; a vector is one row."""
        return self.shape[-1] if self.shape else 1

    @property
    def rows(self) -> int:
        """Rows of `columns` elements."""
        return math.prod(self.shape[:-1])

    @property
    def size_bytes(self) -> int:
        """Bytes in the file."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


class Weights:
    """The tensors of an open model folder; safe to read from several threads."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = tensors
        self._handles = {
            file: os.open(file, os.O_RDONLY)
            for file in {tensor.file for tensor in tensors.values()}
        }

    def rows(self, name: str, first: int, count: int) -> "NDArray[np.float32]":
        """Return rows `first` to `first + count` as float32, shape (count, columns)."""
        tensor = self.tensors[name]
        if not 0 <= first <= first + count <= tensor.rows:
            raise ValueError(f"{name}: rows {first} to {first + count} of {tensor.rows}")
        row_bytes = tensor.columns * ITEM_BYTES[tensor.dtype]
        raw = os.pread(
            self._handles[tensor.file], count * row_bytes, tensor.offset + first * row_bytes
        )
        if len(raw) != count * row_bytes:
            raise ArtifactError(
                f"{tensor.file.name}: tensor `{name}`: the file became shorter while it was read"
            )
        return _as_float32(raw, tensor.dtype).reshape(count, tensor.columns)

    def close(self) -> None:
        """Close the files."""
        for handle in self._handles.values():
            os.close(handle)
        self._handles = {}

    def __enter__(self) -> "Weights":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_model_folder(folder: Path) -> None:
    """Raise ArtifactError unless `folder` has config.json, tokenizer.json and safetensors."""
    if not folder.is_dir():
        raise ArtifactError(f"{folder.name}: no such model folder")
    if not (folder / CONFIG).is_file():
        raise ArtifactError(
            f"{folder.name}: no `config.json`",
            hint="a model folder is what `save_pretrained` writes",
        )

    _check_weight_files(folder)
    if not (folder / TOKENIZER).is_file():
        hint = (
            "save the tokenizer beside the model with "
            "`AutoTokenizer.from_pretrained(…).save_pretrained(…)`"
        )
        raise ArtifactError(f"{folder.name}: no `tokenizer.json`", hint=hint)


def open_weights(folder: Path, without: Collection[str] = ()) -> Weights:
    """Return the tensors of a model folder, those named in `without` left out.

    Of a model that sees, they are those of its language model, by the names that a text model has.
    Raises ArtifactError that names file and tensor.
    """
    check_model_folder(folder)
    tensors = _read_tensors(folder, without)
    if sight_of(read_json(folder / CONFIG)):
        named = {language_name(name): tensor for name, tensor in tensors.items()}
        tensors = {name: tensor for name, tensor in named.items() if name}
    return Weights(tensors)


def open_eyes(folder: Path) -> Weights:
    """Return the tensors of the vision tower and its connector, of a model that sees.

    They have the names that published checkpoints give them.
    """
    check_model_folder(folder)
    named = {eyes_name(name): each for name, each in _read_tensors(folder, ()).items()}
    return Weights({name: each for name, each in named.items() if name})


def _read_tensors(folder: Path, without: Collection[str]) -> dict[str, Tensor]:
    if (folder / WHOLE).is_file():
        return read_header(folder / WHOLE, without)

    index = folder / INDEX
    named = {name: file for name, file in _weight_map(index).items() if name not in without}
    shards = {
        file: read_header(_shard(index, file), without) for file in sorted(set(named.values()))
    }
    for name, file in named.items():
        if name not in shards[file]:
            raise ArtifactError(f"{file}: tensor `{name}` is missing, but {INDEX} places it there")
    return {name: shards[file][name] for name, file in named.items()}


def weight_files(folder: Path) -> list[Path]:
    """Return the files of a model folder that transformers reads weights from."""
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    index = folder / INDEX
    return [_shard(index, file) for file in sorted(set(_weight_map(index).values()))]


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file of a model folder; raise ArtifactError if there is none."""
    if path.exists() and not path.is_file():
        raise ArtifactError(f"{path.name}: not a file")
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path.name}: not valid JSON") from error
    if not isinstance(fields, dict):
        raise ArtifactError(f"{path.name}: not a JSON object")
    return fields


def _check_weight_files(folder: Path) -> None:
    """Raise ArtifactError unless a folder has weights where transformers looks for them."""
    files = sorted(folder.glob("*.safetensors"))
    if strange := [file.name for file in files if not file.is_file()]:
        raise ArtifactError(f"{folder.name}: `{strange[0]}` is not a file")
    if (folder / WHOLE).is_file() or (folder / INDEX).is_file():
        return
    if files:
        raise ArtifactError(
            f"{folder.name}: weights in `{files[0].name}`, but neither `{WHOLE}` nor `{INDEX}`, "
            "where transformers looks",
            hint=f"a model in one file is called `{WHOLE}`; download the index of one in several",
        )
    if pickles := sorted(file.name for file in folder.iterdir() if file.suffix in _PICKLES):
        hint = "save the model again with `save_pretrained`, which writes safetensors"
        raise ArtifactError(
            f"{folder.name}: `{pickles[0]}` is a pickle, which can run code when it is loaded",
            hint=hint,
        )

    raise ArtifactError(
        f"{folder.name}: no weights (`*.safetensors`)",
        hint="a model folder is what `save_pretrained` writes",
    )


def _weight_map(index: Path) -> dict[str, str]:
    named = read_json(index).get("weight_map")
    if (
        not isinstance(named, dict)
        or not named
        or not all(isinstance(file, str) for file in named.values())
    ):
        raise ArtifactError(f"{index.name}: no `weight_map` from tensors to files")
    return named


def _shard(index: Path, file: str) -> Path:
    path = index.with_name(Path(file).name)
    if path.name != file or not path.is_file():
        raise ArtifactError(
            f"{index.name}: shard `{file}` is missing", hint="download or copy the model again"
        )
    return path


def read_header(file: Path, without: Collection[str] = ()) -> dict[str, Tensor]:
    """Return the tensors in a safetensors header (safetensors format specification).

    A file has 8 bytes of length, the JSON header, then the data without holes. Tensors named in
    `without` are left out; they may be integers.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little") if size >= 8 else 0
        if not 2 <= length <= MAX_HEADER_BYTES:
            raise ArtifactError(f"{file.name}: not a safetensors file")
        if 8 + length > size:
            raise _cut(file, size, 8 + length)
        text = stream.read(length)

    try:
        fields = json.loads(text)
        entries = {name: entry for name, entry in fields.items() if name != "__metadata__"}
    except (ValueError, AttributeError, RecursionError) as error:
        raise ArtifactError(f"{file.name}: not a safetensors file") from error

    tensors = {
        name: _tensor(file, name, entry, 8 + length, unread=name in without)
        for name, entry in entries.items()
    }
    _check_layout(file, tensors, 8 + length, size)
    return {name: tensor for name, tensor in tensors.items() if name not in without}


def _tensor(file: Path, name: str, entry: Any, start: int, *, unread: bool) -> Tensor:
    try:
        dtype = entry["dtype"]
        shape = tuple(entry["shape"])
        begin, end = entry["data_offsets"]
        sound = isinstance(dtype, str) and all(
            type(number) is int and number >= 0 for number in (*shape, begin, end)
        )
    except (TypeError, KeyError, ValueError):
        sound = False

    if not sound:
        raise ArtifactError(
            f"{file.name}: tensor `{name}`: needs `dtype`, `shape` and `data_offsets`"
        )
    if dtype not in (ITEM_BYTES if unread else _WEIGHTS):
        hint = (
            "4-bit and 8-bit checkpoints cannot be taken back; "
            "use the 16-bit model that this one was made from"
        )
        raise ArtifactError(
            f"{file.name}: tensor `{name}`: weights of type `{dtype}`, not F32, F16 or BF16",
            hint=hint,
        )

    tensor = Tensor(file=file, dtype=dtype, shape=shape, offset=start + begin)
    if tensor.size_bytes != end - begin:
        raise ArtifactError(
            f"{file.name}: tensor `{name}`: {end - begin} bytes for shape {list(shape)} of {dtype}"
        )

    return tensor


def _check_layout(file: Path, tensors: dict[str, Tensor], start: int, size: int) -> None:
    end = start
    for name, tensor in sorted(
        tensors.items(), key=lambda item: (item[1].offset, item[1].size_bytes)
    ):
        if tensor.offset != end:
            problem = (
                "overlaps the tensor before it"
                if tensor.offset < end
                else "leaves a hole before it"
            )
            raise ArtifactError(f"{file.name}: tensor `{name}`: {problem}")
        end += tensor.size_bytes

    if size < end:
        raise _cut(file, size, end)
    if size > end:
        raise ArtifactError(f"{file.name}: {size - end} bytes more than its header names")


def _cut(file: Path, size: int, whole: int) -> ArtifactError:
    hint = "download or copy the model again"
    return ArtifactError(f"{file.name}: cut short, {size} of {whole} bytes are there", hint=hint)


def _as_float32(raw: bytes, dtype: str) -> "NDArray[np.float32]":
    import numpy as np

    if dtype == "BF16":
        return (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(raw, "<f2" if dtype == "F16" else "<f4").astype(np.float32, copy=False)
