"""The table of prices: what rented accelerators cost and draw, with the day of each figure."""

import re
from datetime import date
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field, StringConstraints, model_validator

from toolchain import config
from toolchain.config import Frozen
from toolchain.errors import ConfigError

FILE = Path(__file__).parent / "prices.toml"
WORLD = "world"
Above = Annotated[float, Field(gt=0)]
Day = Annotated[str, StringConstraints(pattern=r"^\d{4}-\d{2}-\d{2}$")]


class Gpu(Frozen):
    """One kind of accelerator."""

    id: str
    tflops: Above
    watts: Above
    memory_gb: Above
    skypilot: str = ""
    """Name in SkyPilot's catalogs; empty: not there."""
    source: str
    checked: str = ""
    """What another source said of it, with the day; else that none could be read."""


class Price(Frozen):
    """What one provider asks for an hour of one accelerator."""

    provider: str
    infra: str = ""
    """Name in SkyPilot; empty where it rents nothing there."""
    region: str
    country: str
    gpu: str
    hourly: Above
    spot: Above | None = None
    currency: str
    date: Day
    source: str
    checked: str = ""


class Grid(Frozen):
    """How much carbon dioxide a country's electricity costs."""

    country: str
    grams: Above
    source: str
    checked: str = ""


class Exchange(Frozen):
    """Exchange rates of one day."""

    date: Day
    source: str
    checked: str = ""
    per_usd: dict[str, Above]


class Prices(Frozen):
    """The file as a whole."""

    exchange: Exchange
    gpu: tuple[Gpu, ...]
    price: tuple[Price, ...]
    grid: tuple[Grid, ...]

    @model_validator(mode="after")
    def _names_are_known(self) -> "Prices":
        gpus, countries = {row.id for row in self.gpu}, {row.country for row in self.grid}
        for row in self.price:
            if row.gpu not in gpus:
                raise ValueError(f"`{row.gpu}` of {row.provider} has no [[gpu]] row")
            if row.currency not in self.exchange.per_usd:
                raise ValueError(f"`{row.currency}` of {row.provider} has no exchange rate")
            if row.country not in countries:
                raise ValueError(f"`{row.country}` of {row.provider} has no [[grid]] row")
        if WORLD not in countries:
            raise ValueError(f"no [[grid]] row for `{WORLD}`")
        for day in (self.exchange.date, *(row.date for row in self.price)):
            date.fromisoformat(day)
        return self

    def gpu_of(self, price: Price) -> Gpu:
        """Return the accelerator of a price."""
        return next(row for row in self.gpu if row.id == price.gpu)

    def grams(self, country: str) -> float:
        """Return the grams of CO2 for a kilowatt-hour; those of the world for an unknown one."""
        known = {row.country: row.grams for row in self.grid}
        return known.get(country, known[WORLD])

    def converted(self, amount: float, source: str, target: str) -> float:
        """Return an amount of money in another currency."""
        rates = self.exchange.per_usd
        return amount / rates[source] * rates[target]


class Money(NamedTuple):
    """An amount in a currency."""

    amount: float
    currency: str


def load(file: Path | None = None) -> Prices:
    """Return the prices of a file, ours by default; raise ConfigError for a wrong key."""
    return config.load(file or FILE, Prices)


def read_budget(text: str, prices: Prices) -> Money:
    """Return a budget such as `30 CNY`; raise ConfigError for a text that is none."""
    found = re.fullmatch(r"\s*(\d{1,9}(?:\.\d{1,6})?)\s*([A-Za-z]{3})\s*", text)
    known = ", ".join(sorted(prices.exchange.per_usd))
    if not found:
        raise ConfigError(
            f"--budget: `{text}` is no amount of money", hint=f"such as `30 CNY`; known: {known}"
        )
    currency = found[2].upper()
    if currency not in prices.exchange.per_usd:
        raise ConfigError(f"--budget: no exchange rate for `{currency}`", hint=f"known: {known}")
    return Money(float(found[1]), currency)
