"""What would not run on a board is refused before the first byte, with the number."""

import dataclasses
import json
from pathlib import Path

import pytest

from device import facts as board_facts
from device.manifest import read_manifest, read_runtime
from tests.fakes.board import FakeConnection
from tests.fakes.bundles import finished, make_bundle, make_runtime
from tests.fakes.datasets import Recorder
from tests.toolchain.push.conftest import push_unsigned
from toolchain import delivery
from toolchain.artifacts import Bundle
from toolchain.board.device import Device
from toolchain.errors import (
    ArtifactError,
    BoardError,
    FitError,
    ToolchainError,
)
from toolchain.progress import Silent
from toolchain.push import note_other_target, refuse_unfit

PI_4 = {
    "model": "Raspberry Pi 4 Model B Rev 1.5",
    "machine": "aarch64",
    "userland_bits": 64,
    "cpu_features": ["fp", "asimd", "crc32"],
    "glibc": "2.36",
    "python": "3.11.2",
    "memory_total_mb": 1849,
    "disk_free_bytes": 20 << 30,
    "disk_folder": "/home/pi",
    "disk_noexec": False,
    "disk_writable": True,
}


def test_an_old_python_is_named_before_anything_is_sent(runtime: Path, tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (tmp_path / "home").mkdir()
    seen = {
        "facts": {**board_facts.read(str(tmp_path)), "python": "3.9.2"},
        "stored": board_facts.stored(str(tmp_path)),
    }
    (programs / "seen.json").write_text(json.dumps(seen))
    (programs / "python3").write_text(f"#!/bin/sh\ncat >/dev/null\ncat {programs}/seen.json\n")
    (programs / "python3").chmod(0o755)
    old = FakeConnection(tmp_path / "home", address="pi@old", path=f"{programs}:/usr/bin:/bin")
    with pytest.raises(BoardError) as caught:
        push_unsigned(make_bundle(tmp_path / "b"), runtime, Device(old), Silent())
    assert caught.value.message == "pi@old: Python 3.9.2 is too old, the oldest that works is 3.10"
    assert caught.value.hint.startswith("put a newer image on the board: Raspberry Pi OS 12")
    assert not (tmp_path / "home" / "store").exists()


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"userland_bits": 32}, "pi@odd: the board's system is 32-bit"),
        ({"disk_noexec": True}, "is mounted noexec: a runtime's libraries cannot be loaded there"),
        ({"disk_free_bytes": 1}, "pi@odd: disk full: "),
    ],
)
def test_what_the_facts_refuse_is_refused_before_a_runtime_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, facts: dict[str, object], message: str
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (tmp_path / "home").mkdir()
    seen = {
        "facts": {**board_facts.read(str(tmp_path)), **facts},
        "stored": board_facts.stored(str(tmp_path)),
    }
    (programs / "seen.json").write_text(json.dumps(seen))
    (programs / "python3").write_text(f"#!/bin/sh\ncat >/dev/null\ncat {programs}/seen.json\n")
    (programs / "python3").chmod(0o755)
    odd = FakeConnection(tmp_path / "home", address="pi@odd", path=f"{programs}:/usr/bin:/bin")
    built: list[object] = []
    monkeypatch.setattr(delivery.runtime, "for_board", lambda *words: built.append(words))
    with pytest.raises(ToolchainError) as caught:
        delivery.push_to(
            finished(make_bundle(tmp_path / "b")), Device(odd), Silent(), delivery.Terms(port=8080)
        )
    assert message in caught.value.message
    assert built == []


def test_a_board_without_python_is_told_how_to_get_it(runtime: Path, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "empty").mkdir()
    bare = FakeConnection(tmp_path / "home", address="pi@bare", path=f"{tmp_path}/empty")
    bare.environment["PATH"] = f"{tmp_path}/empty"
    with pytest.raises(BoardError) as caught:
        push_unsigned(make_bundle(tmp_path / "b"), runtime, Device(bare), Silent())
    assert (caught.value.message, caught.value.hint) == (
        "pi@bare: python3 is not installed",
        "sudo apt-get install python3",
    )


