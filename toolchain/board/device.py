"""The device side of a board, called from the host: facts, and the verbs of agent and runtime.

A verb prints JSON. An error that it prints becomes one of ours, by its code.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from device.manifest import codes, leases
from toolchain.agent import OLDEST_PYTHON, OLDEST_PYTHON_NAME, build_agent, device_folder
from toolchain.board import answers
from toolchain.board.answers import Answer
from toolchain.board.connection import Channel, Connection, Finished, lines
from toolchain.board.kind import Kind
from toolchain.errors import (
    ArtifactError,
    BoardError,
    BusyError,
    ConfigError,
    HealthError,
    ToolchainError,
    TooLongError,
    TrustError,
)

_VERIFY_S = 600.0
"""Seconds in which a board must have read and hashed its runtime."""
_ILLEGAL_INSTRUCTION = 128 + 4
"""Exit status of a command that died by SIGILL."""
ERRORS: dict[str, type[ToolchainError]] = {
    **dict.fromkeys(codes.TRUST, TrustError),
    **dict.fromkeys(codes.HEALTH, HealthError),
    **dict.fromkeys(codes.ARTIFACT, ArtifactError),
    **dict.fromkeys(codes.REQUEST, ConfigError),
    **dict.fromkeys(codes.TOO_LONG, TooLongError),
    "busy": BusyError,
}
"""Code of a device's error → ours; every other code is a BoardError."""
_KEEP_AGENT = (
    "import hashlib, os, sys\n"
    "os.umask(0o077)\n"
    "path, digest = sys.argv[1:]\n"
    "os.umask(0o077)\n"  # the store is its user's alone (device/disk.py)
    "content = sys.stdin.buffer.read()\n"
    "if hashlib.sha256(content).hexdigest() != digest: sys.exit('cut')\n"
    "os.makedirs(os.path.dirname(path), exist_ok=True)\n"
    "with open(path + '.part', 'wb') as stream:\n"
    "    stream.write(content); stream.flush(); os.fsync(stream.fileno())\n"
    "os.replace(path + '.part', path)\n"
    "os.fsync(os.open(os.path.dirname(path), os.O_RDONLY))\n"
)
# The write is atomic: neither a cut pipe nor a power cut may leave half a program there.
"""Program that stores the agent on the board, from its standard input."""


def look(connection: Connection) -> tuple[Answer, Answer]:
    """Return a board's facts and what its store holds, by device/facts.py.

    The board needs nothing of ours for it.
    """
    source = (device_folder() / "facts.py").read_bytes()
    done = connection.run(["python3", "-sE", "-", connection.root], stdin=source)
    if done.code == 127:
        raise BoardError(
            f"{connection.address}: python3 is not installed", hint="sudo apt-get install python3"
        )

    printed = done.stdout.strip().splitlines()
    if done.code != 0 or not printed:
        raise BoardError(
            f"{connection.address}: its facts cannot be read: {_last_words(done)}",
            hint="is its python3 whole? on the board: python3 -c 'import json, platform'",
        )

    answer = answers.read(connection.address, printed[-1])
    seen = answers.checked(connection.address, "its facts", answer, answers.Seen)
    return seen["facts"], seen["stored"]


def check_python(address: str, facts: Mapping[str, Any]) -> None:
    """Raise BoardError if a board's Python is older than the device package can run on."""
    if tuple(map(int, str(facts["python"]).split(".")[:2])) < OLDEST_PYTHON:
        images = "Raspberry Pi OS 12, Ubuntu 22.04 and JetPack 6"
        raise BoardError(
            f"{address}: Python {facts['python']} is too old, "
            f"the oldest that works is {OLDEST_PYTHON_NAME}",
            hint="put a newer image on the board: "
            f"{images} bring Python {OLDEST_PYTHON_NAME} or newer",
        )


def error_of(address: str, answer: Answer) -> ToolchainError:
    """Return a device's `{"error": …}` as one of ours."""
    fault = answer["error"] if isinstance(answer["error"], dict) else {}
    error = answers.checked(address, "its error", fault, answers.Fault)
    kind = ERRORS.get(error["code"].removeprefix(codes.RUNTIME_PREFIX), BoardError)
    return kind(f"{address}: {error['message']}", hint=error.get("hint", ""))


def parse(address: str, verb: str, line: bytes) -> Answer:
    """Return the JSON object in a line of a verb's answer; raise the error that it carries."""
    answer = answers.read(address, line)
    if "error" in answer:
        raise error_of(address, answer)
    model = answers.VERBS.get(verb)
    return answers.checked(address, f"the answer of `{verb}`", answer, model) if model else answer


def _last_words(done: Finished) -> str:
    said = done.stderr.strip().splitlines()
    return said[-1] if said else f"exit status {done.code}"


