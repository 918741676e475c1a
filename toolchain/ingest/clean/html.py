"""HTML in text: only where real tags are closed again, and never what stands as code.

`use a<b and x>y, or List<int>` is no HTML; strippers by patterns make `use ay, or List` of it.
"""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode

_TAGS = (
    "a abbr article aside b big blockquote body caption center cite code dd del details div dl"
    " dt em figcaption figure font footer form h1 h2 h3 h4 h5 h6 head header html i iframe ins"
    " kbd label li main mark nav ol p pre q s samp script section select small span strike"
    " strong style sub summary sup table tbody td tfoot th thead title tr tt u ul var video"
)
_CLOSED = re.compile(
    rf"<({'|'.join(_TAGS.split())})"
    r"(?:\s+[a-zA-Z-]+(?:\s*=\s*(?:\"[^\"<>]*\"|'[^'<>]*'|[^\s\"'<>]+))?)*\s*>"
    r".*?</\1\s*>",
    re.DOTALL | re.IGNORECASE,
)
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`", re.DOTALL)
_ABOUT = re.compile(r"html|\btags?\b|标签|标记|网页源码", re.IGNORECASE)
_BLOCKS = frozenset(
    [
        "address",
        "article",
        "aside",
        "blockquote",
        "body",
        "center",
        "dd",
        "details",
        "div",
        "dl",
        "dt",
        "figcaption",
        "figure",
        "footer",
        "form",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "header",
        "html",
        "li",
        "main",
        "nav",
        "ol",
        "p",
        "pre",
        "section",
        "summary",
        "table",
        "tbody",
        "tfoot",
        "thead",
        "tr",
        "ul",
    ]
)
_HIDDEN = frozenset(("script", "style", "head", "iframe", "template", "noscript"))
_SPACES = re.compile("[ \t\r\n\f\u00a0]+")
_MAX_DEPTH = 200


def find_html(text: str, asked: str = "") -> tuple[str, str | None] | None:
    """Return the text that a browser would show; None for text without HTML.

    `asked` is what the text answers: tags in an answer to a question about HTML are what it says.
    """
    if "</" not in text or not is_html(text):
        return None
    if _ABOUT.search(_CLOSED.sub("", text)) or _ABOUT.search(_CLOSED.sub("", asked)):
        return "tags in a text about HTML", None
    mended = _shown(text)
    # What was escaped would be read as tags by the next run: such text stays as it is.
    if mended is None or is_html(mended) or not mended.strip():
        return "tags around nothing that can be shown", None
    return "tags that are closed", mended


def is_html(text: str) -> bool:
    """Say whether a known tag is opened and closed outside of code."""
    return bool(_CLOSED.search(_CODE.sub("", text)))


def _shown(text: str) -> str | None:
    from selectolax.lexbor import LexborHTMLParser

    # A parser joins lines as a browser does: in text that is half HTML they mean something.
    code = _CODE.findall(text)
    if code:
        return None
    is_page = bool(re.search(r"<(?:p|div|br|li|tr|html|body)\b", text, re.IGNORECASE))
    source = text if is_page else text.replace("\n", "<br>")
    body = LexborHTMLParser(f"<body>{source}</body>").body
    if body is None:
        return None
    pieces: list[str] = []
    if not _walk(body, pieces, depth=0):
        return None
    plain = re.sub(r" *\n *", "\n", "".join(pieces))
    plain = re.sub(r"\n+(?=- )", "\n", plain)
    return re.sub(r"\n{3,}", "\n\n", plain).strip()


def _walk(node: "LexborNode", pieces: list[str], depth: int) -> bool:
    """Add what a node shows; return False for one that is nested too deeply."""
    if depth > _MAX_DEPTH:
        return False
    for child in node.iter(include_text=True):
        tag = child.tag or ""
        if tag == "-text":
            pieces.append(_SPACES.sub(" ", child.text(deep=False) or ""))
        elif tag == "br":
            pieces.append("\n")
        elif tag not in _HIDDEN:
            edge = "\n" if tag in _BLOCKS else ""
            pieces += [edge, "- " if tag == "li" else ""]
            if not _walk(child, pieces, depth + 1):
                return False
            pieces += [" " if tag in ("td", "th") else "", _target(child), edge]
    return True


def _target(node: "LexborNode") -> str:
    """Return where a link leads, if its text does not say it."""
    address = (node.attributes.get("href") or "") if node.tag == "a" else ""
    is_said = address.removeprefix("mailto:") in (node.text() or "")
    return f" ({address})" if address.startswith(("http://", "https://")) and not is_said else ""
