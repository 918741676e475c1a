"""Facts are pure functions of what real boards print; the outputs in fixtures/ are real."""

import ast
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from device import facts

FIXTURES = Path(__file__).parent / "fixtures"
SOURCE = Path(facts.__file__)


def fixture(name: str) -> str:
    return (FIXTURES / f"{name}.txt").read_text()


@pytest.mark.parametrize(
    ("name", "parts", "feature", "lacks"),
    [
        ("cpuinfo-pi-4b", ["0xd08"], "crc32", "asimddp"),
        ("cpuinfo-pi-5", ["0xd0b"], "asimddp", "i8mm"),
        ("cpuinfo-orin", ["0xd42"], "asimddp", "i8mm"),
        ("cpuinfo-xavier-nx", ["0x004"], "asimdhp", "asimddp"),
        ("cpuinfo-zero-2w-32bit", ["0xd03"], "neon", "asimd"),
    ],
)
def test_the_processor_is_read_from_cpuinfo(
    name: str, parts: list[str], feature: str, lacks: str
) -> None:
    seen = facts.cpuinfo(fixture(name))
    assert seen["cpu_parts"] == parts
    assert feature in seen["cpu_features"]
    assert lacks not in seen["cpu_features"]


def test_two_kinds_of_cores_are_both_named_once_each() -> None:
    text = "".join(
        f"processor : {core}\nCPU part : {part}\n\n"
        for core, part in enumerate(["0xd05"] * 4 + ["0xd0b"] * 4)
    )
    assert facts.cpuinfo(text)["cpu_parts"] == ["0xd05", "0xd0b"]


@pytest.mark.parametrize(
    ("name", "total", "available", "swap"),
    [("meminfo-zero-2w", 416, 228, 2047), ("meminfo-orin-nano", 7619, 6099, 3809)],
)
def test_memory_is_read_from_meminfo(name: str, total: int, available: int, swap: int) -> None:
    assert facts.meminfo(fixture(name)) == {
        "memory_total_mb": total,
        "memory_available_mb": available,
        "swap_total_mb": swap,
    }


def test_l4t_releases_are_whole_with_their_major_number() -> None:
    seen = [facts.l4t_release(line) for line in fixture("nv_tegra_release").splitlines()]
    assert seen == ["32.7.1", "32.7.2", "35.3.1", "35.4.1", "36.4.4", "36.4.7", "39.2.0"]


def test_a_board_without_l4t_has_none() -> None:
    assert facts.l4t_release("") is None
    assert facts.l4t_package("") is None


@pytest.mark.parametrize(
    ("version", "release"),
    [("36.4.7-20250918154033", "36.4.7"), ("32.7.1-20220219090344", "32.7.1")],
)
def test_l4t_is_read_from_its_package_where_the_file_is_missing(version: str, release: str) -> None:
    assert facts.l4t_package(version) == release


@pytest.mark.parametrize(
    ("name", "mode"),
    [("nvpmodel-nano-jetpack-4", "MAXN"), ("nvpmodel-orin-nano-jetpack-6", "MAXN_SUPER")],
)
def test_a_jetson_says_its_power_mode(name: str, mode: str) -> None:
    assert facts.power_mode(fixture(name)) == mode
    assert facts.power_mode("") is None


@pytest.mark.parametrize(
    ("text", "now", "since"),
    [
        ("throttled=0x0\n", [], []),
        ("throttled=0x50000\n", [], ["under_voltage", "throttled"]),
        ("throttled=0x50005\n", ["under_voltage", "throttled"], ["under_voltage", "throttled"]),
    ],
)
def test_throttling_flags_have_names(text: str, now: list[str], since: list[str]) -> None:
    assert facts.throttled(text) == {
        "raw": text.strip().partition("=")[2],
        "now": now,
        "since_boot": since,
    }


def test_a_board_without_vcgencmd_has_no_flags() -> None:
    assert facts.throttled('error=1 error_msg="Command not registered"') is None


@pytest.mark.parametrize(
    ("name", "version", "long_name"),
    [
        ("os-release-pi-os-12", "12", "Debian GNU/Linux 12 (bookworm)"),
        ("os-release-pi-os-13", "13", "Debian GNU/Linux 13 (trixie)"),
    ],
)
def test_the_system_is_read_from_os_release(name: str, version: str, long_name: str) -> None:
    assert facts.os_release(fixture(name)) == {
        "os_id": "debian",
        "os_version": version,
        "os_name": long_name,
    }


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("glibc 2.36\n", "2.36"),
        ("ldd (Debian GLIBC 2.36-9+rpt2+deb12u4) 2.36\n", "2.36"),
        ("ldd (Debian GLIBC 2.41-12+rpt1) 2.41\n", "2.41"),
        ("ldd (GNU libc) 2.17\n", "2.17"),
        ("GNU C Library (Ubuntu GLIBC 2.39-0ubuntu8.6)\n", "2.39"),
        ("musl libc (aarch64)\n", None),
        ("", None),
    ],
)
def test_glibc_is_read_however_it_is_printed(text: str, version: str | None) -> None:
    assert facts.glibc(text) == version


