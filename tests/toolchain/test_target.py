"""Targets: every shipped file, boards recognised by their reports, and what fits in memory."""

import tomllib
from pathlib import Path

import pytest

from toolchain import target
from toolchain.errors import ConfigError
from toolchain.target import MB, OS_RESERVE_MB, VISIBLE_SHARE, Needs, fit

IDS = [
    "jetson-agx-orin",
    "jetson-nano",
    "jetson-orin-nano",
    "jetson-orin-nano-super",
    "orange-pi-5",
    "rpi-4b-1gb",
    "rpi-4b-2gb",
    "rpi-4b-4gb",
    "rpi-4b-8gb",
    "rpi-5-16gb",
    "rpi-5-2gb",
    "rpi-5-4gb",
    "rpi-5-8gb",
    "rpi-zero-2w",
    "x86-64",
    "x86-64-cuda",
]
SMALL = """
name = "a board"
machine = "aarch64"
profile = "armv8.0"
engines = ["llama.cpp"]
[sources]
machine = "seen"
profile = "seen"
engines = "seen"
"""


def write(folder: Path, text: str, name: str = "rpi-x.toml") -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def refusal(path: Path) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        target.load(path)
    return caught.value


def needs(weights_mb: int, kv_mb: int = 64, context: int = 1024) -> Needs:
    return Needs(
        context=context,
        weights_bytes=weights_mb * MB,
        kv_bytes=kv_mb * MB,
        compute_bytes=50 * MB,
        runtime_bytes=60 * MB,
    )


def test_the_shipped_targets_are_these():
    assert sorted(each.id for each in target.all_targets()) == sorted(IDS)


@pytest.mark.parametrize("target_id", IDS)
def test_a_shipped_target_is_found_by_its_id_and_each_fact_has_its_own_source_or_its_tables(
    target_id,
):
    found = target.find(target_id)
    assert found.id == target_id
    for name, _ in found.facts():
        parts = name.split(".")
        assert any(found.sources.get(".".join(parts[:end])) for end in range(1, len(parts) + 1)), (
            name
        )


@pytest.mark.parametrize("target_id", IDS)
def test_no_figure_of_a_shipped_target_rests_on_memory_alone(target_id):
    assert not [
        text
        for text in target.find(target_id).sources.values()
        if "[memory]" in text or not text.strip()
    ]


@pytest.mark.parametrize("target_id", IDS)
def test_a_runtime_profile_asks_for_no_more_than_the_processor_reports(target_id):
    found = target.find(target_id)
    reported = {"dotprod": "asimddp" in found.features, "fp16": "asimdhp" in found.features}
    assert {part for part, there in reported.items() if there} == set(found.profile.split("+")[1:])


@pytest.mark.parametrize("target_id", [each for each in IDS if not each.startswith("x86-64")])
def test_linux_shows_less_memory_than_was_sold_and_no_inherited_figure_of_another_size(target_id):
    memory = target.find(target_id).memory
    assert memory.total_mb * 0.8 < target.find(target_id).memory_mb <= memory.total_mb


def test_the_share_assumed_for_an_unmeasured_board_is_the_lowest_of_the_measured_ones():
    memories = [
        each.memory
        for each in target.all_targets()
        if each.memory.usable_mb and each.memory.total_mb >= 1024
    ]
    lowest = min(memory.usable_mb / memory.total_mb for memory in memories)
    assert lowest - 0.01 < VISIBLE_SHARE <= lowest


def test_the_reserve_of_an_unknown_board_covers_the_headless_ones():
    headless = [each for each in target.all_targets() if each.family in ("raspberry-pi", "rk3588")]
    assert len(headless) == 10
    assert all(each.memory.os_reserve_mb < OS_RESERVE_MB for each in headless)


def test_a_target_that_extends_another_keeps_its_facts_and_changes_its_own():
    base, small = target.find("rpi-4b-8gb"), target.find("rpi-4b-1gb")
    assert (small.clusters, small.features, small.memory.kind) == (
        base.clusters,
        base.features,
        base.memory.kind,
    )
    assert (small.memory.total_mb, small.memory.usable_mb, base.memory.total_mb) == (
        1024,
        909,
        8192,
    )


@pytest.mark.parametrize(
    "path",
    [path for path in target.folder().glob("*.toml") if path.read_text().startswith("extends")],
    ids=lambda path: path.stem,
)
def test_a_fact_that_differs_from_the_extended_file_brings_its_own_source(path):
    tables = tomllib.loads(path.read_text(encoding="utf-8"))
    sources = tables.pop("sources")
    changed = {f"memory.{key}" for key in tables.pop("memory", {})} | set(tables) - {
        "extends",
        "name",
        "notes",
    }
    assert sorted(changed) == sorted(sources)


