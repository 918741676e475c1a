"""Documents as people have them: PDF and DOCX written here, and a folder of thirty mixed files."""

import io
import json
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path


def pdf(
    pages: Sequence[str | bytes], *, titles: Sequence[tuple[int, str]] = (), image: bool = False
) -> bytes:
    """Return a PDF with a line of text for each line of a page, and bookmarks (page, title).

    A page of bytes is its drawing instructions.
    """
    drawn = [_drawn(text, image) for text in pages]
    first_title = 4 + 2 * len(drawn)
    kids = " ".join(f"{4 + 2 * n} 0 R" for n in range(len(drawn)))
    outlines = f"/Outlines {first_title} 0 R" if titles else ""
    objects = [
        f"<< /Type /Catalog /Pages 2 0 R {outlines} >>".encode(),
        f"<< /Type /Pages /Kids [{kids}] /Count {len(drawn)} >>".encode(),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    for number, content in enumerate(drawn):
        page = (
            "<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792]"
            " /Resources << /Font << /F1 3 0 R >> >>"
            f" /Contents {5 + 2 * number} 0 R >>"
        )
        objects += [page.encode(), stream(content)]
    if titles:
        last = first_title + len(titles)
        objects.append(
            f"<< /First {first_title + 1} 0 R /Last {last} 0 R /Count {len(titles)} >>".encode()
        )
    for number, (page_number, title) in enumerate(titles, first_title + 1):
        after = f"/Next {number + 1} 0 R" if number < first_title + len(titles) else ""
        objects.append(
            f"<< /Title ({title}) /Parent {first_title} 0 R {after}"
            f" /Dest [{4 + 2 * page_number} 0 R /Fit] >>".encode()
        )
    return pdf_of(objects)


def _drawn(text: str | bytes, image: bool) -> bytes:
    if isinstance(text, bytes):
        return text
    if not text:
        return b"q 100 0 0 100 0 0 cm /Im1 Do Q" if image else b""
    lines = [
        line.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
        for line in text.split("\n")
    ]
    shown = " ".join(f"({line}) Tj T*" for line in lines)
    return f"BT /F1 11 Tf 14 TL 50 740 Td {shown} ET".encode("cp1252")


def stream(content: bytes, extra: str = "") -> bytes:
    return f"<< /Length {len(content)} {extra} >>\nstream\n".encode() + content + b"\nendstream"


def pdf_of(objects: Sequence[bytes]) -> bytes:
    """Return a PDF of objects numbered from 1; the first one is its catalog."""
    out = io.BytesIO(b"")
    out.write(b"%PDF-1.7\n")
    places = []
    for number, content in enumerate(objects, 1):
        places.append(out.tell())
        out.write(f"{number} 0 obj\n".encode() + content + b"\nendobj\n")
    start = out.tell()
    out.write(f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n".encode())
    for place in places:
        out.write(f"{place:010d} 00000 n \n".encode())
    out.write(
        f"trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n".encode()
    )
    return out.getvalue()


def encrypted(content: bytes, password: str) -> bytes:
    from pypdf import PdfReader, PdfWriter

    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(content)))
    writer.encrypt(user_password=password, owner_password="owner", algorithm="AES-256")
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def docx() -> bytes:
    """Return a DOCX with headings, a list, a table, code and text that is hidden or deleted."""
    from docx import Document
    from docx.oxml import parse_xml
    from docx.oxml.ns import nsdecls

    document = Document()
    document.add_heading("Workshop rules", 0)
    document.add_heading("Before you start", 1)
    document.add_paragraph("Wear glasses.")
    document.add_paragraph("First item", style="List Bullet")
    document.add_paragraph("Second item", style="List Bullet")
    document.add_heading("Speeds", 2)
    table = document.add_table(rows=3, cols=2)
    for row, cells in zip(
        table.rows, (("Material", "Speed"), ("Steel", "300"), ("Wood", "2,000")), strict=True
    ):
        for cell, text in zip(row.cells, cells, strict=True):
            cell.text = text
    document.add_heading("After work", 1)
    hidden = document.add_paragraph("Sweep the floor.")
    hidden.add_run(" Hidden words.").font.hidden = True
    inserted = (
        f'<w:ins {nsdecls("w")} w:id="1" w:author="A">'
        '<w:r><w:t xml:space="preserve"> And lock up.</w:t></w:r></w:ins>'
    )
    deleted = (
        f'<w:del {nsdecls("w")} w:id="2" w:author="A">'
        "<w:r><w:delText>Deleted words.</w:delText></w:r></w:del>"
    )
    hidden._p.append(parse_xml(inserted))
    hidden._p.append(parse_xml(deleted))
    control = (
        f"<w:sdt {nsdecls('w')}><w:sdtContent>"
        "<w:p><w:r><w:t>In a content control.</w:t></w:r></w:p></w:sdtContent></w:sdt>"
    )
    document.element.body.insert(len(document.element.body) - 1, parse_xml(control))
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def bomb(unpacked_mib: int) -> bytes:
    """Return a DOCX whose text unpacks to many MiB."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as packed:
        packed.writestr("[Content_Types].xml", "<Types/>")
        with packed.open("word/document.xml", "w", force_zip64=True) as member:
            for _ in range(unpacked_mib):
                member.write(b"a" * (1 << 20))
    return out.getvalue()


def nested_forms(levels: int, width: int = 10) -> bytes:
    """Return a PDF whose page draws a form, which draws ten others, and so on."""
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Contents 4 0 R"
        b" /Resources << /XObject << /X 5 0 R >> >> >>",
        stream(b"/X Do " * width),
    ]
    for level in range(levels):
        below = f"/Resources << /XObject << /X {6 + level} 0 R >> >>"
        objects.append(
            stream(b"/X Do " * width, f"/Type /XObject /Subtype /Form /BBox [0 0 9 9] {below}")
        )
    objects.append(stream(b"", "/Type /XObject /Subtype /Form /BBox [0 0 9 9]"))
    return pdf_of(objects)


def mixed() -> dict[str, str | bytes]:
    """Return thirty files by name: good ones of every kind, and broken ones of every kind."""
    good = pdf(
        [
            "Reset the router.\nHold the button for ten seconds until the lamp turns red.",
            "Page two.",
        ]
    )
    rows = [
        {"question": ["How old?", "age"], "answer": "Ten."},
        {"question": "Who?", "answer": "Ada."},
    ]
    old = struct.pack(">8s", bytes.fromhex("d0cf11e0a1b11ae1")) + bytes(600)
    return {
        "bad/binary.txt": bytes(range(256)) * 4,
        "bad/bomb.docx": bomb(80),
        "bad/broken.pdf": b"%PDF-1.7\nthis is no PDF at all",
        "bad/cut.docx": docx()[:3000],
        "bad/cut.pdf": good[: len(good) // 4],
        "bad/deep.json": "[" * 100_000 + "]" * 100_000,
        "bad/empty.md": "",
        "bad/half.jsonl": '{"question": "a", "answer": "\\ud83d"}\n'
        '{"question": "b", "answer": "Fine."}\n',
        "bad/headings.md": "# One\n\n## Two\n",
        "bad/locked.pdf": encrypted(good, "secret"),
        "bad/old.docx": old,
        "bad/scan.pdf": pdf(["", ""], image=True),
        "bad/utf16.txt": "text".encode("utf-16"),
        "bad/picture.png": b"\x89PNG",
        "bad/second.png": b"\x89PNG",
        "bad/slides.pptx": b"PK",
        "good/answers.csv": "Question,Answer\nHow high?,Two metres.\n",
        "good/answers.json": json.dumps({"faq": rows}),
        "good/answers.tsv": "question\tanswer\nHow wide?\tOne metre.\n",
        "good/chat.jsonl": json.dumps(
            {
                "messages": [
                    {"role": "user", "content": "Hi?"},
                    {"role": "assistant", "content": "Hello."},
                ]
            }
        ),
        "good/chinese.md": "# 网络\n\n## 无线\n\n先设置国家，\n然后搜索网络。\n",
        "good/manual.md": "# Manual\n\nRead it:\n\n```\nman ls\n```\n",
        "good/notes.txt": "Opening hours\n=============\n\nMonday to Friday.\n\n- one\n- two\n",
        "good/open.pdf": encrypted(good, ""),
        "good/page.html": "<title>T</title><nav>Home</nav><h1>Shop</h1>"
        "<p>Open <b>daily</b>.<script>x()</script>",
        "good/router.pdf": good,
        "good/same.txt": "Monday  to\nFriday.",
        "good/titles.pdf": pdf(
            ["Cables\nUse copper.", "Fuses\nUse ten amperes."], titles=[(0, "Cables"), (1, "Fuses")]
        ),
        "good/windows.txt": b"\xef\xbb\xbfFirst line.\r\n\r\nSecond paragraph.\r\n",
        "good/workshop.docx": docx(),
    }


if __name__ == "__main__":
    import sys

    for name, content in mixed().items():
        path = Path(sys.argv[1], name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
