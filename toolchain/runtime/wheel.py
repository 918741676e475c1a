"""llama-cpp-python as a wheel for boards: its own Python files around our own libraries.

It fits any Python 3 and has the same bytes each time. It is for those who install with pip on a
board; our own runtimes travel without it. Format: PyPA, binary distribution format.
"""

import base64
import hashlib
import importlib.metadata
import zipfile
from collections.abc import Sequence
from pathlib import Path

from toolchain.runtime.cross import GLIBC

_EPOCH = (1980, 1, 1, 0, 0, 0)
_GENERATOR = "demitasse"


def write_wheel(libraries: Sequence[Path], machine: str, out: Path) -> Path:
    """Write the wheel with cross-built libraries into a folder and return it."""
    installed = importlib.metadata.distribution("llama-cpp-python")
    about = f"llama_cpp_python-{installed.version}.dist-info"
    tag = f"py3-none-manylinux_{GLIBC.replace('.', '_')}_{machine}"
    contents = {f"llama_cpp/lib/{library.name}": library.read_bytes() for library in libraries}

    for file in installed.files or []:
        if _travels(file, about):
            contents[file.as_posix()] = Path(str(file.locate())).read_bytes()

    contents[f"{about}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: {_GENERATOR}\n"
        f"Root-Is-Purelib: false\nTag: {tag}\n".encode()
    )
    out.mkdir(parents=True, exist_ok=True)
    wheel = out / f"llama_cpp_python-{installed.version}-{tag}.whl"
    part = wheel.with_name(f".{wheel.name}.part")
    _pack(part, dict(sorted(contents.items())), f"{about}/RECORD")
    return part.replace(wheel)


def _travels(file: importlib.metadata.PackagePath, about: str) -> bool:
    """Return whether an installed file is a Python file, licence or metadata of the package."""
    if file.parts[0] == about:
        return file.name == "METADATA" or "licenses" in file.parts
    return file.parts[0] == "llama_cpp" and (file.suffix == ".py" or file.name == "py.typed")


def _pack(path: Path, contents: dict[str, bytes], record: str) -> None:
    rows = [
        f"{name},sha256={_digest(content)},{len(content)}" for name, content in contents.items()
    ]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in {
            **contents,
            record: "\n".join([*rows, f"{record},,", ""]).encode(),
        }.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o100644 << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, content)


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
