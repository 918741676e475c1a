"""A CUDA runtime for a Jetson or a PC, built on one and kept for all of the same CUDA and GPU.

Not yet proved on a Jetson or a GeForce. It is built on the board because CUDA's compiler for an
older JetPack exists nowhere else: source and cmake options go to the board, the libraries come back
and become a runtime like any other. An interrupted build is resumed.
"""

import hashlib
import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from device.manifest import RuntimeManifest
from toolchain import runtime
from toolchain.agent import OLDEST_PYTHON, cache
from toolchain.board.connection import Connection, Finished, lines
from toolchain.board.device import Device, check_python
from toolchain.errors import BoardError, ConfigError, FitError
from toolchain.profiles import PROFILES
from toolchain.progress import Reporter
from toolchain.runtime import source
from toolchain.runtime.assemble import assemble_llama
from toolchain.runtime.build import Built, describe
from toolchain.runtime.elf import glibc_floor
from toolchain.target import Target

JETPACKS = {
    "32.7": ("4.6", "10.2"),
    "35.": ("5.1", "11.4"),
    "36.3": ("6.0", "12.2"),
    "36.4.0": ("6.1", "12.6"),
    "36.4.3": ("6.2", "12.6"),
    "36.4": ("6.2.1", "12.6"),
    "36.5": ("6.2.2", "12.6"),
    "38.2": ("7.0", "13.0"),
    "38.4": ("7.1", "13.0"),
    "39.2": ("7.2", "13.2"),
}
# rbonghi/jetson_stats, jtop/core/jetson_variables.py
"""Beginning of an L4T release → its JetPack and CUDA."""
OLDEST_SM = 7.2
# Older GPUs have CUDA 10.2 as their last, and today's llama.cpp does not build with it.
"""Oldest compute capability of a GPU that a runtime can be built for: Xavier's."""
BUILD_S = 6 * 3600.0
_WORK = "~/.cache/demitasse/cuda"
_TOOLS = """
PATH=$PATH:/usr/local/cuda/bin
for tool in nvcc cmake c++; do echo "$tool=$(command -v $tool)"; done
nvcc --version
"""
_RECEIVE = """
import json, os, sys
root, stream = sys.argv[1], sys.stdin.buffer
for line in iter(stream.readline, b""):
    name, size = json.loads(line)
    path, content = os.path.join(root, name), stream.read(size)
    if len(content) != size:
        sys.exit("cut")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    if not os.path.isfile(path) or open(path, "rb").read() != content:
        with open(path + ".part", "wb") as part:
            part.write(content)
        os.replace(path + ".part", path)
"""
"""Program that writes the files that differ: a file that stays as it is will not be recompiled."""
_LIST = """
import glob, hashlib, json, os, sys
for path in sorted(glob.glob(os.path.join(sys.argv[1], "*.so"))):
    content = open(path, "rb").read()
    print(json.dumps([os.path.basename(path), len(content), hashlib.sha256(content).hexdigest()]))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolkit:
    """What a CUDA runtime is built with and for: the key of its cache."""

    jetpack: str
    """JetPack of a Jetson; empty for a PC."""
    cuda: str
    sm: str
    """Compute capability of the GPU, such as `8.7`."""
    nvcc: str
    """Path to the compiler on the board."""

    @property
    def name(self) -> str:
        """What it is built for, as a part of a folder's name."""
        jetpack = f"jetpack{self.jetpack}-" if self.jetpack else ""
        return f"{jetpack}cuda{self.cuda}-sm{self.sm}"


def jetpack_of(l4t: str) -> tuple[str, str]:
    """Return the JetPack and CUDA of an L4T release; raise ConfigError for an unknown release."""
    for beginning in sorted(JETPACKS, key=len, reverse=True):
        if f"{l4t}.".startswith(beginning if beginning.endswith(".") else f"{beginning}."):
            return JETPACKS[beginning]
    raise ConfigError(
        f"L4T {l4t}: no JetPack with it is known", hint=f"known are {', '.join(JETPACKS)}"
    )


def check_target(target: Target) -> str:
    """Return the compute capability of a target's GPU.

    Raises FitError, with the reason, if there are no CUDA runtimes for it.
    """
    sm = target.accelerator.cuda_sm if target.accelerator else ""
    if not sm:
        raise FitError(f"{target.id}: it has no GPU with CUDA")
    if float(sm) < OLDEST_SM:
        raise FitError(
            f"{target.id}: CPU only: its GPU has SM {sm}, a CUDA runtime needs {OLDEST_SM}",
            hint=target.notes[0],
        )

    return sm