@pytest.mark.parametrize(
    ("facts", "runtime_fields", "needs", "kind", "message"),
    [
        (
            {"machine": "armv7l"},
            {},
            {},
            FitError,
            "pi: no runtime is built for `armv7l`",
        ),
        ({"userland_bits": 32}, {}, {}, FitError, "pi: the board's system is 32-bit"),
        (
            {"disk_noexec": True},
            {},
            {},
            BoardError,
            "pi: `/home/pi` is mounted noexec: a runtime's libraries cannot be loaded there",
        ),
        (
            {"disk_writable": False},
            {},
            {},
            BoardError,
            "pi: `/home/pi` cannot be written, the store is to be there",
        ),
        (
            {},
            {"features": ("asimd", "asimddp")},
            {},
            FitError,
            "pi: the runtime needs `asimddp`, which the board's processor lacks",
        ),
        (
            {"glibc": "2.31"},
            {"glibc": "2.34"},
            {},
            FitError,
            "pi: the runtime needs glibc 2.34, the board has 2.31",
        ),
        ({"glibc": None}, {}, {}, FitError, "pi: the runtime needs glibc 2.17, the board has none"),
        (
            {"page_size_bytes": 65536},
            {},
            {},
            FitError,
            "pi: the runtime is for pages of at most 16384 bytes, the board has 65536",
        ),
        ({"l4t": "35.4.1"}, {}, {}, FitError, "pi: the Jetson has L4T 35.4.1, JetPack 6 has 36"),
        (
            {"python": "3.9.2"},
            {},
            {},
            BoardError,
            "pi: Python 3.9.2 is too old, the oldest that works is 3.10",
        ),
        (
            {"disk_free_bytes": 40 << 20},
            {},
            {},
            BoardError,
            "pi: disk full: 42 MB are needed, 40 MB are free",
        ),
    ],
)
def test_what_would_not_run_is_refused_with_the_number(
    tmp_path: Path,
    facts: dict[str, object],
    runtime_fields: dict[str, object],
    needs: dict[str, int],
    kind: type[ToolchainError],
    message: str,
) -> None:
    manifest = read_manifest(make_bundle(tmp_path / "b", needs=needs).path)
    described = dataclasses.replace(
        read_runtime(make_runtime(tmp_path / "r", machine="aarch64")), **runtime_fields
    )  # type: ignore[arg-type]
    with pytest.raises(kind) as caught:
        refuse_unfit("pi", manifest, described, {**PI_4, **facts}, 10 << 20)
    assert caught.value.message == message


def test_the_room_for_feedback_is_counted_before_anything_is_sent(tmp_path: Path) -> None:
    manifest = read_manifest(make_bundle(tmp_path / "b").path)
    described = read_runtime(make_runtime(tmp_path / "r", machine="aarch64"))
    facts = {**PI_4, "disk_free_bytes": 50 << 20}
    refuse_unfit("pi", manifest, described, facts, 10 << 20)
    keeping = dataclasses.replace(manifest, feedback_mb=16)
    with pytest.raises(BoardError, match="disk full: 58 MB are needed, 50 MB are free"):
        refuse_unfit("pi", keeping, described, facts, 10 << 20)


def test_a_model_that_does_not_fit_in_memory_is_refused_with_its_parts(tmp_path: Path) -> None:
    needs = {"weights_bytes": 1500 << 20, "kv_bytes": 200 << 20, "compute_bytes": 100 << 20}
    manifest = read_manifest(make_bundle(tmp_path / "b", needs=needs).path)
    described = read_runtime(make_runtime(tmp_path / "r", machine="aarch64"))
    with pytest.raises(
        FitError, match="pi: tiny does not fit in memory: it takes 1900 MB"
    ) as caught:
        refuse_unfit("pi", manifest, described, PI_4, 0)
    assert caught.value.exit_code == 5
    refuse_unfit(
        "pi",
        manifest,
        described,
        {**PI_4, "model": "Raspberry Pi 4 Model B Rev 1.4", "memory_total_mb": 7819},
        0,
    )


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda bundle: (bundle / "model.bin").write_bytes(b"other"),
            "b: `model.bin` has 5 bytes, the manifest says 60",
        ),
        (lambda bundle: (bundle / "model.bin").unlink(), "b: `model.bin` is missing"),
        (lambda bundle: (bundle / "manifest.json").unlink(), "b: manifest.json cannot be read"),
    ],
)
def test_a_spoilt_bundle_is_refused_on_the_host(
    board: FakeConnection, runtime: Path, tmp_path: Path, spoil, message: str
) -> None:  # type: ignore[no-untyped-def]
    bundle: Bundle = make_bundle(tmp_path / "b")
    spoil(bundle.path)
    with pytest.raises(ArtifactError) as caught:
        push_unsigned(bundle, runtime, Device(board), Silent())
    assert (caught.value.message, caught.value.hint) == (message, "package it again")
    assert board.commands == []


OTHER = (
    "pi: the bundle was packaged for `x86-64`, the board is `rpi-4b-2gb`: "
    "`demitasse package RECIPE --target rpi-4b-2gb` makes one for it"
)


def test_a_bundle_for_another_board_is_said_to_be_so(tmp_path: Path) -> None:
    manifest = read_manifest(make_bundle(tmp_path / "b").path)
    report = Recorder()
    note_other_target("pi", manifest, PI_4, report)
    assert report.notes == [f"{OTHER}; it fits here, with its context of 64"]
    own = dataclasses.replace(manifest, target="rpi-4b-2gb")
    unknown = PI_4 | {"model": "A Board of Nobody's"}
    for known, facts in ((own, PI_4), (manifest, unknown)):
        note_other_target("pi", known, facts, report)
    assert len(report.notes) == 1


def test_a_bundle_for_another_board_that_does_not_fit_comes_with_the_command(
    tmp_path: Path,
) -> None:
    needs = {"weights_bytes": 1 << 30, "kv_bytes": 1 << 30, "compute_bytes": 1 << 20}
    manifest = read_manifest(make_bundle(tmp_path / "b", needs=needs).path)
    described = read_runtime(make_runtime(tmp_path / "r", machine="aarch64"))
    with pytest.raises(FitError) as caught:
        refuse_unfit("pi", manifest, described, PI_4, 0)
    assert caught.value.message.startswith("pi: tiny does not fit in memory: it takes")
    assert caught.value.hint.endswith(OTHER.removeprefix("pi: "))
