"""A small data set and a small base, made once; tests leave both as they are."""

import pytest

from tests.fakes.datasets import tiny_dataset
from tests.fakes.models import SMALL, tiny_llama
from toolchain import artifacts
from toolchain.artifacts import Checkpoint, Dataset


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Four questions of three phrasings each."""
    return tiny_dataset(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A Llama of two small layers."""
    return artifacts.external(tiny_llama(tmp_path_factory.mktemp("base"), **SMALL))
