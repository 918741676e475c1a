"""Who may sign for this board, and the check that what runs is what they signed: before a switch and at each start.

    allowed_signers   OpenSSH's file of that name: one key a line, with the names it may sign for
    revoked_signers   keys that may never sign again
    trust.json        the one kind of board that releases must be made for, where one was pinned

`demitasse trust` writes them over an authenticated connection. The rule: no clock is asked. A board without network wakes up in
1970, so that a key ends by being revoked, never by a date.
"""

import argparse
import json
import os
import re
import shutil
import stat
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device.disk import read_json, write_json, write_whole
from device.errors import DeviceError
from device.manifest import MAX_MANIFEST_BYTES, ManifestError, read_bounded
from device.manifest.signature import (
    MAX_SIGNATURE_BYTES,
    NAMESPACES,
    SUFFIX,
    Signature,
    fingerprint,
    read_key,
    read_signature,
)
from device.store import MANIFEST_OF, RELEASES, RUNTIMES, Deployment, Store

SIGNERS, REVOKED, PINNED = "allowed_signers", "revoked_signers", "trust.json"
MAX_SIGNERS_BYTES = 64 << 10
RUNTIME = "runtime"
"""The name that a key must be allowed for to sign a runtime."""
VERIFY_S = 60.0
_LINE = re.compile(
    r'(?P<names>[^\s"#]+) namespaces="(?P<namespaces>[a-z0-9@.,-]+)" (?P<kind>\S+) (?P<key>\S+)(?: (?P<comment>.*))?'
)


@dataclass(frozen=True)
class Signer:
    """One line of allowed_signers."""

    names: str
    """Patterns of the names of releases that this key may sign, as OpenSSH writes patterns."""
    namespaces: tuple[str, ...]
    key: bytes
    comment: str = ""


def check(store: Store, wanted: Deployment, check_bytes: Callable[[str, str], None]) -> None:
    """Check who signed a deployment's release and runtime, and all that they hold; raise DeviceError with the attack's code.

    `check_bytes` is the store's `check`, or its `verify`, which forgets what is damaged.
    """
    for kind, name in ((RELEASES, wanted.release), (RUNTIMES, wanted.runtime)):
        try:
            check_bytes(kind, name)
            if not wanted.unsigned:
                _check_signature(store, kind, name)
            if kind == RELEASES:
                _check_target(store, name)
        except (DeviceError, ManifestError) as error:
            raise _named(error, kind, name) from error


def is_signed(store: Store, wanted: Deployment) -> bool:
    """Say whether a deployment carries signatures on a board that knows signers: then they must hold, whatever is allowed."""
    named = ((RELEASES, wanted.release), (RUNTIMES, wanted.runtime))
    return os.path.lexists(store.root / SIGNERS) and all(
        os.path.lexists(_signature_file(store, kind, name)) for kind, name in named
    )


def signed_by(store: Store, release: str) -> str:
    """Return the fingerprint of the key that a release's signature names, "" if there is none."""
    try:
        return read_signature(
            read_bounded(_signature_file(store, RELEASES, release), MAX_SIGNATURE_BYTES) or b""
        ).fingerprint
    except ManifestError:
        return ""


def trust(argv: list[str]) -> int:
    """Change or show who may sign: `trust --root ROOT [--signer KEY [--names PATTERNS]] [--revoke KEY] [--target ID]`."""
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
    """Return who may sign for this board, and for what kind of board."""
    signers = [
        {"key": fingerprint(one.key), "names": one.names, "comment": one.comment}
        for one in read_signers(store)
    ]
    return {
        "signers": signers,
        "revoked": [fingerprint(key) for key in _revoked(store)],
        "target": _pinned_target(store),
    }


def read_signers(store: Store) -> list[Signer]:
    """Return the keys that may sign; raise DeviceError for a file that others could have written, or that asks for a clock."""
    text = _private_text(store, SIGNERS)
    return [_signer(line) for line in text.splitlines() if line and not line.startswith("#")]


def _named(error: "DeviceError | ManifestError", kind: str, name: str) -> DeviceError:
    """Return an error with what it is about, those of a runtime with codes of their own."""
    what = f"{kind[:-1]} {name[:12]}"
    message = str(error) if str(error).startswith(what) else f"{what}: {error}"
    plain = kind == RELEASES or error.code in ("missing_runtime", "no_ssh_keygen")
    return DeviceError(
        error.code if plain else f"runtime_{error.code}",
        message,
        getattr(error, "hint", "") or "push it again",
    )