def build_cuda(target: Target, device: Device, report: Reporter) -> Built:
    """Return the CUDA runtime of a kind of board, compiled on one unless it is in the cache."""
    check_target(target)
    began = time.monotonic()
    facts = device.facts()
    check_python(device.address, facts)
    folder = build_on(device.connection, facts, target, report)
    report.note(f"to use it: DEMITASSE_RUNTIME={folder} demitasse push BUNDLE {device.address}")
    return describe(target, folder, time.monotonic() - began, 0.0, [])


def build_on(
    connection: Connection, facts: Mapping[str, Any], target: Target, report: Reporter
) -> Path:
    """Return the CUDA runtime for boards like the one of a connection; an hour and more, once.

    `facts` are the board's. Raises BoardError for a board that is no Jetson, has no card or lacks a
    tool, FitError for a GPU that is too old.
    """
    sm = check_target(target)
    kit = _card_kit(connection, facts) if target.has_card else _toolkit(connection, facts, sm)
    llama = source.fetch(cache() / "cross" / "source", report)
    key = hashlib.sha256(
        json.dumps([kit.jetpack, kit.cuda, kit.sm, llama.sha256, target.profile]).encode()
    ).hexdigest()[:16]
    kept = cache() / "cuda" / f"{kit.name}-{key}"
    if not kept.is_dir():
        work = f"{_WORK}/{key}"
        report.note(
            f"{connection.address}: building for {kit.name}: once, "
            f"{'minutes and more' if target.has_card else 'an hour and more'}"
        )
        _send(connection, llama.path, f"{work}/source", report)
        _compile(connection, work, kit, target, int(facts["cores"] or 1), report)
        _fetch(connection, f"{work}/build/bin", kept, report)

    return _assemble(kept, kit, target, llama.version)


def _toolkit(connection: Connection, facts: Mapping[str, Any], sm: str) -> Toolkit:
    if not facts["l4t"]:
        raise BoardError(f"{connection.address}: not a Jetson: there is no L4T on it")

    jetpack, brings = jetpack_of(facts["l4t"])
    nvcc, found = _compiler(connection, brings.replace(".", "-"))
    return Toolkit(jetpack=jetpack, cuda=found or brings, sm=sm, nvcc=nvcc)


def _card_kit(connection: Connection, facts: Mapping[str, Any]) -> Toolkit:
    """Return what a PC's own card and compiler are."""
    card = next(iter(facts.get("gpus") or ()), None)
    if card is None:
        raise BoardError(
            f"{connection.address}: `nvidia-smi` shows no graphics card",
            hint="install NVIDIA's driver; `nvidia-smi` must list the card",
        )
    if float(card["sm"]) < OLDEST_SM:
        raise FitError(
            f"{connection.address}: `{card['name']}` has SM {card['sm']}, "
            f"a CUDA runtime needs {OLDEST_SM}"
        )
    nvcc, found = _compiler(connection, "13-0")
    if not found:
        raise BoardError(f"{connection.address}: `nvcc --version` tells no release")
    return Toolkit(jetpack="", cuda=found, sm=card["sm"], nvcc=nvcc)


def _compiler(connection: Connection, packaged_as: str) -> tuple[str, str]:
    """Return the path of nvcc and its release; raise BoardError for a tool that is not there.

    `packaged_as` is the release in the names of Ubuntu's packages.
    """
    said = connection.run(["sh", "-c", _TOOLS]).stdout.decode(errors="replace")
    tools = dict(re.findall(r"^(nvcc|cmake|c\+\+)=(.*)$", said, re.MULTILINE))
    if missing := [name for name, path in tools.items() if not path]:
        packages = (
            f"cuda-nvcc-{packaged_as} cuda-cudart-dev-{packaged_as} "
            f"libcublas-dev-{packaged_as} cmake g++"
        )
        listed = ", ".join(f"`{name}`" for name in missing)
        raise BoardError(
            f"{connection.address}: {listed} not found",
            hint=f"on the board: sudo apt-get install {packages}",
        )
    found = re.search(r"release (\d+\.\d+)", said)
    return tools["nvcc"], found[1] if found else ""


def _send(connection: Connection, tree: Path, there: str, report: Reporter) -> None:
    files = sorted(path for path in tree.rglob("*") if path.is_file())
    total = sum(file.stat().st_size for file in files)
    sent = 0
    channel = connection.open(["python3", "-sE", "-c", _RECEIVE, there])

    try:
        for file in files:
            content = file.read_bytes()
            channel.send(
                json.dumps([file.relative_to(tree).as_posix(), len(content)]).encode()
                + b"\n"
                + content
            )
            sent += len(content)
            report.step("source to the board", sent, total, "B")
        channel.close_input()
        _check(connection, "the source was not taken", channel.finish())
    finally:
        channel.close()


