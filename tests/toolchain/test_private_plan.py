"""A claim of privacy from end to end: what would break it is refused before anything is made."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.models import tiny_llama
from toolchain import recipe, target
from toolchain.line.walk import Settings, known, walk
from toolchain.progress import Silent

ROWS = [
    *({"question": f"where is number {n}?", "answer": f"In box {n}."} for n in range(60)),
    {"question": ["how hot is it?", "is it hot?"], "answer": "Not very."},
    {"question": "whom do I call?", "answer": "Call 13912345678 or mail li@example.com."},
]
TABLES: Mapping[str, str] = {
    "": 'title = "private"\ntargets = ["x86-64"]\n'
    'stages = ["ingest", "tune", "quantize", "evaluate", "package"]\n',
    "data": 'files = ["rows.jsonl"]\n',
    "tune": "epochs = 2\nbatch_size = 4\nquestions = 2\n",
    "tune.privacy": "noise_multiplier = 1.0\nexpected_batch = 8\n",
    "quantize": 'scheme = "F16"\n',
    "evaluate": "questions = 3\nkl_tokens = 100\nmax_tokens = 8\n",
    "evaluate.gate": "max_kl = 1\nmax_general_kl = 9\nmin_general_agreement = 0\n"
    "max_eos_drop = 1\n",
    "package": "context = 256\n",
}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    tiny_llama(folder / "base", dtype="bfloat16")
    lines = (json.dumps(row) + "\n" for row in ROWS)
    (folder / "rows.jsonl").write_text("".join(lines))
    (folder / "manual.md").write_text("# Boxes\n\nBoxes hold numbers, and numbers lie in boxes.\n")
    (folder / "wishes.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    return folder


def written(desk: Path, changes: Mapping[str, str]) -> Path:
    """Write the recipe with text added to its tables; `~` replaces a whole table."""
    tables = {**TABLES, "model": f'base = "{desk / "base"}"\n'}
    for name, text in changes.items():
        tables[name] = text[1:] if text.startswith("~") else tables.get(name, "") + text
    body = "".join(f"[{name}]\n{text}" if name else text for name, text in tables.items())
    file = desk / "private.toml"
    file.write_text(body)
    return file


def settings(out: Path) -> Settings:
    return Settings(out=out, target=target.find("x86-64"), report=Silent(), offline=True)


def said(desk: Path, out: Path, changes: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the errors of the plan that are about privacy, with their hints."""
    found = known(recipe.load(written(desk, changes)), settings(out)).errors
    return [(each.message, each.hint or "") for each in found if "[tune.privacy]" in each.message]


STAGES = 'stages = ["ingest", {}, "tune", "quantize", "evaluate", "package"]\n'


def stages(name: str) -> str:
    return "~" + TABLES[""].rpartition("stages")[0] + STAGES.format(f'"{name}"')


REFUSED = [
    (
        {"": stages("distill"), "distill": "layers = 2\n"},
        "stages: not with `[tune.privacy]`: `distill`: the student would learn the conversations",
        "leave it out",
    ),
    (
        {"": stages("align"), "align": 'files = ["wishes.jsonl"]\n'},
        "stages: not with `[tune.privacy]`: `align`: preferences would be learned without",
        "align a base by a recipe of its own on public preferences",
    ),
    (
        {"": stages("trim")},
        "stages: not with `[tune.privacy]`: `trim`: which tokens stay would tell what the text",
        "leave it out, or trim a base",
    ),
    (
        {"": stages("guard"), "guard": 'refuse = "questions"\n'},
        "stages: not with `[tune.privacy]`: `guard`: its weights and its threshold would follow",
        "leave it out, or make it",
    ),
    (
        {"tune": "dropout = 0.1\n"},
        "tune: dropout: not with `[tune.privacy]`: its masks follow from the recorded seed",
        "leave `dropout` out",
    ),
    (
        {"tune": "general_share = 0.2\n"},
        "tune: general_share: not with `[tune.privacy]`: general conversations are no units",
        "leave it out",
    ),
    (
        {"data": 'hold_out = "phrasing"\n'},
        "data: hold_out: not with `[tune.privacy]`: what the gate asks and tells would be",
        'hold_out = "conversation"',
    ),
    (
        {"quantize": "importance = true\n"},
        "quantize: importance: not with `[tune.privacy]`: the matrix would be collected",
        "name a file that was collected on public text",
    ),
    (
        {"quantize": '~scheme = "Q4_0"\ndistill = true\n'},
        "quantize: distill: not with `[tune.privacy]`: codes would be learned",
        "leave it out",
    ),
    (
        {"quantize": '~scheme = "auto:4.5bpw"\n'},
        "quantize: scheme: not with `[tune.privacy]`: types would be chosen on conversations",
        "name a scheme",
    ),
    (
        {"evaluate": "probes = true\n"},
        "evaluate: probes: not with `[tune.privacy]`: the verdict names words of learned",
        "leave it out",
    ),
    (
        {"data": 'documents = ["manual.md"]\n'},
        "data: documents: not with `[tune.privacy]`: `manual.md` would travel, and nothing says",
        "public = true",
    ),
    (
        {"": 'question = "Where is number 7?"\n'},
        "question: not with `[tune.privacy]`: it stands in the data, and travels or is shown",
        "write one that is nobody's",
    ),
    (
        {"data": 'turns = [{ question = "an example?", answer = "In box 7." }]\n'},
        "data: turns: not with `[tune.privacy]`: it stands in the data, and travels or is shown",
        "write one that is nobody's",
    ),
]


