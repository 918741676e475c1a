"""Everything that somebody could do to a bundle, a store or a manifest, each with the code by
which the board refuses it.

`codes` runs all of it, also as a program of its own under another clock
(tests/device/test_trust.py).
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from device import activation, trust
from device.errors import DeviceError
from device.manifest import (
    BUNDLE_MANIFEST,
    MAX_MANIFEST_BYTES,
    RUNTIME_MANIFEST,
    ManifestError,
    file_entry,
    read_manifest,
    read_runtime,
    to_bytes,
)
from device.manifest.signature import NAMESPACES
from device.signers import PINNED, REVOKED, SIGNERS
from device.signers import trust as trust_verb
from device.store import MANIFEST_OF, RELEASES, RUNTIMES, Deployment, Store
from tests.fakes import signers
from tests.fakes.bundles import make_bundle, make_runtime

ACCEPTED = "accepted"


class Keys:
    """Who there is: the owner of the board and others."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.owner, self.stranger = (
            signers.make_key(folder / "owner"),
            signers.make_key(folder / "stranger"),
        )
        self.rsa = signers.make_key(folder / "rsa", "-t", "rsa", "-b", "2048")


class Board:
    """A board that knows its owner's key, with a signed bundle and a signed runtime on their way to
    it.
    """

    def __init__(self, folder: Path, keys: Keys) -> None:
        self.folder, self.keys, self.store = folder, keys, Store(folder / "root")
        self.folders = {
            RELEASES: make_bundle(folder / "bundle", version="2", counter=2).path,
            RUNTIMES: make_runtime(folder / "runtime"),
        }
        for name in ("chat_template.jinja", "tokenizer.json"):
            (self.folders[RELEASES] / name).write_text("{}")
        self.names: dict[str, str] = {}
        self.list_files()
        self.trust("--signer", signers.public(keys.owner))
        for kind in (RELEASES, RUNTIMES):
            self.sign(kind)

    def trust(self, *words: str) -> None:
        trust_verb(["--root", str(self.store.root), *words])

    def list_files(self) -> None:
        """Have the manifest name the files that are in the bundle."""
        bundle = self.folders[RELEASES]
        names = sorted(
            file.name for file in bundle.iterdir() if not file.name.startswith(BUNDLE_MANIFEST)
        )
        listed = dataclasses.replace(
            read_manifest(bundle), files=tuple(file_entry(bundle, name) for name in names)
        )
        (bundle / BUNDLE_MANIFEST).write_bytes(to_bytes(listed))

    def manifest(self, kind: str) -> Path:
        return self.folders[kind] / MANIFEST_OF[kind]

    def signature(self, kind: str) -> Path:
        return self.manifest(kind).with_name(MANIFEST_OF[kind] + ".sig")

    def sign(self, kind: str, key: Path | None = None, namespace: str = "") -> None:
        name = namespace or NAMESPACES[MANIFEST_OF[kind]]
        self.signature(kind).write_bytes(
            signers.sign(self.manifest(kind).read_bytes(), key or self.keys.owner, name)
        )

    def edit(self, change: Callable[[dict[str, Any]], object], *, sign: bool) -> None:
        """Change fields of the bundle's manifest; signed anew by the owner or not."""
        fields = json.loads(self.manifest(RELEASES).read_bytes())
        change(fields)
        self.rewrite(json.dumps(fields).encode(), sign=sign)

    def rewrite(self, content: bytes, *, sign: bool) -> None:
        self.manifest(RELEASES).write_bytes(content)
        if sign:
            self.sign(RELEASES)

    def arrive(self) -> None:
        """Bring bundle and runtime into the store, as `receive` does."""
        for kind, folder in self.folders.items():
            manifest = self.manifest(kind).read_bytes()
            for file in (
                path
                for path in folder.rglob("*")
                if path.is_file() and not path.name.startswith(MANIFEST_OF[kind])
            ):
                digest = hashlib.sha256(file.read_bytes()).hexdigest()
                self.store.part(digest).write_bytes(file.read_bytes())
                self.store.keep_blobs([digest])
            self.names[kind] = hashlib.sha256(manifest).hexdigest()
            signature = self.signature(kind).read_bytes() if self.signature(kind).exists() else b""
            self.store.stage(kind, self.names[kind], manifest, signature)

    def there(self, kind: str) -> Path:
        """The folder in the store."""
        return self.store.folder(kind, self.names[kind])

    def deployment(self) -> Deployment:
        return Deployment(
            release=self.names[RELEASES], runtime=self.names[RUNTIMES], port=1, service="supervised"
        )

    def check(self) -> None:
        """Check all that is in the store, and forget none of it."""
        trust.check(self.store, self.deployment(), self.store.check)

    def verdict(self) -> str:
        """Return the code by which the board refuses what comes, or that it accepts it."""
        try:
            if not self.names:
                self.arrive()
            trust.check(self.store, self.deployment(), self.store.verify)
            activation.refuse_downgrade(self.store, self.deployment())
        except (DeviceError, ManifestError) as error:
            return error.code
        return ACCEPTED


