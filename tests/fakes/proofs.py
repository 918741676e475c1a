"""Proofs of boards that do not exist, and what a board says before it becomes one."""

from typing import Any

from toolchain.artifacts import Report
from toolchain.board.kind import REAL, Kind
from toolchain.proving import Seen, proof_of
from toolchain.proving.record import Proof

PRIVATE = "grete-in-room-7"
"""Text that stands in every field of a board that is nobody else's business."""
FACTS: dict[str, Any] = {
    "model": "Raspberry Pi 5 Model B Rev 1.0",
    "machine": "aarch64",
    "virtual": False,
    "cpu_name": "",
    "cpu_parts": ["0xd0b"],
    "cpu_features": ["asimd", "asimddp", "fp"],
    "cores": 4,
    "memory_total_mb": 4045,
    "page_size_bytes": 16384,
    "gpus": [],
    "os_id": "debian",
    "os_version": "12",
    "os_name": "Debian GNU/Linux 12 (bookworm)",
    "kernel": "6.6.51+rpt-rpi-2712",
    "glibc": "2.36",
    "python": "3.11.2",
    "l4t": None,
    "clock_max_khz": 2400000,
    "power_mode": None,
    **dict.fromkeys(("home", "root", "user", "disk_device", "disk_folder"), PRIVATE),
}
STATUS: dict[str, Any] = {
    "root": PRIVATE,
    "release": {
        "release": "a" * 64,
        "runtime": "b" * 64,
        "port": 8080,
        "name": PRIVATE,
        "version": PRIVATE,
        "target": "rpi-5-4gb",
        "signed_by": "SHA256:" + "x" * 43,
        "host_names": [PRIVATE],
    },
}
ROW: dict[str, Any] = {
    "engine": "llama.cpp",
    "engine_version": "0.5",
    "model_filename": f"{PRIVATE}.gguf",
    "model_type": "llama 1B Q4_K - Medium",
    "model_size": 700_000_000,
    "model_n_params": 1_200_000_000,
    "n_threads": 4,
    "median_ts": 12.5,
    "avg_ts": 12.4333,
    "stddev_ts": 0.1,
    "samples_ts": [12.3, 12.5, 12.5],
}


def a_proof(*, kind: Kind = REAL, **facts: Any) -> Proof:
    """Return the proof of a Raspberry Pi 5, or of a board with other facts."""
    cold = {"temperature_c": 45.0, "clock_mhz": 2400, "throttled": [], "load_average": 0.1}
    warm = {**cold, "temperature_c": 71.5}
    hot = {**cold, "temperature_c": 82.5, "clock_mhz": 1500, "throttled": ["throttled"]}
    measured = Report(
        board=PRIVATE,
        emulated=False,
        rows=[{**ROW, "n_prompt": 512, "n_gen": 0}, {**ROW, "n_prompt": 0, "n_gen": 128}],
        measured={
            "load_s": 1.5,
            "before": cold,
            "after": warm,
            "samples": [{**cold, "at_s": 0.0}, {**hot, "at_s": 1.0}],
            "contended": [f"{PRIVATE} took half a core"],
            "sustained": [[10.0, 12.5], [20.0, 9.5]],
        },
    )
    seen = Seen(facts={**FACTS, **facts}, status=STATUS, checked={"goldens": 8, "exact": True})
    return proof_of(seen, measured, kind)
