"""Questions that a language model writes for passages: any endpoint that speaks OpenAI's API.

A passage is found by its questions far better than by its text. What was written is kept: a second
run asks for new passages alone, and an interrupted one goes on. Passages go to the address in the
recipe and nowhere else.
"""

import hashlib
import http.client
import json
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolchain.errors import ArtifactError, ConfigError
from toolchain.knowledge.passages import Passage
from toolchain.progress import Reporter

KEY = "DEMITASSE_TEACHER_KEY"
"""Environment variable with the bearer token of the endpoint, if it asks for one."""
PROMPT = """Write {count} different questions that the text below answers. Write as different people
would ask: a beginner without the technical words, the symptom, the goal, a few search words. Use
other words than the text. One question a line, nothing else. In the language of the text.

{text}"""
TIMEOUT_S = 300.0
_MARK = re.compile(r"^\s*(?:[-*•]|\(?\d{1,2}[.):、])\s*")
"""What models put before a line of a list."""
_MOST_BYTES = 1 << 20
_MOST_CHARACTERS = 300


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: passages and token go to the address in the recipe alone."""

    def redirect_request(self, *args: Any) -> None:
        """Return None, which makes an error of the redirect."""


def _is_address(text: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    is_web = parts.scheme in ("http", "https") and bool(parts.hostname) and port != 0
    return is_web and not any(each.isspace() for each in text)


def headed(passage: Passage) -> str:
    """Return the text of a passage under its headings."""
    return f"{passage.heading}\n\n{passage.text}" if passage.heading else passage.text


def questions_in(text: str, count: int) -> list[str]:
    """Return the first `count` questions of a written list, without marks and repetitions."""
    lines = [_MARK.sub("", line).strip() for line in text.splitlines()]
    kept = dict.fromkeys(line for line in lines if 3 <= len(line) <= _MOST_CHARACTERS)
    return list(kept)[:count]


class Teacher:
    """A model behind an endpoint, and what it wrote before."""

    def __init__(self, address: str, model: str, count: int, kept: Path) -> None:
        """Ask `model` at `address` (`http://host:port/v1`) for `count` questions a passage.

        `kept` is the file of what was written. Raises ConfigError for an address of another kind.
        """
        if not _is_address(address):
            raise ConfigError(
                f"knowledge: teacher: `{address}` is no address of an endpoint",
                hint="such as http://127.0.0.1:8080/v1",
            )
        self._url = f"{address.rstrip('/')}/chat/completions"
        self._model = model
        self._count = count
        self._kept = kept

    def write(self, passages: Sequence[Passage], report: Reporter) -> list[list[str]]:
        """Return questions for each passage; raise ArtifactError if the endpoint gives none."""
        known = self._known()
        written = []
        for number, passage in enumerate(passages, 1):
            name = self._name(passage)
            if name not in known:
                known[name] = self._ask(passage)
                self._keep(name, known[name])
                report.step("write questions", number, len(passages), "passages")
            written.append(known[name])
        return written

    def _name(self, passage: Passage) -> str:
        parts = [self._url, self._model, self._count, PROMPT, passage.heading, passage.text]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def _known(self) -> dict[str, list[str]]:
        known = {}
        text = (
            self._kept.read_text(encoding="utf-8", errors="replace") if self._kept.is_file() else ""
        )
        for line in text.split("\n"):
            try:
                row = json.loads(line)
                known[str(row["passage"])] = [str(each) for each in row["question"]]
            except (ValueError, TypeError, KeyError):
                continue  # the last line of an interrupted run
        return known

    def _keep(self, name: str, questions: list[str]) -> None:
        self._kept.parent.mkdir(parents=True, exist_ok=True)
        row = json.dumps({"passage": name, "question": questions}, ensure_ascii=False)
        with self._kept.open("a", encoding="utf-8") as stream:
            stream.write(f"\n{row}\n")  # the line before may be that of an interrupted run

    def _ask(self, passage: Passage) -> list[str]:
        content = PROMPT.format(count=self._count, text=headed(passage))
        body = {
            "model": self._model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": 40 * self._count,
        }
        answer = self._post(body)
        try:
            said = answer["choices"][0]["message"]["content"]
            kept = questions_in(said.encode("utf-8", "replace").decode(), self._count)
        except (LookupError, TypeError, AttributeError) as error:
            raise ArtifactError(f"teacher: {self._url} answers in another shape") from error
        if not kept:
            raise ArtifactError(
                f"teacher: {self._url} wrote no question",
                hint="a model that thinks first needs more room than its answer: take another",
            )
        return kept

    def _post(self, body: dict[str, Any]) -> Any:
        headers = {"content-type": "application/json"}
        if key := os.environ.get(KEY):
            headers["authorization"] = f"Bearer {key}"
        request = urllib.request.Request(  # noqa: S310 - http or https alone, see __init__
            self._url, json.dumps(body).encode(), headers
        )
        try:
            # Neither a redirect nor a proxy of the environment is followed.
            opener = urllib.request.build_opener(_Stay, urllib.request.ProxyHandler({}))
            with opener.open(request, timeout=TIMEOUT_S) as reply:
                return json.loads(reply.read(_MOST_BYTES))
        except urllib.error.HTTPError as error:
            error.close()
            raise ArtifactError(
                f"teacher: {self._url} answers {error.code}",
                hint=f"a token is read from {KEY}" if error.code in (401, 403) else "",
            ) from error
        except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
            raise ArtifactError(f"teacher: {self._url} does not answer: {error}") from error
