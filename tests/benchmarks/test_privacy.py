"""The audit of a private training tells one with its noise from one without."""

import importlib
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def privacy(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as it is run: from its own folder."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("privacy")


@pytest.mark.slow
def test_canaries_refute_a_training_without_noise_and_no_other(
    privacy: ModuleType, tmp_path: Path
) -> None:
    base = privacy.base_of(tmp_path)
    kept = privacy.audited(base, tmp_path / "noise", 0)
    with privacy.without_noise():
        broken = privacy.audited(base, tmp_path / "none", 0)
    assert kept.epsilon_at_least <= kept.claimed <= privacy.CLAIMED
    assert not kept.refutes
    assert broken.epsilon_at_least > broken.claimed
    assert broken.refutes
