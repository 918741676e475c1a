"""A cluster of two nodes of Ray on loopback that reads `sharded`; run by a Python with ray."""

import json
import os
import sys
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from tests.fakes import sharded
from toolchain.ingest import Ways
from toolchain.ingest.shards import engines
from toolchain.recipe import IngestSpec


def main() -> None:
    """Print the digest, and the nodes that did work."""
    folder, out = map(Path, sys.argv[1:])
    notes = out / "nodes"
    notes.mkdir(parents=True)

    def noted(text: str) -> list[str]:
        """Do a job as the engine does, and note the node that does it."""
        (notes / ray.get_runtime_context().get_node_id()).touch()
        return engines.answered(text)

    engines.on_a_node = noted
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    try:
        cluster.wait_for_nodes()
        ways = Ways(
            work=out,
            shard_bytes=sharded.SHARD_BYTES,
            ingest=IngestSpec(engine="ray", address=cluster.address),
        )
        digest = sharded.read(folder, out, ways).digest
        nodes = [path.name for path in notes.iterdir()]
        sys.stdout.write(json.dumps({"digest": digest, "nodes": nodes}) + "\n")
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    main()
