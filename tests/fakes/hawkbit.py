"""hawkBit's Direct Device Integration API, and a client of it, by their documents.

Source: eclipse.dev/hawkbit/rest-api/ddi, eclipse-hawkbit/hawkbit (hawkbit-ddi-api). The server
holds one device with one action; it computes the digests of an upload itself, as hawkBit does.
"""

import hashlib
import json
import subprocess
import threading
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TOKEN, DEVICE, ACTION, MODULE = "bhVahL1Il1shie2a", "till-1", "8", "23"
BASE = f"/DEFAULT/controller/v1/{DEVICE}"
EXECUTIONS = {
    "closed",
    "proceeding",
    "canceled",
    "scheduled",
    "rejected",
    "resumed",
    "downloaded",
    "download",
}
MAX_MESSAGE = 512
"""Characters of a status message in hawkBit's database."""


class Server:
    """A hawkBit with one open action for one device; `feedback` is what the device reported."""

    def __init__(self, artifacts: Path, port: int) -> None:
        self.artifacts, self.port = artifacts, port
        self.feedback: list[dict[str, Any]] = []

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def is_closed(self) -> bool:
        return any(each["status"]["execution"] == "closed" for each in self.feedback)

    def get(self, path: str) -> dict[str, Any] | Path | None:
        """Return what a GET answers: JSON, a file, or nothing."""
        links: dict[str, Any] = {}
        if not self.is_closed:
            links["deploymentBase"] = {"href": self._url(f"deploymentBase/{ACTION}?c=-1")}
        answers: dict[str, dict[str, Any]] = {
            BASE: {"config": {"polling": {"sleep": "00:00:01"}}, "_links": links},
            f"{BASE}/deploymentBase/{ACTION}": self._deployment(),
        }
        files = f"{BASE}/softwaremodules/{MODULE}/artifacts/"
        if path.startswith(files) and (self.artifacts / path.removeprefix(files)).is_file():
            return self.artifacts / path.removeprefix(files)
        return answers.get(path)

    def post(self, path: str, body: dict[str, Any]) -> int:
        """Take feedback; return the status."""
        if path != f"{BASE}/deploymentBase/{ACTION}/feedback":
            return 404
        if self.is_closed:
            return 410
        status = body["status"]
        details = status.get("details", [])
        sound = (
            status["execution"] in EXECUTIONS
            and status["result"]["finished"] in ("success", "failure", "none")
            and all(isinstance(line, str) and len(line) <= MAX_MESSAGE for line in details)
        )
        if sound:
            self.feedback.append(body)
        return 200 if sound else 400

    def _deployment(self) -> dict[str, Any]:
        chunk = {
            "part": "bApp",
            "name": "demitasse",
            "version": "1",
            "artifacts": [self._artifact(file) for file in sorted(self.artifacts.iterdir())],
        }
        handling = {"download": "forced", "update": "forced", "chunks": [chunk]}
        return {"id": ACTION, "deployment": handling}

    def _artifact(self, file: Path) -> dict[str, Any]:
        content = file.read_bytes()
        hashes = {
            name: hashlib.new(name, content).hexdigest() for name in ("sha1", "md5", "sha256")
        }
        link = self._url(f"softwaremodules/{MODULE}/artifacts/{file.name}")
        return {
            "filename": file.name,
            "hashes": hashes,
            "size": len(content),
            "_links": {
                "download-http": {"href": link},
                "md5sum-http": {"href": f"{link}.MD5SUM"},
            },
        }

    def _url(self, path: str) -> str:
        return f"http://{self.address}{BASE}/{path}"


@contextmanager
def serving(artifacts: Path) -> Iterator[Server]:
    """Run a server for the artifacts of one software module."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.headers["Authorization"] != f"TargetToken {TOKEN}":
                self._answer(401, b"", "text/plain")
                return
            found = server.get(self.path.partition("?")[0])
            if isinstance(found, Path):
                self._answer(200, found.read_bytes(), "application/octet-stream")
            else:
                body = json.dumps(found).encode() if found else b""
                self._answer(200 if found else 404, body, "application/json")

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._answer(server.post(self.path, body), b"", "application/json")

        def _answer(self, status: int, body: bytes, kind: str) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            """Keep quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        server = Server(artifacts, http.server_port)
        threading.Thread(target=http.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            http.shutdown()


class Client:
    """A DDI client: it polls once, downloads, compares digests, calls the installer, reports."""

    def __init__(self, server: str, installer: Path, environment: Mapping[str, str]) -> None:
        self._base = f"http://{server}{BASE}"
        self._installer, self._environment = installer, environment

    def poll(self, folder: Path) -> bool:
        """Do what the server asks for; say whether it asked for anything."""
        links = json.loads(self._get(self._base))["_links"]
        if "deploymentBase" not in links:
            return False
        action = json.loads(self._get(links["deploymentBase"]["href"]))
        for chunk in action["deployment"]["chunks"]:
            for artifact in chunk["artifacts"]:
                content = self._get(artifact["_links"]["download-http"]["href"])
                for name, digest in artifact["hashes"].items():
                    assert hashlib.new(name, content).hexdigest() == digest
                (folder / artifact["filename"]).write_bytes(content)

        done = subprocess.run(
            [self._installer, "--ddi", folder],
            env=self._environment,
            stdout=subprocess.PIPE,
            check=False,
        )
        self._post(f"{self._base}/deploymentBase/{action['id']}/feedback", done.stdout)
        return True

    def _get(self, url: str) -> bytes:
        request = urllib.request.Request(url, headers={"Authorization": f"TargetToken {TOKEN}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return bytes(answer.read())

    def _post(self, url: str, status: bytes) -> None:
        body = b'{"time": "20261127T120000", "status": ' + status + b"}"
        headers = {"Authorization": f"TargetToken {TOKEN}", "Content-Type": "application/json"}
        request = urllib.request.Request(url, data=body, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            assert answer.status == 200


RAUC_CLIENT = """
import asyncio, json, pathlib, subprocess, sys
from aiohttp import ClientSession
from rauc_hawkbit.ddi.client import DDIClient
from rauc_hawkbit.ddi.deployment_base import DeploymentStatusExecution, DeploymentStatusResult

server, token, device, installer, folder = sys.argv[1:]

async def main():
    async with ClientSession() as session:
        ddi = DDIClient(session, server, False, token, "DEFAULT", device)
        base = await ddi()
        link, _, query = base["_links"]["deploymentBase"]["href"].partition("?c=")
        action = link.rsplit("/", 1)[1]
        seen = await ddi.deploymentBase[action](query)
        for artifact in seen["deployment"]["chunks"][0]["artifacts"]:
            url = artifact["_links"]["download-http"]["href"]
            file = pathlib.Path(folder, artifact["filename"])
            assert await ddi.get_binary(url, str(file)) == artifact["hashes"]["md5"]
        done = subprocess.run([installer, "--ddi", folder], stdout=subprocess.PIPE)
        status = json.loads(done.stdout)
        await ddi.deploymentBase[action].feedback(
            DeploymentStatusExecution[status["execution"]],
            DeploymentStatusResult[status["result"]["finished"]],
            status["details"],
        )

asyncio.run(main())
"""
"""One poll by the client library of rauc/rauc-hawkbit, with our installer in place of RAUC."""
