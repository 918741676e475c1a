"""Site folders: right wheels for a board's processor and Python, unpacked within bounds, once."""

import io
import stat
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from toolchain.errors import ArtifactError, ConfigError, FitError, ToolError
from toolchain.runtime import elf, site
from toolchain.runtime.site import site_folder

EXTENSION = next(Path(sys.prefix).rglob("tokenizers/*.so"))
"""A library that needs something of glibc."""


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that pip looks in, and nowhere else; the cache is empty."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name, value in {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(folder),
        "PIP_CONFIG_FILE": "/dev/null",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return folder


def wheel(folder: Path, file: str, contents: Mapping[str, str | bytes]) -> Path:
    """Write a wheel as pip expects it: `file` is its name without `.whl`."""
    name, version = file.split("-")[:2]
    about = f"{name}-{version}.dist-info"
    notes = {
        f"{about}/METADATA": (
            f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n"
        ),
        f"{about}/WHEEL": "Wheel-Version: 1.0\n",
        f"{about}/RECORD": "",
        f"{about}/licenses/LICENSE": "free",
    }
    path = folder / f"{file}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inner, content in {**notes, **contents}.items():
            archive.writestr(inner, content)
    return path


def tiny_index(index: Path) -> None:
    """Numpy for two Pythons and two processors, tokenizers for all of them."""
    for machine in ("aarch64", "x86_64"):
        for version, python in (("2.2.6", "cp310"), ("2.4.6", "cp311")):
            tags = f"{python}-{python}-manylinux_2_17_{machine}.manylinux2014_{machine}"
            wheel(index, f"numpy-{version}-{tags}", {"numpy/__init__.py": f"{python} {machine}"})
    wheel(
        index, "tokenizers-0.23.3-cp310-abi3-manylinux_2_17_aarch64", {"tokenizers/__init__.py": ""}
    )


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("abi", "chosen"),
    [
        ("cpython-310-aarch64-linux-gnu", "cp310 aarch64"),
        ("cpython-311-aarch64-linux-gnu", "cp311 aarch64"),
    ],
)
def test_a_board_gets_what_its_processor_and_its_python_can_load(
    index: Path, abi: str, chosen: str
) -> None:
    tiny_index(index)
    folder = site_folder(["tokenizers", "numpy"], "aarch64", abi, "2.36")
    assert (folder / "numpy" / "__init__.py").read_text() == chosen
    assert (folder / "tokenizers" / "__init__.py").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(("python", "version"), [("cp310", "1.23.2"), ("cp311", "1.32.0")])
def test_onnxruntime_is_the_last_one_for_its_python_and_is_not_there_twice(
    index: Path, python: str, version: str
) -> None:
    engine, again = "onnxruntime/capi/state.py", f"onnxruntime/capi/libonnxruntime.so.{version}"
    tags = f"{python}-{python}-manylinux_2_17_aarch64"
    wheel(index, f"onnxruntime-{version}-{tags}", {engine: "", again: ""})
    folder = site_folder(["onnxruntime"], "aarch64", python, "2.36")
    assert (folder / engine).is_file()
    assert not (folder / again).exists()
    assert [path.name for path in folder.glob("*.dist-info")] == [
        f"onnxruntime-{version}.dist-info"
    ]


@pytest.mark.slow
def test_a_folder_is_made_once_and_found_without_an_index(index: Path) -> None:
    tiny_index(index)
    first = site_folder(["numpy", "tokenizers"], "aarch64", "cp311", "2.36")
    for file in index.iterdir():
        file.unlink()
    assert (
        site_folder(
            ["tokenizers", "numpy", "numpy"], "aarch64", "cpython-311-aarch64-linux-gnu", "2.36"
        )
        == first
    )
    assert [path.name for path in first.parent.iterdir()] == [first.name]


@pytest.mark.slow
def test_what_a_board_never_imports_is_left_out(index: Path) -> None:
    wheel(
        index,
        "numpy-2.4.6-cp311-cp311-manylinux_2_17_aarch64",
        {
            "numpy/__init__.py": "",
            "numpy/__init__.pyi": "",
            "numpy/tests/test_it.py": "",
            "numpy/f2py/__init__.py": "",
            "numpy/_core/include/numpy/types.h": "",
            "numpy-2.4.6.data/scripts/f2py": "",
        },
    )
    left = names(site_folder(["numpy"], "aarch64", "cp311", "2.36"))
    notes = {"numpy-2.4.6.dist-info/METADATA", "numpy-2.4.6.dist-info/licenses/LICENSE"}
    assert left == {"numpy/__init__.py", site.RECORD, *notes}


