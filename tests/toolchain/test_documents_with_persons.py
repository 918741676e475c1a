"""Personal data in the documents of `[knowledge]`: counted by the plan, or what it refuses."""

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from toolchain.cli import app
from toolchain.errors import ArtifactError

# Without `[data]`: documents alone need no file of it.
RECIPE = """
title = "documents alone"
targets = ["x86-64"]
stages = ["know"]
[model]
base = "nowhere"
[knowledge]
files = ["docs"]
embedder = "sentence-transformers/all-MiniLM-L6-v2"
"""


def planned(folder: Path, more: str = "", text: str = "Ask Mr. Adam Smith, 13912345678.") -> Result:
    (folder / "docs").mkdir()
    (folder / "docs" / "a.md").write_text(f"# Help\n\nNothing here.\n\n# Who\n\n{text}\n")
    (folder / "r.toml").write_text(RECIPE + more)
    return CliRunner().invoke(app, ["know", str(folder / "r.toml"), "--dry-run"])


def test_documents_alone_need_no_table_of_data(tmp_path: Path) -> None:
    done = planned(tmp_path, text="Ask anybody.")
    assert done.exit_code == 0, done.output
    assert "personal data" not in done.output


@pytest.mark.parametrize("mode", ["report", "replace"])
def test_personal_data_in_documents_is_counted_and_said_to_stay(tmp_path: Path, mode: str) -> None:
    done = planned(tmp_path, f'[data.redact]\nmode = "{mode}"\n')
    assert done.exit_code == 0, done.output
    said = " ".join(done.output.split())
    assert "1 phone, 1 name; the first in docs/a.md (name)" in said
    assert "documents are shipped as they are, never replaced" in said
    assert "Smith" not in said
    assert "13912345678" not in said


def test_refuse_ends_the_plan_with_personal_data_in_documents(tmp_path: Path) -> None:
    done = planned(tmp_path, '[data.redact]\nmode = "refuse"\n')
    assert isinstance(done.exception, ArtifactError)
    assert "which `data.redact.mode` refuses" in " ".join(str(done.exception).split())


def test_what_the_recipe_keeps_is_nobodys_secret_in_documents_either(tmp_path: Path) -> None:
    more = '[data.redact]\nmode = "refuse"\nkeep = ["13912345678", "Adam Smith"]\n'
    assert planned(tmp_path, more).exit_code == 0


def test_redaction_that_is_off_looks_at_no_document(tmp_path: Path) -> None:
    assert "personal data" not in planned(tmp_path, '[data.redact]\nmode = "off"\n').output
