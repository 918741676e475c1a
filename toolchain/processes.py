"""Stages under `accelerate launch`: every process trains, one writes.

The launcher sets WORLD_SIZE and RANK (torch.distributed's convention). Without it there is one
process, and these functions cost nothing.
"""

import os
from collections.abc import Callable
from pathlib import Path

from toolchain.artifacts import Kept, Record, Work, keep, recorded, recorded_as
from toolchain.errors import ArtifactError
from toolchain.progress import Reporter, Silent


def is_main() -> bool:
    """Return whether this process writes and reports."""
    return int(os.environ.get("RANK", "0")) == 0


def many() -> bool:
    """Return whether several processes train together."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def speaking(report: Reporter) -> Reporter:
    """Return the reporter in the main process, and a silent one in the others."""
    return report if is_main() else Silent()


def many_on_cpu() -> bool:
    """Return whether several processes share CPUs; under plain torchrun accelerate must be told."""
    import torch

    return many() and not torch.accelerator.is_available()


def wait_for_all() -> None:
    """Wait until every process is here."""
    if many():
        from accelerate import PartialState

        PartialState(cpu=many_on_cpu()).wait_for_everyone()


def keep_together(
    out: Path, work: Work, build: Callable[[Path], Kept | None], shape: type[Kept]
) -> tuple[Record, bool]:
    """Build in every process and record in one, otherwise as `artifacts.keep`.

    `build` must write files and return figures only where `is_main()`.
    """
    skip = recorded_as(out, work.key(), shape) is not None
    wait_for_all()
    if is_main():
        # The others build too: they may begin only when `keep` has cleared the folder.
        def build_together(folder: Path) -> Kept | None:
            wait_for_all()
            return build(folder)

        outcome = keep(out, work, build_together, shape)
        wait_for_all()
        return outcome

    if not skip:
        wait_for_all()
        build(out)

    wait_for_all()
    if (record := recorded(out)) is None:
        raise ArtifactError(f"{out.name}: the first process left no record")

    return record, not skip
