"""Proofs: what is in one and what is not, who may say what by it, and files of strangers."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from device import bandwidth
from tests.fakes import signers
from tests.fakes.board import FakeConnection
from tests.fakes.bundles import finished, make_bundle, make_runtime
from tests.fakes.datasets import Recorder
from tests.fakes.ports import free_port
from tests.fakes.proofs import PRIVATE, a_proof
from toolchain import show, signing, target
from toolchain.bench import bench
from toolchain.board.device import Device
from toolchain.board.kind import REAL, THIS_COMPUTER, VIRTUAL, Kind
from toolchain.cli import app
from toolchain.cli.proving import _free
from toolchain.errors import ArtifactError, BoardError, ConfigError, ToolchainError, TrustError
from toolchain.proving import check_board, proof_of
from toolchain.proving.kept import counts_for, folder, proofs_of
from toolchain.proving.record import MOST_SHARE
from toolchain.proving.signed import MAX_BYTES, SignedProof, read, write
from toolchain.push import push
from toolchain.show.proofs import labels


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return signers.make_key(tmp_path / "key")


@pytest.fixture
def file(tmp_path: Path, key: Path) -> Path:
    path = tmp_path / "proof.json"
    write(a_proof(), signing.find_key(str(key)), path)
    return path


def test_a_proof_names_neither_a_person_nor_a_place(file: Path) -> None:
    assert PRIVATE not in file.read_text()
    proof = read(file).proof
    assert (proof.target, proof.kind, proof.board.cores) == ("rpi-5-4gb", "board", 4)
    assert proof.disturbed == 1


def test_heat_is_that_of_the_whole_run() -> None:
    heat = a_proof().heat
    assert (heat.before.temperature_c, heat.after.temperature_c) == (45.0, 71.5)
    assert (heat.highest_c, heat.lowest_clock_mhz, heat.throttled) == (82.5, 1500, ("throttled",))
    assert heat.sustained == ((10.0, 12.5), (20.0, 9.5))


def test_openssh_and_json_alone_verify_a_proof(file: Path, key: Path, tmp_path: Path) -> None:
    """As docs/proving.md says it: no program of ours takes part."""
    record = json.loads(file.read_text())
    (tmp_path / "signature").write_text(record["signature"])
    (tmp_path / "record").write_text(json.dumps(record["proof"]))
    compact = subprocess.run(
        ["python3", "-m", "json.tool", "--sort-keys", "--compact", tmp_path / "record"],
        check=True,
        capture_output=True,
    ).stdout.removesuffix(b"\n")
    (tmp_path / "allowed").write_text(f"* {signers.public(key)}\n")
    said = subprocess.run(
        [
            *("ssh-keygen", "-Y", "verify", "-n", "demitasse-proof", "-I", "anybody"),
            *("-f", tmp_path / "allowed", "-s", tmp_path / "signature"),
        ],
        input=compact,
        capture_output=True,
        check=True,
    ).stdout
    assert read(file).signer in said.decode()


def test_a_file_may_be_laid_out_anew(file: Path) -> None:
    before = read(file)
    file.write_text(json.dumps(json.loads(file.read_text()), sort_keys=True))
    assert read(file) == before


@pytest.mark.parametrize(
    "mailed",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.rstrip("\n"),
        lambda text: "\r\n" + text.replace("\n", "\r\n") + "\r\n",
    ],
    ids=["other line ends", "no last line end", "lines around it"],
)
def test_a_signature_that_went_through_a_mail_program_holds(
    file: Path, mailed: Callable[[str], str]
) -> None:
    before = read(file)
    content = json.loads(file.read_text())
    content["signature"] = mailed(content["signature"])
    file.write_text(json.dumps(content, indent=1).replace("\n", "\r\n"), newline="")
    assert read(file) == before


def test_a_signature_with_something_in_it_is_no_proof(file: Path) -> None:
    content = json.loads(file.read_text())
    content["signature"] = content["signature"].replace("\n", " x\n", 1)
    file.write_text(json.dumps(content))
    with pytest.raises(TrustError):
        read(file)


def change(file: Path, *where: str | int, value: Any) -> None:
    """Change a field of a proof in its file."""
    content = json.loads(file.read_text())
    place = content["proof"]
    for part in where[:-1]:
        place = place[part]
    place[where[-1]] = value
    file.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("date",), "2027-01-01"),
        (("kind",), "board"),
        (("board", "cores"), 8),
        (("heat", "highest_c"), 40.0),
        (("rows", 0, "median_ts"), 12.500001),
    ],
)
def test_a_record_that_was_changed_is_no_proof(
    tmp_path: Path, key: Path, where: tuple[str | int, ...], value: Any
) -> None:
    file = tmp_path / "proof.json"
    write(a_proof(kind=THIS_COMPUTER), signing.find_key(str(key)), file)
    change(file, *where, value=value)
    with pytest.raises(TrustError) as caught:
        read(file)
    assert str(caught.value) == (
        "proof.json: a signature of other bytes: the proof was changed after it was signed"
    )


def test_a_signature_for_another_purpose_is_no_proof(file: Path, key: Path) -> None:
    content = json.loads(file.read_text())
    record = json.dumps(content["proof"], sort_keys=True, separators=(",", ":")).encode()
    content["signature"] = signers.sign(record, key, "demitasse-bundle").decode()
    file.write_text(json.dumps(content))
    with pytest.raises(TrustError) as caught:
        read(file)
    assert str(caught.value) == (
        "proof.json: its signature is for `demitasse-bundle`, not for `demitasse-proof`"
    )


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        (("proof",), 2, "`proof`: input should be 1"),
        (("date",), "today", "`date`: string should match pattern"),
        (("date",), "٢٠٢٦-١١-٢٧", "`date`: string should match pattern"),
        (("date",), "2026-13-01", "`date`: value error, month must be in 1..12"),
        (("date",), "2999-01-01", "`date`: value error, a day that has not come yet"),
        (("rows", 0, "test"), "pp٣", "`rows.0.test`: string should match pattern"),
        (("rows", 0, "test"), "pp0", "`rows.0.test`: string should match pattern"),
        (("rows", 0, "median_ts"), 9e8, "`rows.0`: value error, `median_ts` is not that of its"),
        (("rows", 0, "avg_ts"), 0.5, "`rows.0`: value error, `avg_ts` is not that of its"),
        (("kind",), "phone", "`kind`: input should be 'board', 'this computer' or"),
        (("board", "model"), "a\x1b[2J", "`board.model`: value error, it has characters that"),
        (("board", "model"), "x" * 201, "`board.model`: string should have at most 200"),
        (("board", "cores"), -1, "`board.cores`: input should be greater than or equal to 0"),
        (("board", "cores"), "4", "`board.cores`: input should be a valid integer"),
        (("board", "hostname"), "x", "`board.hostname`: extra inputs are not permitted"),
        (("release",), "../../x", "`release`: string should match pattern"),
        (("signed_by",), "me", "`signed_by`: string should match pattern"),
        (("rows",), [], "`rows`: tuple should have at least 1 item"),
        (("rows", 0, "test"), "rm -rf", "`rows.0.test`: string should match pattern"),
        (("rows", 0, "median_ts"), 1e300, "`rows.0.median_ts`: input should be less than"),
        (("heat", "throttled"), ["<b>"], "`heat.throttled.0`: string should match pattern"),
        (("goldens", "count"), 0, "`goldens.count`: input should be greater than or equal to 1"),
        (("goldens", "exact"), False, "`goldens`: value error, goldens that differ are no proof"),
        (("goldens", "agreement"), 2, "`goldens.agreement`: input should be less than or equal"),
        (("goldens", "agreement"), 0.0, "`goldens`: value error, goldens that differ are no proof"),
        (("goldens", "exact"), None, "`goldens`: value error, goldens that differ are no proof"),
        (("rows", 0, "median_ts"), 12.3, "`rows.0`: value error, `median_ts` is not that of its"),
        (("rows", 0, "avg_ts"), 12.3, "`rows.0`: value error, `avg_ts` is not that of its"),
        (("roofline_share",), 1e9, "`roofline_share`: input should be less than or equal to 1.05"),
        (("roofline_share",), 1.06, "`roofline_share`: input should be less than or equal to"),
        (("roofline_share",), 0.5, "``: value error, a share of the bandwidth, and no bandwidth"),
        (("heat", "highest_c"), 40.0, "`heat`: value error, `highest_c` is not the highest"),
        (("heat", "highest_c"), None, "`heat`: value error, `highest_c` is not the highest"),
    ],
)
def test_a_field_out_of_its_bounds_is_refused_whoever_signed_it(
    file: Path, key: Path, where: tuple[str | int, ...], value: Any, said: str
) -> None:
    change(file, *where, value=value)
    content = json.loads(file.read_text())
    record = json.dumps(content["proof"], sort_keys=True, separators=(",", ":")).encode()
    content["signature"] = signers.sign(record, key, "demitasse-proof").decode()
    file.write_text(json.dumps(content))
    with pytest.raises(ArtifactError) as caught:
        read(file)
    assert str(caught.value).startswith(f"proof.json: {said}")


def test_a_key_that_stands_twice_is_refused(file: Path) -> None:
    text = file.read_text()
    file.write_text(text.replace('"proof": {', '"proof": {"date": "1999-01-01",', 1))
    with pytest.raises(ArtifactError, match=r"proof.json: not JSON: a key stands twice"):
        read(file)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"proof": {}}',
        b'{"proof": [], "signature": ""}',
        b'{"proof": {}, "signature": 7}',
        b'{"proof": {}, "signature": ""}',
        b'{"proof": {}, "signature": "\\ud800"}',
        b'{"proof": {"a": 1e999}, "signature": "x"}',
        b'{"proof": {"a": ' + b"9" * 5000 + b'}, "signature": "x"}',
        b'{"proof": ' + b"[" * 5000 + b"]" * 5000 + b', "signature": "x"}',
        b'{"proof": {}, "signature": "' + b"x" * 9000 + b'"}',
        b" " * (MAX_BYTES + 1),
    ],
)
def test_a_file_of_anything_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "proof.json"
    file.write_bytes(content)
    with pytest.raises(ToolchainError) as caught:
        read(file)
    assert isinstance(caught.value, ArtifactError | TrustError)


@pytest.mark.parametrize(
    ("kind", "facts", "counts"),
    [
        (REAL, {}, {"rpi-5-4gb"}),
        (REAL, {"virtual": True}, set()),
        (THIS_COMPUTER, {}, set()),
        (VIRTUAL, {}, set()),
        (REAL, {"memory_total_mb": 8064}, {"rpi-5-8gb"}),
        (THIS_COMPUTER, {"model": "PC", "machine": "x86_64", "virtual": True}, {"x86-64"}),
        (VIRTUAL, {"model": "PC", "machine": "x86_64"}, set()),
        (REAL, {"model": "Unheard Of Board"}, set()),
    ],
)
def test_only_a_real_board_proves_one(kind: Kind, facts: dict[str, Any], counts: set[str]) -> None:
    proof = a_proof(kind=kind, **facts)
    assert {board.id for board in target.all_targets() if counts_for(proof, board)} == counts


def test_the_largest_share_of_the_bandwidth_is_the_boards_own() -> None:
    assert MOST_SHARE == bandwidth.TOLERANCE


def test_the_record_of_another_board_proves_no_target() -> None:
    """Whoever signs can name any target: the facts beside it must be those of one."""
    for forged in ("rpi-5-8gb", "rpi-4b-2gb", "x86-64", "", "nobody-knows-it"):
        proof = a_proof().model_copy(update={"target": forged})
        assert not [board.id for board in target.all_targets() if counts_for(proof, board)]
        assert f"its facts are not those of `{forged or 'no known target'}`" in labels(proof)
    assert not [line for line in labels(a_proof()) if line.startswith("its facts")]


def test_every_kept_proof_holds_and_counts() -> None:
    for path in sorted(folder().glob("*")):
        if path.name == "README.md":
            continue
        proof = read(path).proof
        assert counts_for(proof, target.find(proof.target)), path.name


def test_targets_say_who_proved_them_and_when(capsys: pytest.CaptureFixture[str]) -> None:
    board = target.find("rpi-5-4gb")
    old, new = (
        SignedProof(
            proof=a_proof().model_copy(update={"date": day}), signer="SHA256:" + letter * 43
        )
        for day, letter in (("2026-01-02", "o"), ("2026-03-04", "n"))
    )
    simulated = SignedProof(proof=a_proof(kind=VIRTUAL), signer="SHA256:" + "v" * 43)
    proofs = [old, simulated, new]
    assert proofs_of(board, proofs) == [new, old]

    show.one_target(board, proofs, as_json=False)
    shown = capsys.readouterr().out.splitlines()
    assert "not yet proved" not in shown[0]
    said = [line for line in shown if line.startswith("proved: ")]
    assert said[0].startswith(f"proved: 2026-03-04 by SHA256:{'n' * 43}, demitasse ")
    assert said[0].endswith("the board held itself back: throttled")
    assert len(said) == 2
    show.all_targets([board, target.find("rpi-zero-2w")], proofs, as_json=True)
    rows = json.loads(capsys.readouterr().out)
    assert [len(row["proved"]) for row in rows] == [2, 0]
    show.one_target(target.find("rpi-zero-2w"), proofs, as_json=False)
    said = capsys.readouterr().out.splitlines()
    assert "not yet proved on hardware" in said[0]
    assert not [line for line in said if line.startswith("proved: ")]


def said(*words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["prove", *words])
    return getattr(done.exception, "exit_code", done.exit_code), done.stdout, str(done.exception)


def test_a_proof_of_somebody_is_checked_and_shown(file: Path) -> None:
    code, shown, _ = said("--check", str(file))
    assert code == 0
    for text in ("Raspberry Pi 5 Model B", "8, equal token for token", "82.5 °C at most", "12.50"):
        assert text in shown
    assert "mind: other programs worked on the board meanwhile" in shown
    code, shown, _ = said("--check", str(file), "--json")
    assert json.loads(shown)["target"] == "rpi-5-4gb"

    change(file, "board", "cores", value=64)
    assert said("--check", str(file))[0] == 8


@pytest.mark.parametrize("words", [(), ("local", "--check", "x.json")])
def test_either_a_board_or_a_file_is_named(words: tuple[str, ...]) -> None:
    assert said(*words) == (2, "", "give either a board, or --check FILE")


@pytest.mark.parametrize("out", [".", "nowhere/proof.json"])
@pytest.mark.parametrize(
    "words", [["prove", "--out"], ["bench", "--report"], ["bench", "--save"]], ids=" ".join
)
def test_a_place_for_no_file_is_found_before_the_board_is_asked(
    key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], out: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEMITASSE_SIGN_KEY", str(key))
    done = CliRunner().invoke(app, [*words, out, "pi@none.invalid"])
    assert isinstance(done.exception, ConfigError)
    assert done.exception.message == f"{words[1]}: {out}: not a file in a folder that is there"


@pytest.mark.parametrize("verb", ["prove", "bench"])
def test_nobody_measures_for_ever(verb: str) -> None:
    assert CliRunner().invoke(app, [verb, "pi@none.invalid", "--sustained", "inf"]).exit_code == 2


def test_a_proof_stands_beside_the_earlier_ones_of_its_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = []
    for _ in range(3):
        names.append(_free("proof-x-2026-11-27").name)
        Path(names[-1]).touch()
    assert names == [f"proof-x-2026-11-27{each}.json" for each in ("", "-2", "-3")]


def test_what_a_proof_cannot_say_is_said_with_it() -> None:
    said = labels(a_proof(kind=VIRTUAL, virtual=True, model="Raspberry Pi 4 Model B"))
    assert said[:2] == [
        "the board is emulated: this proves nothing of a real one",
        "the board is a virtual machine: this proves nothing of a real one",
    ]
    assert "the release was made for `rpi-5-4gb`" in said


def test_a_board_that_says_impossible_things_makes_no_proof() -> None:
    with pytest.raises(BoardError, match=r"what it says makes no proof: .*kernel"):
        a_proof(kernel="a\nb")


def test_a_file_that_is_missing_is_no_file_of_a_wrong_size(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"proof\.json: no such file"):
        read(tmp_path / "proof.json")


def test_what_is_no_board_is_told_before_a_key_is_looked_for() -> None:
    answer = CliRunner().invoke(app, ["prove", "http://127.0.0.1:1", "--sign", "no-such-key"])
    assert isinstance(answer.exception, ConfigError)
    assert "an endpoint, not a board" in answer.exception.message


@pytest.mark.slow
def test_a_board_is_asked_for_its_bytes_its_goldens_and_its_speed(
    tmp_path: Path, key: Path
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    board = FakeConnection(home)
    device = Device(board)
    bundle = finished(make_bundle(tmp_path / "bundle"))
    runtime = make_runtime(tmp_path / "runtime", machine=device.facts()["machine"])
    with pytest.raises(BoardError, match="there is no release on this board"):
        check_board(device, Recorder())
    push(bundle, runtime, device, Recorder(), port=free_port(), allow_unsigned=True)

    board.commands.clear()
    seen = check_board(device, Recorder())
    proof = proof_of(seen, bench(device, pp=8, tg=4, repeat=2), device.kind)
    verified = [at for at, words in enumerate(board.commands) if "verify" in words]
    ran = [at for at, words in enumerate(board.commands) if "leased" in words]
    assert len(verified) == 1, "every byte is read once"
    assert len(ran) == 2 and verified[0] < ran[0]
    assert [(row.test, row.median_ts) for row in proof.rows] == [("pp8", 10.5), ("tg4", 10.5)]
    assert (proof.goldens.count, proof.kind, proof.signed_by) == (8, "this computer", "")
    assert (proof.heat.highest_c, proof.heat.throttled) == (81.5, ("soft_temperature_limit",))
    assert not counts_for(proof, target.find("rpi-5-4gb"))

    file = home / "store" / "releases" / proof.release / "model.bin"
    file.chmod(0o600)
    file.write_bytes(file.read_bytes() + b"rot")
    with pytest.raises(ToolchainError):
        check_board(device, Recorder())
    device.call("stop")
