"""`harvest`: rows arrive once, whatever cut them off, and nothing personal is written."""

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from device.disk import SEAL, seal_of
from device.feedback import FOLDER, Ring
from tests.fakes.board import FakeConnection
from toolchain.board.device import Device
from toolchain.errors import ArtifactError, BoardError, ConfigError
from toolchain.progress import Silent
from toolchain.recipe import Recipe, load
from toolchain.rounds.harvest import Harvest, discard, harvest, read_harvest

RELEASE = "ab" * 32


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def ring(home: Path) -> Ring:
    return Ring(home / "store" / FOLDER, 1 << 20)


def id_of(question: Any) -> str:
    return f"chatcmpl-{hashlib.sha256(repr(question).encode()).hexdigest()[:24]}"


def rate(ring: Ring, question: str, **fields: Any) -> None:
    row = {"id": id_of(question), "kind": "up", "release": RELEASE, "answer": "warm"}
    ring.append({**row, "question": question, "rating": 1, "known": None, **fields})


def fetch(
    home: Path,
    out: Path,
    recipe: Recipe | None = None,
    *,
    delete: bool = False,
    address: str = "local",
    deaf_after: int | None = None,
) -> Harvest:
    connection = FakeConnection(home, address=address)
    device = Device(connection)
    device.install()
    if deaf_after is not None:
        connection.deaf_after = connection.heard + deaf_after
    return harvest(device, out, Silent(), recipe, delete=delete)


def recipe_with(folder: Path, redact: str) -> Recipe:
    (folder / "faq.jsonl").write_text('{"question": "how hot?", "answer": "80 degrees"}\n')
    path = folder / "desk.toml"
    path.write_text(
        f'title = "t"\ntargets = ["rpi-5-4gb"]\n[model]\nbase = "x/y"\n[data]\n'
        f'files = ["faq.jsonl"]\n[data.redact]\n{redact}\n'
    )
    return load(path)


def test_rows_are_marked_with_their_board_release_and_number(
    home: Path, ring: Ring, tmp_path: Path
) -> None:
    rate(ring, "how hot?", rating=-1, kind="down", correction="80 degrees")
    done = fetch(home, tmp_path / "h.jsonl")
    assert (done.fetched, done.known, done.kinds) == (1, 0, {"down": 1})
    (row,) = read_harvest(tmp_path / "h.jsonl")
    assert row == {
        "question": "how hot?",
        "said": "warm",
        "kind": "down",
        "rating": -1,
        "known": None,
        "correction": "80 degrees",
        "board": "local",
        "release": RELEASE,
        "ring": ring.name(),
        "number": 1,
        "id": id_of("how hot?"),
    }


@pytest.mark.slow
def test_repeated_harvests_of_two_boards_into_one_file_take_each_row_once(
    home: Path, ring: Ring, tmp_path: Path
) -> None:
    other_home = tmp_path / "other"
    other_home.mkdir()
    other = Ring(other_home / "store" / FOLDER, 1 << 20)
    out = tmp_path / "h.jsonl"
    for number in range(100):
        rate(ring, f"first {number}")
        rate(other, f"second {number}")
    counts = [fetch(home, out).fetched, fetch(other_home, out, address="pi@other").fetched]
    rate(ring, "one more")
    counts += [fetch(home, out).fetched, fetch(other_home, out, address="pi@other").fetched]
    assert counts == [100, 100, 1, 0]
    rows = read_harvest(out)
    assert len({(row["ring"], row["number"]) for row in rows}) == len(rows) == 201


@pytest.mark.slow
def test_a_board_that_was_set_up_anew_begins_anew(home: Path, ring: Ring, tmp_path: Path) -> None:
    out = tmp_path / "h.jsonl"
    for number in range(3):
        rate(ring, f"before {number}")
    fetch(home, out)
    for file in (home / "store" / FOLDER).iterdir():
        file.unlink()
    rate(ring, "after")
    assert fetch(home, out).fetched == 1
    assert [row["question"] for row in read_harvest(out)][-1] == "after"


@pytest.mark.slow
def test_a_harvest_that_is_cut_off_anywhere_goes_on_and_loses_nothing(
    home: Path, ring: Ring, tmp_path: Path
) -> None:
    for number in range(120):
        rate(ring, f"question {number}")
    out, cuts = tmp_path / "h.jsonl", 0
    for deaf_after in (300, 9_000, 17_003, 26_000):
        try:
            fetch(home, out, deaf_after=deaf_after)
        except BoardError:
            cuts += 1
    assert cuts >= 3
    fetch(home, out)
    numbers = [row["number"] for row in read_harvest(out)]
    assert sorted(numbers) == list(range(1, 121))


