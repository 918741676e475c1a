"""The files that say who may sign for this board, and the verb that shows and changes them.

    allowed_signers   OpenSSH's file of that name: one key a line, with the names it may sign for
    revoked_signers   keys that may never sign again
    trust.json        the one kind of board that releases must be made for, where one was pinned

`demitasse trust` writes them over an authenticated connection. The rule: no clock is asked. A board
without network wakes up in 1970, so a key ends by being revoked and never by a date.
"""

import argparse
import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device.disk import read_json, write_json, write_whole
from device.errors import DeviceError
from device.manifest import ManifestError, read_bounded
from device.manifest.signature import NAMESPACES, fingerprint, read_key
from device.store import Store

SIGNERS, REVOKED, PINNED = "allowed_signers", "revoked_signers", "trust.json"
MAX_SIGNERS_BYTES = 64 << 10
_LINE = re.compile(
    r'(?P<names>[^\s"#]+) namespaces="(?P<namespaces>[a-z0-9@.,-]+)" '
    r"(?P<kind>\S+) (?P<key>\S+)(?: (?P<comment>.*))?"
)


@dataclass(frozen=True)
class Signer:
    """One line of allowed_signers."""

    names: str
    """Patterns of the names of releases that this key may sign, as OpenSSH writes patterns."""
    namespaces: tuple[str, ...]
    key: bytes
    comment: str = ""


def trust(argv: list[str]) -> int:
    """Change or show who may sign.

    `trust --root ROOT [--signer KEY [--names PATTERNS]] [--revoke KEY] [--target ID]`
    """
    parser = argparse.ArgumentParser(prog="trust")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--signer", metavar="KEY", help="a public key as in its .pub file")
    parser.add_argument("--names", default="*", help="the releases that it may sign")
    parser.add_argument("--revoke", metavar="KEY", help="a public key that may never sign again")
    parser.add_argument(
        "--target", help="the only target that releases may be made for; `any` for all"
    )
    options = parser.parse_args(argv)
    store = Store(options.root)

    with store.locked():
        if options.revoke:
            _revoke(store, options.revoke)
        if options.signer:
            _allow(store, options.signer, options.names)
        if options.target:
            write_json(
                store.root / PINNED, {"target": "" if options.target == "any" else options.target}
            )

    print(json.dumps(state(store), ensure_ascii=False))
    return 0


def state(store: Store) -> dict[str, Any]:
    """Return who may sign for this board, and the pinned target."""
    signers = [
        {"key": fingerprint(one.key), "names": one.names, "comment": one.comment}
        for one in read_signers(store)
    ]
    return {
        "signers": signers,
        "revoked": [fingerprint(key) for key in revoked_keys(store)],
        "target": pinned_target(store),
    }


def read_signers(store: Store) -> list[Signer]:
    """Return the keys that may sign.

    Raise DeviceError for a file that others could have written, or that needs a clock.
    """
    text = _private_text(store, SIGNERS)
    return [_signer(line) for line in text.splitlines() if line and not line.startswith("#")]


def _signer(line: str) -> Signer:
    found = _LINE.fullmatch(line)
    if not found:
        if "cert-authority" in line:
            raise DeviceError(
                "signers_authority",
                f"{SIGNERS}: certificates are not taken: a board has no clock to end them by",
            )
        if "valid-" in line:
            hint = "demitasse trust BOARD --revoke KEY ends a key"
            raise DeviceError(
                "signers_expire",
                f"{SIGNERS}: a key has a date, and a board has no clock to hold it against",
                hint,
            )
        raise DeviceError("signers_broken", f"{SIGNERS}: not a line of ours: {line[:60]!r}")

    try:
        key = read_key(found["kind"], found["key"])
    except ManifestError as error:
        code = error.code if error.code == "weak_key" else "signers_broken"
        raise DeviceError(code, f"{SIGNERS}: {error}") from error

    return Signer(
        found["names"], tuple(found["namespaces"].split(",")), key, found["comment"] or ""
    )


def _private_text(store: Store, name: str) -> str:
    """Return a file that decides about trust; empty if there is none.

    Raise DeviceError if other users could have written it.
    """
    path = store.root / name
    try:
        seen = path.lstat()
        folder = store.root.stat()
    except FileNotFoundError:
        return ""

    if not stat.S_ISREG(seen.st_mode):
        raise DeviceError(
            "signers_link", f"{name} is a link or a device, not a file", f"look at {path}"
        )
    if seen.st_mode & 0o022 or folder.st_mode & 0o002 or seen.st_uid not in (0, os.geteuid()):
        raise DeviceError(
            "signers_writable",
            f"other users of this board can write {name}",
            f"chmod go-w {path}; look who did",
        )

    content = read_bounded(path, MAX_SIGNERS_BYTES) or b""
    if len(content) > MAX_SIGNERS_BYTES:
        raise DeviceError(
            "signers_too_large", f"{name} is larger than {MAX_SIGNERS_BYTES >> 10} KiB"
        )

    return content.decode("utf-8", "replace")


def revoked_keys(store: Store) -> list[bytes]:
    """Return the keys that may never sign again; raise DeviceError `revoked_broken`."""
    lines = [line.split() for line in _private_text(store, REVOKED).splitlines() if line]
    try:
        return [read_key(kind, key) for kind, key in (line[:2] for line in lines)]
    except (ManifestError, ValueError) as error:
        raise DeviceError("revoked_broken", f"{REVOKED} cannot be read: {error}") from error


def _public_key(text: str) -> tuple[str, str, str]:
    """Return kind, key and comment of a line of a .pub file."""
    kind, key, comment = [*text.split(None, 2), "", "", ""][:3]
    try:
        read_key(kind, key)
    except ManifestError as error:
        raise DeviceError(
            error.code,
            f"a signer's key: {error}",
            "give the text of a .pub file of kind ed25519 or ecdsa",
        ) from error

    return kind, key, "".join(char for char in comment if char.isprintable())[:80]


def _allow(store: Store, text: str, names: str) -> None:
    kind, key, comment = _public_key(text)
    if read_key(kind, key) in revoked_keys(store):
        raise DeviceError(
            "signer_revoked", "this key was revoked on this board for ever", "sign with another"
        )

    line = f'{names} namespaces="{",".join(NAMESPACES.values())}" {kind} {key} {comment}'.rstrip()
    _signer(line)
    kept = [other for other in _private_text(store, SIGNERS).splitlines() if f" {key}" not in other]
    write_whole(store.root / SIGNERS, "".join(f"{row}\n" for row in [*kept, line]).encode())


def _revoke(store: Store, text: str) -> None:
    kind, key, comment = _public_key(text)
    rows = [row for row in _private_text(store, REVOKED).splitlines() if f" {key}" not in row]
    write_whole(
        store.root / REVOKED,
        "".join(f"{row}\n" for row in [*rows, f"{kind} {key} {comment}".rstrip()]).encode(),
    )
    kept = [other for other in _private_text(store, SIGNERS).splitlines() if f" {key}" not in other]
    if (store.root / SIGNERS).exists():
        write_whole(store.root / SIGNERS, "".join(f"{row}\n" for row in kept).encode())


def pinned_target(store: Store) -> str:
    """Return the only target that releases may be made for; empty for all.

    Raise DeviceError `target_broken` if its file cannot be read.
    """
    pinned = read_json(store.root / PINNED)
    if pinned is None and os.path.lexists(store.root / PINNED):
        raise DeviceError(
            "target_broken", f"{PINNED} cannot be read", "demitasse trust BOARD --target ID"
        )

    return str((pinned or {}).get("target", ""))
