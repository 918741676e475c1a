"""Differential privacy of a training: its accounting, and its randomness."""