def test_a_target_that_extends_a_missing_one_is_refused(tmp_path):
    write(tmp_path, SMALL, "rpi-4b.toml")
    problem = refusal(write(tmp_path, 'extends = "rpi-4"\n' + SMALL))
    assert problem.message == f"{tmp_path / 'rpi-4.toml'}: no such file"
    assert problem.hint == "did you mean `rpi-4b`?"


def test_an_unknown_id_is_refused_with_the_nearest_one():
    with pytest.raises(ConfigError) as caught:
        target.find("rpi-5-8g")
    assert (caught.value.message, caught.value.hint) == (
        "unknown target `rpi-5-8g`",
        "did you mean `rpi-5-8gb`?",
    )


def test_an_id_never_reaches_outside_the_folder():
    with pytest.raises(ConfigError, match="unknown target"):
        target.find("../recipes/starter")


REFUSED = [
    (
        "[memory]\ntotl_mb = 1",
        "rpi-x.toml: memory: unknown key `totl_mb`",
        "did you mean `total_mb`?",
    ),
    ("[memry]\ntotal_mb = 1", "rpi-x.toml: unknown key `memry`", "did you mean `memory`?"),
    ("[[clusters]]\ncore = 'A53'", "rpi-x.toml: clusters.0: missing key `count`", ""),
    ("[memory]\ntotal_mb = 1", "rpi-x.toml: `memory.total_mb` has no source in `[sources]`", ""),
    ("[[os]]\nname = 'Debian'", "rpi-x.toml: `os.0.name` has no source in `[sources]`", ""),
]


@pytest.mark.parametrize(("added", "message", "hint"), REFUSED)
def test_a_wrong_target_file_is_refused_with_the_key(tmp_path, added, message, hint):
    problem = refusal(write(tmp_path, SMALL + added))
    assert (problem.message, problem.hint) == (message, hint)


def test_a_source_of_no_fact_is_refused(tmp_path):
    problem = refusal(write(tmp_path, SMALL + 'soc = "seen"'))
    assert problem.message == "rpi-x.toml: `[sources]` names `soc`, which is no fact of this file"


def test_an_unknown_profile_is_refused_with_those_that_exist(tmp_path):
    problem = refusal(write(tmp_path, SMALL.replace("armv8.0", "armv7")))
    assert problem.message.startswith(
        "rpi-x.toml:4: profile: input should be 'armv8.0', 'armv8.2+fp16'"
    )


REPORTED = [
    ("Raspberry Pi Zero 2 W Rev 1.0", "aarch64", 416, "rpi-zero-2w"),
    ("Raspberry Pi Zero 2 Rev 1.0", "aarch64", 427, "rpi-zero-2w"),
    ("Raspberry Pi 4 Model B Rev 1.1\0", "aarch64", 909, "rpi-4b-1gb"),
    ("Raspberry Pi 4 Model B Rev 1.2", "aarch64", 1945, "rpi-4b-2gb"),
    ("Raspberry Pi 4 Model B Rev 1.1", "aarch64", 3794, "rpi-4b-4gb"),
    ("Raspberry Pi 4 Model B Rev 1.5\0", "aarch64", 7819, "rpi-4b-8gb"),
    ("Raspberry Pi 5 Model B Rev 1.0", "aarch64", 8048, "rpi-5-8gb"),
    ("Raspberry Pi 5 Model B Rev 1.1", "aarch64", 16220, "rpi-5-16gb"),
    ("NVIDIA Jetson Nano Developer Kit", "aarch64", 3964, "jetson-nano"),
    ("NVIDIA Orin Nano Developer Kit", "aarch64", 7372, "jetson-orin-nano"),
    (
        "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit",
        "aarch64",
        7620,
        "jetson-orin-nano",
    ),
    (
        "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        "aarch64",
        7620,
        "jetson-orin-nano-super",
    ),
    ("NVIDIA Jetson AGX Orin Developer Kit", "aarch64", 62817, "jetson-agx-orin"),
    ("NVIDIA Orin Jetson-Small Developer Kit", "aarch64", 29696, "jetson-agx-orin"),
    ("Orange Pi 5", "aarch64", 7987, "orange-pi-5"),
    ("Xunlong Orange Pi 5\0", "aarch64", 15987, "orange-pi-5"),
    ("", "x86_64", 23000, "x86-64"),
    ("EQ", "x86_64", 7800, "x86-64"),
]


@pytest.mark.parametrize(("model", "machine", "memory_mb", "target_id"), REPORTED)
def test_a_board_is_recognised_by_what_it_reports(model, machine, memory_mb, target_id):
    assert target.recognise(model, machine, memory_mb).id == target_id


