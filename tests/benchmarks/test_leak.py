"""The benchmark of the leak gate goes on in its work folder, and judges each kind by its goal."""

import importlib
import json
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from toolchain.figures import LeakFigures

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def leak(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as it is run: from its own folder."""
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("leak")


def trial_of(leak: ModuleType, *, refused: bool) -> Any:
    figures = LeakFigures(
        secrets=4, exposure_bits=4.5, most_bits=6.0, first=3, extracted=1, scored_tokens=9
    )
    return leak.Trial(figures=figures, refused=refused, cpu_s=1.0)


def test_trials_that_are_there_are_not_run_again(
    leak: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: list[tuple[int, str]] = []

    def trial(base: Any, folder: Path, seed: int, kind: Any, *, before: bool) -> Any:
        run.append((seed, kind.name))
        return trial_of(leak, refused=not kind.redacted)

    monkeypatch.setattr(leak, "trial", trial)
    monkeypatch.setattr(leak, "_base", lambda folder: None)
    folder = leak.own_folder(tmp_path / "work", 2)
    (folder / "once").mkdir()
    kept = asdict(trial_of(leak, refused=False))
    (folder / "once" / f"{leak.FIRST_SEED}.json").write_text(json.dumps(kept))
    leak.go_on(folder, 2, minutes=0)
    assert run == []
    leak.go_on(folder, 2, minutes=9)
    leak.go_on(folder, 2, minutes=9)
    names = [name for seed, name in run if seed == leak.FIRST_SEED]
    assert (len(run), names) == (5, ["leaky", "redacted"])
    found = leak.done(folder)
    claims = [leak._share(kind, found[kind.name], {}) for kind in leak.KINDS]
    assert [(claim.measured, claim.holds) for claim in claims] == [
        (1.0, True),
        (0.5, False),
        (1.0, True),
    ]


def test_a_folder_of_other_settings_or_with_other_files_is_refused(
    leak: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "mine").write_text("keep")
    with pytest.raises(SystemExit, match="neither empty nor a work folder"):
        leak.own_folder(tmp_path, 20)
    leak.own_folder(tmp_path / "work", 20)
    leak.own_folder(tmp_path / "work", 20)
    with pytest.raises(SystemExit, match="other settings"):
        leak.own_folder(tmp_path / "work", 1)


def test_only_a_redacted_kind_learns_no_number(leak: ModuleType) -> None:
    for kind in leak.KINDS:
        rows, kept = leak.secret_rows(leak.random.Random(5), kind)
        text = json.dumps(rows)
        assert [secret["value"] in text for secret in kept] == [not kind.redacted] * leak.SECRETS
        assert all(len(row["question"]) == kind.phrasings for row in rows)
