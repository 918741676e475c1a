"""Types under a budget: never over it, never worse than a named scheme that fits; bad budgets."""

from pathlib import Path
from typing import Any

import pytest

from device.manifest.gguf import read_header
from tests.fakes.models import tiny_llama
from tests.toolchain.quantize.conftest import (
    LABEL,
    Recorder,
    checkpoint,
    llama_cpp_logits,
    one_thread,
)
from tests.toolchain.quantize.test_in_format import LESSONS, SHAPE, TRIALS
from toolchain.artifacts import ModelFile
from toolchain.errors import ArtifactError, ConfigError
from toolchain.quantize.contents import read_contents
from toolchain.quantize.gguf import Additions, quantize
from toolchain.quantize.learned import budget
from toolchain.recipe import QuantizeSpec

ADDITIONS = Additions(trials=LESSONS + TRIALS)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model") / "llama", tied=True, **SHAPE)


def made(
    folder: Path, scheme: str, out: Path, report: Any = None, additions: Additions = ADDITIONS
) -> ModelFile:
    with one_thread():
        return quantize(
            checkpoint(folder),
            QuantizeSpec(scheme=scheme),
            LABEL,
            out,
            report or Recorder(),
            additions,
        )


@pytest.mark.slow
@pytest.mark.parametrize("bits", [3.6, 4.5, 5.5, 6.7, 20])
def test_bits_per_weight_stay_within_the_budget_and_no_named_scheme_that_fits_is_better(
    model: Path, bits: float, tmp_path: Path
) -> None:
    found = made(model, f"auto:{bits}bpw", tmp_path / "out").record.figures
    assert found["real_bpw"] <= bits
    compared = {one["scheme"]: one["mean_kl"] for one in found["allocation"]["compared"]}
    assert compared[found["allocation"]["shipped"]] == min(compared.values())
    assert "auto" in compared
    assert len(compared) > 1 or bits < 4


NAMES = [
    "token_embd.weight",
    *(f"blk.{layer}.{kind}.weight" for layer in range(30) for kind in ("attn_q", "ffn_up")),
]


@pytest.mark.parametrize(
    ("most", "count"), [(61, 61), (100, 61), (60, 59), (21, 21), (20, 19), (4, 3), (1, 3)]
)
def test_groups_are_no_more_than_asked_for_but_one_for_each_kind_of_tensor(
    most: int, count: int
) -> None:
    groups = budget.group(NAMES, most)
    assert len(groups) == count
    assert sorted(name for names in groups for name in names) == sorted(NAMES)


def test_a_group_has_one_kind_of_tensor_of_neighbouring_layers() -> None:
    groups = budget.group(NAMES, 7)
    assert groups[0] == ["token_embd.weight"]
    assert groups[1] == [f"blk.{layer}.attn_q.weight" for layer in range(10)]
    assert groups[6] == [f"blk.{layer}.ffn_up.weight" for layer in range(20, 30)]


@pytest.mark.slow
def test_grouped_tensors_stay_within_the_budget_and_are_measured_as_often_as_asked_for(
    tmp_path: Path,
) -> None:
    layers = tiny_llama(tmp_path / "llama", tied=True, **SHAPE | {"layers": 4})
    said = Recorder()
    with one_thread():
        found = quantize(
            checkpoint(layers),
            QuantizeSpec(scheme="auto:5.5bpw", probes=16),
            LABEL,
            tmp_path / "out",
            said,
            ADDITIONS,
        ).record.figures
    assert found["real_bpw"] <= 5.5
    assert "measure damage: 29 tensors in 15 groups" in said.notes
    assert [step for step in said.steps if step[2] == "groups"][-1] == (15, 15, "groups")
    compared = {one["scheme"]: one["mean_kl"] for one in found["allocation"]["compared"]}
    assert compared[found["allocation"]["shipped"]] == min(compared.values())


@pytest.mark.slow
def test_the_file_is_no_larger_than_its_budget_header_and_all(model: Path, tmp_path: Path) -> None:
    found = made(model, "auto:0.35MB", tmp_path / "out")
    assert found.file.stat().st_size <= 350_000
    assert found.file.stat().st_size > 300_000
    assert found.file.name.endswith("-auto-0.35MB.gguf")


