"""Rules of the house that a reader may rely on: imports, output, and what data files promise."""

import ast
import functools
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import FIRST
from toolchain.line.formats import FORMATS
from toolchain.line.stages import STAGES as ROWS

ROOT = Path(__file__).resolve().parents[1]
STAGES = {*ROWS, "push", "bench"}
"""Rooms of the stages: those of a recipe, and those of a board."""
PIPELINE = {
    "line",
    "checks",
    "finished",
    "fitting",
    "new",
    "delivery",
    "fleet",
    "rounds",
    "cli",
    "show",
    "__main__",
    "doctor",
}
GROUND = {"config", "errors", "progress", "texts"}
ENGINE_LIBRARIES = {
    "ai_edge_litert",
    "jinja2",
    "llama_cpp",
    "numpy",
    "onnxruntime",
    "tflite_runtime",
    "tokenizers",
}
INDEXES_AND_HUBS = re.compile(
    r"(^|\.)(pypi\.org|pythonhosted\.org|npmjs\.(org|com)|crates\.io|anaconda\.org"
    r"|proxy\.golang\.org|huggingface\.co|hf\.co|modelscope\.(cn|ai)"
    r"|ollama\.(com|ai)|kaggle\.com|lmstudio\.ai)$"
    r"|(^|[.-])(pypi|simple|mirrors?|registry|artifactory|nexus|devpi)([.-]|$)"
)
"""Hosts of package indexes and model hubs, and how mirrors of them are called: not to be named."""
NOBODYS = (".example", "example.org", "example.com", ".test", ".invalid")
"""Hosts that are nobody's (RFC 2606): examples may use them under any name."""
SERVER_LIBRARIES = {"starlette", "uvicorn"}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@functools.cache
def tree(path: Path) -> ast.Module:
    """Return a module's syntax tree; it must not be changed."""
    return ast.parse(path.read_text(encoding="utf-8"))


@functools.cache
def imports(path: Path) -> list[str]:
    nodes = list(ast.walk(tree(path)))
    found = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


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
    assert [
        m
        for m in imports(path)
        if m.split(".")[0] == "device" and not m.startswith("device.manifest")
    ] == []


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


@pytest.mark.parametrize(("here", "unknown"), [("board", "runtime"), ("runtime", "board")])
def test_boards_and_runtimes_do_not_know_each_other(here: str, unknown: str) -> None:
    known = {room(m) for path in modules(f"toolchain/{here}") for m in imports(path)}
    assert unknown not in known


def test_no_rooms_of_the_host_know_each_other_in_a_circle() -> None:
    rooms = {own_room(path) for path in modules("toolchain")} - {"__init__", "__main__"}
    known = {
        here: {
            room(m)
            for path in modules("toolchain")
            if own_room(path) == here
            for m in imports(path)
        }
        & rooms - {here}
        for here in rooms
    }
    graphlib.TopologicalSorter(known).prepare()


def test_every_stage_has_a_room_of_its_name() -> None:
    rooms = {own_room(path) for path in modules("toolchain")}
    assert set(ROWS) - rooms == set()


def test_every_stage_with_a_help_text_is_a_verb() -> None:
    from toolchain.cli import app

    helps = {command.name: command.help for command in app.registered_commands if command.name}
    assert {name: helps.get(name) for name, row in ROWS.items() if row.help} == {
        name: row.help for name, row in ROWS.items() if row.help
    }


OWN_FILES = re.compile(r"gguf|tflite|litert|onnx|/lite|/ort|/formats\.py")
"""Files of one format, and the list of all formats."""


@pytest.mark.parametrize(
    "path",
    modules("toolchain") + modules("device"),
    ids=names(modules("toolchain") + modules("device")),
)
def test_only_a_formats_own_files_compare_its_name(path: Path) -> None:
    own = {*FORMATS, *(row.suffix for row in FORMATS.values())}
    compared = [
        node.lineno
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Compare)
        for side in (node.left, *node.comparators)
        if isinstance(side, ast.Constant) and side.value in own
    ]
    assert OWN_FILES.search(path.relative_to(ROOT).as_posix()) or compared == []


def test_the_command_line_starts_without_the_heavy_libraries() -> None:
    code = "import sys, toolchain.__main__; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert (
        set(loaded)
        & {
            "torch",
            "transformers",
            "peft",
            "accelerate",
            "ai_edge_litert",
            "onnx",
            "onnxruntime",
            "llama_cpp",
            "gguf",
            "matplotlib",
            "numpy",
        }
        == set()
    )


@pytest.mark.parametrize("path", modules("device"), ids=names(modules("device")))
def test_the_board_side_stands_on_the_standard_library(path: Path) -> None:
    here = path.relative_to(ROOT / "device").as_posix()
    foreign = {m.split(".")[0] for m in imports(path)} - set(sys.stdlib_module_names) - {"device"}
    allowed = (
        ENGINE_LIBRARIES
        if here.startswith("engine/")
        else SERVER_LIBRARIES
        if here.startswith("serve/")
        else set()
    )
    assert foreign <= allowed


CHANGES_THE_DISK = re.compile(
    r"\bos\.(rename|replace|link|symlink|unlink|remove|rmdir|mkdir|makedirs)\("
    r"|\bos\.(f?truncate|fsync|write|writev|open)\("
    r"|\bshutil\.(rmtree|copy|move)"
    r"|\.(unlink|mkdir|rmdir|rename|write_bytes|write_text|touch|symlink_to|hardlink_to)\("
    r"|open\([^)]*, '[wx]"
)


