"""Documents → blocks, format by format: what a person reads, and none of the markup."""

import csv
import io
import zipfile
from pathlib import Path

import pytest

from tests.fakes.documents import docx, encrypted, nested_forms, pdf
from toolchain.knowledge.documents import FileResult, read_documents
from toolchain.knowledge.passages import Passage


def read(near: Path, name: str, content: str | bytes) -> tuple[list[Passage], FileResult]:
    (near / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    library = read_documents([name], near)
    return list(library.passages), library.files[name]


def texts(near: Path, name: str, content: str | bytes) -> list[tuple[str, str]]:
    return [(each.heading, each.text) for each in read(near, name, content)[0]]


@pytest.mark.parametrize(
    ("meta", "encoding"),
    [
        ("<meta charset='iso-8859-1'>", "cp1252"),
        ('<META http-equiv=content-type content="text/html; charset=Windows-1252">', "cp1252"),
        ("<meta charset=gb2312>", "gb18030"),
        ("<meta charset=Shift_JIS>", "cp932"),
        ("<meta charset=latin1>", "utf-8"),
    ],
)
def test_a_page_is_read_in_the_encoding_that_it_names(
    tmp_path: Path, meta: str, encoding: str
) -> None:
    said = {"gb18030": "会议室在三楼。", "cp932": "会議室は三階です。"}.get(
        encoding, "Le café – « 3 € »"
    )
    page = f"<html><head>{meta}</head><body><p>{said}</p></body></html>".encode(encoding)
    assert texts(tmp_path, "page.html", page) == [("", said)]


@pytest.mark.parametrize("meta", ["", "<meta charset=utf-8>", "<meta charset=rot13>"])
def test_a_page_that_names_no_other_encoding_must_be_utf8(tmp_path: Path, meta: str) -> None:
    _, result = read(tmp_path, "page.html", f"{meta}<p>café</p>".encode("latin-1"))
    assert result.reason.startswith("line 1: not valid UTF-8 at byte ")
    assert "iconv -f WINDOWS-1252" in result.reason


def test_a_bomb_that_lies_about_its_size_is_a_broken_file(tmp_path: Path) -> None:
    out, lies = io.BytesIO(), (b"", b"")
    with zipfile.ZipFile(io.BytesIO(docx())) as good, zipfile.ZipFile(out, "w", 8) as packed:
        for member in good.infolist():
            padding = b" " * (100 << 20) if member.filename == "word/document.xml" else b""
            packed.writestr(member.filename, good.read(member) + padding)
            size = packed.infolist()[-1].file_size.to_bytes(4, "little")
            lies = (size, (1000).to_bytes(4, "little")) if padding else lies
    passages, result = read(tmp_path, "a.docx", out.getvalue().replace(*lies))
    assert passages == []
    assert result.reason == "is a broken DOCX: Bad CRC-32 for file 'word/document.xml'"


@pytest.mark.parametrize(
    ("markdown", "text"),
    [
        ("A **bold** `code` [link](http://x.example) ![picture](x.png)", "A bold code link"),
        ("One\ntwo  \nthree<br>four", "One two\nthree\nfour"),
        ("先设置\n国家 and\n然后", "先设置国家 and 然后"),
        ("&amp; \\*not emphasis\\* <b>tags</b>", "& *not emphasis* tags"),
        (
            "Do:\n\n1. one\n2. two\n   - deep\n\n         code\n3. three",
            "Do:\n1. one\n2. two\n  - deep\n    code\n3. three",
        ),
        ("* a\n* b", "- a\n- b"),
        ("> quoted\n> text", "quoted text"),
        ("|a|b|\n|-|-|\n|1|`x`|", "a | b\n1 | x"),
        ("Run:\n```sh\nls  \n\n  -l\n```", "Run:\n\nls\n\n  -l"),
        (
            "<!-- hidden -->\nSeen\n\n<details><summary>Why?</summary>\n\nSo.\n\n</details>",
            "Seen\n\nWhy?\n\nSo.",
        ),
        ("[a]: http://x.example\n\nSee [a].", "See a."),
        ("line\r\n\r\nother\r\n", "line\n\nother"),
    ],
)
def test_markdown_is_read_as_a_browser_shows_it(tmp_path: Path, markdown: str, text: str) -> None:
    found = "\n\n".join(text for _, text in texts(tmp_path, "a.md", markdown))
    assert "\n".join(line.rstrip() for line in found.split("\n")) == "\n".join(
        line.rstrip() for line in text.split("\n")
    )


def test_headings_of_markdown_stand_above_what_follows(tmp_path: Path) -> None:
    text = "zero\n# A `b`\n### C\none\n\nD\n---\ntwo\n\n    # no heading\n\n> # quoted\n"
    assert texts(tmp_path, "a.md", text) == [
        ("", "zero"),
        ("A b › C", "one"),
        ("A b › D", "two\n\n# no heading\n\nquoted"),
    ]


def test_the_title_of_front_matter_is_the_outermost_heading(tmp_path: Path) -> None:
    text = '---\ntitle: "My page"\ntags: [x]\n---\n\n## Part\n\ntext\n'
    assert texts(tmp_path, "a.md", text) == [("My page › Part", "text")]


@pytest.mark.parametrize(
    "markdown",
    [
        ">" * 100_000 + "deep",
        "[" * 100_000,
        "*a " * 50_000,
        "![](<" * 20_000,
        "`" * 100_000,
        "\n".join("  " * depth + "- a" for depth in range(500)),
        "<div>\n\n" * 2_000,
        "a" * 1_000_000,
        "|" * 100_000 + "\n" + "|-" * 50_000,
    ],
)
def test_hostile_markdown_ends(tmp_path: Path, markdown: str) -> None:
    passages, result = read(tmp_path, "a.md", markdown)
    assert bool(passages) != bool(result.reason)


@pytest.mark.parametrize("deepest", [10, 49])
def test_lists_within_lists_are_read_whole(tmp_path: Path, deepest: int) -> None:
    text = "".join(f"{'  ' * depth}- level {depth}\n" for depth in range(deepest))
    passages, result = read(tmp_path, "a.md", text)
    assert f"level {deepest - 1}" in passages[-1].text
    assert not result.left_out


def test_what_is_nested_too_deeply_is_named(tmp_path: Path) -> None:
    text = "first\n\n" + "".join(f"{'  ' * depth}- level {depth}\n" for depth in range(60))
    _, result = read(tmp_path, "a.md", text)
    assert result.left_out == ("line 52: more than 100 lists and quotes within one another",)
    _, result = read(tmp_path, "b.md", "- a\n" + ">" * 99 + " read\n")
    assert not result.left_out


def test_plain_text_keeps_short_lines_and_joins_wrapped_ones(tmp_path: Path) -> None:
    wrapped = (
        "This line of a paragraph was wrapped by an editor at a\nwidth that nobody sees any more."
    )
    text = (
        f"{wrapped}\n\nAnn Smith\n1 High Street\n\n  - one\n    more\n  - two\n\n\tcode\n\t  more\n"
    )
    assert texts(tmp_path, "a.txt", text) == [
        (
            "",
            wrapped.replace("\n", " ")
            + "\n\nAnn Smith\n1 High Street\n\n- one more\n- two\n\ncode\n  more",
        )
    ]


def test_an_underlined_line_of_plain_text_is_a_heading_by_its_kind(tmp_path: Path) -> None:
    text = (
        "Opening hours\n=============\nDaily.\n\n"
        "Prices\n------\n\nTen euros.\n\n"
        "价格\n====\n十元。\n"
    )
    assert texts(tmp_path, "a.txt", text) == [
        ("Opening hours", "Daily."),
        ("Opening hours › Prices", "Ten euros."),
        ("价格", "十元。"),
    ]


HTML = """<html><head><title>My page</title><style>x{}</style></head><body><nav>Home</nav>
<h2>Set-up</h2><p>Hello <b>bold</b> wor<i>ld</i>. <a title="a > b" href=x>link</a><br>second line
<p hidden>no</p><div style="display: none">no<p>no</p></div><span aria-hidden=true>no</span>
<ul><li>one<li>two <ul><li>nested<pre>code
  x</pre></ul></ul><ol><li><p>a<p>b</ol>
<table><tr><th>Name<th>Value<tr><td>a<td>1<br>2</table>
<h3>Terms</h3><dl><dt>Term<dd>Its meaning.</dl>
<script>if (a < b && c > d) { document.write("<div>".repeat(9)) }</script><!-- no <p>no</p> -->
<table><tr><td><h4>Layout</h4><p>para</p></td><td>side</td></tr></table>
<select><option>no</select><footer>no</footer></body></html>"""


def test_html_is_read_as_a_browser_shows_it(tmp_path: Path) -> None:
    assert texts(tmp_path, "a.html", HTML) == [
        (
            "My page › Set-up",
            "Hello bold world. link\nsecond line\n\n- one\n- two\n  - nested\n    code\n      x\n"
            "1. a\n   b\n\nName | Value\na | 1 2",
        ),
        ("My page › Set-up › Terms", "Term:\n\nIts meaning."),
        ("My page › Set-up › Terms › Layout", "para\n\nside"),
    ]


@pytest.mark.sampled(9)
@pytest.mark.parametrize(
    "tag",
    ["div", "b", "ul><li", "table", "table><tr><td", "optgroup><option", "svg><g", "font", "x-y"],
)
def test_a_hundred_thousand_nested_tags_are_read(tmp_path: Path, tag: str) -> None:
    content = f"<p>before</p>{f'<{tag}>' * 100_000}deep{f'</{tag[:3]}>' * 100_000}"
    passages, result = read(tmp_path, "a.html", content)
    assert result.reason == ""
    assert passages[0].text.startswith("before")


@pytest.mark.parametrize(
    "html",
    [
        "<p " + " ".join(f"a{n}=1" for n in range(50_000)) + ">text",
        "".join(f"<b id={n}>" for n in range(1_000)) + "<p>x" * 2_000,
        "text" + "<!--" * 100_000,
        "text" + "<" * 200_000,
        "text" + "<div a='" * 50_000,
        "text" + "<script>" * 50_000,
        "<option><optgroup>text" * 20_000,
        "</div>text" * 20_000,
    ],
)
def test_hostile_html_ends(tmp_path: Path, html: str) -> None:
    passages, _ = read(tmp_path, "a.html", html)
    assert "x" in passages[0].text


def test_a_pdf_gives_passages_with_their_page(tmp_path: Path) -> None:
    page = "\n".join(
        [
            "A long line of a paragraph that reaches the right mar-",
            "gin of the page and goes on in the next line, until it",
            "ends.",
            "Short line",
            "- an item",
        ]
    )
    passages, result = read(tmp_path, "a.pdf", pdf([page, "", "Third page."]))
    assert [(each.page, each.text) for each in passages] == [
        (
            1,
            "A long line of a paragraph that reaches the right margin of the page and goes on in "
            "the next line, until it ends.\n\nShort line\n\n- an item",
        ),
        (3, "Third page."),
    ]
    assert result.left_out == ("pages without text: 2",)


def test_a_sentence_that_goes_on_belongs_to_the_page_of_its_start(tmp_path: Path) -> None:
    one = (
        "The first line of the page is as long as any other one\n"
        "and the sentence of this line that is long enough and"
    )
    passages, _ = read(
        tmp_path,
        "a.pdf",
        pdf([one, "goes on here.\nThis is a full line of the second page, and it is not short."]),
    )
    assert [(each.page, each.text.split()[-1]) for each in passages] == [
        (1, "here."),
        (2, "short."),
    ]


def test_bookmarks_of_a_pdf_are_its_headings(tmp_path: Path) -> None:
    content = pdf(
        ["Cables\nUse copper.\nFuses\nUse ten amperes.", "Still fuses."],
        titles=[(0, "Cables"), (0, "Fuses")],
    )
    passages, _ = read(tmp_path, "a.pdf", content)
    assert [(each.heading, each.page, each.text) for each in passages] == [
        ("Cables", 1, "Use copper."),
        ("Fuses", 1, "Use ten amperes."),
        ("Fuses", 2, "Still fuses."),
    ]


def test_thousands_of_bookmarks_before_a_page_are_passed_over(tmp_path: Path) -> None:
    content = pdf(["One.", "Two."], titles=[(0, f"Part {n}") for n in range(3_000)])
    passages, _ = read(tmp_path, "a.pdf", content)
    assert [each.heading for each in passages] == ["", "Part 2999"]


def test_running_heads_of_a_pdf_are_left_out(tmp_path: Path) -> None:
    pages = [f"My manual\nWhat page number {'abcdef'[n]} says.\nPage {n} of 6" for n in range(6)]
    passages, _ = read(tmp_path, "a.pdf", pdf(pages))
    assert [each.text for each in passages] == [f"What page number {c} says." for c in "abcdef"]


def test_a_pdf_that_only_its_owner_locked_is_read(tmp_path: Path) -> None:
    passages, _ = read(tmp_path, "a.pdf", encrypted(pdf(["Read me."]), ""))
    assert [each.text for each in passages] == ["Read me."]


@pytest.mark.parametrize("levels", [1, 3, 12])
def test_a_form_that_draws_itself_again_and_again_ends(tmp_path: Path, levels: int) -> None:
    passages, result = read(tmp_path, "a.pdf", nested_forms(levels))
    assert passages == []
    assert result.reason


@pytest.mark.slow
def test_a_page_of_endless_drawing_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    content = pdf(["One.", "x" * 6_500_000, b"q Q " * 150_000])
    passages, result = read(tmp_path, "a.pdf", content)
    assert [each.text for each in passages] == ["One."]
    assert result.left_out == (
        "page 2: 6 MiB of drawing, left out",
        "page 3: cannot be read: more than 200,000 drawing instructions",
        "pages without text: 2, 3",
    )


@pytest.mark.parametrize("seed", range(60))
def test_a_pdf_with_flipped_bytes_gives_passages_or_a_sentence(tmp_path: Path, seed: int) -> None:
    import random

    draw = random.Random(seed)
    content = bytearray(pdf(["One line.", "Another line."], titles=[(0, "One")]))
    for _ in range(draw.choice([1, 5, 40])):
        content[draw.randrange(len(content))] = draw.randrange(256)
    passages, result = read(tmp_path, "a.pdf", bytes(content))
    assert bool(passages) != bool(result.reason)


def test_a_docx_is_read_as_it_is_printed(tmp_path: Path) -> None:
    assert texts(tmp_path, "a.docx", docx()) == [
        ("Workshop rules › Before you start", "Wear glasses.\n\n- First item\n- Second item"),
        (
            "Workshop rules › Before you start › Speeds",
            "Material | Speed\nSteel | 300\nWood | 2,000",
        ),
        ("Workshop rules › After work", "Sweep the floor. And lock up.\n\nIn a content control."),
    ]


def repacked(content: bytes, changes: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, changes.get(name, old.read(name)))
    return out.getvalue()


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<",
        b"<a/>",
        b"<a>" * 100_000,
        b'<!DOCTYPE a [<!ENTITY b "'
        + b"c" * 1000
        + b'"><!ENTITY d "'
        + b"&b;" * 1000
        + b'">]><a>'
        + b"&d;" * 1000
        + b"</a>",
        b'<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"/>',
    ],
)
def test_a_docx_with_broken_text_is_named(tmp_path: Path, document: bytes) -> None:
    passages, result = read(tmp_path, "a.docx", repacked(docx(), {"word/document.xml": document}))
    assert passages == []
    assert result.reason.startswith(("is a broken DOCX: ", "holds no text"))


