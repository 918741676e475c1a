"""The board's own check of tools, in a child process: host and board share no code for it."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from toolchain.agent import device_folder
from toolchain.errors import ToolError

_PATIENCE_S = 120


def problems(lists: Sequence[Sequence[Mapping[str, Any]]]) -> list[str | None]:
    """Return for each list of tools why a board would refuse it; None where it would not.

    Raise ToolError if the check itself fails.
    """
    place = device_folder().parent
    done = subprocess.run(
        [sys.executable, "-B", "-m", "device", "tools"],
        cwd=place,
        env={**os.environ, "PYTHONPATH": str(place)},
        input=json.dumps(lists),
        capture_output=True,
        text=True,
        timeout=_PATIENCE_S,
        check=False,
    )
    try:
        return list(json.loads(done.stdout)["problems"])
    except (ValueError, KeyError, TypeError) as error:
        said = (done.stdout + done.stderr).strip()[-300:]
        raise ToolError(f"the board's check of tools failed: {said}") from error