@pytest.mark.parametrize("path", modules("device"), ids=names(modules("device")))
def test_the_board_side_changes_the_disk_in_one_place(path: Path) -> None:
    code = ast.unparse(tree(path))
    found = [
        match.group()
        for match in CHANGES_THE_DISK.finditer(code)
        if not match.string[: match.start()].endswith("disk")
    ]
    if path.name == "reading.py":
        found = [call for call in found if call != "os.open("]  # it opens to read
    assert path.name == "disk.py" or found == []


@pytest.mark.parametrize("path", modules("toolchain"), ids=names(modules("toolchain")))
def test_only_the_console_prints(path: Path) -> None:
    calls = [node for node in ast.walk(tree(path)) if isinstance(node, ast.Call)]
    printed = [
        n.lineno for n in calls if isinstance(n.func, ast.Name) and n.func.id in ("print", "input")
    ]
    assert path.name == "console.py" or printed == []


@pytest.mark.parametrize(
    "path",
    modules("toolchain") + modules("device"),
    ids=names(modules("toolchain") + modules("device")),
)
def test_nothing_can_unpickle_or_trust_an_unknown_host(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    forbidden = (
        "torch.load",
        "AutoAddPolicy",
        "WarningPolicy",
        "trust_remote_code=True",
        "allow_pickle=True",
    )
    # Most files name none of these at all, not even in prose.
    code = _without_strings(text) if any(word in text for word in forbidden) else ""
    assert [word for word in forbidden if word in code] == []
    assert {m.split(".")[0] for m in imports(path)} & {
        "pickle",
        "dill",
        "joblib",
        "shelve",
        "marshal",
        "diskcache",
    } == set()
    assert "StrictHostKeyChecking=no" not in text


def _without_strings(text: str) -> str:
    """Return the code without strings and comments: prose may name what code must not do."""
    module = ast.parse(text)
    for node in ast.walk(module):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return ast.unparse(module)


def test_every_module_says_what_it_is_for() -> None:
    silent = [p for p in modules("toolchain") + modules("device") if not ast.get_docstring(tree(p))]
    assert names(silent) == []


def test_no_file_names_a_place_that_only_one_machine_has() -> None:
    """Neither this checkout's own path nor a package index or a model hub.

    Tools are set up for those outside of the project.
    """
    patterns = ("*.py", "*.toml", "*.md", "*.sh", "*.txt", "Makefile", "run")
    files = [path for pattern in patterns for path in ROOT.rglob(pattern) if path.is_file()]
    tracked = [
        path for path in files if not {".venv", "build", ".git"} & set(path.relative_to(ROOT).parts)
    ]
    found = [
        (path.relative_to(ROOT).as_posix(), place)
        for path in tracked
        for place in _places(path.read_text("utf-8"))
    ]
    assert found == []


def _places(text: str) -> list[str]:
    hosts = re.findall(r"https?://([\w.-]+\.[a-z]{2,})", text)
    found = [host for host in hosts if INDEXES_AND_HUBS.search(host) and not host.endswith(NOBODYS)]
    return found + ([str(ROOT)] if str(ROOT) in text else [])


@pytest.mark.parametrize(
    ("host", "banned"),
    [
        ("pypi.org", True),
        ("files.pythonhosted.org", True),
        ("huggingface.co", True),
        ("cdn-lfs.hf.co", True),
        ("mirror.university.net", True),
        ("pypi-mirror.company.net", True),
        ("registry.npmjs.org", True),
        ("mirror.example", False),
        ("arxiv.org", False),
        ("github.com", False),
        ("ai.google.dev", False),
        ("nvidia.github.io", False),
    ],
)
def test_links_are_welcome_but_to_package_indexes_and_model_hubs(host: str, banned: bool) -> None:
    assert bool(_places(f"see https://{host}/page")) == banned


def test_the_page_of_verbs_names_every_verb_and_no_other() -> None:
    from toolchain.cli import app

    registered = {
        command.name or command.callback.__name__
        for command in app.registered_commands
        if command.callback
    }
    registered |= {str(group.name) for group in app.registered_groups}
    rows = [
        line
        for line in (ROOT / "docs" / "verbs.md").read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]
    named = {
        word for row in rows for word in re.findall(r"`([a-z]+)(?: [^`]*)?`", row.split("|")[1])
    }
    assert registered <= named
    assert named - registered == set()


def test_every_file_that_the_tree_names_is_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    tree = text[text.index("## The tree") :]
    files = set(re.findall(r"\b([a-z_0-9]+\.py)\b", tree))
    present = {
        path.name
        for folder in ("toolchain", "device", "tests", "scripts")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert files - present == set()


def test_every_test_file_that_begins_first_is_there() -> None:
    assert [name for name in FIRST if not (ROOT / name).is_file()] == []
    assert len(set(FIRST)) == len(FIRST)


def test_every_versions_pin_is_exact_and_every_dependency_is_pinned() -> None:
    import tomllib

    pins = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            name, exact, version = line.partition("==")
            assert exact, line
            pins[name.lower().replace("_", "-")] = version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    own = {name.partition("==")[0]: name.partition("==")[2] for name in wanted if "==" in name}
    missing = [
        name
        for name in wanted
        if re.split(r"[<>=]", name)[0].lower().replace("_", "-") not in pins | own
    ]
    assert missing == []
    assert {
        name: version for name, version in own.items() if pins.get(name, version) != version
    } == {}
