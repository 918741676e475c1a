"""A model hub on a loopback port: the few answers that huggingface_hub asks for, from folders on
disk.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Hub(BaseHTTPRequestHandler):
    models: Path
    token = ""
    """Where set, every model asks for it."""
    asked: list[str]

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.asked.append(f"{self.command} {self.path}")
        path = self.path.split("?")[0]
        if self.token and self.headers.get("Authorization") != f"Bearer {self.token}":
            return self._send(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        if path.startswith("/api/models/"):
            return self._model(
                path.removeprefix("/api/models/").split("/revision/")[0].split("/tree/")[0],
                "/tree/" in path,
            )
        name, _, file = path.lstrip("/").partition("/resolve/")
        return self._file(self.models / name / file.partition("/")[2])

    def _model(self, name: str, tree: bool) -> None:
        folder = self.models / name
        if not folder.is_dir():
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        if tree:
            rows = [
                {
                    "type": "file",
                    "path": p.relative_to(folder).as_posix(),
                    "size": p.stat().st_size,
                    "oid": _etag(p),
                }
                for p in files
            ]
            return self._send(200, json.dumps(rows).encode())
        siblings = [{"rfilename": p.relative_to(folder).as_posix()} for p in files]
        return self._send(
            200, json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode()
        )

    def _file(self, path: Path) -> None:
        if not path.is_file():
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        return self._send(
            200, path.read_bytes(), {"ETag": f'"{_etag(path)}"', "X-Repo-Commit": COMMIT}
        )

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Length": str(len(body)),
            "Content-Type": "application/json",
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Stay quiet."""


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


@contextmanager
def loopback_hub(models: Path, *, token: str = "") -> Iterator[tuple[str, list[str]]]:
    """Yield the endpoint of a hub that serves `models/<owner>/<name>/…`, and the list of what it is
    asked.
    """
    asked: list[str] = []
    handler = type("Hub", (_Hub,), {"models": models, "token": token, "asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()
