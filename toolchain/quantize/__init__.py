"""Checkpoint → model file: one format, one module."""
