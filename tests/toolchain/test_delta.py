"""What is counted as changed between two model files, and which files are remembered for it."""

import os
from itertools import pairwise
from pathlib import Path

import pytest

from device.manifest import delta
from device.manifest.gguf import read_header, tensor_digests
from tests.fakes.tiny_gguf import tiny_gguf
from tests.fakes.updates import make_update
from toolchain.progress import Silent
from toolchain.push import sent as kept
from toolchain.push.delta import closest, known_file, make, matches, old_file

WORDS = b" ".join(b"token %d" % number for number in range(2000))


def described(file: Path) -> list[dict[str, object]]:
    """Describe a file as a board does."""
    tensors = read_header(file).tensors
    digests = [entry["sha256"] for entry in tensor_digests(file)]
    return [
        {
            "name": t.name,
            "type": t.type,
            "shape": list(t.shape),
            "offset": t.offset,
            "size": t.size,
            "sha256": digest,
        }
        for t, digest in zip(tensors, digests, strict=True)
    ]


def test_the_same_file_again_is_all_copies(tmp_path: Path) -> None:
    old, _ = make_update(tmp_path)
    patch = make(old_file(old, "a"), old, {}, Silent())
    assert {frame.kind for frame in patch.frames} == {delta.COPY, delta.CHECK}
    assert (patch.whole_tensor_bytes, patch.missing_bytes(0)) == (
        0,
        sum(24 + frame.payload for frame in patch.frames),
    )


def test_frames_follow_each_other_to_the_end_of_the_file(tmp_path: Path) -> None:
    old, new = make_update(tmp_path)
    frames = make(old_file(old, "a"), new, {}, Silent()).frames
    assert all(before.at + before.made == after.at for before, after in pairwise(frames))
    assert (frames[0].at, frames[-1].at, frames[-1].kind) == (0, new.stat().st_size, delta.CHECK)


def test_what_is_equal_is_copied_what_changed_is_a_difference_and_the_header_only_its_new_words(
    tmp_path: Path,
) -> None:
    old, new = make_update(tmp_path)
    sent = dict.fromkeys(range(5), 0)
    for frame in make(old_file(old, "a"), new, {}, Silent()).frames:
        sent[frame.kind] += frame.payload
    matrix = 1024 * 1024 // 32 * 18
    assert sent[delta.PLAIN] == 0
    assert sent[delta.PACKED] < 100
    assert 0.08 < sent[delta.ADD] / (2 * matrix) < 0.12


def test_by_digests_alone_equal_tensors_are_copied_and_the_others_travel_whole(
    tmp_path: Path,
) -> None:
    old, new = make_update(tmp_path)
    digests = {str(entry["name"]): str(entry["sha256"]) for entry in tensor_digests(new)}
    frames = make(known_file("a", described(old)), new, digests, Silent()).frames
    matrix = 1024 * 1024 // 32 * 18
    assert sum(frame.payload for frame in frames if frame.kind == delta.PLAIN) == 2 * matrix
    assert sum(frame.made for frame in frames if frame.kind == delta.COPY) == 2 * matrix + 4096


def test_a_tensor_of_another_type_travels_whole(tmp_path: Path) -> None:
    (tmp_path / "q8").mkdir()
    old, _ = make_update(tmp_path)
    _, new = make_update(tmp_path / "q8", kind="Q8_0")
    patch = make(old_file(old, "a"), new, {}, Silent())
    assert patch.whole_tensor_bytes == 4 * 1024 * 1024 // 32 * 34


def test_the_file_with_most_in_common_is_the_base(tmp_path: Path) -> None:
    old, new = make_update(tmp_path)
    stranger = tiny_gguf(tmp_path / "tiny.gguf")
    files = [old_file(stranger, "stranger"), old_file(old, "old")]
    found = closest(new, files)
    assert found and found.sha256 == "old"
    assert closest(tiny_gguf(tmp_path / "other.gguf"), [old_file(old, "old")]) is None


@pytest.mark.parametrize(
    ("old", "new", "fresh"),
    [
        (WORDS, WORDS, 0),
        (WORDS, WORDS[:5000] + b"inserted" + WORDS[5000:], 16),
        (WORDS, WORDS[:5000] + WORDS[5008:], 0),
        (WORDS, b"other" + WORDS[5:12_000] + b"and" + WORDS[12_003:], 32),
        (b"", WORDS, len(WORDS)),
        (WORDS, bytes(5000), 5000),
        (WORDS, b"", 0),
    ],
)
def test_headers_are_matched_stretch_by_stretch(old: bytes, new: bytes, fresh: int) -> None:
    found = list(matches(old, new))
    made = b"".join(
        new[at:end] if place is None else old[place : place + end - at] for place, at, end in found
    )
    assert made == new
    assert [at for _, at, _ in found[1:]] == [end for _, _, end in found[:-1]]
    assert sum(end - at for place, at, end in found if place is None) <= fresh


def test_the_last_few_files_are_remembered_by_their_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    digests = [f"{number:064x}" for number in range(kept.NEWEST + 2)]
    for number, digest in enumerate(digests):
        file = tmp_path / f"model{number}.gguf"
        file.write_bytes(b"x" * number)
        kept.keep(file, digest)
        place = tmp_path / "cache" / "demitasse" / "models" / digest
        os.utime(place, ns=(number, number))
    assert [file.name for file in kept.held(digests)] == digests[:1:-1]
    kept.keep(tmp_path / "model3.gguf", digests[3])
    assert kept.held(digests)[0].read_bytes() == b"xxx"


def test_a_file_that_cannot_be_remembered_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache").write_text("a file where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kept.keep(tmp_path / "model.gguf", "a" * 64)
    assert kept.held(["a" * 64]) == []


def test_a_remembered_file_that_was_cut_off_is_remembered_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "model.gguf"
    file.write_bytes(b"whole")
    kept.keep(file, "a" * 64)
    (place,) = kept.held(["a" * 64])
    place.unlink()
    place.write_bytes(b"wh")
    kept.keep(file, "a" * 64)
    assert kept.held(["a" * 64])[0].read_bytes() == b"whole"


def test_a_file_that_another_push_drops_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "model.gguf"
    file.write_bytes(b"whole")
    kept.keep(file, "a" * 64)
    # A link that leads nowhere is listed, and has no state, as a file that was dropped just now.
    (tmp_path / "cache" / "demitasse" / "models" / ("b" * 64)).symlink_to(tmp_path / "gone")
    assert [each.name for each in kept.held(["a" * 64, "b" * 64])] == ["a" * 64]
