"""Many boards at once: a release in waves, their state, one report, and the way back.

A fleet is a loop over what one board does (delivery.py); it knows nothing of SSH. What a board runs
is asked of the board, never believed from the journal.
"""
