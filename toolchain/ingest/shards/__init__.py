"""Data cut into shards: each is read by one function, wherever it runs, and leaves one folder.

What comes of a shard depends on the shard alone. Whatever depends on others (duplicates, the split)
is decided later from the shards in their order, so that it is the same by whom they were read.
"""
