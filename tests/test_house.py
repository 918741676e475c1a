"""The rules of the house that a reader may rely on: who imports whom, who prints, what every data file promises."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
STAGES = {"ingest", "pretrain", "tune", "distill", "quantize", "evaluate", "package", "push", "bench"}
PIPELINE = {"pipeline", "cli", "__main__", "doctor"}
GROUND = {"config", "errors", "progress"}
ENGINE_LIBRARIES = {"llama_cpp", "jinja2"}
SERVER_LIBRARIES = {"starlette", "uvicorn"}
HEAVY = {"torch", "transformers", "peft", "accelerate", "llama_cpp", "gguf", "matplotlib"}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path, *, top_level_only: bool = False) -> list[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = _unindented(tree) if top_level_only else list(ast.walk(tree))
    found = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def _unindented(tree: ast.Module) -> list[ast.stmt]:
    return [node for node in tree.body if not isinstance(node, ast.If)]


def room(module: str) -> str:
    """`toolchain.quantize.gguf` → `quantize`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def own_room(path: Path) -> str:
    return path.relative_to(ROOT / "toolchain").parts[0].removesuffix(".py")


def names(paths: list[Path]) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in paths]


@pytest.mark.parametrize("path", modules("toolchain"), ids=names(modules("toolchain")))
def test_the_host_knows_of_the_board_only_what_travels(path: Path) -> None:
    assert [m for m in imports(path) if m.split(".")[0] == "device" and not m.startswith("device.manifest")] == []


@pytest.mark.parametrize("path", modules("toolchain"), ids=names(modules("toolchain")))
def test_stages_import_no_stage_and_nothing_above_them(path: Path) -> None:
    here = own_room(path)
    known = {room(m) for m in imports(path) if m.startswith("toolchain.")} - {here, "__version__"}
    if here in STAGES:
        assert known & (STAGES | PIPELINE) == set()
    elif here not in PIPELINE:
        assert known & (STAGES | PIPELINE) == set(), "the rooms below the stages must not know them"
    if here in GROUND:
        assert known <= GROUND


@pytest.mark.parametrize("path", modules("toolchain"), ids=names(modules("toolchain")))
def test_heavy_libraries_are_imported_where_they_are_used(path: Path) -> None:
    assert {m.split(".")[0] for m in imports(path, top_level_only=True)} & HEAVY == set()


@pytest.mark.parametrize("path", modules("device"), ids=names(modules("device")))
def test_the_board_side_stands_on_the_standard_library(path: Path) -> None:
    import sys

    here = path.relative_to(ROOT / "device").as_posix()
    foreign = {m.split(".")[0] for m in imports(path)} - set(sys.stdlib_module_names) - {"device"}
    allowed = ENGINE_LIBRARIES if here.startswith("engine/") else SERVER_LIBRARIES if here == "server.py" else set()
    assert foreign <= allowed


@pytest.mark.parametrize("path", modules("toolchain"), ids=names(modules("toolchain")))
def test_only_the_console_prints(path: Path) -> None:
    calls = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)]
    printed = [n.lineno for n in calls if isinstance(n.func, ast.Name) and n.func.id in ("print", "input")]
    assert path.name == "console.py" or printed == []


@pytest.mark.parametrize("path", modules("toolchain") + modules("device"), ids=names(modules("toolchain") + modules("device")))
def test_nothing_can_unpickle_or_trust_an_unknown_host(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    forbidden = ("torch.load", "AutoAddPolicy", "WarningPolicy", "trust_remote_code=True", "allow_pickle=True")
    code = _without_strings(text)
    assert [word for word in forbidden if word in code] == []
    assert {m.split(".")[0] for m in imports(path)} & {"pickle", "dill", "joblib", "shelve", "marshal", "diskcache"} == set()
    assert "StrictHostKeyChecking=no" not in text


def _without_strings(text: str) -> str:
    """Return the code without strings and comments: prose may name what code must not do."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return ast.unparse(tree)


def test_every_module_says_what_it_is_for() -> None:
    silent = [p for p in modules("toolchain") + modules("device") if not ast.get_docstring(ast.parse(p.read_text(encoding="utf-8")))]
    assert names(silent) == []


def test_no_file_names_a_place_that_only_one_machine_has() -> None:
    places = re.compile(r"/(?:work|root|tmp/w)/|pypi\.org|huggingface\.co|github\.com/(?!ggml-org|anthropics)")
    text_files = [p for pattern in ("*.py", "*.toml", "*.md", "*.sh", "Makefile") for p in ROOT.rglob(pattern)]
    tracked = [p for p in text_files if not {".venv", "build", ".git"} & set(p.relative_to(ROOT).parts)]
    own = Path(__file__)
    found = [(p.relative_to(ROOT).as_posix(), m.group()) for p in tracked if p != own for m in places.finditer(p.read_text("utf-8"))]
    assert found == []
