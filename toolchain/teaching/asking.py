"""Asks a teacher and keeps every answer, so that an interrupted run asks for the rest alone.

The file of answers lies beside the artifact: other filters, or more questions, ask nothing twice.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from toolchain.progress import Reporter
from toolchain.teaching.writers import How, Messages, Said, Writer


@dataclass(frozen=True, slots=True)
class Asker:
    """A teacher, and the file of what it answered before."""

    writer: Writer
    kept: Path
    report: Reporter

    def say(self, conversations: Sequence[Messages], how: How, name: str) -> list[Said]:
        """Return the answers to some conversations; `name` is that of the progress bar."""
        keys = [self._key(messages, how) for messages in conversations]
        known = self._known()
        # Batches hold conversations of like length and are always the same: what is drawn in one
        # depends on all of it.
        order = sorted(range(len(keys)), key=lambda at: (_length(conversations[at]), at))
        together = self.writer.together
        for first in range(0, len(order), together):
            batch = order[first : first + together]
            if any(keys[at] not in known for at in batch):
                seed = int(keys[batch[0]][:8], 16) % (1 << 31)
                new = self.writer.say([conversations[at] for at in batch], replace(how, seed=seed))
                given = {keys[at]: each for at, each in zip(batch, new, strict=True)}
                self._keep(given)
                known |= given
            self.report.step(name, first + len(batch), len(order), "answers")
        return [known[key] for key in keys]

    def _key(self, messages: Messages, how: How) -> str:
        parts = [self.writer.digest, [dict(each) for each in messages], asdict(how)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _known(self) -> dict[str, Said]:
        known: dict[str, Said] = {}
        if not self.kept.is_file():
            return known
        for line in self.kept.read_text(encoding="utf-8", errors="replace").split("\n"):
            try:
                row = json.loads(line)
                key = str(row.pop("key"))
                known[key] = Said(**row)
            except (ValueError, TypeError, KeyError, AttributeError):
                continue  # the last line of an interrupted run
        return known

    def _keep(self, given: dict[str, Said]) -> None:
        self.kept.parent.mkdir(parents=True, exist_ok=True)
        rows = [json.dumps({"key": key, **asdict(said)}) for key, said in given.items()]
        with self.kept.open("a", encoding="utf-8") as stream:
            # The line before may be that of an interrupted run.
            stream.write("".join(f"\n{row}" for row in rows) + "\n")


def _length(messages: Messages) -> int:
    return sum(len(each["content"]) for each in messages)
