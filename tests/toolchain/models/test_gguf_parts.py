"""Models in parts, as llama.cpp and its Python package write them, are joined to one file."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from device.manifest.gguf import read_header, tensor_digests
from tests.fakes.tiny_gguf import in_parts, tiny_gguf
from toolchain.errors import ArtifactError
from toolchain.finished.look import look
from toolchain.finished.source import Source, resolve
from toolchain.models.gguf_parts import join, part_names, parts_of, whole_header, whole_name
from toolchain.progress import Silent
from toolchain.weighing import weigh_gguf


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf(tmp_path_factory.mktemp("whole") / "tiny.gguf")


@pytest.fixture
def parts(whole: Path, tmp_path: Path) -> list[Path]:
    found = in_parts(whole, tmp_path / "parts")
    assert len(found) == 3
    return found


@pytest.mark.parametrize("options", [{"tensors": 8}, {"tensors": 2}, {"small_first_shard": True}])
def test_the_joined_file_is_the_model_that_was_split(
    whole: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    files = in_parts(whole, tmp_path / "parts", **options)
    join(files, tmp_path / "out.gguf", Silent())
    found, expected = read_header(tmp_path / "out.gguf"), read_header(whole)
    assert found.metadata == expected.metadata
    assert tensor_digests(tmp_path / "out.gguf") == tensor_digests(whole)


def test_any_part_leads_to_all_of_them(parts: list[Path]) -> None:
    assert [parts_of(part) for part in parts] == [tuple(parts)] * 3
    assert part_names(parts[1].name) == tuple(part.name for part in parts)
    assert whole_name(parts[2].name) == "m.gguf"
    assert whole_name("m-Q4_0.gguf") == "m-Q4_0.gguf"


def test_a_whole_file_is_its_only_part(whole: Path) -> None:
    assert parts_of(whole) == (whole,)


def test_a_model_in_parts_is_weighed_as_a_whole(whole: Path, parts: list[Path]) -> None:
    header = whole_header(parts[1])
    assert {(t.name, t.size) for t in header.tensors} == {
        (t.name, t.size) for t in read_header(whole).tensors
    }
    assert weigh_gguf(parts[1]).trained_context == 512


@pytest.mark.slow
def test_a_finished_model_in_parts_is_looked_at_joined(parts: list[Path], tmp_path: Path) -> None:
    source = resolve(str(parts[0]))
    assert source.id == "m"
    seen = look(source, None, tmp_path / "room")
    assert seen.file == tmp_path / "room" / "m.gguf"
    first = seen.file.stat().st_ino
    assert look(source, None, tmp_path / "room").file.stat().st_ino == first
    assert look(Source(file=parts[2], said="m"), None, tmp_path / "room").context == 512


def removed(parts: list[Path]) -> None:
    parts[1].unlink()


def renamed(parts: list[Path]) -> None:
    parts[0].rename(parts[0].with_name("model.gguf"))
    parts[0] = parts[0].with_name("model.gguf")


def exchanged(parts: list[Path]) -> None:
    middle = parts[1].read_bytes()
    parts[1].write_bytes(parts[2].read_bytes())
    parts[2].write_bytes(middle)


def twice(parts: list[Path]) -> None:
    """The third part has the tensors of the second, and says that it is the third."""
    content = parts[1].read_bytes()
    place = content.index(b"split.no") + len(b"split.no") + 4
    parts[2].write_bytes(content[:place] + b"\2" + content[place + 1 :])


def cut(parts: list[Path]) -> None:
    parts[2].write_bytes(parts[2].read_bytes()[:-40])


def counted(parts: list[Path]) -> None:
    content = parts[0].read_bytes()
    place = content.index(b"split.tensors.count") + len(b"split.tensors.count") + 4
    parts[0].write_bytes(content[:place] + b"\xff" + content[place + 1 :])


SPOILED: dict[str, tuple[Callable[[list[Path]], None], str]] = {
    "a part is missing": (
        removed,
        "m-00001-of-00003.gguf: is one of 3 parts, 1 not here: m-00002-of-00003.gguf",
    ),
    "a part was renamed": (renamed, "model.gguf: is one of 3 parts, and its name is not a part's"),
    "two were exchanged": (
        exchanged,
        "m-00002-of-00003.gguf: its header does not say that it is part 2 of 3",
    ),
    "a tensor is there twice": (twice, "m-00003-of-00003.gguf: tensor `"),
    "a part is cut": (cut, "m-00003-of-00003.gguf: is "),
    "a tensor is missing": (counted, "m-00001-of-00003.gguf: the parts have 21 tensors, "),
}


@pytest.mark.parametrize("case", SPOILED)
def test_parts_that_do_not_belong_together_are_refused(
    parts: list[Path], tmp_path: Path, case: str
) -> None:
    spoil, message = SPOILED[case]
    spoil(parts)
    with pytest.raises(ArtifactError) as refused:
        join(parts_of(parts[0]), tmp_path / "out.gguf", Silent())
    assert refused.value.message.startswith(message)
    assert not (tmp_path / "out.gguf").exists()


def test_no_part_is_changed(parts: list[Path], tmp_path: Path) -> None:
    before = [hashlib.sha256(part.read_bytes()).hexdigest() for part in parts]
    join(parts, tmp_path / "out.gguf", Silent())
    assert [hashlib.sha256(part.read_bytes()).hexdigest() for part in parts] == before