def _blob(change: Callable[[bytes], bytes]) -> Callable[[Board], None]:
    def attack(board: Board) -> None:
        file = board.signature(RELEASES)
        file.write_bytes(signers.wrapped(change(signers.unwrapped(file.read_bytes()))))

    return attack


def _signature(change: Callable[[bytes], bytes]) -> Callable[[Board], None]:
    def attack(board: Board) -> None:
        board.arrive()
        file = board.there(RELEASES) / f"{BUNDLE_MANIFEST}.sig"
        file.write_bytes(change(file.read_bytes()))

    return attack


def _signers(change: Callable[[str], str]) -> Callable[[Board], None]:
    def attack(board: Board) -> None:
        file = board.store.root / SIGNERS
        file.write_text(change(file.read_text()))

    return attack


def _stored(kind: str, change: Callable[[Path], object]) -> Callable[[Board], None]:
    def attack(board: Board) -> None:
        board.arrive()
        change(board.there(kind))

    return attack


def _over(name: str, content: bytes) -> Callable[[Path], object]:
    """Put another file of that name into a folder, past the blobs."""

    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(content)

    return change


def _edited(**fields: Any) -> Callable[[Board], None]:
    return lambda board: board.edit(lambda there: there.update(fields), sign=False)


def _signed_with(change: Callable[[dict[str, Any]], object]) -> Callable[[Board], None]:
    """What even the owner's signature does not excuse."""
    return lambda board: board.edit(change, sign=True)


def _add_file(**entry: Any) -> Callable[[dict[str, Any]], object]:
    return lambda fields: fields["files"].append(
        {"path": "more", "sha256": "0" * 64, "size": 1} | entry
    )


def _flipped(folder: Path) -> None:
    content = bytearray((folder / "model.bin").read_bytes())
    content[-1] ^= 1
    _over("model.bin", bytes(content))(folder)


def _swapped_blob(board: Board) -> None:
    """Another model, and a manifest that names it: only the signature tells."""
    (board.folders[RELEASES] / "model.bin").write_bytes(
        b'{"check": "good", "serve": "good"}\nevil weights'
    )
    board.list_files()


def _another_release(board: Board) -> None:
    """An older release with its own true signature, in the place of the one that was asked for."""
    board.arrive()
    board.edit(lambda fields: fields.update(version="1"), sign=True)
    for file in (board.manifest(RELEASES), board.signature(RELEASES)):
        shutil.copy(file, board.there(RELEASES) / file.name)


def _linked(folder: Path) -> None:
    (folder / "model.bin").rename(folder.parent / "elsewhere")
    (folder / "model.bin").symlink_to(folder.parent / "elsewhere")


def _pipe(folder: Path) -> None:
    (folder / "model.bin").unlink()
    os.mkfifo(folder / "model.bin")


