"""The saved state of a prefix survives a restart.

A state that is damaged or of another kind is read anew.
"""

import json
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from device import prefixes
from device.check import check_bundle
from device.engine.base import Sampling
from device.manifest import read_manifest
from device.model import Model, open_bundle
from device.store import Store
from tests.fakes.engine import FakeEngine
from tests.fakes.tiny_gguf import tiny_bundle

Opening = tuple[str, list[dict[str, str]]]
SYSTEM = "You answer questions about a coffee machine. Be brief, and say where the manual says it."
TURNS = [
    {"role": "user", "content": "is it on?"},
    {"role": "assistant", "content": "Yes: see page 3."},
]
ASKED = [{"role": "user", "content": "how hot?"}]


@pytest.fixture(
    params=[(SYSTEM, []), (SYSTEM, TURNS), ("", TURNS)],
    ids=["system prompt", "system prompt and turns", "turns alone"],
)
def opening(request: pytest.FixtureRequest) -> Opening:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def bundle(tmp_path: Path, opening: Opening) -> Path:
    Store(tmp_path / "root")
    return tiny_bundle(
        tmp_path / "root" / "releases" / ("a" * 64), system=opening[0], turns=opening[1]
    )


@pytest.fixture
def started(bundle: Path) -> Iterator[Callable[[], Model]]:
    """Yield what a service does at its start, without its prefix."""
    models: list[Model] = []

    def start() -> Model:
        models.append(open_bundle(bundle, read_manifest(bundle), threads=1))
        return models[-1]

    yield start
    for model in models:
        model.engine.close()


def state_of(bundle: Path) -> Path:
    (file,) = (bundle.parent.parent / "prefixes" / bundle.name).glob("*.state")
    return file


def answered(model: Model, asked: "list[dict[str, str]]" = ASKED) -> tuple[int, list[int | None]]:
    """Return how many tokens of the prompt were in memory, and the answer."""
    prompt = model.prompt(asked)
    steps = list(
        model.engine.generate(prompt.tokens, Sampling(max_tokens=40), prefix=prompt.prefix)
    )
    assert steps[-1].timing
    return steps[-1].timing.reused_tokens, [step.id for step in steps]


def test_a_restart_takes_the_prefix_from_the_disk_and_answers_token_for_token(
    bundle: Path, started: Callable[[], Model]
) -> None:
    plain = started()
    reused, expected = answered(plain)
    assert reused == 0
    assert not prefixes.prepare(started(), bundle)
    again = started()
    assert prefixes.prepare(again, bundle)
    assert answered(again) == (len(plain.prefix()), expected)


def test_a_conversation_that_brings_the_opening_itself_takes_it_from_the_same_state(
    bundle: Path, started: Callable[[], Model], opening: Opening
) -> None:
    prefixes.prepare(started(), bundle)
    model = started()
    prefixes.prepare(model, bundle)
    whole = [
        *([{"role": "system", "content": opening[0]}] if opening[0] else []),
        *opening[1],
        *ASKED,
    ]
    assert (
        answered(model, whole) == answered(model) == (len(model.prefix()), answered(started())[1])
    )


def test_the_check_at_activation_leaves_the_state_for_the_service(
    bundle: Path, started: Callable[[], Model], opening: Opening
) -> None:
    model = started()
    prompt = model.prompt(ASKED)
    tokens = [token for token in answered(model)[1] if token is not None]
    golden = {"messages": ASKED, "prompt_tokens": prompt.tokens, "tokens": tokens}
    tiny_bundle(bundle, goldens=[golden], system=opening[0], turns=opening[1])
    assert check_bundle(bundle, threads=1)["ok"]
    assert prefixes.prepare(started(), bundle)


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    "harm",
    [
        lambda state: state[:-1],
        lambda state: b"",
        lambda state: state[:100] + bytes([state[100] ^ 1]) + state[101:],
        lambda state: bytes(len(state)),
    ],
    ids=["cut short", "emptied", "one bit flipped", "zeroed"],
)
def test_a_damaged_state_is_never_given_to_the_engine_and_is_made_again(
    bundle: Path, started: Callable[[], Model], harm: Callable[[bytes], bytes]
) -> None:
    prefixes.prepare(started(), bundle)
    file = state_of(bundle)
    whole = file.read_bytes()
    file.write_bytes(harm(whole))
    assert not prefixes.prepare(started(), bundle)
    assert state_of(bundle).read_bytes() == whole
    assert prefixes.prepare(started(), bundle)


