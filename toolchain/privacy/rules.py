"""What a private training must not do: what would let text out beside the mechanism."""

from dataclasses import dataclass

from toolchain.errors import ConfigError
from toolchain.processes import many
from toolchain.recipe import TuneSpec

MANY = "several processes would add noise several times"
ONE = "start it without `accelerate launch`, or with one process"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A key of a recipe that would let text out beside the mechanism."""

    key: str
    problem: str
    remedy: str


def faults_of(spec: TuneSpec) -> list[Fault]:
    """Return what in a training is at odds with its privacy."""
    found = []
    if spec.dropout:
        found.append(
            Fault(
                key="dropout",
                problem="its masks follow from the recorded seed and tell who else was in a batch",
                remedy="leave `dropout` out: it is 0 then",
            )
        )
    if spec.updates:
        found.append(
            Fault(
                key="updates",
                problem="a private training draws its units by itself and counts rounds of them",
                remedy="give `epochs`",
            )
        )
    if spec.precision == "bf16":
        found.append(
            Fault(
                key="precision",
                problem="the gradient of each unit is clipped in float32",
                remedy="leave it out",
            )
        )
    if spec.general_share:
        found.append(
            Fault(
                key="general_share",
                problem="general conversations are no units of the data",
                remedy="leave it out; fewer epochs forget less",
            )
        )
    if spec.base_bits == 4:
        found.append(
            Fault(
                key="base_bits",
                problem="which merge ships is chosen on conversations that nothing protects",
                remedy="leave it out: the base keeps its 16 bits",
            )
        )
    return found


def refuse_faults(spec: TuneSpec) -> None:
    """Raise ConfigError for the first thing that is at odds with a training's privacy."""
    if spec.privacy is None:
        return
    if many():
        raise ConfigError(f"tune: privacy: {MANY}", hint=ONE)
    for fault in faults_of(spec):
        raise ConfigError(f"tune: {fault.key}: {fault.problem}", hint=fault.remedy)