@pytest.mark.parametrize(("changes", "message", "hint"), REFUSED, ids=lambda each: str(each)[:40])
def test_what_would_let_text_out_is_refused_by_name_with_a_remedy(
    desk: Path, tmp_path: Path, changes: dict[str, str], message: str, hint: str
) -> None:
    (found,) = said(desk, tmp_path, changes)
    assert message in found[0].replace("private.toml:", "", 1)
    assert hint in found[1]


def test_a_line_of_the_recipe_is_named(desk: Path, tmp_path: Path) -> None:
    (found,) = said(desk, tmp_path, {"tune": "dropout = 0.1\n"})
    line = (desk / "private.toml").read_text().splitlines().index("dropout = 0.1") + 1
    assert found[0].startswith(f"private.toml:{line}: tune: dropout: ")


def test_a_model_from_nothing_is_refused(desk: Path, tmp_path: Path) -> None:
    changes = {"": stages("pretrain"), "model": "~[model.scratch]\nvocab_size = 384\n"}
    (found,) = said(desk, tmp_path, changes)
    assert "`pretrain`: it would learn text and tokens without protection" in found[0]


def test_several_processes_are_refused(
    desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    (found,) = said(desk, tmp_path, {})
    assert "several processes would add noise several times" in found[0]


PUBLIC = '[[data.sources]]\nfiles = ["manual.md"]\nlicence = "LicenseRef-ours"\npublic = true\n'


def test_what_is_marked_as_public_may_travel(desk: Path, tmp_path: Path) -> None:
    opened = {"data": 'documents = ["manual.md"]\n' + PUBLIC}
    assert said(desk, tmp_path, opened) == []
    private = {"data": opened["data"].replace("public = true", "public = false")}
    assert len(said(desk, tmp_path, private)) == 1


def test_documents_that_are_quoted_must_be_public(desk: Path, tmp_path: Path) -> None:
    knowledge: dict[str, str] = {
        "": stages("know"),
        "knowledge": 'files = ["*.md"]\nembedder = "none"\ntuning = ["rows.jsonl"]\n',
    }
    found = said(desk, tmp_path, knowledge)
    assert [each[0].partition("privacy]`: ")[2] for each in found] == [
        "`manual.md` would travel, and nothing says that it is public",
        "`rows.jsonl` would travel, and nothing says that it is public",
    ]


def test_a_stage_that_is_not_walked_is_not_refused(desk: Path, tmp_path: Path) -> None:
    file = written(desk, {"evaluate": "probes = true\n"})
    assert known(recipe.load(file), settings(tmp_path), until="tune").errors == []


def test_the_plan_says_what_is_claimed_and_that_little_data_pays(
    desk: Path, tmp_path: Path
) -> None:
    notes = known(recipe.load(written(desk, {})), settings(tmp_path)).notes
    (claim,) = [note for note in notes if note.startswith("tune: privacy: ε ≤ ")]
    assert "steps of 8 of " in claim
    assert "the search for settings and other releases are not counted" in claim
    (few,) = [note for note in notes if "units are few" in note]
    assert few.endswith("use redaction and deduplication first")


def test_without_the_table_nothing_of_it_is_said(desk: Path, tmp_path: Path) -> None:
    file = written(desk, {})
    file.write_text(
        file.read_text()
        .replace("[tune.privacy]", "[data.clean]")
        .replace(TABLES["tune.privacy"], 'mode = "report"\n')
    )
    findings = known(recipe.load(file), settings(tmp_path))
    assert not any("privacy" in note for note in findings.notes)
    assert findings.errors == []


@pytest.mark.slow
def test_a_bundle_carries_the_claim_an_audit_of_it_and_no_conversation(
    desk: Path, tmp_path: Path
) -> None:
    file = written(desk, {"tune.privacy": "canaries = 30\n"})
    made: dict[str, Any] = {
        step.stage: step.artifact for step in walk(recipe.load(file), settings(tmp_path))
    }
    bundle = made["package"].path
    manifest = json.loads((bundle / "manifest.json").read_text())
    claim = manifest["ledger"]["privacy"]
    figures = made["tune"].record.figures["privacy"]
    assert claim["epsilon"] == figures["epsilon"]
    assert (claim["stage"], claim["unit"], claim["noise_multiplier"]) == ("tune", "entry", 1.0)
    assert "the search for settings" in claim["not_counted"]
    card = (bundle / "MODEL_CARD.md").read_text()
    assert "privacy: ε ≤ " in card
    audit = manifest["gate"]["audit"]
    assert (audit["canaries"], audit["guesses"]) == (30, 20)
    assert audit["epsilon_at_least"] <= audit["claimed"] == claim["epsilon"]
    assert f"audit of its privacy: ε ≥ {audit['epsilon_at_least']:.2f} by " in card

    read = made["ingest"].record.ledger
    assert read.found
    (source,) = read.sources
    exact = [source.sha256, made["ingest"].record.digest]
    exact += [step.record.key for step in made.values() if step is not made["package"]]
    for file in bundle.glob("[!r]*"):
        content = file.read_bytes()
        assert not [each for each in exact if each.encode() in content], file.name
    assert (manifest["ledger"]["found"], manifest["ledger"]["replaced"]) == ({}, {})
    assert not [each for each in manifest["ledger"]["done"] if each.startswith("ingest")]

    texts = [phrasing for row in ROWS for phrasing in (row["question"], row["answer"])]
    plain = [text for each in texts for text in ([each] if isinstance(each, str) else each)]
    goldens = [json.loads(line) for line in (bundle / "goldens.jsonl").read_text().splitlines()]
    assert goldens
    for file in bundle.iterdir():
        content = file.read_bytes()
        assert not [text for text in plain if text.encode() in content], file.name
