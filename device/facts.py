"""Facts of this board: each one a command or a file, and a pure function of its text.

It stands alone on Python 3.6: the host feeds this very file to `python3 -` before anything else of
ours is on the board. A fact that a board does not tell is None. Sources of the formats: the boards'
real outputs in tests/device/fixtures.
"""

import hashlib
import json
import os
import platform
import pwd
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

Facts = Dict[str, Any]

FIRST_SANE_YEAR = 2024
"""Year before which a clock was never set: a Pi has no battery for one."""
THROTTLE_BITS = ("under_voltage", "arm_frequency_capped", "throttled", "soft_temperature_limit")
"""Names of the bits of `vcgencmd get_throttled` (Raspberry Pi documentation,
os/graphics-utilities)."""
# Bits 0 to 3 are about now, bits 16 to 19 about the time since boot.
_CPU_ZONES = (
    "cpu-thermal",
    "x86_pkg_temp",
    "soc-thermal",
    "package-thermal",
    "cpu-therm",
    "soc_thermal",
)
_MODEL_FILES = ("/sys/firmware/devicetree/base/model", "/proc/device-tree/model")
_PC_FILES = ("/sys/class/dmi/id/sys_vendor", "/sys/class/dmi/id/product_name")
_SIGNATURES = {"runtimes": "runtime.json.sig", "releases": "manifest.json.sig"}
_ID = "[0-9a-f]{64}"
"""Pattern of names in a store; other names are somebody else's and not reported."""
MEASURING = "measuring"
"""Name in `run` of the lock that a measurement holds, and of the note of who it is."""
_NOEXEC, _READ_ONLY = 8, 1
"""Flags of statvfs(3), which Python names on Linux only."""
_CPUFREQ = "/sys/devices/system/cpu/cpu0/cpufreq/"


def read(root: str) -> Facts:
    """Return all facts; `root` is where the store is or will be."""
    home = os.path.expanduser("~")
    root = os.path.abspath(os.path.expanduser(root))
    parts = (_processor(), _memory(), _software(), _storage(root), _condition(), _services())
    facts = {
        "model": model(_text),
        "home": _shown(home),
        "root": _shown(root),
        "user": user_name(),
        "measuring": measuring(root),
    }  # type: Facts

    for part in parts:
        facts.update(part)

    return facts


def stored(root: str) -> Facts:
    """Return what the store holds: blobs, runtimes, releases and agents.

    A blob's value is None if it is whole, else the bytes that have arrived. `signatures` has the
    sha256 of each release's and runtime's signature by its name, and `signers` the keys that may
    sign.
    """
    root = os.path.abspath(os.path.expanduser(root))
    blobs = {}  # type: Dict[str, Optional[int]]

    for name in _names(os.path.join(root, "blobs")):
        part = re.match(r"\.([0-9a-f]{64})\.part$", name)
        if part:
            blobs[part.group(1)] = _size(os.path.join(root, "blobs", name))
        elif re.match(_ID + "$", name):
            blobs[name] = None

    kept = {
        kind: [n for n in _names(os.path.join(root, kind)) if re.match(_ID + ending + "$", n)]
        for kind, ending in (("runtimes", ""), ("releases", ""), ("agents", r"\.pyz"))
    }
    kept["agents"] = [n for n in kept["agents"] if _is_whole(os.path.join(root, "agents", n), n)]
    names = [(kind, name) for kind in ("runtimes", "releases") for name in kept[kind]]
    signatures = {
        name: _digest(os.path.join(root, kind, name, _SIGNATURES[kind])) for kind, name in names
    }
    signers = [
        line.split()
        for line in _text(os.path.join(root, "allowed_signers")).splitlines()
        if line[:1] != "#"
    ]

    return dict(
        kept,
        blobs=blobs,
        signatures=signatures,
        signers=[words[3] for words in signers if len(words) > 3],
    )


def _is_whole(path: str, name: str) -> bool:
    """Say whether an agent's bytes match its name; one that has rotted is sent again."""
    return _digest(path, 16 << 20) == os.path.splitext(name)[0]


def _digest(path: str, limit: int = 1 << 20) -> Optional[str]:
    content = _content(path, limit)
    return None if content is None else hashlib.sha256(content).hexdigest()