@pytest.mark.parametrize(
    ("zones", "degrees"),
    [
        ([("cpu-thermal\n", "59300\n")], 59.3),
        ([("AO-therm", "46000"), ("CPU-therm", "40500"), ("PMIC-Die", "100000")], 40.5),
        ([("gpu-thermal", "45437"), ("cpu-thermal", "45875"), ("tj-thermal", "")], 45.875),
        ([("soc-thermal", "36100")], 36.1),
        ([], None),
    ],
)
def test_the_temperature_is_the_processors_zone_by_type(
    zones: list[tuple[str, str]], degrees: float | None
) -> None:
    assert facts.temperature(zones) == degrees


def test_the_device_trees_model_goes_before_the_makers_name() -> None:
    files = {
        "/sys/firmware/devicetree/base/model": "Raspberry Pi 4 Model B Rev 1.4\0",
        "/sys/class/dmi/id/sys_vendor": "QEMU\n",
    }
    assert facts.model(lambda path: files.get(path, "")) == "Raspberry Pi 4 Model B Rev 1.4"


def test_a_pc_is_named_by_its_maker_and_product() -> None:
    files = {"/sys/class/dmi/id/sys_vendor": "AZW\n", "/sys/class/dmi/id/product_name": "EQ\n"}
    assert facts.model(lambda path: files.get(path, "")) == "AZW EQ"


def test_the_file_parses_as_python_3_6_for_boards_that_must_be_told_so() -> None:
    ast.parse(SOURCE.read_text(), feature_version=(3, 6))


def test_fed_to_a_bare_interpreter_it_prints_facts_and_an_empty_store(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-sE", "-", str(tmp_path / "not" / "there")],
        input=SOURCE.read_bytes(),
        capture_output=True,
        check=True,
    )
    printed = json.loads(done.stdout)
    assert printed["facts"]["root"] == str(tmp_path / "not" / "there")
    assert printed["facts"]["disk_free_bytes"] > 0
    assert printed["facts"]["disk_folder"] == str(tmp_path)
    assert printed["facts"]["disk_writable"] is True
    assert printed["stored"] == {
        "agents": [],
        "blobs": {},
        "releases": [],
        "runtimes": [],
        "signatures": {},
        "signers": [],
    }


def test_the_store_is_listed_with_the_bytes_of_what_is_half_there(tmp_path: Path) -> None:
    plain, signed, piped = "d" * 64, "e" * 64, "f" * 64
    for name in ("blobs", "releases"):
        (tmp_path / name).mkdir()
    (tmp_path / "blobs" / ("a" * 64)).write_bytes(b"whole")
    (tmp_path / "blobs" / f".{'b' * 64}.part").write_bytes(b"half")
    (tmp_path / "releases" / ".c.part").mkdir()
    (tmp_path / "releases" / "somebody's").mkdir()
    (tmp_path / "blobs" / "notes.txt").write_bytes(b"somebody's")
    for release in (plain, signed, piped):
        (tmp_path / "releases" / release).mkdir()
    (tmp_path / "releases" / signed / "manifest.json.sig").write_bytes(b"signed")
    os.mkfifo(tmp_path / "releases" / piped / "manifest.json.sig")
    (tmp_path / "allowed_signers").write_text(
        '# who\n* namespaces="demitasse-bundle" ssh-ed25519 AAAA me\n\nhalf a line\n'
    )
    digest = hashlib.sha256(b"signed").hexdigest()
    signatures = {plain: None, signed: digest, piped: None}
    stored = facts.stored(str(tmp_path))
    assert {name: sorted(stored[name]) for name in ("agents", "releases", "runtimes")} == {
        "agents": [],
        "releases": [plain, signed, piped],
        "runtimes": [],
    }
    assert (stored["blobs"], stored["signatures"]) == ({"a" * 64: None, "b" * 64: 4}, signatures)
    assert stored["signers"] == ["AAAA"]


@pytest.mark.parametrize(
    ("flags", "noexec", "writable"), [(0, False, True), (8, True, True), (1, False, False)]
)
def test_how_the_file_system_of_the_store_is_mounted_is_told(
    flags: int, noexec: bool, writable: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the flags of statvfs(3): 8 is noexec, 1 is read-only."""
    seen = list(os.statvfs(tmp_path))
    seen[8] = flags
    monkeypatch.setattr(os, "statvfs", lambda path: os.statvfs_result(seen))
    told = facts.read(str(tmp_path))
    assert (told["disk_noexec"], told["disk_writable"]) == (noexec, writable)


def test_a_folder_where_nothing_can_be_kept_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert facts.read(str(tmp_path / "file" / "store"))["disk_writable"] is False


def test_a_user_without_a_name_is_told_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4_000_000)
    assert facts.user_name() == "4000000"


@pytest.mark.parametrize(
    ("features", "tree", "said"),
    [
        (["fpu", "hypervisor"], "", True),
        (["fpu", "sse2"], "", False),
        (["asimd"], "linux,dummy-virt\0", True),
        (["asimd"], "raspberrypi,5-model-b\0brcm,bcm2712\0", False),
    ],
)
def test_a_virtual_machine_says_so(features: list[str], tree: str, said: bool) -> None:
    assert facts.is_virtual(features, tree) == said
