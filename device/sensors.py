"""The board while it works: clock, temperature, throttling, power, pressure, processor time.

A value without a sensor is None, which a report shows as "not measured". Formats: the boards' real
outputs, in tests/device/test_sensors.py. Standard library only.
"""

import os
import re
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

from device.facts import output, processor_temperature, throttled

EVERY_S = 1.0
PMIC_SLOPE, PMIC_BASE_W = 1.1451, 0.5879
"""Watts at a Pi 5's plug from the sum of its rails, as (factor, offset)."""
# Source: pitop.hongjunwu.com/guide/power. USB loads are not included.
INPUT_RAILS = ("VDD_IN", "POM_5V_IN")
"""Names of the rail that feeds a whole Jetson."""
BUSY_SHARE, STOLEN_SHARE = 0.25, 0.02
"""Shares of processor time above which other programs, or the host machine, affected the figures.
"""

Sample = dict[str, Any]
Text = Callable[[str], str]


class Watch:
    """Samples the board once a second inside a `with` block."""

    def __init__(self, every_s: float = EVERY_S) -> None:
        self.samples: list[Sample] = []
        self._every_s = every_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sensors", daemon=True)
        self._began, self._before = time.monotonic(), _counters()

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def at(self) -> float:
        """Return the seconds since the watch began."""
        return time.monotonic() - self._began

    def over(self) -> Sample:
        """Return pressure, faults and the shares of processor time since the watch began."""
        return over(self._before, _counters(), self.at())

    def _run(self) -> None:
        while True:
            self.samples.append({"at_s": round(self.at(), 2), **now()})
            if self._ended.wait(self._every_s):
                return


def now() -> Sample:
    """Return temperature, clock, throttling flags and power now.

    None for what the board does not tell.
    """
    found = throttled(output("vcgencmd", "get_throttled"))
    power = pmic_power(output("vcgencmd", "pmic_read_adc"))
    return {
        "temperature_c": processor_temperature(),
        "clock_mhz": clock(
            sorted(Path("/sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq")),
            _text,
        ),
        "throttled": found["now"] if found else None,
        "power_w": rail_power(sorted(Path("/sys/class/hwmon").glob("hwmon*")), _text)
        if power is None
        else power,
    }


def clock(files: "list[Path]", text: Text) -> Optional[int]:
    """Return the fastest core's clock in MHz."""
    readings = [
        int(value) for value in (text(str(file)).strip() for file in files) if value.isdigit()
    ]
    return max(readings) // 1000 if readings else None


def pmic_power(text: str) -> Optional[float]:
    """Return a Pi 5's power in watts from `vcgencmd pmic_read_adc`; None on other boards."""
    found = re.findall(r"(\S+)_([AV]) (?:current|volt)\(\d+\)=([\d.]+)[AV]", text)
    amperes, volts = (
        {name: float(value) for name, kind, value in found if kind == unit} for unit in "AV"
    )
    rails = sum(amperes[name] * volts[name] for name in amperes.keys() & volts.keys())
    return round(rails * PMIC_SLOPE + PMIC_BASE_W, 2) if rails else None


def rail_power(monitors: "list[Path]", text: Text) -> Optional[float]:
    """Return the watts of the rail that feeds a Jetson.

    Its INA3221 gives millivolts and milliamperes.
    """
    for monitor in monitors:
        for channel in "1234":
            if text(f"{monitor}/in{channel}_label").strip() in INPUT_RAILS:
                volts = text(f"{monitor}/in{channel}_input").strip()
                amperes = text(f"{monitor}/curr{channel}_input").strip()
                return (
                    round(int(volts) * int(amperes) / 1e6, 2)
                    if volts.isdigit() and amperes.isdigit()
                    else None
                )
    return None


def over(before: Sample, after: Sample, seconds: float) -> Sample:
    """Return the difference of two readings, and why the run was not alone, if so."""
    ticks = {name: after[name] - before[name] for name in ("busy", "stolen", "own", "all")}
    whole = max(ticks["all"], 1)
    others = max(0.0, (ticks["busy"] - ticks["own"]) / whole)
    stolen = ticks["stolen"] / whole
    pressure = {
        name: _stall(before[name], after[name], seconds) for name in ("cpu", "memory", "io")
    }
    contended = (
        [f"other programs took {others:.0%} of the processors"] if others > BUSY_SHARE else []
    )
    contended += [f"the machine below took {stolen:.0%}"] if stolen > STOLEN_SHARE else []

    return {
        "major_faults": after["major_faults"] - before["major_faults"],
        "pressure": pressure,
        "others_share": round(others, 3),
        "stolen_share": round(stolen, 3),
        "contended": contended,
    }


def memory() -> Sample:
    """Return this process's peak resident bytes, and its share of what is resident now (PSS)."""
    peak = re.search(r"^VmHWM:\s+(\d+) kB", _text("/proc/self/status"), re.MULTILINE)
    share = re.search(r"^Pss:\s+(\d+) kB", _text("/proc/self/smaps_rollup"), re.MULTILINE)
    return {
        "peak_rss_bytes": int(peak.group(1)) * 1024 if peak else None,
        "pss_bytes": int(share.group(1)) * 1024 if share else None,
    }


def _stall(before: Optional[int], after: Optional[int], seconds: float) -> Optional[float]:
    """Return the share of time in which some thread waited (pressure stall information)."""
    if before is None or after is None:
        return None

    stalled_s = (after - before) / 1e6
    return round(stalled_s / max(seconds, 1e-9), 4)


def _counters() -> Sample:
    first_line = _text("/proc/stat").partition("\n")[0]
    fields = [int(value) for value in first_line.split()[1:]] or [0] * 8
    used = os.times()
    own = (used.user + used.system + used.children_user + used.children_system) * os.sysconf(
        "SC_CLK_TCK"
    )
    idle = fields[3] + fields[4]
    stolen = fields[7]
    pressure = {
        name: _stalled_us(_text(f"/proc/pressure/{name}")) for name in ("cpu", "memory", "io")
    }
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt

    return {
        "busy": sum(fields[:8]) - idle - stolen,
        "stolen": stolen,
        "all": sum(fields[:8]),
        "own": own,
        "major_faults": faults,
        **pressure,
    }


def _stalled_us(text: str) -> Optional[int]:
    found = re.search(r"^some .*total=(\d+)", text, re.MULTILINE)
    return int(found.group(1)) if found else None


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
