"""The host side of demitasse: from a fine-tuned checkpoint to a healthy service on a board."""

__version__ = "0.9.0"
