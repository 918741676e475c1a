"""The chat page: one file without anything from elsewhere, and the headers that keep it so. Standard library only."""

import base64
import re
from hashlib import sha256
from pathlib import Path


def page() -> bytes:
    """Return the page."""
    return Path(__file__).with_name("page.html").read_bytes()


def headers(html: bytes) -> "dict[str, str]":
    """Return what a browser is told of the page: it runs this very script and style, and talks to this service alone."""
    script, style = (_digest(html, tag) for tag in ("script", "style"))
    policy = f"default-src 'none'; script-src {script}; style-src {style}; connect-src 'self'; img-src data:"
    return {
        "content-security-policy": f"{policy}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "cache-control": "no-cache",
    }


def _digest(html: bytes, tag: str) -> str:
    found = re.search(f"<{tag}>(.*?)</{tag}>".encode(), html, re.DOTALL)
    assert found, f"the page has no <{tag}>"
    return f"'sha256-{base64.b64encode(sha256(found.group(1)).digest()).decode()}'"