def facts(argv: List[str]) -> int:
    """Print the facts as JSON: `facts [ROOT]`."""
    print(json.dumps(read(argv[0] if argv else "~"), ensure_ascii=False))
    return 0


def model(text: Callable[[str], str]) -> str:
    """Return the board's name: the device tree's, else the maker's and the product's."""
    for path in _MODEL_FILES:
        if text(path):
            return text(path).strip("\0\n ")
    return " ".join(name.strip() for name in map(text, _PC_FILES) if name.strip()) or "unknown"


def cpuinfo(text: str) -> Facts:
    """Return the processor's parts (`0xd08`, each once) and features from /proc/cpuinfo."""
    fields = [
        (key.strip(), value.strip())
        for key, _, value in (line.partition(":") for line in text.splitlines())
    ]
    features = next((value.split() for key, value in fields if key in ("Features", "flags")), [])
    parts = [value for key, value in fields if key == "CPU part"]
    names = [value for key, value in fields if key == "model name"]
    return {
        "cpu_parts": list(dict.fromkeys(parts)),
        "cpu_name": names[0] if names else "",
        "cpu_features": features,
    }


def is_virtual(features: List[str], tree: str) -> bool:
    """Say whether this is a virtual machine, from the processor's features and the device tree."""
    # x86 has a bit for it (Linux shows it as `hypervisor`); QEMU's arm64 machine has a name.
    return "hypervisor" in features or "dummy-virt" in tree