@pytest.mark.parametrize("seed", range(60))
def test_a_docx_with_flipped_bytes_gives_passages_or_a_sentence(tmp_path: Path, seed: int) -> None:
    import random

    draw = random.Random(seed)
    with zipfile.ZipFile(io.BytesIO(docx())) as packed:
        text = bytearray(packed.read("word/document.xml"))
    for _ in range(draw.choice([1, 5])):
        text[draw.randrange(len(text))] = draw.randrange(256)
    whole = bytearray(repacked(docx(), {"word/document.xml": bytes(text)}))
    if seed % 2:
        whole[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
    passages, result = read(tmp_path, "a.docx", bytes(whole))
    assert bool(passages) != bool(result.reason)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", '{"question": ["How?", "Why?"], "answer": "So."}\n\n'),
        ("a.jsonl", '{"questions": ["How?", "Why?"], "Answers": ["So."]}'),
        ("a.ndjson", '{"q": ["How?", "Why?"], "a": "So.", "id": 7}'),
        ("a.json", '[{"prompt": ["How?", "Why?"], "completion": "So."}]'),
        ("a.json", '{"version": 1, "faq": [{"query": ["How?", "Why?"], "response": "So."}]}'),
        ("a.json", '{"How?": "So.", "Why?": "So."}'),
        ("a.json", '{"问题": ["How?", "Why?"], "答案": "So."}'),
        ("a.csv", "Question,Answer\r\nHow?,So.\r\nWhy?,So.\r\n"),
        ("a.csv", 'id;question;answer\n1;How?;So.\n2;"Why?";So.\n'),
        ("a.tsv", "answer\tquestion\nSo.\tHow?\nSo.\tWhy?\n"),
        ("a.csv", "\ufeffquestion,answer\nHow?,So.\n,\nWhy?,So.\n"),
    ],
)
def test_questions_and_answers_are_read_under_their_common_names(
    tmp_path: Path, name: str, content: str
) -> None:
    passages, result = read(tmp_path, name, content)
    assert [(each.text, each.questions) for each in passages] == [("So.", ("How?", "Why?"))]
    assert (result.reason, result.left_out) == ("", ())


