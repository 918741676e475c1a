"""`verify`: checks signatures and every byte of what is current.

Damaged files are forgotten and sent again. The host asks for it before it runs a verb of the
runtime.
"""

import argparse
import json
from pathlib import Path

from device import trust
from device.errors import DeviceError
from device.store import RELEASES, RUNTIMES, Store


def verify(argv: list[str]) -> int:
    """Check the current release and its runtime, or the runtime alone: `verify --root ROOT`."""
    parser = argparse.ArgumentParser(prog="verify")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--runtime-only", action="store_true", help="do not read the release")
    options = parser.parse_args(argv)
    store = Store(options.root)
    current = store.current()
    if not current:
        raise DeviceError("nothing_deployed", "there is no release on this board", "push one")

    kinds = (RUNTIMES,) if options.runtime_only else (RELEASES, RUNTIMES)
    for kind in kinds:
        trust.check_part(store, current, kind, store.verify)

    print(json.dumps({"verified": current.runtime if options.runtime_only else current.release}))

    return 0
