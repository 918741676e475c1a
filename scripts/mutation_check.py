"""Takes out one safety check of the product at a time, and sees that the test named for it fails.

    python scripts/mutation_check.py [PATTERN]    all of them, or those with PATTERN in the name

Taken out are every fsync of the board side, found by this script, and each line that
scripts/mutations.toml names. It is done on a copy of the tree. A mutant that no test notices is an
error, and so is a line of mutations.toml that is not there any more.
"""

import ast
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "scripts" / "mutations.toml"
TRAVELS = (
    "device",
    "toolchain",
    "tests",
    "targets",
    "recipes",
    "scripts",
    "pyproject.toml",
    "README.md",
    "constraints.txt",
)
STORE_TEST = (
    "tests/device/test_crashes.py::test_no_crash_leaves_neither_the_old_nor_the_new_release"
)
FSYNC_TESTS = {
    "device/disk.py: sync(entry)": "tests/device/test_disk.py::"
    "test_where_one_call_hides_write_errors_each_file_is_synced",
    "device/feedback.py": "tests/device/test_feedback.py",
    "device/mender.py": "tests/device/test_mender.py::"
    "test_the_note_of_what_ran_before_outlives_the_loss_of_all_that_no_fsync_covers",
}
"""File, or one statement of it → the test of its fsyncs; the store's own have STORE_TEST."""
LIMIT_S = 600
NOWHERE = -1
SYNCS = ("sync", "fsync", "sync_all", "disk.sync", "disk.fsync", "disk.sync_everything")


@dataclass(frozen=True)
class Mutation:
    """One line less, and the test that must fail without it."""

    name: str
    file: str
    line: int
    """Line number from 0; NOWHERE unless the text is there exactly once.

    The statement that begins there is replaced."""
    lines: int
    becomes: str
    test: str


def mutations() -> list[Mutation]:
    """Return every mutation."""
    return [*_fsyncs(), *_listed()]


def survives(mutation: Mutation, folder: Path) -> bool:
    """Return whether the test passes without the line, on a copy of the tree in `folder`.

    Raises ValueError if the line is not there.
    """
    if mutation.line == NOWHERE:
        raise ValueError(
            f"mutations.toml: {mutation.name}: its line is not in {mutation.file} exactly once"
        )

    for name in TRAVELS:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)

    file = folder / mutation.file
    lines = file.read_text(encoding="utf-8").splitlines()
    indent = lines[mutation.line][: len(lines[mutation.line]) - len(lines[mutation.line].lstrip())]
    lines[mutation.line : mutation.line + mutation.lines] = [indent + mutation.becomes]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return _passes(mutation.test, folder)


def _passes(test: str, folder: Path) -> bool:
    command = [sys.executable, "-B", "-m", "pytest", "-x", "-q", "-p", "no:randomly", test]
    done = subprocess.run(
        command,
        cwd=folder,
        env=_environment(folder),
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(
            f"{test}: pytest ended with {done.returncode}: "
            f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
        )

    return done.returncode == 0


def _environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(folder)}


def _fsyncs() -> Iterator[Mutation]:
    """Yield each statement of the board side that only puts something on the disk."""
    for path in sorted((ROOT / "device").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                isinstance(node, ast.Expr)
                and isinstance(node.value, ast.Call)
                and _name(node.value.func) in SYNCS
            ):
                where = path.relative_to(ROOT).as_posix()
                statement = f"{where}: {ast.unparse(node)}"
                assert node.end_lineno
                yield Mutation(
                    f"fsync {where}:{node.lineno}",
                    where,
                    node.lineno - 1,
                    node.end_lineno - node.lineno + 1,
                    "pass",
                    FSYNC_TESTS.get(statement) or FSYNC_TESTS.get(where, STORE_TEST),
                )


def _name(function: ast.expr) -> str:
    return ast.unparse(function)


def _listed() -> Iterator[Mutation]:
    for entry in tomllib.loads(TABLE.read_text(encoding="utf-8")).get("mutation", []):
        lines = (ROOT / entry["file"]).read_text(encoding="utf-8").splitlines()
        found = [number for number, line in enumerate(lines) if line.strip() == entry["line"]]
        only = found[0] if len(found) == 1 else NOWHERE
        yield Mutation(entry["name"], entry["file"], only, 1, entry["becomes"], entry["test"])


def main(pattern: str) -> int:
    """Print each mutation and whether its test saw it; return 1 if one was not seen."""
    alive = 0
    for mutation in mutations():
        if pattern in mutation.name:
            with tempfile.TemporaryDirectory() as folder:
                survived = survives(mutation, Path(folder))
            alive += survived
            print(
                f"{'NOT SEEN' if survived else 'seen'}: {mutation.name} ({mutation.test})",
                flush=True,
            )

    return min(alive, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else ""))
