"""Asks Opacus and dp-accounting for the ε of some trainings, and keeps their answers for the tests.

    python -m venv referees && referees/bin/pip install opacus==1.6.0 dp-accounting==0.6.0 torch
    referees/bin/python scripts/privacy_referees.py [--write] [--gradients]

They live in an environment of their own, because dp-accounting asks for attrs < 24. Printed are
Opacus' ε, dp-accounting's, and ours. `--write` replaces tests/toolchain/privacy/epsilons.json.
`--gradients` compares the gradients of single rows with Opacus' instead; the product's own packages
must be on the path for it.
"""

import argparse
import importlib
import json
import sys
import tempfile
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "tests" / "toolchain" / "privacy" / "epsilons.json"
TRAININGS = (
    # Sampling rate, noise multiplier, steps, δ.
    (64 / 1661, 1.953, 156, 1e-4),
    (64 / 1661, 0.677, 156, 1e-4),
    (0.01, 4.0, 10_000, 1e-5),
    (256 / 60_000, 1.3, 3_515, 1e-5),
    (256 / 60_000, 1.1, 14_062, 1e-5),
    (256 / 60_000, 0.7, 10_546, 1e-5),
    (0.005, 0.8, 1_000, 1e-6),
    (0.02, 1.0, 1_000, 1e-6),
    (0.5, 3.0, 60, 1e-4),
    (1.0, 5.0, 1, 1e-5),
    (1e-4, 0.7, 100_000, 1e-6),
)
WIDTH = 1e-5
"""Width of dp-accounting's grid, a tenth of its default."""


def opacus(rate: float, noise: float, steps: int, delta: float) -> float:
    """Return the ε of Opacus' PRV accountant, an upper bound with an error of 0.001."""
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = [(noise, rate, steps)]
    return float(accountant.get_epsilon(delta, eps_error=1e-3))


def dp_accounting(rate: float, noise: float, steps: int, delta: float) -> float:
    """Return the ε of dp-accounting's accountant of privacy loss distributions."""
    import dp_accounting as library
    from dp_accounting.pld import PLDAccountant

    accountant = PLDAccountant(
        library.NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=WIDTH
    )
    step = library.PoissonSampledDpEvent(rate, library.GaussianDpEvent(noise))
    accountant.compose(library.SelfComposedDpEvent(step, steps))
    return float(accountant.get_epsilon(delta))


def ours(rate: float, noise: float, steps: int, delta: float) -> float:
    """Return our own ε."""
    sys.path.insert(0, str(ROOT))
    from toolchain.privacy.accounting import Steps, epsilon_of

    return epsilon_of(Steps(sampling_rate=rate, noise_multiplier=noise, count=steps), delta)


def gradients() -> float:
    """Return the largest difference of any row's gradient in any layer of a LoRA from Opacus'."""
    sys.path.insert(0, str(ROOT))
    import torch
    from opacus import GradSampleModule

    from toolchain.training.examples import batch_of
    from toolchain.training.private import RowGradients, RowLoss, Units, unit_gradients

    own = importlib.import_module("tests.toolchain.training.test_private")
    fakes = importlib.import_module("tests.fakes.models")
    with tempfile.TemporaryDirectory() as folder:
        model = own.adapted(
            fakes.tiny_llama(Path(folder), **(own.SMALL | {"attention_dropout": 0}))
        )
    # Opacus looks at a model in training mode alone; without dropout that is the same.
    objective, every = RowLoss(model).train(), range(12)
    units = Units([own.row(number, 16) for number in every], every)
    ours, _ = unit_gradients(objective, RowGradients(objective), units, every, 12)
    weights = torch.tensor([units.weight(unit) for unit in every])
    sampled = GradSampleModule(objective, loss_reduction="sum", strict=False)
    sampled(batch_of(units.examples, every), weights).backward()
    layers = RowGradients(objective).layers
    theirs: dict[str, Any] = {name: layer.weight for name, layer in layers.items()}
    return max(
        float((ours[name] - weight.grad_sample).abs().max()) for name, weight in theirs.items()
    )


def main() -> None:
    """Print a row for each training."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--gradients", action="store_true")
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    if options.gradients:
        print(f"largest difference of a row's gradient: {gradients():g}")
        return
    rows = []
    for training in TRAININGS:
        found = [round(each(*training), 6) for each in (opacus, dp_accounting, ours)]
        names = ("sampling_rate", "noise_multiplier", "steps", "delta", "opacus", "dp_accounting")
        rows.append(dict(zip(names, (*training, *found[:2]), strict=True)))
        print(*training, *found, sep="\t", flush=True)

    if options.write:
        tools = {name: version(name) for name in ("opacus", "dp-accounting")}
        TABLE.write_text(json.dumps({"tools": tools, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
