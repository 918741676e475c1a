"""An embedding in a file: the rows that are read are right, and the others take no memory."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from toolchain.training.mapped import forget, is_mapped, keep_all, keep_rows

TOKENS, WIDTH = 4096, 256
SMAPS = Path("/proc/self/smaps")
pytestmark = pytest.mark.skipif(not SMAPS.is_file(), reason="only Linux tells of mappings")


class Model(nn.Module):
    """A model that is an embedding."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.words = nn.Embedding(*weight.shape)
        self.words.weight = nn.Parameter(weight, requires_grad=False)

    def get_input_embeddings(self) -> Any:
        return self.words


@pytest.fixture
def model(tmp_path: Path) -> Model:
    torch.manual_seed(0)
    save_file({"words": torch.randn(TOKENS, WIDTH)}, tmp_path / "model.safetensors")
    with safe_open(tmp_path / "model.safetensors", "pt") as tensors:
        return Model(tensors.get_tensor("words"))


def resident_bytes(weight: torch.Tensor) -> int:
    """Return how much of the mapping that a tensor lies in stands in memory."""
    inside = False
    for line in SMAPS.read_text().splitlines():
        word, *rest = line.split()
        if "-" in word and not word.endswith(":"):
            begin, end = (int(number, 16) for number in word.split("-"))
            inside = begin <= weight.data_ptr() < end
        elif inside and word == "Rss:":
            return int(rest[0]) << 10
    raise AssertionError("no mapping")


def test_rows_are_those_of_the_file_however_often_and_late_they_are_asked_for(
    model: Model,
) -> None:
    whole = model.words.weight.clone()
    assert keep_rows(model)
    for ids in ([[3, 4095, 3]], [[4095, 7], [0, 3]], [[]], [list(range(0, TOKENS, 5))]):
        asked = torch.tensor(ids, dtype=torch.long)
        assert torch.equal(model.words(asked), whole[asked])


def test_what_is_not_read_takes_no_memory(model: Model) -> None:
    weight = model.words.weight
    float(weight.sum())
    assert resident_bytes(weight) >= weight.nbytes
    assert keep_rows(model)
    model.words(torch.tensor([5, 4000]))
    assert resident_bytes(weight) < weight.nbytes / 50


def test_the_embedding_is_as_before_afterwards(model: Model) -> None:
    whole = model.words.weight.clone()
    assert keep_rows(model)
    assert keep_rows(model), "a second time changes nothing"
    keep_all(model)
    keep_all(model)
    assert "forward" not in vars(model.words)
    assert torch.equal(model.words.weight, whole)


def test_a_weight_that_the_file_no_longer_has_is_not_mapped(model: Model) -> None:
    assert is_mapped(model.words.weight)
    assert not is_mapped(model.words.weight[:, ::2])
    model.words.weight[7] += 1
    assert not is_mapped(model.words.weight)
    assert not keep_rows(model)
    changed = model.words.weight.clone()
    assert torch.equal(model.words(torch.tensor([7]))[0], changed[7])


def test_a_weight_in_memory_is_not_mapped_and_keeps_all_its_rows() -> None:
    model = Model(torch.randn(TOKENS, WIDTH))
    assert not is_mapped(model.words.weight)
    assert not keep_rows(model)


def test_an_embedding_that_learns_or_does_more_keeps_all_its_rows(model: Model) -> None:
    class Doubled(nn.Embedding):
        pass

    model.words.requires_grad_(True)
    assert not keep_rows(model)
    model.words.requires_grad_(False)
    model.words.__class__ = Doubled
    assert not keep_rows(model)


def test_what_is_forgotten_is_read_from_the_file_again(model: Model) -> None:
    whole = model.words.weight.clone()
    forget(model.words.weight)
    assert torch.equal(model.words.weight, whole)
