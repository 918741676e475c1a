"""A release as a Mender artifact: version 3 of its format, with a payload for our update module.

Source: mendersoftware/mender-artifact, Documentation/artifact-format-v3.md.
"""

import json
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

from toolchain.files import whole_file
from toolchain.updates.form import Form, Parcel
from toolchain.updates.program import MENDER
from toolchain.updates.tar import Member, tar_chunks

TYPE = "demitasse"
"""Payload type: the name of the update module's file on the board."""
_PROVIDES = f"rootfs-image.{TYPE}"
# A key that begins with `rootfs-image.` is dropped by Mender when a whole image replaces the disk.


def fill(parcel: Parcel, out: Path) -> None:
    """Write the artifact."""
    with whole_file(out / f"{parcel.name}.mender") as part, part.open("wb") as stream:
        for chunk in tar_chunks(_artifact(parcel)):
            stream.write(chunk)


def _artifact(parcel: Parcel) -> list[Member]:
    """Return the files of an artifact, in the order that its format prescribes."""
    version = Member.of("version", _json({"format": "mender", "version": 3}))
    header = Member.nested("header.tar", _header(parcel))
    payload = parcel.members()

    sums = {f"data/0000/{file.name}": file for file in payload}
    sums |= {"header.tar": header, "version": version}
    lines = [f"{_sha256(sums[name])}  {name}\n" for name in sorted(sums)]
    return [
        version,
        Member.of("manifest", "".join(lines).encode()),
        header,
        Member.nested("data/0000.tar", payload),
    ]


def _header(parcel: Parcel) -> list[Member]:
    update = parcel.update
    about = {
        "payloads": [{"type": TYPE}],
        "artifact_provides": {"artifact_name": parcel.name},
        "artifact_depends": {"device_type": list(parcel.device_types)},
    }
    kind = {
        "type": TYPE,
        "artifact_provides": {
            f"{_PROVIDES}.version": f"{update.name} {update.version}",
            f"{_PROVIDES}.release": update.release,
        },
        "clears_artifact_provides": [f"{_PROVIDES}.*"],
    }
    return [
        Member.of("header-info", _json(about)),
        Member.of("headers/0000/type-info", _json(kind)),
        Member.of("headers/0000/meta-data", _json(asdict(update))),
    ]


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def _sha256(member: Member) -> str:
    total = sha256()
    for chunk in member.chunks():
        total.update(chunk)
    return total.hexdigest()


FORM = Form(shell=MENDER, program=TYPE, fill=fill)
