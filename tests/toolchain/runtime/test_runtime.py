"""Runtimes and the agent: the same inputs give the same folder, and it runs by itself."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from device.manifest import RUNTIME_MANIFEST, read_runtime, verify_files
from tests.fakes.bundles import make_runtime
from toolchain import runtime
from toolchain.agent import build_agent
from toolchain.errors import ArtifactError, ConfigError
from toolchain.progress import Silent
from toolchain.tools import llama


@pytest.fixture(autouse=True)
def _no_runtime_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DEMITASSE_RUNTIME", raising=False)


def test_the_agent_is_named_by_its_bytes_and_is_made_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = build_agent()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    again = build_agent()
    assert first != again
    assert (first.name, first.read_bytes()) == (again.name, again.read_bytes())


@pytest.mark.slow
def test_an_agent_and_a_runtime_that_were_cut_in_the_cache_are_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut on this computer must not make every board unreachable."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    agent, folder = build_agent(), runtime.for_this_computer()
    whole = agent.read_bytes()
    agent.write_bytes(whole[:4096])
    (folder / "device" / "errors.py").write_bytes(b"")
    (folder / "device" / "store.py").unlink()

    assert build_agent().read_bytes() == whole
    assert runtime.for_this_computer() == folder
    verify_files(folder, read_runtime(folder).files, RUNTIME_MANIFEST)


def test_the_agent_runs_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-sESB", str(build_agent()), "facts", "/"],
        capture_output=True,
        check=True,
        cwd="/",
    )
    assert json.loads(done.stdout)["machine"] == platform.machine()


@pytest.mark.slow
def test_a_runtime_holds_what_its_manifest_says_and_is_named_by_it() -> None:
    folder = runtime.for_this_computer()
    manifest = read_runtime(folder)
    verify_files(folder, manifest.files, RUNTIME_MANIFEST)
    assert folder.name == manifest.runtime_id()
    assert (manifest.machine, manifest.python) == (platform.machine(), (3, 10))
    assert manifest.glibc.startswith("2.")
    paths = {file.path for file in manifest.files}
    assert {
        "__main__.py",
        "device/__main__.py",
        "llama_cpp/llama_cpp.py",
        "llama_cpp/lib/libllama.so",
        "exceptiongroup/__init__.py",
    } <= paths
    assert not [
        path
        for path in paths
        if "diskcache" in path or path.startswith(("numpy", "llama_cpp/llama."))
    ]
    assert any(path.startswith("starlette-") and "LICENSE" in path for path in paths)


@pytest.mark.slow
def test_a_runtime_runs_its_own_engine_though_another_is_installed() -> None:
    folder = runtime.for_this_computer()
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); "
        "from llama_cpp import llama_cpp; print(llama_cpp.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-sEB", "-c", code, str(folder)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(done.stdout.strip()).is_relative_to(folder)


@pytest.mark.slow
def test_within_one_command_this_computers_runtime_is_assembled_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    real = runtime._for_this_computer

    def counted() -> Path:
        asked.append("assembled")
        return real()

    monkeypatch.setattr(runtime, "_for_this_computer", counted)
    with runtime.assembled_once():
        folder = runtime.for_this_computer()
        assert runtime.for_this_computer() == folder
    assert asked == ["assembled"]
    assert runtime.for_this_computer() == folder
    assert asked == ["assembled", "assembled"]


def test_a_runtime_is_built_once() -> None:
    folder = runtime.for_this_computer()
    before = folder.stat().st_ino
    assert runtime.for_this_computer().stat().st_ino == before


@pytest.mark.slow
def test_a_runtime_needs_nothing_of_the_python_that_runs_it() -> None:
    """Without site-packages, in a folder of nobody: what it imports is its own."""
    folder = runtime.for_this_computer()
    program = (
        f"import sys; sys.path.insert(0, {str(folder)!r}); "
        "import device.serve.server, device.engine.llama, llama_cpp;"
        "print({m.__file__ for m in sys.modules.values() "
        "if getattr(m, '__file__', None) and 'site-packages' in m.__file__})"
    )
    done = subprocess.run(
        [sys.executable, "-sESB", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
    )
    assert done.stdout == "set()\n"


def test_a_runtime_that_is_given_goes_before_all_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = make_runtime(tmp_path / "given")
    monkeypatch.setenv("DEMITASSE_RUNTIME", str(given))
    assert runtime.for_profile("armv8.0", Silent()) == given


def test_a_folder_that_is_no_runtime_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEMITASSE_RUNTIME", str(tmp_path))
    with pytest.raises(ArtifactError) as caught:
        runtime.for_profile("armv8.0", Silent())
    assert caught.value.message == f"{tmp_path}: not a runtime: runtime.json cannot be read"


def test_a_profile_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown profile `z80`"):
        runtime.for_profile("z80", Silent())


@pytest.mark.slow
def test_what_the_libraries_use_this_processor_has() -> None:
    flags = set(Path("/proc/cpuinfo").read_text().split())
    assert set(llama.features()) <= flags
    assert set(read_runtime(runtime.for_this_computer()).features) == set(llama.features())
