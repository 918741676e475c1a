"""Verbs that a board runs for one computer alone, and how it notices that this one is gone.

Host and board read the same names and numbers here (device/leased.py, toolchain/board/device.py).
"""

IN_RUNTIME = ("bench", "check")
"""Verbs of the runtime; `leased` runs them and ends them."""
IN_AGENT = ("calibrate",)
"""Verbs that change the store: what they measure ends, and then they put back what was."""
VERBS = (*IN_RUNTIME, *IN_AGENT)
BEAT_S = 5.0
"""Seconds between two signs of life of the host."""
SILENT_S = 60.0
"""Seconds without one after which the host counts as gone."""
WAIT_S = 75.0
"""Seconds to wait for another measurement: longer than one can outlive its host."""