def settings(kit: Toolkit, profile: str) -> Iterator[str]:
    """Yield cmake's options: only the libraries, for one GPU and one processor.

    The libraries find each other in their own folder.
    """
    yield from (
        f"-DCMAKE_CUDA_COMPILER={kit.nvcc}",
        f"-DCMAKE_CUDA_ARCHITECTURES={kit.sm.replace('.', '')}",
    )
    yield from (
        "-DCMAKE_BUILD_TYPE=Release",
        "-DBUILD_SHARED_LIBS=ON",
        "-DGGML_CUDA=ON",
        "-DGGML_NATIVE=OFF",
        "-DGGML_OPENMP=OFF",
    )
    if profile.startswith("armv8"):
        yield f"-DGGML_CPU_ARM_ARCH={profile.replace('armv8.2', 'armv8.2-a')}"

    for part in ("COMMON", "TESTS", "TOOLS", "EXAMPLES", "SERVER", "APP"):
        yield f"-DLLAMA_BUILD_{part}=OFF"

    yield from ("-DCMAKE_PLATFORM_NO_VERSIONED_SONAME=ON", "-DCMAKE_BUILD_WITH_INSTALL_RPATH=ON")
    yield from (
        "-DCMAKE_INSTALL_RPATH=$ORIGIN;/usr/local/cuda/lib64",
        "-DCMAKE_SHARED_LINKER_FLAGS=-s",
    )


def _compile(
    connection: Connection, work: str, kit: Toolkit, target: Target, cores: int, report: Reporter
) -> None:
    configure = [
        "cmake",
        "-S",
        f"{work}/source",
        "-B",
        f"{work}/build",
        *settings(kit, target.profile),
    ]
    _check(connection, "cmake", connection.run(configure, timeout_s=600))
    channel = connection.open(
        ["cmake", "--build", f"{work}/build", "--target", "llama", "--parallel", str(cores)]
    )

    try:
        for line in lines(channel):
            if counted := re.match(rb"\[ *(\d+)%\]", line):
                report.step(
                    f"llama.cpp with CUDA on {connection.address}", int(counted[1]), 100, "%"
                )
        _check(connection, "the compiler", channel.finish())
    finally:
        channel.close()


def _fetch(connection: Connection, folder: str, kept: Path, report: Reporter) -> None:
    """Download the libraries, all or none."""
    listed = connection.run(["python3", "-sE", "-c", _LIST, folder])
    _check(connection, "its libraries cannot be read", listed)
    staged = kept.with_name(f".{kept.name}.part")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)

    for row in listed.stdout.splitlines():
        name, size, digest = json.loads(row)
        if not re.fullmatch(r"lib[a-z0-9_-]+\.so", name):
            raise BoardError(
                f"{connection.address}: built `{name[:80]}`, which is no library of llama.cpp"
            )
        channel = connection.open(["cat", f"{folder}/{name}"])
        try:
            content = channel.read(size)
        finally:
            channel.close()
        if hashlib.sha256(content).hexdigest() != digest:
            raise BoardError(
                f"{connection.address}: `{name}` did not arrive whole",
                hint="run the same command again",
            )
        (staged / name).write_bytes(content)
        report.note(f"{name}: {size:,} bytes")

    if not (staged / "libllama.so").is_file():
        raise BoardError(f"{connection.address}: the build made no libllama.so")

    staged.rename(kept)


def _assemble(kept: Path, kit: Toolkit, target: Target, version: str) -> Path:
    libraries = sorted(kept.glob("*.so"))
    processor = PROFILES[target.profile]
    described = RuntimeManifest(
        machine=processor.machine,
        features=tuple(sorted(processor.features)),
        glibc=glibc_floor(libraries),
        python=OLDEST_PYTHON,
        engines={"llama.cpp": version},
        files=(),
        profile=f"{target.profile}+cuda{kit.cuda}-sm{kit.sm}",
        extra={"cuda": {"jetpack": kit.jetpack, "cuda": kit.cuda, "sm": kit.sm}},
    )
    return assemble_llama(described, runtime.bindings(), libraries)


def _check(connection: Connection, what: str, done: Finished) -> None:
    if done.code != 0:
        said = (
            done.stderr.strip().splitlines()
            or done.stdout.decode(errors="replace").strip().splitlines()
            or ["it said nothing"]
        )
        fault = next((line for line in said if re.search("error", line, re.IGNORECASE)), said[-1])
        raise BoardError(f"{connection.address}: {what}: {fault.strip()[:300]}")
