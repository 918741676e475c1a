"""Boards: machines at an address, all reached through one narrow seam (connection.Connection)."""