def _linked_signers(board: Board) -> None:
    file = board.store.root / SIGNERS
    file.rename(board.folder / "elsewhere")
    file.symlink_to(board.folder / "elsewhere")


def _without_ssh_keygen(board: Board) -> None:
    board.arrive()
    os.environ["PATH"] = str(board.folder)


def _strangers_key_as_the_owners(board: Board) -> None:
    """A stranger's signature with the owner's key written into it."""
    owner = signers.unwrapped(board.signature(RELEASES).read_bytes())
    board.sign(RELEASES, board.keys.stranger)
    strangers = signers.unwrapped(board.signature(RELEASES).read_bytes())
    key = slice(10, 10 + 4 + int.from_bytes(owner[10:14], "big"))
    board.signature(RELEASES).write_bytes(
        signers.wrapped(strangers[: key.start] + owner[key] + strangers[key.stop :])
    )


def _git_signature_renamed(board: Board) -> None:
    board.sign(RELEASES, namespace="git")
    blob = signers.unwrapped(board.signature(RELEASES).read_bytes())
    named = blob.replace(signers.string(b"git"), signers.string(b"demitasse-bundle"))
    board.signature(RELEASES).write_bytes(signers.wrapped(named))


def _signature_of_another(board: Board) -> None:
    mine = board.manifest(RELEASES).read_bytes()
    board.edit(lambda fields: fields.update(version="3"), sign=True)
    board.manifest(RELEASES).write_bytes(mine)


def _older_release(board: Board) -> None:
    board.arrive()
    board.store.switch(board.deployment(), None)
    board.store.commit(board.deployment())
    board.edit(lambda fields: fields.update(version="1", counter=1), sign=True)
    board.arrive()


def _runtime_unsigned(board: Board) -> None:
    board.signature(RUNTIMES).unlink()


def _another_runtime(board: Board) -> None:
    """Another program in the runtime, under a manifest that names it: only the signature tells."""
    folder = board.folders[RUNTIMES]
    (folder / "__main__.py").write_text("print('evil')\n")
    names = [entry.path for entry in read_runtime(folder).files]
    listed = dataclasses.replace(
        read_runtime(folder), files=tuple(file_entry(folder, name) for name in names)
    )
    (folder / RUNTIME_MANIFEST).write_bytes(to_bytes(listed))


RSA_LINE = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAAIQ=="

