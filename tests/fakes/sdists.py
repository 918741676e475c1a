"""Source archives of llama-cpp-python in miniature: one small file in each real folder."""

import importlib.metadata
import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

from toolchain import patching

_BACKEND = """
def prepare_metadata_for_build_wheel(folder, config_settings=None):
    import pathlib
    about = pathlib.Path(folder, "llama_cpp_python-{version}.dist-info")
    about.mkdir()
    about.joinpath("METADATA").write_text(
        "Metadata-Version: 2.1\\nName: llama-cpp-python\\nVersion: {version}\\n"
    )
    return about.name

def build_wheel(folder, config_settings=None, metadata_directory=None):
    raise SystemExit("nobody asked for a wheel")
"""
_CMAKE = """
cmake_minimum_required(VERSION 3.14)
project(miniature C CXX)
foreach (name ggml-base ggml llama llama-common llama-common-base cpp-httplib)
    add_library(${name} src/${name}.cpp)
endforeach ()
add_library(ggml-cpu ggml/src/ggml-cpu/ggml-cpu.c)
"""
_CPU = """
const char * ggml_where(void) { return __FILE__; }
#ifdef __ARM_FEATURE_DOTPROD
int ggml_has_dotprod(void) { return 1; }
#else
int ggml_has_dotprod(void) { return 0; }
#endif
"""
_EYES = """
extern "C" int llama_size();
extern "C" int mtmd_size() { return llama_size() + 1; }
"""
_SPEECH = """
struct llama_model;
unsigned llama_model_get_tok_embd(const llama_model *, float *);
extern "C" unsigned mtmd_speak() { return llama_model_get_tok_embd(nullptr, nullptr); }
"""
_EYES_PARTS = ("mtmd-audio", "mtmd-image", "mtmd-helper", "clip", "models/one")
_PARTS = ("ggml-base", "ggml", "llama", "llama-common", "llama-common-base", "cpp-httplib")


def version() -> str:
    """The version that the archive must have to be taken: that of the installed package."""
    return importlib.metadata.version("llama-cpp-python")


def files() -> dict[str, str]:
    """The files of a good archive."""
    vendor = {
        "CMakeLists.txt": _CMAKE,
        "LICENSE": "MIT",
        "ggml/src/ggml-cpu/ggml-cpu.c": _CPU + _before("ggml-cpu.c"),
        "ggml/src/ggml-cpu/ggml-cpu.cpp": _before("ggml-cpu.cpp"),
        "tools/llama-bench/main.cpp": "int bench(); int main() { return bench(); }",
        "tools/llama-bench/llama-bench.cpp": "int bench() { return 0; }",
        "models/vocabulary.gguf": "not needed",
        "tools/mtmd/mtmd.cpp": _EYES,
        "tools/mtmd/mtmd-helper-gen.cpp": _SPEECH,
        **{f"tools/mtmd/{part}.cpp": "" for part in _EYES_PARTS},
        "tools/mtmd/mtmd-cli.cpp": "a program that nobody builds",
        "vendor/hash/hash.cpp": "",
        "vendor/hash/sha256/sha256.c": "",
        **{f"src/{part}.cpp": _part(part) for part in _PARTS},
    }
    project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    ours = {
        "pyproject.toml": project,
        "backend.py": _BACKEND.replace("{version}", version()),
        "LICENSE.md": "MIT",
    }
    about = f"Metadata-Version: 2.1\nName: llama-cpp-python\nVersion: {version()}\n"
    return {
        **ours,
        "PKG-INFO": about,
        **{f"vendor/llama.cpp/{name}": text for name, text in vendor.items()},
    }


def write(folder: Path, contents: Mapping[str, str | bytes]) -> Path:
    """Write an archive of these files, named as pip expects it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"llama_cpp_python-{version()}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, content in contents.items():
            raw = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(f"llama_cpp_python-{version()}/{name}")
            member.size = len(raw)
            archive.addfile(member, io.BytesIO(raw))
    return path


def _before(name: str) -> str:
    """Return the lines of a file that our patch changes, as comments that nobody compiles."""
    return "".join(
        f"/*\n{change.before}*/\n"
        for change in patching.changes()
        if change.file.endswith(f"/{name}")
    )


def _part(name: str) -> str:
    symbol = name.replace("-", "_")
    body = f'extern "C" int {symbol}_size() {{ return std::to_string(std::rand()).size(); }}'
    return f"#include <cstdlib>\n#include <string>\n{body}\n"
