"""Verbs of the board side. Run as `python3 -sE RUNTIME VERB …`, where RUNTIME is a runtime folder or the agent file.

Each verb is a function `(argv) -> exit code` that prints JSON; it is imported when it is asked for, so that the agent
(standard library only) carries the verbs of the engine without being able to run them.
"""

import importlib
import json
import os
import sys

from device.errors import DeviceError, of_the_disk
from device.manifest import ManifestError

VERBS = {
    "activate": "device.activation:activate",
    "ask": "device.ask:ask",
    "bench": "device.bench:bench",
    "calibrate": "device.calibration:calibrate",
    "check": "device.check:check",
    "facts": "device.facts:facts",
    "logs": "device.logs:logs",
    "receive": "device.receive:receive",
    "rollback": "device.activation:rollback",
    "score": "device.score:score",
    "search": "device.search:search",
    "scrub": "device.scrub:scrub",
    "selftest": "device.selftest:selftest",
    "serve": "device.serve.serving:serve",
    "status": "device.activation:status",
    "stop": "device.activation:stop",
    "supervise": "device.supervisor:supervise",
    "tensors": "device.patch:tensors",
    "trust": "device.trust:trust",
    "verify": "device.store:verify",
}
"""verb → where its function is."""


def main(argv: list[str]) -> int:
    """Run one verb; print errors as JSON and return 1."""
    if not argv or argv[0] not in VERBS:
        print(
            json.dumps(
                {"error": {"code": "usage", "message": f"verbs: {' '.join(VERBS)}", "hint": ""}}
            )
        )
        return 2
    # A store is its owner's alone, whatever umask the login shell or systemd gives.
    os.umask(0o077)
    module, function = VERBS[argv[0]].split(":")
    try:
        return int(getattr(importlib.import_module(module), function)(argv[1:]))
    except DeviceError as error:
        print(json.dumps(error.as_json(), ensure_ascii=False), flush=True)
    except OSError as error:
        print(json.dumps(of_the_disk(error).as_json(), ensure_ascii=False), flush=True)
    except ManifestError as error:
        print(
            json.dumps(DeviceError(error.code, str(error)).as_json(), ensure_ascii=False),
            flush=True,
        )
    except KeyboardInterrupt:
        return 130
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
