"""The chat page: one self-contained file, and the headers that keep it so.

Standard library only.
"""

import base64
import re
from hashlib import sha256
from pathlib import Path


def page() -> bytes:
    """Return the page."""
    return Path(__file__).with_name("page.html").read_bytes()


def headers(html: bytes) -> "dict[str, str]":
    """Return the page's security headers: only its own script and style may run.

    It may call this service only.
    """
    script, style = (_digest(html, tag) for tag in ("script", "style"))
    policy = (
        "default-src 'none'",
        f"script-src {script}",
        f"style-src {style}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
    return {
        "content-security-policy": "; ".join(policy),
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
        "cache-control": "no-cache",
    }


def _digest(html: bytes, tag: str) -> str:
    found = re.search(f"<{tag}>(.*?)</{tag}>".encode(), html, re.DOTALL)
    assert found, f"the page has no <{tag}>"
    return f"'sha256-{base64.b64encode(sha256(found.group(1)).digest()).decode()}'"