def meminfo(text: str) -> Facts:
    """Return total and available memory and swap in MB (2**20 bytes) from /proc/meminfo."""
    kb = {
        key: int(value.split()[0])
        for key, _, value in (line.partition(":") for line in text.splitlines())
        if value.split() and value.split()[0].isdigit()
    }
    names = {
        "memory_total_mb": "MemTotal",
        "memory_available_mb": "MemAvailable",
        "swap_total_mb": "SwapTotal",
    }
    return {name: kb[field] // 1024 if field in kb else None for name, field in names.items()}


def l4t_release(text: str) -> Optional[str]:
    """Return `36.4.7` from /etc/nv_tegra_release; REVISION lacks the major number."""
    found = re.match(r"# R(\d+) \(release\), REVISION: ([\d.]+)", text)
    return "{}.{}".format(*found.groups()) if found else None


def l4t_package(text: str) -> Optional[str]:
    """Return `36.4.7` from the version of the package nvidia-l4t-core.

    It is used where /etc/nv_tegra_release is not installed.
    """
    found = re.match(r"(\d+\.\d+(\.\d+)?)", text)
    return found.group(1) if found else None


def power_mode(text: str) -> Optional[str]:
    """Return `MAXN_SUPER` from `nvpmodel -q`: the power mode that caps a Jetson's clocks.

    Warnings may come before it.
    """
    found = re.search(r"^NV Power Mode: (\S+)", text, re.MULTILINE)
    return found.group(1) if found else None


def throttled(text: str) -> Optional[Facts]:
    """Return the flags of `vcgencmd get_throttled`: raw value, names for now and since boot."""
    found = re.match(r"throttled=(0x[0-9a-fA-F]+)", text)
    if not found:
        return None

    value = int(found.group(1), 16)
    now = [name for bit, name in enumerate(THROTTLE_BITS) if value >> bit & 1]
    since = [name for bit, name in enumerate(THROTTLE_BITS) if value >> bit + 16 & 1]

    return {"raw": found.group(1), "now": now, "since_boot": since}


def os_release(text: str) -> Facts:
    """Return id, version and long name from /etc/os-release."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line)
    fields = {key: value.strip().strip('"') for key, _, value in pairs}
    names = {"os_id": "ID", "os_version": "VERSION_ID", "os_name": "PRETTY_NAME"}
    return {name: fields.get(field) for name, field in names.items()}


def glibc(text: str) -> Optional[str]:
    """Return `2.36` from `getconf GNU_LIBC_VERSION` or the first line of `ldd --version`."""
    lines = text.splitlines()
    found = (
        re.search(r"(\d+\.\d+)\s*$", lines[0]) or re.search(r"GLIBC (\d+\.\d+)", lines[0])
        if lines
        else None
    )
    return found.group(1) if found else None


def gpu_rows(text: str) -> List[Facts]:
    """Return name, memory in MB, compute capability and driver of each card of `nvidia-smi`.

    A Jetson's has no memory of its own: there `[N/A]` is None.
    """
    rows = []  # type: List[Facts]
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        # A name may have a comma in it; the figures come last.
        if len(cells) < 5 or not re.match(r"\d+\.\d+$", cells[-2]):
            continue
        rows.append(
            {
                "name": ", ".join(cells[:-4]),
                "memory_total_mb": _number(cells[-4]),
                "memory_free_mb": _number(cells[-3]),
                "sm": cells[-2],
                "driver": cells[-1],
            }
        )

    return rows


def gpus() -> List[Facts]:
    """Return the NVIDIA cards of this machine; none where there is no driver for one."""
    fields = "name,memory.total,memory.free,compute_cap,driver_version"
    return gpu_rows(output("nvidia-smi", "--query-gpu=" + fields, "--format=csv,noheader,nounits"))


def temperature(zones: List[Tuple[str, str]]) -> Optional[float]:
    """Return the processor's °C from (type, millidegrees) of the thermal zones.

    None if there is no zone.

    Zones are found by their type, never by their number.
    """
    readings = {
        kind.strip().lower(): int(value) for kind, value in zones if re.match(r"-?\d+\s*$", value)
    }
    chosen = next((name for name in _CPU_ZONES if name in readings), next(iter(readings), None))
    return readings[chosen] / 1000 if chosen else None


def _processor() -> Facts:
    affinity = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    bits = 64 if sys.maxsize > 2**32 else 32
    known = {
        "machine": platform.machine(),
        "userland_bits": bits,
        "cores": os.cpu_count(),
        "cpus_allowed": len(affinity) or None,
    }
    found = cpuinfo(_text("/proc/cpuinfo"))
    tree = _text("/sys/firmware/devicetree/base/compatible")
    return dict(found, virtual=is_virtual(found["cpu_features"], tree), **known)


def _memory() -> Facts:
    known = {"page_size_bytes": os.sysconf("SC_PAGE_SIZE"), "gpus": gpus()}
    return dict(meminfo(_text("/proc/meminfo")), **known)


def _software() -> Facts:
    libc = glibc(output("getconf", "GNU_LIBC_VERSION")) or glibc(platform.libc_ver()[1])
    python = ".".join(str(part) for part in sys.version_info[:3])
    abi = sysconfig.get_config_var("SOABI") or ""
    named = os_release(_text("/etc/os-release"))
    l4t = l4t_release(_text("/etc/nv_tegra_release"))
    l4t = l4t or l4t_package(
        output("dpkg-query", "--show", "--showformat", "${Version}", "nvidia-l4t-core")
    )

    return dict(
        named,
        glibc=libc,
        python=python,
        python_abi=abi,
        fts5=has_fts5(),
        kernel=platform.release(),
        l4t=l4t,
    )


def has_fts5() -> bool:
    """Say whether this Python's SQLite finds words, which bundles with documents need."""
    try:
        import sqlite3
    except ImportError:
        return False

    db = sqlite3.connect(":memory:")
    try:
        db.execute("CREATE VIRTUAL TABLE words USING fts5(text)")
    except sqlite3.Error:
        return False
    finally:
        db.close()

    return True


def _storage(root: str) -> Facts:
    there = root
    while not os.path.exists(there):
        there = os.path.dirname(there)

    usage = shutil.disk_usage(there)
    flags = os.statvfs(there).f_flag
    may_write = os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK)

    return {
        "disk_total_bytes": usage.total,
        "disk_free_bytes": usage.free,
        "disk_device": _device(there),
        "disk_folder": _shown(there),
        "disk_noexec": bool(flags & _NOEXEC),
        "disk_writable": may_write and not flags & _READ_ONLY,
    }


def _device(path: str) -> Optional[str]:
    number = os.stat(path).st_dev
    link = "/sys/dev/block/{}:{}".format(os.major(number), os.minor(number))
    return os.path.basename(os.readlink(link)) if os.path.islink(link) else None


