"""From a recipe to its bundles: one row a stage, one row a format, the walk through them.

Knows the stages and how their artifacts flow; knows nothing of boards and terminals.
"""
