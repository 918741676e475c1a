"""What came out, as tables for people or as JSON: the shapes of the output, and nothing else.

`console` knows how to print; these modules, one a kind of thing, know what is worth a column.
"""

from toolchain.show.boards import all_targets, findings, one_target, runtime, status, virtual_boards
from toolchain.show.cloud import clouded, mended
from toolchain.show.cost import cost
from toolchain.show.files import contents, folder
from toolchain.show.fit import fitted
from toolchain.show.fleets import fleet_bench, fleet_rollback, fleet_status, rolled_out
from toolchain.show.line import deployed, exported, left, plan, schemes, walked
from toolchain.show.measured import bench, calibrated, compared
from toolchain.show.proofs import proof
from toolchain.show.rounds import (
    answers,
    discarded,
    harvested,
    joined,
    labels,
    rounds_compared,
    sealed,
    tally,
    tally_round,
)
from toolchain.show.sources import sources
from toolchain.show.words import size

__all__ = [
    "all_targets",
    "answers",
    "bench",
    "calibrated",
    "clouded",
    "compared",
    "contents",
    "cost",
    "deployed",
    "discarded",
    "exported",
    "findings",
    "fitted",
    "fleet_bench",
    "fleet_rollback",
    "fleet_status",
    "folder",
    "harvested",
    "joined",
    "labels",
    "left",
    "mended",
    "one_target",
    "plan",
    "proof",
    "rolled_out",
    "rounds_compared",
    "runtime",
    "schemes",
    "sealed",
    "size",
    "sources",
    "status",
    "tally",
    "tally_round",
    "virtual_boards",
    "walked",
]
