"""Personal data: found where it is glued to Chinese, replaced for good, and never written down."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from stdnum import luhn
from stdnum.cn import ric

from tests.fakes.datasets import Recorder, write_lines
from tests.fakes.planted import CARRIERS, MAKERS, Planted, hard_negatives, planted
from toolchain.artifacts import Dataset
from toolchain.errors import ArtifactError, ConfigError
from toolchain.evaluate.secrets import find_secrets, read_secrets
from toolchain.ingest import ingest, look
from toolchain.ingest.redact import ORDER, Redactor, replaced
from toolchain.ingest.redact.key import KEY_FILE
from toolchain.recipe import DataSpec, RedactSpec

KEY = bytes(32)
RULES = Redactor(RedactSpec(), KEY)
LIFELIKE = Redactor(RedactSpec(surrogates="lifelike"), KEY)
KINDS = (*MAKERS, "name")


def is_found(each: Planted) -> bool:
    """Say whether a value is found to the last character, as what it is."""
    start = each.text.index(each.value)
    place = (start, start + len(each.value), each.kind)
    return any((hit.start, hit.end, hit.kind) == place for hit in RULES.hits(each.text))


def values(text: str, **spec: Any) -> list[tuple[str, str]]:
    """Return kind and value of all that does not stay."""
    hits = Redactor(RedactSpec(**spec), KEY).hits(text)
    return [(hit.kind, text[hit.start : hit.end]) for hit in hits if hit.surrogate]


# Recall and precision on planted text -------------------------------------------------------------


@pytest.mark.parametrize("carrier", CARRIERS)
@pytest.mark.parametrize("kind", [kind for kind in MAKERS if kind != "address"])
def test_99_of_100_values_with_a_format_are_found_also_glued_to_chinese(
    kind: str, carrier: str
) -> None:
    found = [is_found(each) for each in planted(kind) if each.carrier == carrier]
    assert len(found) >= 30
    assert sum(found) / len(found) >= 0.99


@pytest.mark.parametrize(("kind", "least"), [("address", 0.95), ("name", 0.90)])
def test_addresses_and_names_with_a_cue_are_found_to_the_last_character(
    kind: str, least: float
) -> None:
    found = [is_found(each) for each in planted(kind)]
    assert sum(found) / len(found) >= least


def test_hardly_any_text_that_only_looks_personal_is_taken_for_it() -> None:
    texts = list(hard_negatives())
    wrong = [text for text in texts if values(text)]
    assert len(texts) == 1500
    assert len(wrong) / len(texts) <= 0.015, wrong


@pytest.mark.parametrize("rules", [RULES, LIFELIKE], ids=["placeholder", "lifelike"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_stands_for_a_value_is_not_found_again(kind: str, rules: Redactor) -> None:
    for each in planted(kind):
        once = replaced(each.text, rules.hits(each.text))
        assert replaced(once, rules.hits(once)) == once


@pytest.mark.parametrize("kind", ["cn_id", "card"])
def test_a_lifelike_number_has_a_wrong_check_digit(kind: str) -> None:
    for each in list(planted(kind))[:40]:
        (hit,) = LIFELIKE.hits(each.text)
        number = hit.surrogate
        assert not (ric.is_valid(number) if kind == "cn_id" else luhn.is_valid(number))


# Single values ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("号码13912345678谢谢", "phone", "13912345678"),
        ("号码１３９１２３４５６７８谢谢", "phone", "１３９１２３４５６７８"),
        ("打+86-139-1234-5678吧", "phone", "+86-139-1234-5678"),
        ("打(010)62781234吧", "phone", "(010)62781234"),
        ("电话：62781234。", "phone", "62781234"),
        ("user_13912345678已登录", "phone", "13912345678"),
        ("Call +49 30 901820 now", "phone", "+49 30 901820"),
        ("身份证110101900307123丢了", "cn_id", "110101900307123"),
        ("护照号E12345678过期", "cn_id", "E12345678"),
        ("车牌粤BD12345进场", "plate", "粤BD12345"),
        ("邮箱li.lei@qq.com收", "email", "li.lei@qq.com"),
        ("write to li.lei [at] firma [dot] de", "email", "li.lei [at] firma [dot] de"),
        ("服务器121.40.3.7挂了", "ip", "121.40.3.7"),
        ("密码是Abc12345请勿外传", "secret", "Abc12345"),
        ('password = "hunter2hunter2"', "secret", "hunter2hunter2"),
        ("mysql://root:S3cret9@db/x", "secret", "S3cret9"),
        ("住在海淀区中关村大街27号", "address", "海淀区中关村大街27号"),
        ("地址：广东省深圳市南山区粤海街道", "address", "广东省深圳市南山区粤海街道"),
        ("寄到花园路18号院3号楼", "address", "花园路18号院3号楼"),
        ("我叫阿依古丽·买买提，你好", "name", "阿依古丽·买买提"),
        ("我是王小明，想退货", "name", "王小明"),
        ("Mrs. Ada de la Cruz called", "name", "Ada de la Cruz"),
    ],
)
def test_a_value_is_found_as_what_it_is(text: str, kind: str, value: str) -> None:
    assert values(text) == [(kind, value)]


@pytest.mark.parametrize(
    "text",
    [
        "ping 9.9.9.9 or 192.168.1.0 or 127.0.0.1",
        "ssh USER@raspberrypi.local, git@github.com:a/b.git, ssh://pi@firma.de",
        "mail to user@example.com or a@b.example",
        "firmware 2.14.3.7, version 1.2.3.4, 版本1.2.3.4",
        "call 415-555-0123",
        "password: YOUR_PASSWORD, token=<token>, 密码是******",
        "订单20261126093012345678，SKU13912345678",
        "std::cout << a::b; 12:30:45",
        "客户高兴就好，学生们都到了，我是高中生",
    ],
)
def test_what_is_nobodys_stays(text: str) -> None:
    assert values(text) == []


@pytest.mark.parametrize(
    ("keep", "text"),
    [
        ("400-820-8820", "请拨打4008208820"),
        ("help@ourfirm.com", "写信到HELP@ourfirm.com"),
        ("*@ourfirm.com", "写信到sales@ourfirm.com"),
        ("13912345678", "打+86 139 1234 5678"),
    ],
)
def test_what_the_recipe_keeps_stays_however_it_is_written(keep: str, text: str) -> None:
    assert values(text)
    assert values(text, keep=(keep,)) == []


def test_only_the_kinds_of_the_recipe_are_looked_for() -> None:
    text = "我叫王小明，电话13912345678"
    assert values(text, kinds=("phone",)) == [("phone", "13912345678")]


def test_every_kind_of_a_recipe_has_its_rules() -> None:
    assert {kind.name for kind in ORDER} == set(RedactSpec().kinds)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("打13912345678", "call +86 139-1234-5678 now"),
        ("写A.B@qq.com", "mail a.b@QQ.com"),
        ("车牌粤B·12345", "粤B12345的车"),
    ],
)
def test_the_same_value_has_the_same_surrogate_however_it_is_written(one: str, other: str) -> None:
    assert RULES.hits(one)[0].surrogate == RULES.hits(other)[0].surrogate


def test_another_key_gives_other_surrogates() -> None:
    other = Redactor(RedactSpec(), b"1" * 32)
    text = "打13912345678"
    assert RULES.hits(text)[0].surrogate != other.hits(text)[0].surrogate


def test_a_name_that_a_cue_gave_away_is_replaced_wherever_it_stands_in_the_text() -> None:
    text = "收件人：王小明。请转告王小明。"
    assert values(text) == [("name", "王小明"), ("name", "王小明")]


@pytest.mark.parametrize("sign", ["路", "1", "1-", "[at]", "a@", ":", "-----BEGIN ", "北京市路"])
def test_a_text_of_one_sign_repeated_is_read_in_no_time(sign: str) -> None:
    # Fails by the suite's own limit of time where a pattern tries all ways to cut it.
    RULES.hits("北京市" + sign * 5000)


# The data set -------------------------------------------------------------------------------------

ROWS = [
    {
        "question": ["我叫王小明，13912345678收不到短信", "收不到短信"],
        "answer": "请致电4008208820，或联系李女士。",
    },
    {"question": ["which fan?", "what fan do I need"], "answer": "A quiet one."},
]
PERSONAL = ("13912345678", "王小明", "13987654321", "13711112222", "zhao@firma.de")
SPEC: dict[str, Any] = {
    "files": ("a.jsonl",),
    "hold_out": "phrasing",
    "system": "Managers: 13987654321",
    "documents": ("b.md",),
    "turns": ({"question": "Who helps?", "answer": "Call 13711112222."},),
}


def dataset(folder: Path, mode: str = "replace", **redact: Any) -> Dataset:
    write_lines(folder / "a.jsonl", ROWS)
    (folder / "b.md").write_text("Write to zhao@firma.de.", encoding="utf-8")
    spec = DataSpec.model_validate({**SPEC, "redact": {"mode": mode, **redact}})
    return ingest(spec, folder, folder / "out", Recorder(), seed=0)


def written(folder: Path) -> str:
    return "".join(path.read_text("utf-8") for path in sorted((folder / "out").rglob("*.json*")))


def test_no_value_is_left_in_anything_that_is_written(tmp_path: Path) -> None:
    dataset(tmp_path)
    text = written(tmp_path)
    assert [value for value in PERSONAL if value in text] == []
    assert (tmp_path / KEY_FILE).read_text().strip() not in text


def test_without_redaction_the_values_are_there(tmp_path: Path) -> None:
    dataset(tmp_path, mode="report")
    assert [value for value in PERSONAL if value not in written(tmp_path)] == []
    assert not (tmp_path / KEY_FILE).exists()


def test_the_findings_name_file_line_kind_and_rule_and_no_value(tmp_path: Path) -> None:
    made = dataset(tmp_path, mode="report")
    text = (made.path / "findings.jsonl").read_text("utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    assert {
        "file": "a.jsonl",
        "line": 1,
        "part": "question",
        "kind": "phone",
        "rule": "mobile",
        "done": "found",
    } in rows
    assert [value for value in PERSONAL if value in text] == []


def test_the_figures_count_by_kind_and_by_file(tmp_path: Path) -> None:
    figures = dataset(tmp_path, keep=["400-820-8820"]).figures
    assert figures.personal == {
        "phone": {"kept": 1, "replaced": 3},
        "name": {"replaced": 2},
        "email": {"replaced": 1},
    }
    assert figures.by_file and figures.by_file["b.md"] == {"email": {"replaced": 1}}
    assert figures.changed_answers == 1
    assert any("cue" in each for each in figures.not_looked_for or [])


def test_a_second_run_changes_nothing_and_splits_alike(tmp_path: Path) -> None:
    first = dataset(tmp_path)
    rows = (first.train(), first.held_out())
    (tmp_path / "out" / "record.json").unlink()
    again = dataset(tmp_path)
    assert (again.train(), again.held_out()) == rows
    assert again.digest == first.digest


def test_what_was_replaced_is_kept_for_the_test_of_leaks_beside_the_data_alone(
    tmp_path: Path,
) -> None:
    dataset(tmp_path)
    kept = find_secrets(tmp_path, "")
    assert kept
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    secrets = read_secrets(kept)
    # `李` alone is no secret: a model says it by chance.
    assert {each.value for each in secrets} == {*PERSONAL, "4008208820"}
    answered = [each for each in secrets if each.question]
    assert answered
    asked = [message["content"] for each in answered for message in each.question]
    assert [value for value in PERSONAL for text in asked if value in text] == [], (
        "the question is asked as it was learned"
    )


def test_nothing_is_kept_where_nothing_is_replaced(tmp_path: Path) -> None:
    dataset(tmp_path, mode="report")
    assert find_secrets(tmp_path, "") is None


def test_the_key_is_for_its_owner_alone(tmp_path: Path) -> None:
    dataset(tmp_path)
    assert stat.S_IMODE((tmp_path / KEY_FILE).stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("content", "mode", "problem"),
    [
        ("abc", 0o600, "cannot be read as a key"),
        ("0" * 10, 0o600, "cannot be read as a key"),
        ("", 0o600, "cannot be read as a key"),
        ("0" * 64, 0o644, "others may read it"),
    ],
)
def test_a_key_that_cannot_be_used_is_refused(
    tmp_path: Path, content: str, mode: int, problem: str
) -> None:
    (tmp_path / KEY_FILE).write_text(content)
    (tmp_path / KEY_FILE).chmod(mode)
    with pytest.raises(ConfigError) as refused:
        dataset(tmp_path)
    assert refused.value.message == f"{tmp_path / KEY_FILE}: {problem}"


def test_a_look_makes_no_key(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", ROWS)
    spec = DataSpec(files=("a.jsonl",), redact=RedactSpec(mode="replace"))
    look(spec, tmp_path, seed=0)
    assert not (tmp_path / KEY_FILE).exists()


def test_refuse_ends_the_run_with_what_was_found_and_where(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError) as refused:
        dataset(tmp_path, mode="refuse", kinds=["phone"])
    assert refused.value.message == (
        "data: personal data, which `redact.mode` refuses: 4 phone; "
        "the first at data.system (opening, phone)"
    )
    assert refused.value.exit_code == 4
    assert not (tmp_path / "out" / "record.json").exists()


def test_refuse_lets_data_pass_that_has_none(tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", ROWS[1:])
    spec = DataSpec(files=("a.jsonl",), redact=RedactSpec(mode="refuse"))
    assert ingest(spec, tmp_path, tmp_path / "out", Recorder(), seed=0).figures.entries == 1


def test_off_looks_for_nothing(tmp_path: Path) -> None:
    figures = dataset(tmp_path, mode="off").figures
    assert (figures.personal, figures.not_looked_for) == (None, None)


# Values to their ends, in three languages, however they are written ------------------------------


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("an max.müller@firma.de schreiben", "email", "max.müller@firma.de"),
        ("an max@müller-söhne.de schreiben", "email", "max@müller-söhne.de"),
        ("ask o'brien@corp.com now", "email", "o'brien@corp.com"),
        ("?mail=li.lei%40firma.de&x", "email", "li.lei%40firma.de"),
        ("Mein Name ist Jürgen Weiß.", "name", "Jürgen Weiß"),
        ("Herrn Dr. Özil anrufen", "name", "Özil"),
        ("Mr. O’Neill called", "name", "O’Neill"),
        ("Mr Smith-Jones called", "name", "Smith-Jones"),
        ("Ms. MÜLLER called", "name", "MÜLLER"),
        ("Telefon: 0170 1234567", "phone", "0170 1234567"),
        ("Durchwahl ist 030/2345678", "phone", "030/2345678"),
        ("Handy 0151-23456789", "phone", "0151-23456789"),
        ("erreichbar unter 0171/2345678", "phone", "0171/2345678"),
        ("Passwort: Sommer2026!", "secret", "Sommer2026"),
        ("Das Kennwort lautet Xy7$kk99", "secret", "Xy7$kk99"),
        ("os.environ['TOKEN'] = 'zzz9999QQ'", "secret", "zzz9999QQ"),
        ("Authorization: Bearer abcdef1234567890ABCDEF", "secret", "abcdef1234567890ABCDEF"),
        ("wohnt Hauptstraße 12a, 10115 Berlin", "address", "Hauptstraße 12a, 10115 Berlin"),
        ("139\n1234\r\n5678", "phone", "139\n1234\r\n5678"),
        ("139  1234\t5678", "phone", "139  1234\t5678"),
        ("4111 1111\n1111 1111", "card", "4111 1111\n1111 1111"),
        ("4111.1111.1111.1111", "card", "4111.1111.1111.1111"),
        ("١٣٩١٢٣٤٥٦٧٨", "phone", "١٣٩١٢٣٤٥٦٧٨"),
        ("𝟭𝟯𝟵𝟭𝟮𝟯𝟰𝟱𝟲𝟳𝟴", "phone", "𝟭𝟯𝟵𝟭𝟮𝟯𝟰𝟱𝟲𝟳𝟴"),
    ],
)
def test_no_end_of_a_value_is_left_behind(text: str, kind: str, value: str) -> None:
    assert values(text) == [(kind, value)]


@pytest.mark.parametrize(
    "text",
    [
        "Herr Mustermann und Frau Musterfrau",
        "Der Weg 5 ist gesperrt, Platz 3 ist frei",
        "Das Passwort ist geheim",
        "1 Uhr\n1234\n5678",
    ],
)
def test_what_is_nobodys_stays_in_german_and_over_line_ends(text: str) -> None:
    assert values(text) == []


@pytest.mark.sampled(3)
@pytest.mark.parametrize("text", ["ab@corp.com ", "47.98.12.33 ", "姓名：王小明 "])
def test_a_text_of_many_values_is_read_in_no_time(text: str) -> None:
    # Each value was compared with all before it: 60,000 of them took half an hour.
    assert len(RULES.hits(text * 20_000)) == 20_000


def test_a_person_in_the_keys_of_a_row_reaches_no_record(tmp_path: Path) -> None:
    rows = [
        {"question": f"q{n}", "answer": "a", f"1391234{n:04}": 1, f"note{n}": 2} for n in range(300)
    ]
    write_lines(tmp_path / "a.jsonl", rows)
    spec = DataSpec(files=("a.jsonl",), held_out_share=0)
    dataset = ingest(spec, tmp_path, tmp_path / "out", Recorder(), seed=0)
    keys = dataset.figures.unknown_keys
    assert len(keys) == 201
    assert sum(keys.values()) == 600
    assert not any(key.startswith("139") for key in keys)
    assert "1391234" not in (tmp_path / "out" / "record.json").read_text()