def processor_temperature() -> Optional[float]:
    """Return the processor's °C now; None if there is no sensor."""
    zones = "/sys/class/thermal/"
    found = [zones + name for name in _names(zones) if name.startswith("thermal_zone")]
    return temperature([(_text(zone + "/type"), _text(zone + "/temp")) for zone in found])


def _condition() -> Facts:
    return {
        "load": _load(),
        "temperature_c": processor_temperature(),
        "clock_khz": _number(_text(_CPUFREQ + "scaling_cur_freq")),
        "clock_max_khz": _number(_text(_CPUFREQ + "scaling_max_freq")),
        "governor": _text(_CPUFREQ + "scaling_governor").strip() or None,
        "throttled": throttled(output("vcgencmd", "get_throttled")),
        "power_mode": power_mode(output("nvpmodel", "-q")),
        "time": int(time.time()),
        "time_sane": time.gmtime().tm_year >= FIRST_SANE_YEAR,
    }


def _services() -> Facts:
    state = output("systemctl", "--user", "is-system-running").strip()
    linger = os.path.exists("/var/lib/systemd/linger/" + user_name())
    return {"systemd_user": state in ("running", "degraded", "starting"), "linger": linger}


def measuring(root: str) -> Optional[Facts]:
    """Return verb, process and seconds of the measurement that goes on; None if there is none."""
    try:
        note = json.loads(_text(os.path.join(root, "run", MEASURING + ".json")))
        verb, pid, started = str(note["verb"])[:20], int(note["pid"]), int(note["started"])
        seconds = max(0, int(uptime_s() - float(note["began"])))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None

    # The number in a note may be another process's by now, which then began at another moment.
    if started != started_ticks(pid):
        return None
    return {"verb": verb, "pid": pid, "seconds": seconds}


def process(pid: int) -> Facts:
    """Return verb, number and age in seconds of a process that runs a verb of ours."""
    words = (_content("/proc/{}/cmdline".format(pid)) or b"").split(b"\0")
    # `python3 -sE AGENT VERB …`
    place = words.index(b"-sE") + 2 if b"-sE" in words else len(words)
    verb = words[place].decode("ascii", "replace") if place < len(words) else "another program"
    seconds = uptime_s() - (started_ticks(pid) or 0) / os.sysconf("SC_CLK_TCK")
    return {"verb": verb[:20], "pid": pid, "seconds": max(0, int(seconds))}


def started_ticks(pid: int) -> Optional[int]:
    """Return when a process began, in the kernel's ticks since the board was switched on.

    None if it is gone.
    """
    # The name in brackets may hold anything, brackets and spaces too (proc_pid_stat(5)).
    fields = _text("/proc/{}/stat".format(pid)).rpartition(")")[2].split()
    return int(fields[19]) if len(fields) > 19 and fields[0] not in ("Z", "X") else None


def uptime_s() -> float:
    """Return the seconds since this board was switched on."""
    return float((_text("/proc/uptime").split() or ["0"])[0])


def user_name() -> str:
    """Return the name of the user who runs this.

    The kernel and the user database say it, since the environment may name another.
    """
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _load() -> List[float]:
    try:
        return list(os.getloadavg())
    except OSError:
        return []


def _size(path: str) -> int:
    """Return the bytes of a file; 0 for one that is gone."""
    try:
        return os.path.getsize(path)
    except OSError:
        return 0


def _shown(path: str) -> str:
    """Return a path as text; bytes that are not UTF-8 are replaced."""
    return os.fsencode(path).decode("utf-8", "replace")


def _text(path: str) -> str:
    return (_content(path) or b"").decode("utf-8", "replace")


def _content(path: str, limit: int = 1 << 20) -> Optional[bytes]:
    """Return the beginning of a file; None if it is missing, or a pipe or a device."""
    # Those might never end.
    try:
        if not os.path.isfile(path):
            return None
        with open(path, "rb") as stream:
            return stream.read(limit)
    except OSError:
        return None


def output(*command: str) -> str:
    """Return what a command prints; empty if it is missing or does not end within ten seconds."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("utf-8", "replace")


def _names(folder: str) -> List[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _number(text: str) -> Optional[int]:
    return int(text) if text.strip().isdigit() else None


if __name__ == "__main__":
    place = sys.argv[1]
    sys.stdout.write(json.dumps({"facts": read(place), "stored": stored(place)}) + "\n")
