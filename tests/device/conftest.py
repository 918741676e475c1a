"""A service over a fake engine: a test that wants another engine has a fixture of its own."""

from collections.abc import Iterator

import pytest

from tests.fakes.engine import FakeEngine
from tests.fakes.service import service, wait_until_loaded


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def port(engine: FakeEngine) -> Iterator[int]:
    """The port of a service that is ready; what it still answers may go on at the end."""
    with service(engine.model) as number:
        wait_until_loaded(number)
        yield number
        engine.go.set()
