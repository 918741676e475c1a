"""`verify`: checks every byte of what is current; damaged files are forgotten and sent again."""

import argparse
import json
from pathlib import Path

from device.errors import DeviceError
from device.store import RELEASES, RUNTIMES, Store


def verify(argv: list[str]) -> int:
    """Check every byte of the current release and its runtime: `verify --root ROOT`."""
    parser = argparse.ArgumentParser(prog="verify")
    parser.add_argument("--root", type=Path, required=True)
    store = Store(parser.parse_args(argv).root)
    current = store.current()
    if not current:
        raise DeviceError("nothing_deployed", "there is no release on this board", "push one")

    store.verify(RELEASES, current.release)
    store.verify(RUNTIMES, current.runtime)
    print(json.dumps({"verified": current.release}))

    return 0
