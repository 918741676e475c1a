"""A Jetson's programs as far as a CUDA build uses them: nvcc, c++ and cmake, in a folder for PATH.

cmake checks its arguments as the real one does: it configures a folder with a CMakeLists.txt, and
builds a folder that is configured.
"""

import json
import shutil
import sys
from pathlib import Path

NVCC = "nvcc: NVIDIA (R) Cuda compiler driver\nCuda compilation tools, release 12.6, V12.6.68\n"


def install(folder: Path, *, library: Path, without: str = "") -> str:
    """Make the programs, but for one; return a PATH with them and little else.

    What cmake builds are copies of `library`.
    """
    folder.mkdir(parents=True)
    programs = {
        "nvcc": f"cat <<'X'\n{NVCC}X",
        "c++": "exit 1",
        "cmake": f'exec {sys.executable} -IS {__file__} {library} "$@"',
    }
    for name, script in programs.items():
        if name != without:
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)
    for name, program in {
        "sh": "/bin/sh",
        "cat": shutil.which("cat"),
        "python3": sys.executable,
    }.items():
        (folder / name).symlink_to(str(program))
    return str(folder)


def main(library: Path, argv: list[str]) -> int:
    if argv[0] == "--build":
        return build(Path(argv[1]), argv[argv.index("--target") + 1], library)
    source, made = Path(argv[argv.index("-S") + 1]), Path(argv[argv.index("-B") + 1])
    if not (source / "CMakeLists.txt").is_file():
        return refuse(
            f'CMake Error: The source directory "{source}" '
            "does not appear to contain CMakeLists.txt."
        )
    made.mkdir(parents=True, exist_ok=True)
    (made / "CMakeCache.txt").write_text(
        json.dumps(dict(word[2:].split("=", 1) for word in argv if word.startswith("-D")))
    )
    return 0


def build(folder: Path, target: str, library: Path) -> int:
    if not (folder / "CMakeCache.txt").is_file():
        return refuse(f"Error: {folder} is not a directory")
    if (folder.parent / "source" / "src" / "broken.cu").is_file():
        sys.stdout.write("[ 12%] Building CUDA object mmq.cu.o\n")
        return refuse("mmq.cu(7): error: identifier `warp` is undefined")
    (folder / "bin").mkdir(exist_ok=True)
    for number, name in enumerate(("ggml-base", "ggml-cpu", "ggml-cuda", "ggml", target), 1):
        sys.stdout.write(f"[{number * 20:3}%] Linking CXX shared library ../bin/lib{name}.so\n")
        shutil.copy(library, folder / "bin" / f"lib{name}.so")
    return 0


def refuse(text: str) -> int:
    sys.stderr.write(f"{text}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