def test_a_conversation_gives_its_last_answer(tmp_path: Path) -> None:
    line = (
        '{"messages": [{"role": "system", "content": "s"}, '
        '{"role": "user", "content": "How?"}, '
        '{"role": "assistant", "content": "So."}]}'
    )
    ((passage,), _) = read(tmp_path, "a.jsonl", line)
    assert (passage.text, passage.questions) == ("So.", ("How?",))


def test_a_text_without_a_question_is_a_passage_with_its_title(tmp_path: Path) -> None:
    ((passage,), _) = read(tmp_path, "a.jsonl", '{"title": "Fans", "text": "They spin."}')
    assert (passage.text, passage.heading, passage.questions) == ("They spin.", "Fans", ())


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("[]", "not an object: "),
        ("7", "not an object: "),
        ("{", "not valid JSON"),
        ('{"question": "a"}', "no key `answer`: "),
        ('{"question": 7, "answer": "a"}', "question and answer must be texts: "),
        ('{"question": "a", "answer": {"b": 1}}', "question and answer must be texts: "),
        ('{"question": "a", "answer": " "}', "an empty answer"),
        (
            '{"answer": "' + "x" * 20_001 + '"}',
            "an answer of 20,001 characters: put it into a text file",
        ),
        ('{"answer": "a", "answer": "b"}', "key `answer` stands twice in one object"),
        ('{"messages": "x"}', "no key `answer`: "),
        ('{"answer": 1' + "0" * 5000 + "}", "a number of 5,001 digits, at most 300 are read"),
    ],
)
def test_a_row_that_is_no_answer_is_named_and_the_others_are_read(
    tmp_path: Path, row: str, problem: str
) -> None:
    passages, result = read(tmp_path, "a.jsonl", f'{{"q": "a", "a": "Good."}}\n{row}\n')
    assert [each.text for each in passages] == ["Good."]
    (left_out,) = result.left_out
    assert left_out.startswith(f"line 2: {problem}")


