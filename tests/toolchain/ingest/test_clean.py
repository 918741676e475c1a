"""Dirt: what is proved is mended, the rest is told, and clean text keeps every byte."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.datasets import write_lines
from toolchain import shipped
from toolchain.artifacts import Dataset
from toolchain.ingest import ingest, look
from toolchain.ingest.clean import dirt_in
from toolchain.ingest.clean.near import near_pairs, share
from toolchain.language import language_of
from toolchain.progress import Silent
from toolchain.recipe import DataSpec


def mended(text: str) -> tuple[str, list[str]]:
    """Return a text as it is mended, and the kinds of what was found."""
    text, dirt = dirt_in(text, html=True, mend=True)
    return text, [each.kind for each in dirt]


def made(folder: Path, rows: list[dict[str, Any]], **spec: Any) -> Dataset:
    write_lines(folder / "a.jsonl", rows)
    given = DataSpec.model_validate({"files": ("a.jsonl",), "held_out_share": 0, **spec})
    return ingest(given, folder, folder / "out", Silent(), seed=0)


MEND = {"mode": "mend"}


# Clean data ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("folder", "files"),
    [
        ("starter", ("help-desk.jsonl", "unseen.jsonl")),
        ("help-desk", ("faq.jsonl", "manual")),
    ],
)
def test_no_byte_of_the_shipped_data_is_changed(folder: str, files: tuple[str, ...]) -> None:
    root = shipped.folder() / folder
    plain, both = (
        look(DataSpec.model_validate({"files": files, **extra}), root, seed=0)
        for extra in (
            {"clean": {"mode": "off"}, "redact": {"mode": "off"}},
            {"clean": MEND, "redact": {"mode": "replace"}},
        )
    )
    assert list(both.read.entries) == list(plain.read.entries)
    assert list(both.read.documents) == list(plain.read.documents)
    assert len(both.read.entries) >= 400


@pytest.mark.parametrize(
    "text",
    [
        "use a<b and x>y, or List<int>",
        "if (a < b && c > d) { return </b>; }",
        "`<b>bold</b>` makes it bold",
        "```\n<p>one</p>\n```",
        "<config><name>x</name></config>",
        "Vec<String>, <T>x</T>",
        "Größe, naïve, Ünïcödé, “quotes”, 5 €, ½, Ça va, São João, ÃO",
        "全角，标点！“引号”…… 树莓派🍵👩‍💻",
        "１２３ＡＢＣ ﬁne e\u0301",
        "锁定、钥匙、镜头，锛这个字很少见",
        "涓涓细流，闂关不是问题",
    ],
)
def test_clean_text_keeps_every_byte(text: str) -> None:
    assert mended(text) == (text, [])


# HTML ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("<p>Hold the <b>button</b> for 5&nbsp;s.</p>", "Hold the button for 5 s."),
        ("<div>one</div><div>two</div>", "one\n\ntwo"),
        ("<ul><li>one</li><li>two</li></ul>", "- one\n- two"),
        ("first<br>second <i>third</i>", "first\nsecond third"),
        ("see <a href='https://a.example/x'>this page</a>", "see this page (https://a.example/x)"),
        ("<script>alert(1)</script><p>text</p>", "text"),
        ("<P CLASS=x>按<STRONG>电源键</STRONG></P>", "按电源键"),
        ("<p>a &lt; b &amp; c</p>", "a < b & c"),
        ("line one\nline <b>two</b>", "line one\nline two"),
    ],
)
def test_html_becomes_what_a_browser_shows(text: str, result: str) -> None:
    assert mended(text) == (result, ["html"])


@pytest.mark.parametrize(
    "text",
    [
        "In HTML you write <b>bold</b> so",
        "标签<b>粗体</b>怎么写",
        "<p>&lt;b&gt;x&lt;/b&gt;</p>",
        "<p></p>",
        "<p>run `ls`</p>",
    ],
)
def test_html_that_cannot_be_mended_for_sure_is_told_and_stays(text: str) -> None:
    assert mended(text) == (text, ["html"])


# Encoding -----------------------------------------------------------------------------------------

SENTENCES = ("Über das Menü – ganz einfach", "Déjà vu à l’école", "长按电源键五秒后松开")


@pytest.mark.parametrize("wrong", ["latin-1", "cp1252"])
@pytest.mark.parametrize("text", SENTENCES)
def test_utf8_that_was_read_as_latin_is_mended_or_left(text: str, wrong: str) -> None:
    try:
        broken = text.encode().decode(wrong)
    except UnicodeDecodeError:
        pytest.skip("this reading fails, so that nobody has such a text")
    assert mended(broken) == (text, ["encoding"])


def test_utf8_that_was_read_as_gbk_is_mended_only_if_no_byte_was_lost() -> None:
    whole = 0
    for text in ("你好", "请长按电源键", "设备已关机", "温度过高时会降频", "请检查网络连接"):
        garbled = text.encode().decode("gbk", "replace")
        result, kinds = mended(garbled)
        if "\ufffd" in garbled:
            assert (result, kinds) == (garbled, ["lost bytes"])
        elif kinds == ["encoding"]:
            assert result == text
            whole += 1
    assert whole


@pytest.mark.parametrize("text", ["what is \ufffd?", "锟斤拷锟斤拷", "烫烫烫烫"])
def test_lost_bytes_are_told_and_nothing_is_guessed(text: str) -> None:
    assert mended(text) == (text, ["lost bytes"])


@pytest.mark.parametrize(
    "text",
    ["<p>Ã¼ber</p>", "Ã¼ber", "<ul><li>a</li></ul>", "see <a href='https://a.example'>b</a>"],
)
def test_mended_text_is_not_mended_again(text: str) -> None:
    once, _ = mended(text)
    assert mended(once) == (once, [])


# Near-duplicates ----------------------------------------------------------------------------------


def with_words_changed(draw: random.Random, text: str) -> str:
    """Return a text with one or two of its words, or characters of Chinese, changed."""
    words, joint = (text.split(), " ") if text.isascii() else (list(text), "")
    for at in draw.sample(range(len(words)), min(len(words), draw.randint(1, 2))):
        words[at] = draw.choice(["maybe", "often", "never"]) if text.isascii() else "某"
    return joint.join(words)


def test_95_of_100_texts_with_a_word_or_two_changed_are_found_and_no_other_is() -> None:
    lines = (shipped.folder() / "starter/help-desk.jsonl").read_text("utf-8").splitlines()
    answers = list(dict.fromkeys(json.loads(line)["answer"] for line in lines))
    draw = random.Random(0)
    texts = [*answers, *(with_words_changed(draw, answer) for answer in answers)]
    pairs = set(near_pairs(texts, texts.__getitem__, 0.6))
    right = {(at, at + len(answers)) for at in range(len(answers))}
    assert len(right) >= 400
    assert len(pairs & right) / len(right) >= 0.95
    assert len(pairs & right) / len(pairs) >= 0.99


def test_the_share_of_common_pieces_is_exact() -> None:
    assert share("abcdef", "abcdef") == 1.0
    assert share("abcdef", "abcdeg") == pytest.approx(1 / 3)
    assert share("ABC  def", "abc def") == 1.0
    assert share("ab", "ab") == 1.0
    assert share("", "a") == 0.0


NEAR = [
    {"question": "I cannot connect to the wireless network upstairs", "answer": "Restart it."},
    {"question": "I can not connect to the wireless network upstairs", "answer": "Restart it."},
]


def test_of_near_questions_with_one_answer_the_later_is_dropped(tmp_path: Path) -> None:
    dataset = made(tmp_path, NEAR, clean=MEND)
    assert [row["messages"][0]["content"] for row in dataset.train()] == [NEAR[0]["question"]]
    assert dataset.figures.dropped_lines == ["a.jsonl:2: near-duplicate"]
    assert dataset.figures.dirt == {"near-duplicate": {"dropped": 1}}


@pytest.mark.parametrize(
    "second",
    [
        {"question": NEAR[1]["question"], "answer": "Call the help desk."},
        {"question": NEAR[1]["question"] + " 2", "answer": "Restart it."},
    ],
    ids=["another answer", "another number"],
)
def test_near_questions_that_differ_in_what_matters_are_not_joined(
    tmp_path: Path, second: dict[str, str]
) -> None:
    assert made(tmp_path, [NEAR[0], second], clean=MEND).figures.entries == 2


def test_near_answers_are_told_and_never_joined(tmp_path: Path) -> None:
    rows = [
        {"question": "when is it hot?", "answer": "Above sixty degrees the processor slows."},
        {
            "question": "is there a limit",
            "answer": "Above fifty degrees the processor slows.",
        },
    ]
    figures = made(tmp_path, rows, clean=MEND).figures
    assert (figures.entries, figures.dirt) == (2, {"near-duplicate": {"found": 1}})


def test_near_answers_with_other_numbers_are_different_ones(tmp_path: Path) -> None:
    rows = [
        {"question": f"what does E{n} mean", "answer": f"Code E{n}: the fan stands still."}
        for n in (17, 18)
    ]
    assert made(tmp_path, rows, clean=MEND).figures.dirt == {}


def test_phrasings_of_one_entry_may_be_near(tmp_path: Path) -> None:
    rows = [{"question": [row["question"] for row in NEAR], "answer": "Restart it."}]
    dataset = made(tmp_path, rows, clean=MEND, hold_out="phrasing")
    assert (len(dataset.train()), len(dataset.held_out())) == (1, 1)
    assert dataset.figures.dirt == {}


def test_report_finds_and_changes_nothing(tmp_path: Path) -> None:
    rows = [*NEAR, {"question": "why?", "answer": "<p>Because.</p>"}]
    dataset = made(tmp_path, rows)
    assert [row["messages"][1]["content"] for row in dataset.train()] == [
        row["answer"] for row in rows
    ]
    assert dataset.figures.dirt == {"html": {"found": 1}, "near-duplicate": {"found": 1}}


def test_a_held_out_question_that_another_entry_teaches_is_told(tmp_path: Path) -> None:
    rows = [
        {"question": f"{row['question']} on floor {floor}", "answer": f"Restart number {floor}."}
        for floor in range(30)
        for row in NEAR
    ]
    dataset = made(tmp_path, rows, held_out_share=0.3)
    dirt = dataset.figures.dirt or {}
    learned = {row["messages"][1]["content"] for row in dataset.train()}
    seen = [row for row in dataset.held_out() if row["messages"][1]["content"] in learned]
    assert dirt["contamination"] == {"found": len(seen)}
    assert seen


def test_a_mended_data_set_is_not_contaminated(tmp_path: Path) -> None:
    rows = [
        {"question": f"{row['question']} on floor {floor}", "answer": f"Restart number {floor}."}
        for floor in range(30)
        for row in NEAR
    ]
    dataset = made(tmp_path, rows, held_out_share=0.3, clean=MEND)
    assert "contamination" not in (dataset.figures.dirt or {})
    assert dataset.figures.entries == 30


# Language -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("How do I restart the router in the meeting room when it is not reachable?", "en"),
        (
            "请问会议室里的路由器连接不上的时候应该怎么重新启动它呢？长按电源键五秒钟之后松开。",
            "zh",
        ),
        (
            "会議室のルーターに接続できないとき、どうやって再起動すればいいですか？電源を長押し。",
            "ja",
        ),
        ("Wie kann ich den Router im Besprechungsraum neu starten, wenn er nicht antwortet?", "de"),
        (
            "Comment puis-je redémarrer le routeur dans la salle ? Il ne répond pas.",
            "fr",
        ),
        ("Quelle est la taille de l'écran de ce modèle en centimètres ?", "fr"),
        ("Le numéro de la commande se trouve en bas de la facture d'achat.", "fr"),
        ("¿De qué tamaño es la pantalla de este modelo en centímetros?", "es"),
        ("Quanto è grande lo schermo di questo modello in centimetri?", "it"),
        ("Qual é o tamanho da tela deste modelo em centímetros?", "pt"),
        ("Hoe groot is het scherm van dit model in centimeters?", "nl"),
        ("Как мне перезапустить маршрутизатор в переговорной комнате?", "ru"),
        ("WiFi连不上怎么办", ""),
        ("sudo systemctl restart ssh.service && journalctl -u ssh -n 50 --no-pager", ""),
    ],
)
def test_the_language_of_a_longer_text_is_told_and_of_a_short_one_not(text: str, code: str) -> None:
    assert language_of(text) == code


def test_entries_of_other_languages_are_told_or_dropped(tmp_path: Path) -> None:
    rows = [
        {"question": "How do I restart it?", "answer": "Hold the button for as long as it is on."},
        {"question": "Wie starte ich es neu?", "answer": "Halte die Taste, bis das Licht an ist."},
        {"question": "Hä?", "answer": "Ja."},
    ]
    told = made(tmp_path, rows, clean={"languages": ["en"]}).figures
    assert (told.entries, told.dirt) == (3, {"language": {"found": 1}})
    assert told.languages == {"a.jsonl": {"de": 1, "en": 1}}
    dropped = made(tmp_path, rows, clean={"languages": ["en"], "mode": "mend"}).figures
    assert dropped.dropped_lines == ["a.jsonl:2: another language: de"]
