"""The device package as it leaves the host: the agent, the first thing that is sent to a board.

Boards are reached through it, and runtimes contain the same files: so neither of the two needs to
know the other.
"""

import atexit
import io
import os
import shutil
import tempfile
import zipfile
from hashlib import sha256
from pathlib import Path

import platformdirs

import device.manifest
from device.manifest import read_bounded

OLDEST_PYTHON = (3, 10)
"""Oldest Python on which the device package runs."""
OLDEST_PYTHON_NAME = ".".join(map(str, OLDEST_PYTHON))
MAIN = (
    "import sys\n\nsys.dont_write_bytecode = True\n\n"
    "from device.__main__ import main\n\nsys.exit(main(sys.argv[1:]))\n"
)
# A signed folder must stay as it is, however it is run: hence no byte code.
"""`__main__.py` of the agent and of every runtime."""
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""Time of every archive member: the same files give the same bytes."""


def cache() -> Path:
    """Return the folder of runtimes and agents on this computer."""
    return Path(platformdirs.user_cache_dir("demitasse"))


def device_folder() -> Path:
    """Return the folder of the package that runs on boards."""
    return Path(device.manifest.__file__).parent.parent


def build_agent() -> Path:
    """Return the agent, `<sha256>.pyz`: the device package alone, the first file on a board."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo("__main__.py", _EPOCH), MAIN)
        for file in device_files():
            name = "device/" + file.relative_to(device_folder()).as_posix()
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), file.read_bytes())

    content = packed.getvalue()
    name = f"{sha256(content).hexdigest()}.pyz"
    try:
        return _kept(cache() / "agents" / name, content)
    except OSError:
        # A home that cannot be written must not make a board unreachable.

        folder = tempfile.mkdtemp(prefix="demitasse-agent-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return _kept(Path(folder) / name, content)


def _kept(file: Path, content: bytes) -> Path:
    """Return a file that holds these bytes; one that was cut by a power cut is replaced."""
    if read_bounded(file, len(content)) != content:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, delete=False) as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        Path(stream.name).replace(file)
    return file


def device_files() -> list[Path]:
    """Return the files of the device package, sorted."""
    found = device_folder().rglob("*")
    return sorted(file for file in found if file.is_file() and "__pycache__" not in file.parts)
