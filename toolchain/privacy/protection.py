"""What a private training costs, before it begins: the noise for an ε, or the ε of a noise.

The number of units counts as known to everybody; who they are and what they say is protected.
"""

import math
from dataclasses import dataclass

from toolchain.errors import ConfigError
from toolchain.figures import PrivacyFigures
from toolchain.privacy.accounting import SMALLEST_DELTA, Steps, epsilon_of, noise_for
from toolchain.recipe import PrivacySpec

DELTA_SHARE = 0.1
"""Share of 1 ÷ units that δ is where a recipe names none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Protection:
    """A mechanism, and what it claims."""

    epsilon: float
    delta: float
    unit: str
    units: int
    clip: float
    noise_multiplier: float
    expected_batch: int
    steps: int

    @property
    def sampling_rate(self) -> float:
        """Probability with which a step reads a unit."""
        return self.expected_batch / self.units

    @property
    def words(self) -> str:
        """The claim as people read it."""
        return (
            f"ε ≤ {self.epsilon:.2f} at δ = {self.delta:.1e}, unit {self.unit}, "
            f"clip {self.clip:g}, noise {self.noise_multiplier:g}"
        )

    def figures(self, canaries: int = 0) -> PrivacyFigures:
        """Return what the record says of it, and of canaries that were planted."""
        return PrivacyFigures(
            epsilon=self.epsilon,
            delta=self.delta,
            unit=self.unit,
            units=self.units,
            clip=self.clip,
            noise_multiplier=self.noise_multiplier,
            sampling_rate=self.sampling_rate,
            steps=self.steps,
            canaries=canaries or None,
        )


def protection(spec: PrivacySpec, units: int, epochs: int, where: str) -> Protection:
    """Return the mechanism for so many units; raise ConfigError, which begins with `where`."""
    if spec.expected_batch > units:
        raise ConfigError(
            f"{where}: expected_batch: `{spec.expected_batch}` of {units} units cannot be drawn",
            hint=f"at most {units}; a tenth of them or less costs less privacy",
        )
    delta = spec.delta or DELTA_SHARE / units
    if delta * units >= 1 or delta < SMALLEST_DELTA:
        raise ConfigError(
            f"{where}: delta: `{delta:g}` for {units} units",
            hint=f"below {1 / units:.1e}, one unit's share, or one could be given away whole, and "
            f"at least {SMALLEST_DELTA:g}",
        )
    steps = epochs * -(-units // spec.expected_batch)
    noise, epsilon = _both(spec, units, steps, delta, where)
    return Protection(
        epsilon=epsilon,
        delta=delta,
        unit=spec.unit,
        units=units,
        clip=spec.clip,
        noise_multiplier=noise,
        expected_batch=spec.expected_batch,
        steps=steps,
    )


def _both(
    spec: PrivacySpec, units: int, count: int, delta: float, where: str
) -> tuple[float, float]:
    """Return the noise multiplier and the ε."""

    def steps(noise: float) -> Steps:
        rate = spec.expected_batch / units
        return Steps(sampling_rate=rate, noise_multiplier=noise, count=count)

    noise = spec.noise_multiplier
    if noise is None:
        assert spec.epsilon
        try:
            noise = noise_for(spec.epsilon, steps(0.0), delta)
        except ValueError as error:
            raise ConfigError(f"{where}: epsilon: {error}") from error
    epsilon = epsilon_of(steps(noise), delta)
    if not math.isfinite(epsilon):
        raise ConfigError(
            f"{where}: noise_multiplier: `{noise:g}` protects nobody",
            hint="it is 0.5 to 2 in most trainings",
        )
    return noise, epsilon
