"""A disk that can be cut off at any moment: without an fsync, a write may be there or not.

Unsynced writes are lost in any mixture.

It is stricter than ext4: the bytes of a file, each change of a folder's names and a link's target
are lost or kept on their own until an fsync of that file or that folder covers them. A rename
within one folder is one change, between two folders it is two.
"""

import linecache
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from device import disk


@dataclass(eq=False)
class Node:
    """A file, a folder or a symbolic link: what it holds once everything is on the disk."""

    kind: str
    content: bytes = b""
    entries: dict[str, "Node"] = field(default_factory=dict)

    def name(self) -> int:
        """Return a number that two trees share if they are the same."""
        return hash(
            (
                self.kind,
                self.content,
                *sorted((name, entry.name()) for name, entry in self.entries.items()),
            )
        )


@dataclass(eq=False)
class Effect:
    """One change, and the nodes whose fsync it still waits for."""

    what: str
    bytes_of: tuple[Node, int, bytes] | None = None
    """A file, a position, what is written there; a position of -1: the content becomes this."""
    names: tuple[tuple[Node, str, Node | None], ...] = ()
    """Folder, name, and what has that name now."""
    waits: set[Node] = field(default_factory=set)
    place: int = 0
    """Index in the order of all changes and fsyncs."""


@dataclass
class Fsync:
    """One fsync of one node, and the lines of the product without which it would not be."""

    node: Node
    place: int
    lines: frozenset[str]