def test_of_many_wrong_rows_the_first_are_named_and_all_are_counted(tmp_path: Path) -> None:
    _, result = read(tmp_path, "a.jsonl", "[]\n" * 1_000)
    assert len(result.left_out) == 21
    assert result.left_out[-1] == "980 more rows are left out"
    assert result.reason.startswith("line 1: not an object")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", "part,price\nfan,3\n", "has no column `answer` (columns: part, price)"),
        ("a.csv", 'question,answer\na,"' + "x" * 200_000, "line 2: not valid CSV: field larger"),
        ("a.csv", "question,answer\n", "holds no text"),
        ("a.json", "7", "holds no list of questions and answers"),
        ("a.json", "{}", "row 1: no key `answer`"),
        ("a.json", "[1", "line 1: not valid JSON"),
        ("a.json", '{"a":' * 100_000, "line 1: more than 100 brackets"),
    ],
)
def test_a_table_without_answers_is_named(
    tmp_path: Path, name: str, content: str, reason: str
) -> None:
    assert read(tmp_path, name, content)[1].reason.startswith(reason)


def test_a_table_is_read_alike_whatever_was_read_before(tmp_path: Path) -> None:
    content = 'question,answer\na,"' + "x" * 200_000
    before = csv.field_size_limit(1 << 24)
    try:
        reason = read(tmp_path, "a.csv", content)[1].reason
    finally:
        csv.field_size_limit(before)
    assert reason.startswith("line 2: not valid CSV: field larger")
