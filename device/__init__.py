"""The board side of demitasse: keeps releases, serves one of them, measures it; standard library first."""

__version__ = "0.4.0"
