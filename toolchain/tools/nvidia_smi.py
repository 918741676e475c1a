"""nvidia-smi on this computer: how much memory its first card has. Boards tell theirs as facts."""

import subprocess

_QUERY = ("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits")


def card_memory_mb() -> int | None:
    """Return the memory of the first card in MB; None where there is none, or it does not say."""
    try:
        done = subprocess.run(_QUERY, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    first = next(iter(done.stdout.splitlines()), "").strip()
    return int(first) if done.returncode == 0 and first.isdigit() else None