class Device:
    """A board whose agent we call; the agent is sent when it is first needed."""

    def __init__(self, connection: Connection, seen: tuple[Answer, Answer] | None = None) -> None:
        """Take an open connection, and what was `seen` there a moment ago, if anything was."""
        self._connection = connection
        self._agent = ""
        self._seen = seen
        self._verified = ""
        """Id of the runtime whose every byte the board has read and found signed."""

    @property
    def connection(self) -> Connection:
        """Connection to it."""
        return self._connection

    @property
    def address(self) -> str:
        """How the user names the board."""
        return self._connection.address

    @property
    def kind(self) -> Kind:
        """What kind of board it is: real or simulated."""
        return self._connection.kind

    def facts(self) -> Answer:
        """Return the board's facts."""
        return self.look()[0]

    def look(self, *, again: bool = False) -> tuple[Answer, Answer]:
        """Return the board's facts and what its store holds: cached, or read `again`."""
        self._seen = look(self._connection) if again or not self._seen else self._seen
        return self._seen

    def call(self, verb: str, *arguments: str, timeout_s: float = 120.0) -> Answer:
        """Run a verb to its end and return the last object that it printed, or raise its error."""
        done = self._connection.run(
            self._command(verb, arguments),
            timeout_s=timeout_s,
            beat_s=leases.BEAT_S if verb in leases.VERBS else 0.0,
        )
        printed = done.stdout.strip().splitlines()
        if not printed:
            raise self._ended(verb, done)
        return parse(self.address, verb, printed[-1])

    def verify(self, runtime: str, *words: str, timeout_s: float = _VERIFY_S) -> None:
        """Have the board check signatures and every byte of what is current; raise its error.

        `runtime` is the id of its runtime: a verb that runs there does not have it read again.
        """
        self.call("verify", *words, timeout_s=timeout_s)
        self._verified = runtime

    def _ended(self, verb: str, done: Finished) -> BoardError:
        if done.code == _ILLEGAL_INSTRUCTION:
            return BoardError(
                f"{self.address}: illegal instruction: "
                f"the runtime of `{verb}` is built for another processor",
                hint="push again: the board gets a runtime of its own kind",
            )

        said = _last_words(done) if done.stderr.strip() else "it said nothing"
        return BoardError(f"{self.address}: `{verb}` ended with exit status {done.code}: {said}")

    @contextmanager
    def talk(self, verb: str, *arguments: str) -> Iterator[Channel]:
        """Start a verb and yield the channel to it."""
        channel = self._connection.open(self._command(verb, arguments))
        try:
            yield channel
        finally:
            channel.close()

    def events(self, channel: Channel, verb: str) -> Iterator[Answer]:
        """Yield the objects that a verb prints until it ends.

        Raises the error that it prints, or BoardError with its last words if it failed.
        """
        for line in lines(channel):
            yield parse(self.address, verb, line)
        done = channel.finish()
        if done.code != 0:
            raise self._ended(verb, done)

    def send(self, channel: Channel, chunk: bytes | memoryview, verb: str = "receive") -> None:
        """Write to a verb's input; if the verb has ended, raise its error, not the lost pipe."""
        try:
            channel.send(chunk)
        except BoardError:
            last = b""
            with suppress(BoardError):
                last = channel.read_line()
            if last:
                parse(self.address, verb, last)
            raise

    def install(self) -> int:
        """Put the agent on the board if it is not there; return the bytes that were sent."""
        agent = build_agent()
        self._agent = f"{self._connection.root}/agents/{agent.name}"
        facts, stored = self.look()
        check_python(self.address, facts)
        if agent.name in stored["agents"]:
            return 0

        content = agent.read_bytes()
        done = self._connection.run(
            ["python3", "-sE", "-c", _KEEP_AGENT, self._agent, agent.stem], stdin=content
        )
        if done.code != 0:
            raise BoardError(f"{self.address}: the agent cannot be kept: {_last_words(done)}")
        return len(content)

    def _command(self, verb: str, arguments: Sequence[str]) -> list[str]:
        """Return the command line of a verb.

        `ask` gets the service's port, some run in the runtime (device/manifest/leases.py), all
        others work on the store.
        """
        if not self._agent:
            self.install()

        python = ["python3", "-sE", self._agent]
        if verb not in ("ask", *leases.IN_RUNTIME):
            lease = ["--leased"] if verb in leases.IN_AGENT else []
            return [*python, verb, "--root", self._connection.root, *lease, *arguments]

        status = self.call("status")
        if not (current := status["release"]):
            raise BoardError(f"{self.address}: there is no release on this board", hint="push one")
        if verb == "ask":
            starts = (status.get("service") or {}).get("starting")
            wait = ["--starting"] if starts else []
            return [*python, "ask", "--port", str(current["port"]), *wait, *arguments]

        # A start checks what it runs; so does a verb that runs without a start.
        if self._verified != current["runtime"]:
            self.verify(current["runtime"], "--runtime-only")
        bundle = f"{status['root']}/releases/{current['release']}"
        lease = ["leased", "--root", self._connection.root, "--runtime", current["runtime"]]
        return [*python, *lease, verb, "--bundle", bundle, *arguments]
