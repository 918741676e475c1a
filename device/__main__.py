"""The verbs of the board side, run as `python3 -sE RUNTIME VERB …`.

RUNTIME is a runtime folder or the agent file. Each verb is a function `(argv) -> exit code` that
prints JSON. It is imported when it is called, so that the agent (standard library only) carries the
verbs of the engine without being able to run them.
"""

import importlib
import json
import os
import sys
import traceback

from device.errors import DeviceError, of_the_disk
from device.manifest import ManifestError

VERBS = {
    "activate": "device.switching:activate",
    "ask": "device.ask:ask",
    "bench": "device.bench:bench",
    "calibrate": "device.calibration:calibrate",
    "check": "device.check:check",
    "facts": "device.facts:facts",
    "forget": "device.harvest:forget",
    "harvest": "device.harvest:harvest",
    "install": "device.installing:install",
    "leased": "device.leased:leased",
    "logs": "device.logs:logs",
    "recall": "device.recall:recall",
    "mender": "device.mender:mender",
    "receive": "device.receive:receive",
    "rollback": "device.switching:rollback",
    "score": "device.score:score",
    "search": "device.search:search",
    "scrub": "device.scrub:scrub",
    "selftest": "device.selftest:selftest",
    "serve": "device.serve.serving:serve",
    "status": "device.switching:status",
    "stop": "device.switching:stop",
    "supervise": "device.supervisor:supervise",
    "tensors": "device.patch:tensors",
    "tools": "device.serve.checking:tools",
    "trust": "device.signers:trust",
    "verify": "device.verify:verify",
}
"""Verb → its module and function."""


def main(argv: list[str]) -> int:
    """Run one verb and return its exit status; print any error as JSON and return 1.

    An error that is not one of ours is a bug: its code is `internal_error`, and its traceback goes
    to stderr, which is the log.
    """
    if not argv or argv[0] not in VERBS:
        _print_error(DeviceError("usage", f"verbs: {' '.join(VERBS)}"))
        return 2

    # A store is its owner's alone, whatever umask the login shell or systemd gives.
    os.umask(0o077)
    module, function = VERBS[argv[0]].split(":")

    try:
        return int(getattr(importlib.import_module(module), function)(argv[1:]))
    except DeviceError as error:
        _print_error(error)
    except OSError as error:
        _print_error(of_the_disk(error))
    except ManifestError as error:
        _print_error(DeviceError(error.code, str(error)))
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        traceback.print_exc()
        _print_error(_bug(argv[0], error))

    return 1


def _bug(verb: str, error: Exception) -> DeviceError:
    """Return the error of a verb that failed in a way that nobody expected."""
    return DeviceError(
        "internal_error",
        f"`{verb}` failed: {type(error).__name__}: {error}"[:500],
        hint="this is a bug of the board's program: report it with the traceback in its log",
    )


def _print_error(error: DeviceError) -> None:
    text = json.dumps(error.as_json(), ensure_ascii=False)
    print(text.encode("utf-8", "replace").decode(), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
