"""The script that builds llama.cpp's wheel says what it lacks before it fetches anything."""

import shutil
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "engine-wheel.sh"
TOOLS = ("sh", "dirname", "sed", "sha256sum", "cut", "ls", "mkdir")


def built(tmp_path: Path, *compilers: str) -> "subprocess.CompletedProcess[str]":
    """Run the script where these compilers alone are at hand, and no Python."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in TOOLS:
        (tools / name).symlink_to(shutil.which(name) or name)
    for name in compilers:
        (tools / name).touch(mode=0o755)
    return subprocess.run(
        ["sh", str(SCRIPT), "no-python"],
        env={"PATH": str(tools), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_without_a_compiler_one_sentence_names_the_remedy(tmp_path: Path) -> None:
    done = built(tmp_path)
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        "error: llama.cpp is compiled here, and there is no C++ compiler: "
        "sudo apt install build-essential\n"
    )
    assert not (tmp_path / ".cache").exists()


def test_any_compiler_will_do(tmp_path: Path) -> None:
    assert "compiler" not in built(tmp_path, "clang++").stderr