@pytest.mark.sampled(5)
@pytest.mark.parametrize("record", [b"", b"[]", b'{"size": 1}', b'{"sha256": "x"}'])
def test_a_state_without_its_record_is_made_again(
    bundle: Path, started: Callable[[], Model], record: bytes
) -> None:
    prefixes.prepare(started(), bundle)
    state_of(bundle).with_suffix(".json").write_bytes(record)
    assert not prefixes.prepare(started(), bundle)
    assert prefixes.prepare(started(), bundle)


def test_a_state_that_the_engine_does_not_take_is_made_again(
    bundle: Path, opening: Opening
) -> None:
    engine = FakeEngine()
    model = engine.model(*opening)
    prefixes.prepare(model, bundle)
    file = state_of(bundle)
    other = b"what another engine saved"
    file.write_bytes(other)
    file.with_suffix(".json").write_text(
        json.dumps({"size": len(other), "sha256": sha256(other).hexdigest()})
    )
    assert not prefixes.prepare(model, bundle)
    assert engine.states[bytes(model.prefix())].startswith(b"state of ")


def test_another_kind_of_state_takes_the_place_of_the_one_before(
    bundle: Path, opening: Opening
) -> None:
    engine = FakeEngine()
    model = engine.model(*opening)
    prefixes.prepare(model, bundle)
    before = state_of(bundle)
    engine.state_kind = "of a newer engine"
    assert not prefixes.prepare(model, bundle)
    assert state_of(bundle) != before


@pytest.mark.parametrize(("folder", "system"), [("releases", ""), ("elsewhere", SYSTEM)])
def test_nothing_is_written_without_a_prefix_or_outside_of_a_store(
    tmp_path: Path, folder: str, system: str
) -> None:
    bundle = tiny_bundle(tmp_path / folder / "one", system=system)
    model = open_bundle(bundle, read_manifest(bundle), threads=1)
    assert not prefixes.prepare(model, bundle)
    model.engine.close()
    assert [path.name for path in tmp_path.iterdir()] == [folder]


def test_a_disk_that_takes_nothing_is_told_and_the_prefix_is_in_memory(
    bundle: Path, started: Callable[[], Model], capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle.parent.parent / "prefixes").write_text("in the way")
    model = started()
    assert not prefixes.prepare(model, bundle)
    assert capsys.readouterr().err.startswith("the state of the prefix is not kept: ")
    assert answered(model)[0] == len(model.prefix())


def test_a_prefix_that_has_no_room_in_memory_is_told_and_not_kept(
    bundle: Path, opening: Opening, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = FakeEngine()
    model = engine.model(*opening)
    engine.states[bytes(model.prefix())] = b""
    assert not prefixes.prepare(model, bundle)
    told = (
        f"the state of the prefix ({len(model.prefix())} tokens) is larger than the memory for "
        "states\n"
    )
    assert capsys.readouterr().err == told
    assert not list(bundle.parent.parent.glob("prefixes/**/*.state"))


def test_a_model_that_forgets_its_conversations_still_knows_what_they_begin_with(
    started: Callable[[], Model],
) -> None:
    fresh, model = started(), started()
    model.forget()
    first = answered(model)
    model.forget()
    assert first == answered(model) == (len(model.prefix()), answered(fresh)[1])


def test_the_store_sweeps_the_prefixes_of_releases_that_are_gone(
    bundle: Path, started: Callable[[], Model]
) -> None:
    prefixes.prepare(started(), bundle)
    store = Store(bundle.parent.parent)
    store.sweep()
    assert list((store.root / "prefixes").iterdir()) == []