class Recorder:
    """Follows every change below a folder through the functions of device.disk."""

    def __init__(
        self, root: Path, *, killed_at: int = 0, by: type[BaseException] = KeyboardInterrupt
    ) -> None:
        """`by` is raised instead of the change with the number `killed_at`."""
        self.root, self._killed_at, self._by = root, killed_at, by
        self.tree = read(root)
        self.before: dict[Node, Node] = {}
        """What each node was when the recording began."""
        _copy(self.tree, self.before)
        self.effects: list[Effect] = []
        self.fsyncs: list[Fsync] = []
        self.count = 0

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record what the block changes."""
        real = {name: getattr(disk, name) for name in disk.CHANGES}
        for name, function in real.items():
            setattr(disk, name, self._follow(name, function))
        try:
            yield
        finally:
            for name, function in real.items():
                setattr(disk, name, function)

    def _follow(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        follow = getattr(self, f"_{name}")

        def call(*arguments: Any) -> Any:
            self.count += 1
            if self.count == self._killed_at:
                raise self._by
            answer = real(*arguments)
            follow(answer, *arguments)
            return answer

        return call

    def rot(self, path: Path) -> None:
        """Flip a bit of a file, as a card does that grows old."""
        file = self._node(path)
        content = bytes([file.content[0] ^ 1]) + file.content[1:]
        path.write_bytes(content)
        self.effects.append(Effect("rot", bytes_of=(file, -1, content), place=self.count))
        file.content = content

    def _create(self, descriptor: int, path: Path) -> None:
        self._reopen(descriptor, path)
        file = self._node(path)
        if file.content:
            self._bytes("truncate", file, -1, b"")

    def _reopen(self, descriptor: int, path: Path) -> None:
        folder, name = self._place(path)
        if name not in folder.entries:
            self._names(f"create {path.name}", (folder, name, Node("file")))

    def _write(self, written: int, descriptor: int, content: Any) -> None:
        file = self._node(_path(descriptor))
        self._bytes("write", file, len(file.content), bytes(content[:written]))

    def _truncate(self, nothing: None, descriptor: int, size: int) -> None:
        file = self._node(_path(descriptor))
        if size < len(file.content):
            self._bytes("truncate", file, -1, file.content[:size])

    def _fsync(self, nothing: None, descriptor: int) -> None:
        self.fsyncs.append(Fsync(self._node(_path(descriptor)), self.count, _lines()))

    def _sync_all(self, nothing: None, descriptor: int) -> None:
        lines = _lines()
        for node in _all(self.tree):
            self.fsyncs.append(Fsync(node, self.count, lines))

    def _replace(self, nothing: None, source: Path, target: Path) -> None:
        (old_folder, old), (folder, name) = self._place(source), self._place(target)
        node = old_folder.entries[old]
        if folder is old_folder:
            self._names(f"replace {name}", (folder, old, None), (folder, name, node))
        elif folder.entries.get(name) is not node:
            self._names(f"replace {name}", (folder, name, node))
            self._names(f"move {old}", (old_folder, old, None))

    def _link(self, nothing: None, source: Path, target: Path) -> None:
        self._names(f"link {target.name}", (*self._place(target), self._node(source)))

    def _symlink(self, nothing: None, target: str, path: Path) -> None:
        folder, name = self._place(path)
        node = Node("link")
        self._names(f"symlink {name}", (folder, name, node))
        self._bytes("target", node, -1, target.encode(), waits=folder)

    def _unlink(self, nothing: None, path: Path) -> None:
        self._names(f"unlink {path.name}", (*self._place(path), None))

    def _mkdir(self, nothing: None, path: Path) -> None:
        self._names(f"mkdir {path.name}", (*self._place(path), Node("folder")))

    _rmdir = _unlink

    def _names(self, what: str, *changes: tuple[Node, str, Node | None]) -> None:
        self.effects.append(
            Effect(
                what, names=changes, waits={folder for folder, _, _ in changes}, place=self.count
            )
        )
        _rename(changes)

    def _bytes(
        self, what: str, file: Node, at: int, content: bytes, waits: Node | None = None
    ) -> None:
        self.effects.append(
            Effect(what, bytes_of=(file, at, content), waits={waits or file}, place=self.count)
        )
        file.content = content if at < 0 else file.content[:at].ljust(at, b"\0") + content

    def _place(self, path: Path) -> tuple[Node, str]:
        return self._node(path.parent), path.name

    def _node(self, path: Path) -> Node:
        node = self.tree
        for part in path.relative_to(self.root).parts:
            node = node.entries[part]
        return node


class CrashModel:
    """The states of the disk after a cut, of a recording."""

    def __init__(self, recorded: Recorder, *, window: int, without: str = "") -> None:
        """`window`: so many of the last unsynced changes are combined freely.

        `without`: a line whose fsyncs did not happen.
        """
        self._recorded, self._window = recorded, window
        self._fsyncs = [fsync for fsync in recorded.fsyncs if without not in fsync.lines]
        self._synced_at = {effect: self._synced(effect) for effect in recorded.effects}
        """At which change an fsync puts each effect on the disk."""

    def states(self, place: int) -> Iterator[Node]:
        """Yield each tree that a cut right after a change may leave.

        The oldest unsynced changes are lost by ones and all together, the last ones freely.
        """
        done = [effect for effect in self._recorded.effects if effect.place <= place]
        loose = [
            effect
            for effect in done
            if (synced := self._synced_at[effect]) is None or synced > place
        ]
        seen: set[int] = set()
        for lost in self._losses(loose):
            tree = self._tree(done, lost)
            if (name := tree.name()) not in seen:
                seen.add(name)
                yield tree

    def _losses(self, loose: list[Effect]) -> Iterator[frozenset[Effect]]:
        old, late = loose[: -self._window], loose[-self._window :]
        for size in range(len(late) + 1):
            for lost in combinations(late, size):
                yield frozenset(lost)
                if old:
                    yield frozenset((*lost, *old))
        for one in old:
            yield frozenset({one})
            yield frozenset({*old, *late} - {one})

    def _synced(self, effect: Effect) -> int | None:
        last = 0
        for node in effect.waits:
            places = [
                fsync.place
                for fsync in self._fsyncs
                if fsync.node is node and fsync.place >= effect.place
            ]
            if not places:
                return None
            last = max(last, places[0])
        return last

    def _tree(self, done: list[Effect], lost: frozenset[Effect]) -> Node:
        copies: dict[Node, Node] = {}
        tree = _copy(self._recorded.before[self._recorded.tree], copies)
        twins = {node: copies[before] for node, before in self._recorded.before.items()}
        for effect in done:
            for folder, _, node in effect.names:
                for known in (folder, node):
                    if known and known not in twins:
                        twins[known] = Node(known.kind)
            if effect in lost:
                continue
            if effect.bytes_of:
                file, at, content = effect.bytes_of
                twin = twins.setdefault(file, Node(file.kind))
                twin.content = content if at < 0 else twin.content[:at].ljust(at, b"\0") + content
            _rename(
                tuple(
                    (twins[folder], name, twins[node] if node else None)
                    for folder, name, node in effect.names
                )
            )
        return tree


def build(tree: Node, folder: Path, made: dict[Node, Path] | None = None) -> None:
    """Put a tree on a real disk, hard links and all."""
    made = {} if made is None else made
    folder.mkdir()
    for name, node in tree.entries.items():
        path = folder / name
        if node.kind == "folder":
            build(node, path, made)
        elif node.kind == "link":
            if node.content:
                path.symlink_to(node.content.decode())
        elif node in made:
            path.hardlink_to(made[node])
        else:
            path.write_bytes(node.content)
            made[node] = path


def _rename(changes: tuple[tuple[Node, str, Node | None], ...]) -> None:
    for folder, name, node in changes:
        if node is None:
            folder.entries.pop(name, None)
        else:
            folder.entries[name] = node


def read(folder: Path, files: dict[int, Node] | None = None) -> Node:
    """Return what is in a folder of a real disk."""
    files = {} if files is None else files
    node = Node("folder")
    for path in folder.iterdir():
        if path.is_symlink():
            node.entries[path.name] = Node("link", str(path.readlink()).encode())
        elif path.is_dir():
            node.entries[path.name] = read(path, files)
        else:
            node.entries[path.name] = files.setdefault(
                path.stat().st_ino, Node("file", path.read_bytes())
            )
    return node


def _copy(node: Node, twins: dict[Node, Node]) -> Node:
    """Return a copy; `twins` tells which node became which."""
    if node not in twins:
        twins[node] = Node(node.kind, node.content)
        twins[node].entries = {name: _copy(entry, twins) for name, entry in node.entries.items()}
    return twins[node]


def _all(tree: Node) -> Iterator[Node]:
    """Yield a tree and all that is in it."""
    yield tree
    for node in tree.entries.values():
        yield from _all(node)


def _path(descriptor: int) -> Path:
    return Path(f"/proc/self/fd/{descriptor}").readlink()


def _lines() -> frozenset[str]:
    """Return the statements of the product that only lead to this fsync."""
    found, frame = set(), sys._getframe(1)
    while frame:
        path, number = frame.f_code.co_filename, frame.f_lineno
        if "/device/" in path and linecache.getline(path, number).lstrip().startswith(
            ("sync(", "fsync(", "disk.sync(", "sync_all(", "disk.sync_everything(")
        ):
            found.add(f"{Path(path).name}:{number}")
        frame = frame.f_back  # type: ignore[assignment]
    return frozenset(found)


class PowerCutError(Exception):
    """The board goes off."""


def cut_after(changes: int, patch: pytest.MonkeyPatch) -> None:
    """Let the board go off at the so-manieth change of its disk."""
    left = [changes]

    def counted(real: Callable[..., Any]) -> Callable[..., Any]:
        def change(*words: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise PowerCutError
            return real(*words)

        return change

    for name in disk.CHANGES:
        patch.setattr(disk, name, counted(getattr(disk, name)))