@pytest.mark.parametrize(
    ("abi", "shown"),
    [
        ("cpython-38-aarch64-linux-gnu", "Python 3.8"),
        ("cpython-314-aarch64-linux-gnu", "Python 3.14"),
        ("cpython-313t-aarch64-linux-gnu", "the Python ABI `cpython-313t-aarch64-linux-gnu`"),
        ("", "the Python ABI ``"),
    ],
)
def test_a_python_that_no_packages_are_for_is_refused_with_what_to_do(abi: str, shown: str) -> None:
    with pytest.raises(FitError) as caught:
        site_folder(["numpy"], "aarch64", abi, "2.36")
    assert (
        caught.value.message
        == f"there are no packages for {shown}, boards may have Python 3.10 to 3.13"
    )
    assert "put such an image on the board" in caught.value.hint


def test_a_distribution_that_is_not_pinned_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="`numpi` is not pinned for boards") as caught:
        site_folder(["numpi"], "aarch64", "cp311", "2.36")
    assert caught.value.hint == "did you mean `numpy`?"


@pytest.mark.slow
def test_wheels_that_are_not_there_are_named_and_leave_nothing_behind(
    index: Path, tmp_path: Path
) -> None:
    with pytest.raises(ToolError) as caught:
        site_folder(["numpy"], "aarch64", "cp311", "2.36")
    wanted = (
        "wheels for Python 3.11 on aarch64 with glibc 2.36 cannot be had: "
        "No matching distribution found for numpy==2.4.6"
    )
    assert caught.value.message == wanted and "PIP_FIND_LINKS" in caught.value.hint
    assert list((tmp_path / "cache" / "demitasse" / "sites").iterdir()) == []


@pytest.mark.slow
def test_a_library_that_the_boards_glibc_is_too_old_for_is_refused(index: Path) -> None:
    floor = elf.glibc_floor([EXTENSION])
    contents = {"numpy/core.so": EXTENSION.read_bytes()}
    wheel(index, "numpy-2.4.6-cp311-cp311-manylinux2014_aarch64", contents)
    with pytest.raises(
        FitError, match=rf"^`numpy/core.so` needs glibc {floor}, the board has 2.1$"
    ):
        site_folder(["numpy"], "aarch64", "cp311", "2.1")


def link(name: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        entry = zipfile.ZipInfo(name)
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    return stream.getvalue()


def archive(contents: Mapping[str, str]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as made:
        for name, text in contents.items():
            made.writestr(name, text)
    return stream.getvalue()


BROKEN = {
    "escaping": (archive({"../evil.py": ""}), "not a plain relative path"),
    "absolute": (archive({"/evil.py": ""}), "not a plain relative path"),
    "a link": (link("evil.py"), "`evil.py` is a link"),
    "cut": (archive({"a.py": "a" * 999})[:-40], "not a zip file"),
    "crowded": (
        archive({f"{number}.py": "" for number in range(9)}),
        "larger than a wheel of ours can be",
    ),
}


@pytest.mark.parametrize(("content", "problem"), BROKEN.values(), ids=list(BROKEN))
def test_a_wheel_that_is_broken_or_out_of_bounds_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, problem: str
) -> None:
    monkeypatch.setattr(site, "MAX_MEMBERS", 8)
    (tmp_path / "bad.whl").write_bytes(content)
    (tmp_path / "deep" / "site").mkdir(parents=True)
    with pytest.raises(ArtifactError, match=rf"^bad\.whl: not a whole wheel: .*{problem}"):
        site.unpack(tmp_path / "bad.whl", tmp_path / "deep" / "site")
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.slow
@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_every_python_of_a_board_gets_numpy(python: str) -> None:
    tag = python.replace(".", "")
    folder = site_folder(
        ["numpy", "tokenizers"], "aarch64", f"cpython-{tag}-aarch64-linux-gnu", "2.35"
    )
    assert list(
        (folder / "numpy" / "_core").glob(f"_multiarray_umath.cpython-{tag}-aarch64-linux-gnu.so")
    )
    libraries = [file for file in folder.rglob("*.so*") if file.is_file()]
    assert {file.read_bytes()[18] for file in libraries} == {183}  # e_machine of AArch64
    assert elf.glibc_floor(libraries) <= "2.28"