@pytest.mark.slow
def test_more_room_never_costs_quality_and_the_front_is_reported(
    model: Path, tmp_path: Path
) -> None:
    figures = made(model, "auto:5bpw", tmp_path / "out").record.figures["allocation"]
    points = [(point["size_bytes"], point["predicted_kl"]) for point in figures["front"]]
    assert points == sorted(points)
    assert [kl for _, kl in points] == sorted((kl for _, kl in points), reverse=True)
    assert points[0][0] <= figures["limit_bytes"] <= points[-1][0]


@pytest.mark.slow
def test_the_file_names_the_type_that_most_weights_have_and_the_engine_reads_it(
    model: Path, tmp_path: Path
) -> None:
    file = made(model, "auto:8.6bpw", tmp_path / "out").file
    assert read_contents(file).scheme == "Q8_0"
    assert {tensor.type for tensor in read_header(file).tensors} <= {"Q8_0", "F32"}
    assert llama_cpp_logits(file, [3, 4, 5]).shape[0] == 3


@pytest.mark.slow
def test_rows_that_are_no_whole_blocks_of_256_get_types_of_32(tmp_path: Path) -> None:
    folder = tiny_llama(
        tmp_path / "narrow", hidden=64, intermediate=96, layers=1, heads=2, kv_heads=1
    )
    types = {
        tensor.type
        for tensor in read_header(made(folder, "auto:5bpw", tmp_path / "out").file).tensors
    }
    assert types <= {"F32", "Q4_0", "IQ4_NL", "Q5_0", "Q8_0"}
    assert len(types) > 1


@pytest.mark.slow
def test_an_opening_does_not_count_for_the_longest_conversation_that_is_compared(
    tmp_path: Path,
) -> None:
    folder = tiny_llama(
        tmp_path / "narrow",
        hidden=64,
        intermediate=96,
        layers=1,
        heads=2,
        kv_heads=1,
        max_position_embeddings=2048,
    )
    long = {"role": "system", "content": "a house of rooms. " * 60}
    opened = tuple({"messages": [long, *row["messages"]], "opening": 1} for row in TRIALS)
    assert made(
        folder, "auto:5bpw", tmp_path / "out", additions=Additions(trials=opened)
    ).record.figures["allocation"]["shipped"]
    with pytest.raises(ArtifactError, match=r"conversations are longer than 512 tokens$"):
        unmarked = tuple({"messages": row["messages"]} for row in opened)
        made(folder, "auto:5bpw", tmp_path / "plain", additions=Additions(trials=unmarked))


REFUSED = {
    "auto:": "quantize: scheme `auto:`: not an amount",
    "auto:lots": "quantize: scheme `auto:lots`: not an amount",
    "auto:-4bpw": "quantize: scheme `auto:-4bpw`: not an amount",
    "auto:400": "quantize: scheme `auto:400`: unknown unit ``",
    "auto:400mb": "quantize: scheme `auto:400mb`: unknown unit `mb`",
    "auto:4.5bits": "quantize: scheme `auto:4.5bits`: unknown unit `bits`",
    "auto:0MB": "quantize: scheme `auto:0MB`: a budget of nothing",
    "auto4.5bpw": "quantize: unknown scheme `auto4.5bpw`",
}


@pytest.mark.parametrize("scheme", list(REFUSED))
def test_a_budget_that_is_none_is_refused_before_anything_is_read(
    scheme: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        made(tmp_path / "nowhere", scheme, tmp_path / "out")
    assert caught.value.message == REFUSED[scheme]
    assert not (tmp_path / "out").exists()


def test_a_budget_below_the_smallest_types_says_what_they_take(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        made(model, "auto:1bpw", tmp_path / "out")
    assert (
        caught.value.message
        == "quantize: scheme `auto:1bpw`: too small, the smallest types take 2.68bpw"
    )
    assert caught.value.hint == "`auto:2.68bpw` is the least"
    assert not list((tmp_path / "out").glob("*.gguf"))


def test_without_conversations_there_is_nothing_to_measure_on(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no conversations to compare on"):
        made(model, "auto:5bpw", tmp_path / "out", additions=Additions())


@pytest.mark.parametrize(
    ("text", "limit"),
    [("auto:400MB", 400_000_000), ("auto:1.5 GiB", 1_610_612_736), ("auto:4bpw", 500)],
)
def test_amounts_are_bytes_or_bits_for_each_weight(text: str, limit: int) -> None:
    found = budget.parse(text)
    assert found
    assert found.limit(parameters=1000) == limit