@pytest.mark.parametrize(
    ("model", "machine"),
    [
        ("Orange Pi 5 Plus", "aarch64"),
        ("Raspberry Pi 3 Model B Plus Rev 1.3", "aarch64"),
        ("Raspberry Pi 4 Model B Rev 1.4", "armv7l"),
        ("", "aarch64"),
    ],
)
def test_another_board_is_not_taken_for_a_similar_one(model, machine):
    assert target.recognise(model, machine, 3794) is None


FITS = [
    ("rpi-zero-2w", needs(105, 23, 1024), 287, 2560),
    ("rpi-4b-2gb", needs(1000), 1718, 8704),
    ("rpi-5-8gb", needs(4096, 512, 4096), 7475, 25600),
]


@pytest.mark.parametrize(("target_id", "wanted", "available_mb", "largest_context"), FITS)
def test_a_model_fits_beside_the_operating_system(target_id, wanted, available_mb, largest_context):
    result = fit(wanted, target.find(target_id))
    assert (result.ok, result.reasons, result.hint) == (True, (), "")
    assert (result.available_mb, result.largest_context) == (available_mb, largest_context)


DOES_NOT_FIT = [
    (
        "rpi-4b-1gb",
        needs(1000),
        "the weights alone take 1000 MB, 755 MB are left beside the operating system",
        "use a smaller model or scheme",
    ),
    (
        "rpi-4b-1gb",
        needs(600, 128, 4096),
        "it takes 867 MB (weights 600, KV cache 128, compute buffers 50, runtime 60, "
        "conversations 29), "
        "755 MB are left beside the operating system",
        "a context of 512 tokens fits",
    ),
    (
        "rpi-zero-2w",
        needs(200),
        "it takes 387 MB (weights 200, KV cache 64, compute buffers 50, runtime 60, "
        "conversations 13), "
        "287 MB are left beside the operating system",
        "use a smaller model or scheme",
    ),
]


@pytest.mark.parametrize(("target_id", "wanted", "reason", "hint"), DOES_NOT_FIT)
def test_a_model_that_does_not_fit_is_refused_with_the_number_that_failed(
    target_id, wanted, reason, hint
):
    result = fit(wanted, target.find(target_id))
    assert (result.ok, result.reasons, result.hint) == (False, (reason,), hint)


def test_the_largest_context_is_one_that_fits_and_the_next_step_does_not():
    board = target.find("rpi-4b-1gb")
    largest = fit(needs(600, 128, 4096), board).largest_context
    assert fit(needs(600, 128 * largest // 4096, largest), board).ok
    assert not fit(needs(600, -(-128 * (largest + 256) // 4096), largest + 256), board).ok


def test_what_the_board_reports_goes_before_what_its_kind_has():
    board = target.find("rpi-4b-8gb")
    assert fit(needs(3000), board).ok
    assert not fit(needs(3000), board, memory_mb=1872).ok
    assert fit(needs(3000), board, memory_mb=1872).available_mb == 1872 - 154


def test_a_bare_amount_of_memory_is_judged_with_the_general_reserve():
    assert fit(needs(282), 1000).ok
    assert fit(needs(283), 1000).needed_mb == 1000 - OS_RESERVE_MB + 1
    assert not fit(needs(283), 1000).ok


def test_parts_are_rounded_up_and_a_context_that_costs_nothing_has_no_limit():
    one = Needs(context=512, weights_bytes=MB + 1, kv_bytes=0, compute_bytes=1, runtime_bytes=0)
    result = fit(one, 1000)
    assert result.parts_mb == {
        "weights": 2,
        "KV cache": 0,
        "compute buffers": 1,
        "runtime": 0,
        "conversations": 32,
    }
    assert result.largest_context is None


def test_a_target_whose_memory_only_the_machine_knows_is_not_guessed():
    with pytest.raises(ConfigError) as caught:
        fit(needs(100), target.find("x86-64"))
    assert caught.value.message == "x86-64: how much memory it has is known to the machine only"
    assert fit(needs(100), target.find("x86-64"), memory_mb=23000).ok


def test_an_unmeasured_board_is_given_the_lowest_measured_share_of_its_memory():
    board = target.find("rpi-5-2gb")
    assert board.memory.usable_mb is None
    assert board.memory_mb == int(2048 * VISIBLE_SHARE)


def test_an_id_without_its_memory_is_the_smallest_of_them() -> None:
    assert target.find("rpi-4b").id == "rpi-4b-1gb"
    assert target.find("rpi-5").id == "rpi-5-2gb"
    assert target.find("jetson-orin-nano").id == "jetson-orin-nano"
