"""Sealed tallies: the sum of all owners is exact, and everything else is refused by its name."""

import json
import os
import shutil
from base64 import b64decode, b64encode
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.fakes.signers import make_key, public, sign
from toolchain.cli import app
from toolchain.errors import ArtifactError, BoardError, ConfigError, ToolchainError, TrustError
from toolchain.rounds import masks, round_file
from toolchain.rounds.round_file import begin, read_round
from toolchain.rounds.statements import FORM
from toolchain.rounds.tally import MAX_COUNT, file_of, join, open_sum, seal, seat_in
from toolchain.signing import SigningKey, find_key

OWNERS = ("bar", "cafe", "shop")
VALUES = {"bar": [1, MAX_COUNT - 1], "cafe": [2, MAX_COUNT - 1], "shop": [40, MAX_COUNT - 1]}
Change = Callable[[Path], object]


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, SigningKey]:
    folder = tmp_path_factory.mktemp("keys")
    return {name: find_key(str(make_key(folder / name))) for name in (*OWNERS, "stranger")}


@pytest.fixture
def path(tmp_path: Path, keys: dict[str, SigningKey], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A round that begins."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "owners").write_text("".join(f"{keys[name].public}\n" for name in OWNERS))
    begin(tmp_path / "tally.json", tmp_path / "owners", ("asked", "up"), least=3, days=1)
    return tmp_path / "tally.json"


@pytest.fixture
def joined(path: Path, keys: dict[str, SigningKey]) -> Path:
    for owner in OWNERS:
        assert join(path, keys[owner]) == (owner, file_of(path, owner, "joined"))
    return path


@pytest.fixture
def sealed(joined: Path, keys: dict[str, SigningKey]) -> Path:
    for owner in OWNERS:
        seal(seat_in(joined, keys[owner]), VALUES[owner], keys[owner])
    return joined


def signed(file: Path, key: SigningKey, **changes: object) -> None:
    """Sign a statement again, with other fields."""
    statement = json.loads(file.read_text())["statement"] | changes
    content = json.dumps(statement, sort_keys=True, separators=(",", ":")).encode()
    assert key.file
    signature = sign(content, key.file, FORM.namespace).decode()
    file.write_text(json.dumps({"statement": statement, "signature": signature}))


def values_of(file: Path) -> list[int]:
    return masks.from_bytes(b64decode(json.loads(file.read_text())["statement"]["values"]))


def test_a_file_of_keys_that_is_too_large_is_not_read_in_part(
    tmp_path: Path, keys: dict[str, SigningKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    content = "".join(f"{keys[name].public}\n" for name in OWNERS)
    (tmp_path / "owners").write_text(content)
    monkeypatch.setattr(round_file, "MAX_ROUND_BYTES", len(content) - 1)
    with pytest.raises(ConfigError, match=r"owners: more than \d+ bytes"):
        begin(tmp_path / "t.json", tmp_path / "owners", ("asked", "up"), least=3, days=1)


def test_the_sum_over_all_owners_is_exact_whoever_opens_it(sealed: Path, tmp_path: Path) -> None:
    relay = tmp_path / "relay"
    relay.mkdir()
    for file in tmp_path.glob("tally.*"):
        shutil.copy(file, relay)
    done = open_sum(relay / "tally.json")
    assert done.owners == OWNERS
    assert done.counters == {"asked": 43, "up": 3 * (MAX_COUNT - 1)}


def test_the_files_of_fewer_owners_are_refused_and_their_sum_is_noise(sealed: Path) -> None:
    files = [file_of(sealed, owner, "sealed") for owner in OWNERS]
    for count, absent in ((1, "cafe, shop"), (2, "shop")):
        with pytest.raises(ArtifactError) as refused:
            open_sum(sealed, files[:count])
        assert refused.value.message == (
            f"tally.json: {count} of 3 owners, {absent} not sealed: only the sum of all can be "
            "opened"
        )
        total = masks.summed(values_of(file) for file in files[:count])
        assert all(value > 1 << 36 for value in total)
    assert masks.summed(map(values_of, files))[0] == 43


def test_a_round_that_was_changed_is_another_round(
    sealed: Path, keys: dict[str, SigningKey]
) -> None:
    """Nobody is added to a round after an owner has joined it."""
    record = json.loads(sealed.read_text())
    extra = {**record["owners"], "fourth": keys["stranger"].public.rsplit(" ", 1)[0]}
    sealed.write_text(json.dumps({**record, "owners": extra}))
    with pytest.raises(TrustError, match="of another round"):
        open_sum(sealed)
    with pytest.raises(ConfigError, match="has not joined this round here"):
        seat_in(sealed, keys["shop"])


def flip(file: Path) -> None:
    record = json.loads(file.read_text())
    content = bytearray(b64decode(record["statement"]["values"]))
    content[3] ^= 1
    record["statement"]["values"] = b64encode(content).decode()
    file.write_text(json.dumps(record))


def test_a_changed_byte_is_refused(sealed: Path) -> None:
    flip(file_of(sealed, "cafe", "sealed"))
    with pytest.raises(TrustError) as refused:
        open_sum(sealed)
    assert refused.value.message == (
        "tally.cafe.sealed: a signature of other bytes: "
        "the statement was changed after it was signed"
    )


def test_a_file_of_another_round_is_refused(
    sealed: Path, keys: dict[str, SigningKey], tmp_path: Path
) -> None:
    other = tmp_path / "other.json"
    begin(other, tmp_path / "owners", ("asked", "up"), least=3, days=1)
    for owner in OWNERS:
        join(other, keys[owner])
    file = seal(seat_in(other, keys["cafe"]), [9, 9], keys["cafe"])
    shutil.copy(file, file_of(sealed, "cafe", "sealed"))
    with pytest.raises(TrustError, match=r"^tally.cafe.sealed: of another round$"):
        open_sum(sealed)


def test_the_same_owner_twice_is_refused(sealed: Path) -> None:
    files = [file_of(sealed, owner, "sealed") for owner in (*OWNERS, "shop")]
    with pytest.raises(ArtifactError, match="`shop` is there twice"):
        open_sum(sealed, files)


def test_somebody_else_cannot_speak_for_an_owner(sealed: Path, keys: dict[str, SigningKey]) -> None:
    signed(file_of(sealed, "cafe", "sealed"), keys["stranger"])
    with pytest.raises(TrustError, match="not signed by the key that the round has for `cafe`"):
        open_sum(sealed)
    signed(file_of(sealed, "shop", "sealed"), keys["bar"], owner="stranger")
    with pytest.raises(TrustError, match="for `stranger`"):
        open_sum(sealed, [file_of(sealed, "shop", "sealed")])


def test_counters_that_the_round_does_not_have_are_refused(
    sealed: Path, keys: dict[str, SigningKey]
) -> None:
    signed(file_of(sealed, "cafe", "sealed"), keys["cafe"], values=b64encode(bytes(24)).decode())
    with pytest.raises(ArtifactError, match=r"tally.cafe.sealed: not the 2 counters of the round"):
        open_sum(sealed)


def test_masks_that_do_not_cancel_out_are_seen(sealed: Path, keys: dict[str, SigningKey]) -> None:
    file = file_of(sealed, "cafe", "sealed")
    signed(file, keys["cafe"], values=b64encode(bytes([7] * 16)).decode())
    with pytest.raises(ArtifactError, match="the masks do not cancel out"):
        open_sum(sealed)


def test_keys_of_which_owners_saw_different_ones_are_seen(
    sealed: Path, keys: dict[str, SigningKey]
) -> None:
    signed(file_of(sealed, "cafe", "sealed"), keys["cafe"], roster="0" * 64)
    with pytest.raises(ArtifactError, match="not all sealed with the same keys"):
        open_sum(sealed)


@pytest.mark.parametrize(
    ("values", "error", "problem"),
    [
        ([1, MAX_COUNT], BoardError, "`up` is 1048576: a counter lies below 1,048,576"),
        ([-1, 0], BoardError, "`asked` is -1: a counter lies below 1,048,576"),
        ([1], ConfigError, "1 counters, the round has 2"),
        ([1.0, 1], BoardError, "`asked` is 1.0: a counter lies below 1,048,576"),
        ([1, "1"], BoardError, "`up` is 1: a counter lies below 1,048,576"),
        ([float("nan"), 1], BoardError, "`asked` is nan: a counter lies below 1,048,576"),
    ],
)
def test_counters_that_a_sum_cannot_hold_are_refused_and_the_secret_stays(
    joined: Path,
    keys: dict[str, SigningKey],
    values: list[Any],
    error: type[ToolchainError],
    problem: str,
) -> None:
    seat = seat_in(joined, keys["shop"])
    with pytest.raises(error) as refused:
        seal(seat, values, keys["shop"])
    assert refused.value.message == f"tally.json: {problem}"
    assert seal(seat, [1, 1], keys["shop"]).exists()


def test_a_secret_masks_one_vector(joined: Path, keys: dict[str, SigningKey]) -> None:
    seat = seat_in(joined, keys["shop"])
    seal(seat, [1, 1], keys["shop"])
    for again in (
        lambda: seal(seat, [2, 2], keys["shop"]),
        lambda: seat_in(joined, keys["shop"]),
        lambda: join(joined, keys["shop"]),
    ):
        with pytest.raises(ConfigError, match="`shop` has sealed its counters already"):
            again()
    (spent,) = (joined.parent / "state").rglob("*.spent")
    assert spent.read_bytes() == b""


def test_a_secret_is_gone_before_the_file_is_there(
    joined: Path, keys: dict[str, SigningKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: object) -> None:
        raise KeyboardInterrupt

    seat = seat_in(joined, keys["shop"])
    monkeypatch.setattr("toolchain.rounds.tally.write_signed", cut)
    with pytest.raises(KeyboardInterrupt):
        seal(seat, [1, 1], keys["shop"])
    monkeypatch.undo()
    monkeypatch.setenv("XDG_STATE_HOME", str(joined.parent / "state"))
    with pytest.raises(ConfigError, match="has sealed its counters already"):
        seal(seat, [2, 2], keys["shop"])


def test_a_secret_is_its_owners_alone_and_joining_again_keeps_it(
    joined: Path, keys: dict[str, SigningKey]
) -> None:
    before = json.loads(file_of(joined, "shop", "joined").read_text())["statement"]
    (secret,) = (joined.parent / "state").rglob("*.shop.secret")
    assert secret.stat().st_mode & 0o077 == 0
    join(joined, keys["shop"])
    assert json.loads(file_of(joined, "shop", "joined").read_text())["statement"] == before


def test_joining_that_was_cut_off_is_done_again(
    path: Path, keys: dict[str, SigningKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut() -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(masks, "new_secret", cut)
        with pytest.raises(KeyboardInterrupt):
            join(path, keys["shop"])
    assert join(path, keys["shop"])[0] == "shop"


def absent(path: Path, keys: dict[str, SigningKey]) -> None:
    file_of(path, "bar", "joined").unlink()


def replaced(path: Path, keys: dict[str, SigningKey]) -> None:
    signed(file_of(path, "bar", "joined"), keys["stranger"])


def swapped(path: Path, keys: dict[str, SigningKey]) -> None:
    shutil.copy(file_of(path, "cafe", "joined"), file_of(path, "bar", "joined"))


def own(path: Path, keys: dict[str, SigningKey]) -> None:
    key = b64encode(masks.public_of(masks.new_secret())).decode()
    signed(file_of(path, "shop", "joined"), keys["shop"], public=key)


def short(path: Path, keys: dict[str, SigningKey]) -> None:
    signed(file_of(path, "bar", "joined"), keys["bar"], public="AAAA")


@pytest.mark.parametrize(
    ("change", "error", "problem"),
    [
        (absent, ConfigError, "tally.json: not joined yet: bar"),
        (
            replaced,
            TrustError,
            "tally.bar.joined: not signed by the key that the round has for `bar`",
        ),
        (swapped, ArtifactError, "tally.bar.joined: not the key of `bar`"),
        (own, TrustError, "tally.json: `shop` joined with another key than the one here"),
        (short, ArtifactError, "tally.bar.joined: not the key of `bar`"),
    ],
)
def test_nobody_seals_unless_every_owner_joined_with_its_own_key(
    joined: Path,
    keys: dict[str, SigningKey],
    change: Callable[[Path, dict[str, SigningKey]], None],
    error: type[ToolchainError],
    problem: str,
) -> None:
    change(joined, keys)
    with pytest.raises(error) as refused:
        seat_in(joined, keys["shop"])
    assert refused.value.message == problem


def test_a_key_that_keeps_no_secret_is_refused(joined: Path, keys: dict[str, SigningKey]) -> None:
    signed(file_of(joined, "bar", "joined"), keys["bar"], public=b64encode(bytes(32)).decode())
    with pytest.raises(TrustError, match="a key that keeps no secret"):
        seal(seat_in(joined, keys["shop"]), [1, 1], keys["shop"])


def test_nobody_joins_or_seals_after_a_round_has_closed(
    joined: Path, keys: dict[str, SigningKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    late = read_round(joined).closes + timedelta(seconds=1)
    monkeypatch.setattr(round_file, "now", lambda: late)
    for act in (join, seat_in):
        with pytest.raises(ConfigError, match=r"tally.json: the round closed at 20"):
            act(joined, keys["shop"])


def test_a_stranger_has_no_place(joined: Path, keys: dict[str, SigningKey]) -> None:
    with pytest.raises(ConfigError, match="the round does not name the key SHA256:"):
        join(joined, keys["stranger"])


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ("{bar}\n{cafe}\n", "2 owners, and a sum needs 3"),
        ("{bar}\n{cafe}\n{bar} \n", "`bar` is there twice"),
        ("{bar}\n{cafe}\n{bare} other\n", "an owner is there twice"),
        ("{bar}\n{cafe}\n{bare} ../x\n", "`../x` is no owner's name"),
        ("{bar}\n{bare}\n", "not a key and a name"),
        ("ssh-rsa AAAA bar\n{cafe}\n{shop}\n", "not a public key"),
    ],
)
def test_owners_who_cannot_make_a_round_are_refused(
    path: Path, tmp_path: Path, keys: dict[str, SigningKey], lines: str, problem: str
) -> None:
    named = {name: public(key.file) for name, key in keys.items() if key.file}
    (tmp_path / "few").write_text(lines.format(**named, bare=named["bar"].rsplit(" ", 1)[0]))
    with pytest.raises(ConfigError) as refused:
        begin(tmp_path / "new.json", tmp_path / "few", ("asked",), least=3, days=1)
    assert problem in refused.value.message
    assert not (tmp_path / "new.json").exists()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"least": 2}, "`least`: input should be greater than or equal to 3"),
        ({"least": 4}, "3 owners, and a sum needs 4"),
        ({"counters": ["up", "up"]}, "a counter is there twice"),
        ({"more": 1}, "`more`: extra inputs are not permitted"),
        ({"tally": 2}, "`tally`: input should be 1"),
    ],
)
def test_a_round_that_must_not_be_is_refused(
    path: Path, change: dict[str, object], problem: str
) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigError) as refused:
        read_round(path)
    assert problem in refused.value.message


def test_an_owner_that_stands_twice_in_the_file_is_refused(path: Path) -> None:
    """People who look into it see the first key, and masks would be agreed on with the second."""
    text = path.read_text()
    path.write_text(text.replace('"owners": {', '"owners": {"bar": "ssh-ed25519 AAAA",', 1))
    with pytest.raises(ConfigError, match=r"tally.json: not JSON: a key stands twice"):
        read_round(path)


@pytest.mark.parametrize("days", ["0", "3651", "99999999999"])
def test_a_round_closes_within_ten_years(path: Path, tmp_path: Path, days: str) -> None:
    words = [str(tmp_path / "new.json"), "--owners", str(tmp_path / "owners"), "--days", days]
    assert CliRunner().invoke(app, ["tally", *words]).exit_code == 2


def test_owners_are_read_from_a_file_and_not_from_a_pipe(path: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="pipe: cannot be read"):
        begin(tmp_path / "new.json", tmp_path / "pipe", ("asked",), least=3, days=1)


def test_a_round_is_not_overwritten(path: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is a round already"):
        begin(path, tmp_path / "owners", ("asked",), least=3, days=1)


def test_the_verb_opens_a_sum_and_refuses_a_single_file(sealed: Path) -> None:
    done = CliRunner().invoke(app, ["tally", str(sealed), "--json"])
    assert json.loads(done.stdout)["counters"] == {"asked": 43, "up": 3 * (MAX_COUNT - 1)}
    single = CliRunner().invoke(app, ["tally", str(sealed), str(file_of(sealed, "bar", "sealed"))])
    assert isinstance(single.exception, ArtifactError)
    assert single.exception.exit_code == 4
