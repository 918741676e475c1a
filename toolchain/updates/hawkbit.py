"""A release as the artifacts of a hawkBit software module, with the digests that DDI announces.

hawkBit's Direct Device Integration hands a device a list of files with their sha1, md5 and sha256
(eclipse-hawkbit/hawkbit, `deploymentBase` of the DDI API).
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from toolchain.files import whole_file, write_whole
from toolchain.updates.form import Form, Parcel
from toolchain.updates.program import INSTALL
from toolchain.updates.tar import Member

ARTIFACTS = "artifacts"
"""Folder of the files that are uploaded to one software module."""
DIGESTS = "digests.json"


def fill(parcel: Parcel, out: Path) -> None:
    """Write the artifacts, and their digests beside them."""
    (out / ARTIFACTS).mkdir(exist_ok=True)
    announced = [_write(member, out / ARTIFACTS) for member in parcel.members()]
    write_whole(out / DIGESTS, json.dumps(announced, indent=1) + "\n")


def _write(member: Member, folder: Path) -> dict[str, Any]:
    """Write a file; return it as DDI announces it."""
    totals = {
        "sha1": hashlib.sha1(usedforsecurity=False),
        "md5": hashlib.md5(usedforsecurity=False),
        "sha256": hashlib.sha256(),
    }
    with whole_file(folder / member.name) as part, part.open("wb") as stream:
        for chunk in member.chunks():
            stream.write(chunk)
            for total in totals.values():
                total.update(chunk)
    hashes = {name: total.hexdigest() for name, total in totals.items()}
    return {"filename": member.name, "size": member.size, "hashes": hashes}


FORM = Form(shell=INSTALL, program="demitasse-install", fill=fill)
