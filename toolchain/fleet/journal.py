"""What was done to a fleet, one line of JSON each, never changed afterwards.

The rule: what a board runs is asked of the board. The journal tells a person what happened, and a
later run which waves were watched to the end and which release the last push brought.
"""

import errno
import json
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Lock
from time import time
from typing import Any

from toolchain.errors import ArtifactError

MAX_BYTES = 256 << 20
"""More than a hundred thousand roll-outs of a hundred boards."""


class Journal:
    """The file, which is only appended to; threads may write at the same time."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lock = Lock()

    def note(self, event: str, **fields: Any) -> None:
        """Append an event; raise ArtifactError if the file cannot be written."""
        line = json.dumps({"at": round(time(), 3), "event": event, **fields}, ensure_ascii=False)
        try:
            self._check_plain()
            with self._lock, self.file.open("ab") as stream:
                # A line that a power cut tore is closed first, so that it spoils no other.
                torn = stream.tell() and not self._is_whole()
                stream.write((b"\n" if torn else b"") + line.encode("utf-8", "replace") + b"\n")
                stream.flush()
                os.fsync(stream.fileno())
        except OSError as error:
            raise ArtifactError(f"{self.file}: cannot be written: {error.strerror}") from error

    def soaked(self, release: str) -> set[str]:
        """Return the boards that stayed healthy with a release for as long as was asked."""
        found: set[str] = set()
        for event in self._events():
            boards = event.get("boards")
            if event.get("event") == "soaked" and event.get("release") == release:
                found.update(map(str, boards if isinstance(boards, list) else ()))
        return found

    def last_release(self) -> str:
        """Return the release that the last push brought; empty if there was none."""
        last = ""
        for event in self._events():
            if event.get("event") == "begin":
                last = str(event.get("release", ""))
        return last

    def _check_plain(self) -> None:
        """Raise OSError for what is there and no file: to open a pipe could wait for ever."""
        if self.file.exists() and not self.file.is_file():
            raise OSError(errno.EINVAL, "not a plain file")

    def _is_whole(self) -> bool:
        with self.file.open("rb") as stream:
            stream.seek(-1, os.SEEK_END)
            return stream.read(1) == b"\n"

    def _events(self) -> Iterator[dict[str, Any]]:
        """Yield the events; a line that was torn is left out."""
        try:
            self._check_plain()
            if self.file.stat().st_size > MAX_BYTES:
                raise ArtifactError(
                    f"{self.file}: larger than {MAX_BYTES >> 20} MiB",
                    hint="move it away: a new one is begun",
                )
            text = self.file.read_text(encoding="utf-8", errors="replace")
        except FileNotFoundError:
            return
        except OSError as error:
            raise ArtifactError(f"{self.file}: cannot be read: {error.strerror}") from error
        # Not `splitlines`: JSON leaves some of its line breaks in a text as they are.
        for line in text.split("\n"):
            with suppress(ValueError, RecursionError):
                event = json.loads(line)
                if isinstance(event, dict):
                    yield event
