"""The check that what runs is what a trusted key signed: before a switch and at each start.

Who may sign stands in the files of signers.py; `ssh-keygen -Y verify` decides whether a signature
holds.
"""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

from device.errors import DeviceError
from device.manifest import MAX_MANIFEST_BYTES, ManifestError, read_bounded
from device.manifest.signature import (
    MAX_SIGNATURE_BYTES,
    NAMESPACES,
    SUFFIX,
    Signature,
    read_signature,
)
from device.signers import REVOKED, SIGNERS, pinned_target, read_signers, revoked_keys
from device.store import MANIFEST_OF, RELEASES, RUNTIMES, Deployment, Store

RUNTIME = "runtime"
"""Name that a key must be allowed for to sign a runtime."""
VERIFY_S = 60.0


def check(store: Store, requested: Deployment, check_bytes: Callable[[str, str], None]) -> None:
    """Check the signers and all bytes of a deployment's release and runtime.

    Raise DeviceError with the code of the attack. `check_bytes` is the store's `check`, or its
    `verify`, which forgets damaged files.
    """
    check_part(store, requested, RELEASES, check_bytes)
    check_part(store, requested, RUNTIMES, check_bytes)


def check_part(
    store: Store, requested: Deployment, kind: str, check_bytes: Callable[[str, str], None]
) -> None:
    """Check the signer and all bytes of a deployment's release or of its runtime, as `check`."""
    name = requested.release if kind == RELEASES else requested.runtime
    try:
        check_bytes(kind, name)
        if not requested.unsigned:
            _check_signature(store, kind, name)
        if kind == RELEASES:
            _check_target(store, name)
    except (DeviceError, ManifestError) as error:
        raise _named(error, kind, name) from error


def is_signed(store: Store, requested: Deployment) -> bool:
    """Say whether a deployment is signed, on a board that knows signers.

    Then its signatures must hold, even with `--allow-unsigned`.
    """
    named = ((RELEASES, requested.release), (RUNTIMES, requested.runtime))
    return os.path.lexists(store.root / SIGNERS) and all(
        os.path.lexists(_signature_file(store, kind, name)) for kind, name in named
    )


def signed_by(store: Store, release: str) -> str:
    """Return the fingerprint of the key that a release's signature names.

    Empty if there is none.
    """
    try:
        return read_signature(
            read_bounded(_signature_file(store, RELEASES, release), MAX_SIGNATURE_BYTES) or b""
        ).fingerprint
    except ManifestError:
        return ""


def _named(error: "DeviceError | ManifestError", kind: str, name: str) -> DeviceError:
    """Return an error that names its release or runtime; a runtime's code gets a prefix."""
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
    if signature.key in revoked_keys(store):
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
    """Let ssh-keygen decide about a signature.

    If it refuses, tell a false signature from one for a name that the key may not sign.
    """
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


def _check_target(store: Store, release: str) -> None:
    pinned = pinned_target(store)
    made_for = store.read_release(release).target
    if pinned and made_for != pinned:
        hint = "package it for this board, or: demitasse trust BOARD --target any"
        raise DeviceError(
            "wrong_target",
            f"release {release[:12]} is made for `{made_for}`, this board takes only `{pinned}`",
            hint,
        )
