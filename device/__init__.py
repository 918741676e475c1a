"""The board side of demitasse: it keeps releases, serves one and measures it.

Mostly the standard library.
"""

__version__ = "0.9.0"
