"""Rows about pictures: a data set holds what they show, and tells pictures apart as words."""

import json
from pathlib import Path
from typing import Any

import pytest

from device.manifest.pictures import MAX_BYTES, PICTURE, to_url
from device.pictures import pictures_of, with_pictures
from tests.fakes.eyes import picture
from toolchain import ingest
from toolchain import ingest as ingest_module
from toolchain.artifacts import Dataset
from toolchain.errors import ArtifactError
from toolchain.ingest.split import question_key, question_of
from toolchain.progress import Silent
from toolchain.recipe import DataSpec

SPEC = DataSpec(files=("leds.jsonl",), images="leds", held_out_share=0.3)


def folder(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows, and four pictures in a folder beside them."""
    (path / "leds").mkdir(parents=True)
    for number in range(4):
        (path / "leds" / f"{number}.png").write_bytes(picture(number))
    (path / "leds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows(count: int = 4) -> list[dict[str, Any]]:
    return [
        {"image": f"{number}.png", "question": "is it on?", "answer": "yes" if number else "no"}
        for number in range(count)
    ]


def read(path: Path, out: Path, spec: DataSpec = SPEC) -> Dataset:
    return ingest.ingest(spec, path, out, Silent(), seed=0)


def test_the_same_question_about_other_pictures_is_another_question(tmp_path: Path) -> None:
    dataset = read(folder(tmp_path / "data", rows()), tmp_path / "out")
    every = [*dataset.train(), *dataset.held_out()]
    assert len(every) == 4
    assert dataset.held_out()
    seen = {image for row in every for image in pictures_of(with_pictures(row["messages"]))}
    assert seen == {picture(number) for number in range(4)}
    assert {row["messages"][0]["content"] for row in every} == {"is it on?"}


def test_the_same_question_about_the_same_picture_is_dropped(tmp_path: Path) -> None:
    dataset = read(folder(tmp_path / "data", [*rows(), *rows(1)]), tmp_path / "out")
    assert len(dataset.train()) + len(dataset.held_out()) == 4


def test_a_picture_in_the_row_needs_no_folder(tmp_path: Path) -> None:
    inline = [{**row, "image": to_url(picture(n))} for n, row in enumerate(rows())]
    spec = SPEC.model_copy(update={"images": ""})
    one = read(folder(tmp_path / "a", rows()), tmp_path / "one")
    other = read(folder(tmp_path / "b", inline), tmp_path / "other", spec)
    assert one.train() == other.train()
    assert one.held_out() == other.held_out()


def test_another_picture_under_the_same_name_is_another_data_set(tmp_path: Path) -> None:
    data = folder(tmp_path / "data", rows())
    first = read(data, tmp_path / "out")
    assert not read(data, tmp_path / "out").fresh
    (data / "leds" / "1.png").write_bytes(picture(9))
    second = read(data, tmp_path / "out")
    assert second.fresh
    assert second.digest != first.digest


WRONG: list[tuple[Any, str]] = [
    ("lost.png", "leds.jsonl:1: `image`: there is no `lost.png` in leds"),
    ("../leds.jsonl", "leds.jsonl:1: `image`: there is no `../leds.jsonl` in leds"),
    ("/etc/hostname", "leds.jsonl:1: `image`: there is no `/etc/hostname` in leds"),
    ("data:image/gif;base64,AAAA", "leds.jsonl:1: `image`: the picture is not a whole JPEG or PNG"),
    ("data:image/png;base64,é", "leds.jsonl:1: `image`: its base64 is broken"),
    ("data:image/png;base64,A?A", "leds.jsonl:1: `image`: its base64 is broken"),
    (7, "leds.jsonl:1: `image` must be the name of a file, or a `data:` URL"),
]


@pytest.mark.parametrize(("image", "message"), WRONG, ids=lambda value: str(value)[:24])
def test_a_picture_that_no_board_reads_is_told_with_its_line(
    tmp_path: Path, image: Any, message: str
) -> None:
    data = folder(tmp_path / "data", [{**rows()[0], "image": image}, *rows()[1:]])
    with pytest.raises(ArtifactError) as caught:
        read(data, tmp_path / "out")
    assert caught.value.message.startswith(message)


def test_a_picture_that_is_too_large_is_told(tmp_path: Path) -> None:
    data = folder(tmp_path / "data", rows())
    (data / "leds" / "0.png").write_bytes(picture(0) + bytes(MAX_BYTES))
    with pytest.raises(ArtifactError, match="at most 2,097,152 are read"):
        read(data, tmp_path / "out")


def test_a_picture_that_training_cannot_read_as_a_board_does_is_told(tmp_path: Path) -> None:
    from PIL import Image

    cut, grey = tmp_path / "cut", tmp_path / "grey"
    wholes = {"cannot be dec": picture(0), "is cut short": picture(0, kind="JPEG")}
    for number, (message, whole) in enumerate(wholes.items()):
        data = folder(cut / str(number), rows())
        (data / "leds" / "0.png").write_bytes(whole[: len(whole) * 3 // 4])
        with pytest.raises(ArtifactError, match=rf"^leds\.jsonl:1: `image`: the picture {message}"):
            read(data, tmp_path / "out")
    folder(grey, rows())
    Image.new("I;16", (8, 8), 40_000).save(grey / "leds" / "0.png")
    with pytest.raises(ArtifactError, match=r"^leds\.jsonl:1: `image`: .* is grey of 16 bits"):
        read(grey, tmp_path / "out")


@pytest.mark.parametrize("moment", ["look", "_write"])
def test_a_picture_that_is_changed_while_it_is_read_makes_no_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    data = folder(tmp_path / "data", rows())
    real = getattr(ingest_module, moment)

    def changed(*words: Any, **more: Any) -> Any:
        (data / "leds" / "0.png").write_bytes(picture(1))
        return real(*words, **more)

    monkeypatch.setattr(ingest_module, moment, changed)
    with pytest.raises(ArtifactError) as caught:
        read(data, tmp_path / "out")
    assert caught.value.message == "leds/0.png: was changed while it was read"


def test_a_name_without_a_folder_says_which_key_to_set(tmp_path: Path) -> None:
    data = folder(tmp_path / "data", rows())
    with pytest.raises(ArtifactError, match="but not in which folder") as caught:
        read(data, tmp_path / "out", SPEC.model_copy(update={"images": ""}))
    assert caught.value.hint == '[data] images = "FOLDER", relative to the recipe'
    with pytest.raises(ArtifactError, match="there is no folder `lost`"):
        read(data, tmp_path / "out", SPEC.model_copy(update={"images": "lost"}))


def test_a_question_without_a_picture_has_the_key_that_it_had() -> None:
    asked = {"role": "user", "content": "Is it on?"}, {"role": "assistant", "content": "yes"}
    assert question_key(asked) == "is it on"
    assert question_of(asked) == "Is it on?"
    seen = {**asked[0], PICTURE: to_url(picture(1))}, asked[1]
    assert question_key(seen) != question_key(asked)


def test_a_row_with_tools_and_a_picture_is_refused_by_name(tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "fan", "parameters": {"type": "object"}}}
    data = folder(tmp_path / "data", rows())
    (data / "tools.json").write_text(json.dumps([tool]))
    spec = SPEC.model_copy(update={"tools": "tools.json"})
    with pytest.raises(ArtifactError, match=r"leds\.jsonl:1: a row has tools or an `image`, not"):
        read(data, tmp_path / "out", spec)
    bare = [{**row, "tools": []} for row in rows()]
    (data / "leds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bare))
    assert read(data, tmp_path / "out", spec).train()
