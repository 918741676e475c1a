"""Stages of the line, a module each: what a stage needs and gives, how it runs, its texts.

A new stage is a room of its own with the stage's name, its module here, its spec in `recipe` and
its test. The verbs of the command line, the check of a recipe's order and the tables of a walk are
made from these rows. The order of the rows is the order of the verbs in `--help`.
"""

from toolchain.line.stages import (
    align,
    distill,
    evaluate,
    guard,
    ingest,
    know,
    package,
    pretrain,
    quantize,
    trim,
    tune,
)
from toolchain.line.stages.stage import Kind, Stage

__all__ = ["STAGES", "Kind", "Stage"]

STAGES: dict[str, Stage] = {
    "ingest": ingest.STAGE,
    "pretrain": pretrain.STAGE,
    "tune": tune.STAGE,
    "distill": distill.STAGE,
    "align": align.STAGE,
    "trim": trim.STAGE,
    "know": know.STAGE,
    "guard": guard.STAGE,
    "quantize": quantize.STAGE,
    "evaluate": evaluate.STAGE,
    "package": package.STAGE,
}