def _check_signature(store: Store, kind: str, name: str) -> None:
    manifest = (
        read_bounded(store.present(kind, name) / MANIFEST_OF[kind], MAX_MANIFEST_BYTES) or b""
    )
    file = _signature_file(store, kind, name)
    content = read_bounded(file, MAX_SIGNATURE_BYTES)
    if content is None:
        raise DeviceError(
            "unsigned",
            "it is not signed",
            "push it from a computer with your key, or with --allow-unsigned",
        )
    signature = read_signature(content)
    namespace = NAMESPACES[MANIFEST_OF[kind]]
    if signature.namespace != namespace:
        raise DeviceError(
            "wrong_namespace",
            f"its signature is for `{signature.namespace[:60]}`, not for `{namespace}`",
        )
    _check_signer(store, signature, namespace)
    name_signed = store.read_release(name).name if kind == RELEASES else RUNTIME
    _verify(store, file, name_signed, namespace, manifest)


def _check_signer(store: Store, signature: Signature, namespace: str) -> None:
    if signature.key in _revoked(store):
        raise DeviceError("signer_revoked", f"the key {signature.fingerprint} was revoked")
    if not (known := read_signers(store)):
        raise DeviceError(
            "no_signers", "this board knows nobody who may sign", "demitasse trust BOARD"
        )
    lines = [signer for signer in known if signer.key == signature.key]
    if not lines:
        hint = "if it is yours: demitasse trust BOARD --sign KEY"
        raise DeviceError(
            "unknown_signer",
            f"nobody here trusts the key {signature.fingerprint} that signed it",
            hint,
        )
    if not any(namespace in signer.namespaces for signer in lines):
        raise DeviceError(
            "signer_namespace", f"the key {signature.fingerprint} may not sign for `{namespace}`"
        )


def _verify(store: Store, signature: Path, name: str, namespace: str, manifest: bytes) -> None:
    """Let ssh-keygen decide; where it refuses, tell a false signature from one for a name that the key may not sign."""
    asked = ["-n", namespace, "-s", str(signature)]
    revoked = ["-r", str(store.root / REVOKED)] if (store.root / REVOKED).exists() else []
    signers = str(store.root / SIGNERS)
    verified = _ssh_keygen("verify", "-f", signers, "-I", name, *asked, *revoked, content=manifest)
    if verified:
        return
    if _ssh_keygen("check-novalidate", *asked, content=manifest):
        raise DeviceError("wrong_principal", f"the key that signed it may not sign for `{name}`")
    raise DeviceError(
        "wrong_signature", "its signature is of another manifest: this one was changed"
    )


def _ssh_keygen(verb: str, *words: str, content: bytes) -> bool:
    program = shutil.which("ssh-keygen")
    hint = "on the board: sudo apt-get install openssh-client"
    if not program:
        raise DeviceError(
            "no_ssh_keygen",
            "ssh-keygen is not installed on this board: no signature can be checked",
            hint,
        )
    try:
        done = subprocess.run(
            [program, "-Y", verb, *words],
            input=content,
            capture_output=True,
            timeout=VERIFY_S,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise DeviceError("no_ssh_keygen", f"ssh-keygen cannot be run: {error}", hint) from error
    return done.returncode == 0


def _signature_file(store: Store, kind: str, name: str) -> Path:
    return store.folder(kind, name) / (MANIFEST_OF[kind] + SUFFIX)


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
    """Return a file that decides about trust, "" if there is none; raise DeviceError where others could have written it."""
    path = store.root / name
    try:
        seen, folder = path.lstat(), store.root.stat()
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


def _revoked(store: Store) -> list[bytes]:
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
    if read_key(kind, key) in _revoked(store):
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


def _pinned_target(store: Store) -> str:
    said = read_json(store.root / PINNED)
    if said is None and os.path.lexists(store.root / PINNED):
        raise DeviceError(
            "target_broken", f"{PINNED} cannot be read", "demitasse trust BOARD --target ID"
        )
    return str((said or {}).get("target", ""))


def _check_target(store: Store, release: str) -> None:
    pinned, made_for = _pinned_target(store), store.read_release(release).target
    if pinned and made_for != pinned:
        hint = "package it for this board, or: demitasse trust BOARD --target any"
        raise DeviceError(
            "wrong_target",
            f"release {release[:12]} is made for `{made_for}`, this board takes only `{pinned}`",
            hint,
        )