ATTACKS: list[tuple[str, str, Callable[[Board], object]]] = [
    ("no signature", "unsigned", lambda board: board.signature(RELEASES).unlink()),
    ("signature emptied", "signature_truncated", _signature(lambda text: b"")),
    ("signature cut in its first line", "signature_truncated", _signature(lambda text: text[:20])),
    ("signature cut in the middle", "signature_truncated", _signature(lambda text: text[:150])),
    ("signature cut inside", "signature_truncated", _blob(lambda blob: blob[:-30])),
    ("signature of garbage", "signature_garbage", _signature(lambda text: b"\xff\0garbage" * 20)),
    (
        "signature of something else",
        "signature_garbage",
        _signature(lambda text: text.replace(b"U1NIU0lH", b"R1BHU0lH")),
    ),
    ("signature of 9 KiB", "signature_too_large", _signature(lambda text: text + b"\n" * 9000)),
    ("two signatures in one file", "signature_trailing", _signature(lambda text: text * 2)),
    ("bytes behind the signature", "signature_trailing", _blob(lambda blob: blob + b"more")),
    (
        "signature of another version",
        "signature_version",
        _blob(lambda blob: blob[:9] + b"\2" + blob[10:]),
    ),
    (
        "signature over a weak hash",
        "weak_hash",
        _blob(lambda blob: blob.replace(signers.string(b"sha512"), signers.string(b"sha1"))),
    ),
    ("signed for git", "wrong_namespace", lambda board: board.sign(RELEASES, namespace="git")),
    (
        "signed as a runtime",
        "wrong_namespace",
        lambda board: board.sign(RELEASES, namespace="demitasse-runtime"),
    ),
    ("signed for git, renamed", "wrong_signature", _git_signature_renamed),
    (
        "signed by a stranger",
        "unknown_signer",
        lambda board: board.sign(RELEASES, board.keys.stranger),
    ),
    ("signed by a stranger in the owner's name", "wrong_signature", _strangers_key_as_the_owners),
    ("signed by an RSA key", "weak_key", lambda board: board.sign(RELEASES, board.keys.rsa)),
    (
        "signed by a revoked key",
        "signer_revoked",
        lambda board: board.trust("--revoke", signers.public(board.keys.owner)),
    ),
    (
        "signed by a key for other models",
        "wrong_principal",
        _signers(lambda text: text.replace("* ", "other-* ", 1)),
    ),
    (
        "signed by a key for git only",
        "signer_namespace",
        _signers(lambda text: text.replace("demitasse-bundle,", "git,")),
    ),
    ("signature of another manifest", "wrong_signature", _signature_of_another),
    ("counter edited", "wrong_signature", _edited(counter=9)),
    ("target edited", "wrong_signature", _edited(target="rpi-5-8gb")),
    ("system prompt edited", "wrong_signature", _edited(system="obey me")),
    ("blob swapped, and its digest", "wrong_signature", _swapped_blob),
    ("nobody may sign", "no_signers", lambda board: (board.store.root / SIGNERS).unlink()),
    ("signers emptied", "no_signers", _signers(lambda text: "")),
    (
        "signers replaced by a stranger",
        "unknown_signer",
        lambda board: _signers(
            lambda text: text.replace(
                signers.public(board.keys.owner).split()[1],
                signers.public(board.keys.stranger).split()[1],
            )
        )(board),
    ),
    (
        "signers writable by others",
        "signers_writable",
        lambda board: (board.store.root / SIGNERS).chmod(0o664),
    ),
    ("store writable by others", "signers_writable", lambda board: board.store.root.chmod(0o777)),
    ("signers linked to elsewhere", "signers_link", _linked_signers),
    (
        "a signer that expired",
        "signers_expire",
        _signers(lambda text: text.replace(" name", ' valid-before="20200101" name')),
    ),
    (
        "a signer that expires",
        "signers_expire",
        _signers(lambda text: text.replace(" name", ' valid-before="20990101" name')),
    ),
    (
        "a signer that begins later",
        "signers_expire",
        _signers(lambda text: text.replace(" name", ' valid-after="20990101" name')),
    ),
    (
        "an authority among the signers",
        "signers_authority",
        _signers(lambda text: text.replace(" name", " cert-authority name")),
    ),
    ("signers of garbage", "signers_broken", _signers(lambda text: text + "half a line\n")),
    (
        "a signer's key cut",
        "signers_broken",
        _signers(lambda text: text.replace("AAAAC3", "AAAAC3Nz")),
    ),
    (
        "a signer for anything",
        "signers_broken",
        _signers(lambda text: text.replace('namespaces="demitasse-bundle,demitasse-runtime" ', "")),
    ),
    ("signers of 65 KiB", "signers_too_large", _signers(lambda text: text + "#" * (65 << 10))),
    (
        "an RSA key among the signers",
        "weak_key",
        _signers(lambda text: text + f'* namespaces="demitasse-bundle" {RSA_LINE}\n'),
    ),
    (
        "revocations of garbage",
        "revoked_broken",
        lambda board: (board.store.root / REVOKED).write_text("garbage\n"),
    ),
    ("made for another board", "wrong_target", lambda board: board.trust("--target", "rpi-5-8gb")),
    (
        "the board's own kind unreadable",
        "target_broken",
        lambda board: (board.store.root / PINNED).write_text("{"),
    ),
    ("a bit of the model flipped", "wrong_digest", _stored(RELEASES, _flipped)),
    ("the model of another size", "wrong_size", _stored(RELEASES, _over("model.bin", b"evil"))),
    (
        "the chat template edited",
        "wrong_template",
        _stored(RELEASES, _over("chat_template.jinja", b"[]")),
    ),
    ("the tokenizer edited", "wrong_tokenizer", _stored(RELEASES, _over("tokenizer.json", b"[]"))),
    ("the goldens edited", "wrong_goldens", _stored(RELEASES, _over("goldens.jsonl", b"[]\n"))),
    ("a file too many", "extra_file", _stored(RELEASES, _over("more", b"evil"))),
    (
        "a file missing",
        "missing_file",
        _stored(RELEASES, lambda folder: (folder / "tokenizer.json").unlink()),
    ),
    ("a file that is a link", "not_a_file", _stored(RELEASES, _linked)),
    ("a file that is a pipe", "not_a_file", _stored(RELEASES, _pipe)),
    ("an older release in its place", "wrong_name", _another_release),
    ("the release gone", "missing_release", _stored(RELEASES, shutil.rmtree)),
    ("an older release again", "downgrade", _older_release),
    (
        "a key of the manifest twice",
        "duplicate_key",
        lambda board: board.rewrite(
            board.manifest(RELEASES)
            .read_bytes()
            .replace(b'"counter": 2', b'"counter": 2,\n "counter": 9'),
            sign=True,
        ),
    ),
    ("a file named twice", "duplicate_file", _signed_with(_add_file(path="model.bin"))),
    ("a path out of the folder", "bad_path", _signed_with(_add_file(path="../../evil"))),
    ("a file in the manifest's place", "bad_path", _signed_with(_add_file(path="manifest.json"))),
    ("a digest that is a path", "bad_digest", _signed_with(_add_file(sha256="../../../evil"))),
    ("a newer schema", "newer_schema", _signed_with(lambda fields: fields.update(schema=2))),
    (
        "a counter out of bounds",
        "bad_manifest",
        _signed_with(lambda fields: fields.update(counter=2**60)),
    ),
    (
        "a counter that is true",
        "bad_manifest",
        _signed_with(lambda fields: fields.update(counter=True)),
    ),
    (
        "a manifest of 9 MiB",
        "manifest_too_large",
        lambda board: board.rewrite(b" " * (MAX_MANIFEST_BYTES + 1), sign=True),
    ),
    ("a runtime without a signature", "runtime_unsigned", _runtime_unsigned),
    (
        "a runtime signed by a stranger",
        "runtime_unknown_signer",
        lambda board: board.sign(RUNTIMES, board.keys.stranger),
    ),
    (
        "a runtime signed as a bundle",
        "runtime_wrong_namespace",
        lambda board: board.sign(RUNTIMES, namespace="demitasse-bundle"),
    ),
    ("another runtime in its place", "runtime_wrong_signature", _another_runtime),
    (
        "the runtime's program edited",
        "runtime_wrong_size",
        _stored(RUNTIMES, _over("__main__.py", b"evil")),
    ),
    (
        "a file too many in the runtime",
        "runtime_extra_file",
        _stored(RUNTIMES, _over("sitecustomize.py", b"evil")),
    ),
    ("the runtime gone", "missing_runtime", _stored(RUNTIMES, shutil.rmtree)),
    ("a board without ssh-keygen", "no_ssh_keygen", _without_ssh_keygen),
]
"""What is done, the code of the refusal, and how it is done."""


def verdict(board: Board, attack: Callable[[Board], object]) -> str:
    """Return what the board says to an attack."""
    path = os.environ["PATH"]
    try:
        attack(board)
        return board.verdict()
    except (DeviceError, ManifestError) as error:
        return error.code
    finally:
        os.environ["PATH"] = path


def codes(folder: Path) -> dict[str, str]:
    """Return what the board says to each attack, and to none."""
    keys = Keys(folder / "keys")
    said = {
        title: verdict(Board(folder / str(number), keys), attack)
        for number, (title, _, attack) in enumerate(ATTACKS)
    }
    return said | {ACCEPTED: Board(folder / "good", keys).verdict()}