@pytest.mark.slow
def test_a_torn_last_line_of_a_killed_harvest_is_fetched_again(
    home: Path, ring: Ring, tmp_path: Path
) -> None:
    out = tmp_path / "h.jsonl"
    rate(ring, "one")
    rate(ring, "two")
    fetch(home, out)
    content = out.read_bytes()
    out.write_bytes(content[:-30])
    assert fetch(home, out).fetched == 1
    assert out.read_bytes() == content


@pytest.mark.parametrize("content", ["my notes\n", "my notes", '{"question": "q"}\n', "[1]\n"])
def test_a_file_that_holds_something_else_is_refused_and_stays(
    home: Path, ring: Ring, tmp_path: Path, content: str
) -> None:
    rate(ring, "one")
    out = tmp_path / "notes.txt"
    out.write_text(content)
    with pytest.raises(ConfigError) as refused:
        fetch(home, out)
    assert refused.value.message == f"{out}:1: not a row of a harvest"
    assert out.read_text() == content


@pytest.mark.slow
def test_what_the_recipe_replaces_is_never_written(home: Path, ring: Ring, tmp_path: Path) -> None:
    mobile, address = "13800138000", "li@firm-of-mine.com"
    rate(
        ring,
        f"我的手机{mobile}能用吗",
        answer=f"write to {address}",
        correction=f"call {mobile}",
        before=[{"role": "user", "content": f"I am {address}"}],
    )
    recipe, out = recipe_with(tmp_path, 'mode = "replace"'), tmp_path / "h.jsonl"
    done = fetch(home, out, recipe)
    text = out.read_text()
    assert mobile not in text and address not in text
    assert text.count("[phone-") == 2 and text.count("[email-") == 2
    assert done.replaced == {"email": 2, "phone": 2}


@pytest.mark.slow
def test_a_recipe_that_refuses_personal_data_ends_the_harvest_before_it_is_written(
    home: Path, ring: Ring, tmp_path: Path
) -> None:
    rate(ring, "how hot?")
    rate(ring, "call 13800138000")
    recipe, out = recipe_with(tmp_path, 'mode = "refuse"'), tmp_path / "h.jsonl"
    with pytest.raises(ArtifactError) as refused:
        fetch(home, out, recipe, delete=True)
    assert refused.value.message == "local: its feedback holds personal data: 1 phone"
    assert [row["question"] for row in read_harvest(out)] == ["how hot?"]
    assert len(list(ring.rows())) == 2, "nothing is deleted on the board"


def test_only_what_was_fetched_is_deleted_on_the_board(
    home: Path, ring: Ring, tmp_path: Path
) -> None:
    for number in range(3):
        rate(ring, f"question {number}")
    done = fetch(home, tmp_path / "h.jsonl", delete=True)
    assert (done.fetched, done.forgotten) == (3, 3)
    rate(ring, "later")
    assert [row["n"] for row in ring.rows()] == [4]
    assert discard(Device(FakeConnection(home))) == 1
    assert list(ring.rows()) == []


@pytest.mark.slow
def test_a_board_without_feedback_gives_an_empty_harvest(home: Path, tmp_path: Path) -> None:
    assert fetch(home, tmp_path / "h.jsonl", delete=True).fetched == 0
    assert read_harvest(tmp_path / "h.jsonl") == []


@pytest.mark.sampled(6)
@pytest.mark.parametrize(
    "fields",
    [
        {"rating": 7},
        {"answer": ["x"]},
        {"id": "call 13800138000"},
        {"release": "../../etc"},
        {"before": [{"role": "system", "content": "x"}]},
        {"kind": "\x1b[2J"},
    ],
)
def test_a_row_that_no_board_of_ours_sends_is_refused(
    home: Path, ring: Ring, tmp_path: Path, fields: dict[str, Any]
) -> None:
    rate(ring, "how hot?", **fields)
    with pytest.raises(BoardError, match="the answer of `harvest`"):
        fetch(home, tmp_path / "h.jsonl")


@pytest.mark.slow
def test_half_a_character_from_a_board_is_written_as_what_can_be_read_again(
    home: Path, ring: Ring, tmp_path: Path
) -> None:
    rate(ring, "ok")
    row = {**next(ring.rows()), "n": 2, "question": "half \ud800"}
    (part,) = (home / "store" / FOLDER).glob("*.jsonl")
    sealed = json.dumps({**row, SEAL: seal_of(row)})  # the board prints it as it stands
    part.write_text(part.read_text() + sealed + "\n")
    with suppress(BoardError):
        fetch(home, tmp_path / "h.jsonl")
    assert all(each["question"].isprintable() for each in read_harvest(tmp_path / "h.jsonl"))
