"""Tools in the data that no board would take: refused before a model is trained on them."""

import json
from itertools import chain

from toolchain.checks import Ahead, Findings
from toolchain.errors import ArtifactError
from toolchain.ingest import Parts
from toolchain.ingest.entries import Entry, Tools
from toolchain.tools.board_tools import problems


def look(ahead: Ahead, parts: Parts, findings: Findings) -> None:
    """Add the tools that the board refuses in a request, each list once, with its place."""
    lists: dict[str, Entry] = {}
    last: Tools = ()
    for entry in chain(parts.held_out, parts.train):
        # Entries of a shard share one object: it is written as JSON once, not a million times.
        if entry.tools and entry.tools is not last:
            last = entry.tools
            lists.setdefault(json.dumps(last), entry)
    if not lists:
        return

    for entry, problem in zip(
        lists.values(), problems([list(entry.tools) for entry in lists.values()]), strict=True
    ):
        if problem:
            where = ahead.recipe.data.tools or entry.where
            findings.errors.append(
                ArtifactError(
                    f"{where}: a board refuses these tools: {problem}",
                    hint="docs/fields.md lists the keywords that a schema may have",
                )
            )
