"""What a running service has counted, read from its own `/metrics` on this board."""

import re
from typing import Any

TIMEOUT_S = 5.0
MAX_BYTES = 1 << 20
ASKED = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/api/chat",
    "/api/generate",
)
"""Paths on which questions are answered."""
_LINE = re.compile(r"demitasse_(\w+?)(?:\{(.*)\})? (\d+(?:\.\d+)?(?:e[+-]?\d+)?)")
_STATUS = re.compile(r'status="(\d{3})"')
_PATH = re.compile(r'path="([^"]{1,64})"')
_REFUSED = re.compile(r'what="(question|answer)",category="([\w/-]{1,40})"')
_LIMIT = re.compile(r'le="([^"]{1,16})"')


def figures(port: int) -> "dict[str, Any] | None":
    """Return what the service on a port has counted since it began; None if it does not say.

    `began` is its start in seconds since 1970, `requests` and `failures` are all requests and those
    that ended with a status of 500 and more, `asked` are the questions that were answered or
    refused, `refused` has by category how many were. `first_token_s` says by upper limit in seconds
    how many first tokens came within it.
    """
    text = _read(port)
    if text is None:
        return None

    found: "dict[str, Any]" = {
        "began": None,
        "requests": 0,
        "failures": 0,
        "asked": 0,
        "refused": {},
        "first_token_s": {},
    }
    for name, labels, value in _LINE.findall(text):
        if name == "start_time_seconds":
            found["began"] = float(value)
        elif name == "requests_total":
            found["requests"] += int(float(value))
            status = _STATUS.search(labels)
            # 503 says that others are served first, or that the service is about to end.
            if status and 500 <= int(status[1]) != 503:
                found["failures"] += int(float(value))
            path = _PATH.search(labels)
            if status and path and status[1] == "200" and path[1] in ASKED:
                found["asked"] += int(float(value))
        elif name == "refused_total":
            category = _REFUSED.fullmatch(labels)
            if category:
                found["refused"]["/".join(category.groups())] = int(float(value))
        elif name == "first_token_seconds_bucket":
            limit = _LIMIT.search(labels)
            if limit:
                found["first_token_s"][limit[1]] = int(float(value))
    return found


def _read(port: int) -> "str | None":
    from http.client import HTTPConnection, HTTPException

    connection = HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        text = answer.read(MAX_BYTES).decode("utf-8", "replace")
        return text if answer.status == 200 else None
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()
