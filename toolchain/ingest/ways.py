"""Who reads the data of a recipe, and where what was read is kept."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from toolchain.ingest.shards.plan import SHARD_BYTES
from toolchain.progress import SILENT, Reporter
from toolchain.recipe import IngestSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Ways:
    """Who reads the data, and where what is read of it is kept; neither changes what comes out."""

    ingest: IngestSpec = field(default_factory=IngestSpec)
    work: Path | None = None
    """Work folder in which finished shards are kept; None: nothing is kept."""
    report: Reporter = field(default=SILENT, compare=False)
    shard_bytes: int = SHARD_BYTES
    """Bytes of a shard. Data of no more is read in this process, and nothing of it is kept."""

    def for_data(self, size_bytes: int) -> "Ways":
        """Return who reads data of this size."""
        if size_bytes > self.shard_bytes:
            return self
        return replace(self, ingest=IngestSpec(processes=1), work=None)
