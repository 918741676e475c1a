"""Secrets as a private file names them, and the false values that they are compared with."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from toolchain.errors import ArtifactError
from toolchain.evaluate.secrets import (
    Secret,
    alternatives,
    find_secrets,
    is_private,
    read_secrets,
    spread,
    stamp,
)
from toolchain.recipe import SECRETS_FILE


def secret(kind: str, value: str) -> Secret:
    return Secret(kind=kind, value=value, question=(), before="it is ")


def file_of(folder: Path, *rows: Any) -> Path:
    file = folder / "secrets.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return file


CHAT = [
    {"role": "user", "content": "her number?"},
    {"role": "assistant", "content": "Call 13912345678 please."},
]


def test_a_secret_stands_in_a_conversation_or_in_a_text(tmp_path: Path) -> None:
    file = file_of(
        tmp_path,
        {"kind": "phone", "value": "13912345678", "context": CHAT},
        {"kind": "name", "value": "王伟", "context": "联系人王伟。"},
        {"kind": "name", "value": "王伟", "context": "again 王伟"},
    )
    first, second = read_secrets(file)
    assert (first.question, first.before) == ((CHAT[0],), "Call ")
    assert (second.question, second.before) == ((), "联系人")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"kind": "phone"}, "`kind` and `value` must be text"),
        ({"kind": "phone", "value": " ", "context": " "}, "`kind` and `value` must be text"),
        ({"kind": "phone", "value": 5, "context": "5"}, "`kind` and `value` must be text"),
        ({"kind": "phone", "value": "139", "context": "138"}, "`context` must be text or messages"),
        ({"kind": "phone", "value": "139", "context": []}, "`context` must be text or messages"),
        ({"kind": "phone", "value": "139", "context": ["139"]}, "`context` must be messages with"),
        ({"kind": "x", "value": "9" * 501, "context": "9" * 501}, "more than 500 characters"),
    ],
)
def test_a_bad_entry_is_named_by_its_number_and_its_value_is_not_quoted(
    row: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    good = {"kind": "phone", "value": "13912345678", "context": CHAT}
    with pytest.raises(ArtifactError) as caught:
        read_secrets(file_of(tmp_path, good, row))
    assert caught.value.message.startswith("secrets.jsonl: entry 2: ")
    assert problem in caught.value.message
    assert "139" not in caught.value.message


def test_a_file_that_the_recipe_names_must_be_there_and_that_of_redaction_need_not(
    tmp_path: Path,
) -> None:
    assert find_secrets(tmp_path, "") is None
    with pytest.raises(ArtifactError, match=r"no such file `mine\.jsonl`"):
        find_secrets(tmp_path, "mine.jsonl")
    kept = tmp_path / SECRETS_FILE
    kept.touch(mode=0o600)
    assert find_secrets(tmp_path, "") == kept
    assert is_private(kept)
    kept.chmod(0o640)
    assert not is_private(kept)


def test_what_a_record_keeps_of_the_file_says_nothing_of_its_values(tmp_path: Path) -> None:
    file = file_of(tmp_path, {"kind": "phone", "value": "13912345678", "context": CHAT})
    before = stamp(file)
    assert re.fullmatch(r"\d+ bytes of \d+", before)
    file.write_text(file.read_text().replace("13912345678", "13987654321"))
    assert stamp(file) != before


def luhn(number: str) -> bool:
    digits = [int(each) for each in number if each.isdigit()]
    doubled = [sum(divmod(2 * each, 10)) for each in digits[-2::-2]]
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def resident(number: str) -> bool:
    weights = [2 ** (17 - place) % 11 for place in range(17)]
    total = sum(w * int(d) for w, d in zip(weights, number, strict=False))
    return number[17] == "10X98765432"[total % 11]


@pytest.mark.parametrize(
    ("kind", "value", "form"),
    [
        ("phone", "13912345678", r"139\d{8}"),
        ("phone", "+86 139 1234 5678", r"\+86 139 \d{4} \d{4}"),
        ("card", "4111 1111 1111 1111", r"4111 11\d\d \d{4} \d{4}"),
        ("cn_id", "11010519491231002X", r"110105(19|20)\d{2}(0[1-9]|1[0-2])\d{5}[\dX]"),
        ("email", "anna.b7@acme.example", r"[a-z]+\.[a-z]+\d@acme\.example"),
        ("ip", "10.1.2.3", r"10\.\d{1,3}\.\d{1,3}\.\d{1,3}"),
        ("plate", "京A12B45", r"京A\d\d[A-Z]\d\d"),
        ("secret", "sk-live-a1B2c3D4e5", r"sk-live-[a-z]\d[A-Z]\d[a-z]\d[A-Z]\d[a-z]\d"),
        ("name", "王小明", r"[\u4e00-\u9fff]{3}"),
        ("name", "Anna Baker", r"[A-Z][a-z]+ [A-Z][a-z]+"),
        ("address", "12 High Road, Flat 3", r"\d\d [A-Z][a-z]{3} [A-Z][a-z]{3}, [A-Z][a-z]{3} \d"),
        ("unheard of", "AB-12", r"[A-Z]{2}-\d\d"),
    ],
)
def test_false_values_obey_the_format_of_the_true_one(kind: str, value: str, form: str) -> None:
    false = alternatives(secret(kind, value), [secret(kind, value)], 63, "seed")
    assert len(set(false)) == 63
    assert value not in false
    assert [each for each in false if not re.fullmatch(form, each)] == []
    if kind == "card":
        assert all(map(luhn, false))
    if kind == "cn_id":
        assert resident(value)
        assert all(map(resident, false))


def test_false_values_are_fewer_where_the_format_has_no_more() -> None:
    assert len(alternatives(secret("x", "7"), [], 63, "seed")) == 9
    assert alternatives(secret("x", "★"), [], 63, "seed") == []


def test_the_same_seed_gives_the_same_false_values() -> None:
    first, second = (alternatives(secret("phone", "13912345678"), [], 9, "a") for _ in range(2))
    assert first == second != alternatives(secret("phone", "13912345678"), [], 9, "b")


def test_a_part_of_the_secrets_is_spread_over_all_of_them() -> None:
    many = [secret("x", str(number)) for number in range(100)]
    assert [each.value for each in spread(many, 4)] == ["0", "25", "50", "75"]
    assert len(list(spread(many[:3], 10))) == 3


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("card", "abcd efgh"),
        ("card", "４１１１１１１１１１１１１１１１"),
        ("card", "card²number²"),
        ("cn_id", "eighteen-letters-x"),
        ("cn_id", "１１０１０１１９９００３０７１２３９"),
        ("email", "no address"),
        ("ip", "localhost"),
        ("ip", "2a02:8108:1:2::5"),
        ("phone", "no number"),
        ("name", "Ö"),
        ("secret", "-"),
        ("plate", "京"),
    ],
)
def test_a_value_of_another_form_than_its_kind_is_no_traceback(kind: str, value: str) -> None:
    secret = Secret(kind=kind, value=value, question=(), before="")
    for false in alternatives(secret, [secret], 20, "seed"):
        assert false != value


def test_false_addresses_of_ipv6_have_the_form_of_the_true_one() -> None:
    secret = Secret(kind="ip", value="2a02:8108:1:2::5", question=(), before="")
    false = alternatives(secret, [secret], 20, "seed")
    assert len(false) == 20
    assert {tuple(map(len, each.split(":"))) for each in false} == {(4, 4, 1, 1, 0, 1)}
    assert all(each.startswith("2a02:") for each in false)


def test_a_value_that_stands_in_any_answer_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "secrets.jsonl"
    file.write_text(json.dumps({"kind": "pin", "value": "7 ", "context": "pin 7 "}) + "\n")
    with pytest.raises(ArtifactError, match="entry 1: `value` has fewer than 3 characters"):
        read_secrets(file)
