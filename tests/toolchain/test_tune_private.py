"""tune under differential privacy: what it claims, what it keeps, and what it refuses."""

import json
from pathlib import Path

import pytest

from tests.fakes.datasets import QUESTIONS, Recorder, tiny_dataset
from tests.fakes.models import tiny_llama
from toolchain import artifacts
from toolchain.artifacts import Checkpoint, Dataset
from toolchain.errors import ConfigError
from toolchain.ledger import lines, privacy_words
from toolchain.privacy import randomness
from toolchain.privacy.accounting import Steps, epsilon_of
from toolchain.progress import Silent
from toolchain.recipe import PrivacySpec, TuneSpec
from toolchain.tune import TuneFigures, tune

SMALL = {"hidden": 64, "intermediate": 64, "layers": 1, "heads": 2, "kv_heads": 1}
ROWS = [
    *QUESTIONS,
    *({"question": f"where is number {n}?", "answer": f"In box {n}."} for n in range(16)),
]
PRIVACY = PrivacySpec(noise_multiplier=1.0, expected_batch=4)
SPEC = TuneSpec(r=4, alpha=8, epochs=2, batch_size=4, questions=2, privacy=PRIVACY)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return tiny_dataset(tmp_path_factory.mktemp("data"), hold_out="conversation", rows=ROWS)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return artifacts.external(tiny_llama(tmp_path_factory.mktemp("base"), **SMALL))


@pytest.fixture(scope="module")
def keys() -> list[bytes]:
    """Return the keys of all trainings of this module."""
    return []


@pytest.fixture(scope="module")
def tuned(
    base: Checkpoint,
    dataset: Dataset,
    keys: list[bytes],
    tmp_path_factory: pytest.TempPathFactory,
) -> Checkpoint:
    kept_in = randomness.Randomness.kept_in

    class Remembered(randomness.Randomness):
        @classmethod
        def kept_in(cls, folder: Path) -> randomness.Randomness:
            found = kept_in(folder)
            keys.append((folder / randomness.KEY_FILE).read_bytes())
            return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("toolchain.training.private.Randomness", Remembered)
        return tune(base, dataset, SPEC, tmp_path_factory.mktemp("tuned"), Recorder(), seed=0)


def test_the_data_set_says_which_conversations_are_one_entry(dataset: Dataset) -> None:
    entries = dataset.entries()
    assert sum(entries) == len(dataset.train())
    assert sorted(set(entries)) == [1, 3]
    at = 0
    for rows in entries:
        answers = {row["messages"][-1]["content"] for row in dataset.train()[at : at + rows]}
        assert len(answers) == 1
        at += rows


def test_the_record_says_what_is_claimed_and_that_it_cannot_be_repeated(
    tuned: Checkpoint, dataset: Dataset
) -> None:
    units = len(dataset.entries())
    found = TuneFigures.read(tuned.record.figures).privacy
    assert found
    assert (found.units, found.unit, found.clip, found.repeatable) == (units, "entry", 1.0, False)
    assert found.delta == pytest.approx(0.1 / units)
    assert found.steps == 2 * -(-units // 4)
    steps = Steps(sampling_rate=4 / units, noise_multiplier=1.0, count=found.steps)
    assert found.epsilon == epsilon_of(steps, found.delta)


def test_no_loss_and_no_count_of_tokens_is_in_the_record(tuned: Checkpoint) -> None:
    figures = tuned.record.figures
    assert (figures["loss"], figures["trained_tokens"]) == (None, 0)
    assert tuned.record.parameters["dropout"] == 0.0


def test_the_key_of_the_noise_is_nowhere_when_the_stage_is_done(
    tuned: Checkpoint, keys: list[bytes]
) -> None:
    (key,) = keys
    written = [file for file in tuned.path.rglob("*") if file.is_file()]
    assert len(written) > 5
    assert not (tuned.path / "resume").exists()
    for file in written:
        content = file.read_bytes()
        assert key not in content
        assert key.hex().encode() not in content


def test_two_trainings_with_one_seed_differ(
    base: Checkpoint, dataset: Dataset, tuned: Checkpoint, tmp_path: Path
) -> None:
    again = tune(base, dataset, SPEC, tmp_path, Silent(), seed=0)
    assert again.record.key == tuned.record.key
    assert again.digest != tuned.digest


def test_an_epsilon_finds_its_noise(base: Checkpoint, dataset: Dataset, tmp_path: Path) -> None:
    privacy = PrivacySpec(epsilon=3.0, expected_batch=4, delta=1e-3)
    spec = SPEC.model_copy(update={"privacy": privacy, "epochs": 1})
    report = Recorder()
    figures = tune(base, dataset, spec, tmp_path, report, seed=0).record.figures["privacy"]
    assert 2.9 < figures["epsilon"] <= 3.0
    assert any(note.startswith("tune: ε ≤ ") and "at δ = 1.0e-03" in note for note in report.notes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dropout": 0.1}, "tune: dropout: its masks follow from the recorded seed"),
        ({"updates": 9}, "tune: updates: a private training draws its units by itself"),
        ({"precision": "bf16"}, "tune: precision: the gradient of each unit is clipped"),
        ({"general_share": 0.2}, "tune: general_share: general conversations are no units"),
        ({"base_bits": 4}, "tune: base_bits: which merge ships is chosen on conversations"),
        (
            {"privacy": PrivacySpec(noise_multiplier=1.0, delta=0.2, expected_batch=4)},
            "tune: privacy: delta: `0.2` for ",
        ),
        (
            {"privacy": PrivacySpec(noise_multiplier=1.0, expected_batch=500)},
            "tune: privacy: expected_batch: `500` of ",
        ),
        (
            {"privacy": PrivacySpec(noise_multiplier=0.001, expected_batch=4)},
            "tune: privacy: noise_multiplier: `0.001` protects nobody",
        ),
    ],
)
def test_what_would_break_the_claim_is_refused(
    base: Checkpoint, dataset: Dataset, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    own = SPEC.model_dump(exclude_unset=True, exclude={"epochs"} if "updates" in changes else None)
    spec = TuneSpec(**{**own, "privacy": PRIVACY, **changes})
    with pytest.raises(ConfigError) as refused:
        tune(base, dataset, spec, tmp_path / "out", Silent(), seed=0)
    assert refused.value.message.startswith(message)


def test_the_ledger_says_it_in_words_and_survives_a_manifest(tuned: Checkpoint) -> None:
    claim = json.loads(json.dumps(tuned.record.figures["privacy"])) | {
        "stage": "tune",
        "not_counted": ["the search for settings"],
    }
    (row,) = lines({"privacy": claim})
    assert row[0] == "privacy"
    assert row[1].startswith(f"ε ≤ {claim['epsilon']:.2f} at δ = ")
    assert row[1].endswith(
        "unit entry, tune only, clip 1, noise 1; not counted: the search for settings"
    )
    assert privacy_words({"epsilon": "8"}) == privacy_words(None) == ""
