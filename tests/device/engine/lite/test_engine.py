"""The LiteRT engine against the interpreter called by hand: logits, answers, memory and
refusals.
"""

import importlib.metadata
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from device.engine import load
from device.engine.base import Engine, FieldError, Sampling, Settings, Token
from device.engine.lite import LiteEngine
from device.engine.lite.cells import cut
from device.engine.sampling import Sampler
from device.errors import DeviceError
from tests.fakes.litert import quantized_tflite
from tests.fakes.models import tiny_llama
from tests.fakes.stock_litert import teacher_forced
from tests.toolchain.quantize.conftest import tensors

SETTINGS = Settings(threads=1)
GREEDY = Sampling(max_tokens=40)
PROMPT = [int(token) for token in np.random.default_rng(2).integers(3, 512, 90)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that never ends an answer: the end token's row of the head is zero, and the others
    are not.
    """
    return tiny_llama(tmp_path_factory.mktemp("model") / "model", initializer_range=0.1)


@pytest.fixture(scope="module")
def file(folder: Path) -> Path:
    return quantized_tflite(folder, folder.parent / "out", "dynamic_wi8_afp32", context=256).file


@pytest.fixture
def engine(file: Path) -> Iterator[Engine]:
    loaded = load(file, SETTINGS)
    yield loaded
    loaded.close()


def ids(steps: list[Token]) -> list[int]:
    return [step.id for step in steps if step.id is not None]


def test_logits_are_those_of_the_stock_interpreter(engine: Engine, file: Path) -> None:
    rows = np.stack([np.frombuffer(row, np.float32) for row in engine.logits(PROMPT)])
    assert rows.shape == (90, 512)
    assert np.abs(rows[64:] - teacher_forced(file, PROMPT)).max() < 0.05 * rows.std()


def test_a_greedy_answer_is_what_its_own_logits_say(engine: Engine) -> None:
    answer = ids(list(engine.generate(PROMPT, GREEDY)))
    rows = [np.frombuffer(row, np.float32) for row in engine.logits([*PROMPT, *answer])][
        len(PROMPT) - 1 :
    ]
    assert len(answer) == 40
    margins = [np.sort(row)[-1] - np.sort(row)[-2] for row in rows]
    assert all(
        row.argmax() == token or margin < 0.05
        for row, token, margin in zip(rows, answer, margins, strict=False)
    )


def test_text_and_timing_belong_to_the_tokens(engine: Engine) -> None:
    steps = list(engine.generate(PROMPT, GREEDY))
    timing = steps[-1].timing
    assert timing and steps[-1].finish_reason == "length"
    assert (timing.prompt_tokens, timing.answer_tokens, timing.decode_steps) == (90, 40, 39)
    assert "".join(step.text for step in steps) == b"".join(
        engine.piece(token) for token in ids(steps)
    ).decode("utf-8", "replace")


def test_a_token_that_stops_is_no_part_of_the_answer(engine: Engine) -> None:
    whole = ids(list(engine.generate(PROMPT, GREEDY)))
    steps = list(engine.generate(PROMPT, GREEDY, stop_ids=[whole[5]]))
    assert ids(steps) == whole[: whole.index(whole[5])]
    assert steps[-1].finish_reason == "stop"


def test_the_file_itself_says_what_stops(folder: Path, tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "model")

    def ends(found: dict) -> None:
        found["lm_head.weight"][:] = 0
        found["lm_head.weight"][2] = found["model.norm.weight"].sign() * 0.1

    tensors(ends)(model)
    engine = load(quantized_tflite(model, tmp_path / "out").file, SETTINGS)
    seen = [np.frombuffer(row, np.float32).argmax() for row in engine.logits(PROMPT)]
    at = seen.index(2) + 1
    assert ids(list(engine.generate(PROMPT[:at], GREEDY))) == []


@pytest.mark.parametrize("prefix", [0, 1, 17, 60])
def test_no_answer_depends_on_what_was_asked_before(engine: Engine, prefix: int) -> None:
    engine.forget()
    first = ids(list(engine.generate(PROMPT, GREEDY, prefix=prefix)))
    for other in (PROMPT[:70][::-1], PROMPT[:65] + PROMPT[:30], PROMPT[:17] + PROMPT[40:80]):
        list(engine.generate(other, GREEDY, prefix=prefix))
        assert ids(list(engine.generate(PROMPT, GREEDY, prefix=prefix))) == first


def test_a_saved_state_is_taken_back_by_another_engine(engine: Engine, file: Path) -> None:
    prefix = PROMPT[:60]
    state, expected = engine.save(prefix), ids(list(engine.generate(PROMPT, GREEDY, prefix=60)))
    other = load(file, SETTINGS)
    assert other.state_kind == engine.state_kind
    assert other.restore(prefix, state)
    steps = list(other.generate(PROMPT, GREEDY, prefix=60))
    assert ids(steps) == expected
    assert steps[-1].timing and steps[-1].timing.reused_tokens == 60
    other.close()


@pytest.mark.parametrize(
    "spoil", [lambda state: b"", lambda state: state[:-1], lambda state: b"\xff" * 4 + state[4:]]
)
def test_what_is_no_state_is_not_taken(engine: Engine, spoil: object) -> None:
    state = engine.save(PROMPT[:20])
    assert not engine.restore(PROMPT[:20], spoil(state))  # type: ignore[operator]


def test_cancelling_ends_an_answer_within_a_token(engine: Engine) -> None:
    seen: list[int] = []
    for step in engine.generate(PROMPT, GREEDY, cancelled=lambda seen=seen: len(seen) >= 3):
        seen.extend([] if step.id is None else [step.id])
    assert len(seen) == 3


def test_the_whole_context_can_be_filled(engine: Engine) -> None:
    prompt = (PROMPT * 3)[:250]
    steps = list(engine.generate(prompt, GREEDY))
    assert len(ids(steps)) == 6
    assert steps[-1].finish_reason == "length"
    engine.forget()
    rows = [np.frombuffer(row, np.float32) for row in engine.logits(prompt)]
    assert np.sort(rows[-1])[-1] - rows[-1][ids(steps)[0]] < 0.05


@given(
    count=st.integers(0, 600),
    room=st.integers(0, 600),
    pieces=st.lists(st.integers(2, 512), max_size=4, unique=True).map(sorted),
)
def test_pieces_follow_each_other_and_stay_in_the_context(
    count: int, room: int, pieces: list[int]
) -> None:
    room, at = max(room, count), 0
    for first, tokens, length in cut(count, pieces, room):
        assert first == at
        assert 0 < tokens <= length <= min(2 * tokens, room - first)
        at += tokens
    assert at <= count
    assert not pieces or count - at < min(pieces)


def test_threads_can_be_changed_without_changing_the_answer(engine: Engine) -> None:
    before = ids(list(engine.generate(PROMPT, GREEDY)))
    engine.use_threads(2, 2, (0,))
    assert engine.description.threads == 2
    assert ids(list(engine.generate(PROMPT, GREEDY))) == before
    engine.use_threads(1, 1)


# Drawing


def test_the_same_seed_draws_the_same_tokens(engine: Engine) -> None:
    warm = Sampling(temperature=1.0, seed=5, max_tokens=12)
    one, other = (ids(list(engine.generate(PROMPT, warm))) for _ in range(2))
    assert one == other != ids(list(engine.generate(PROMPT, GREEDY)))[:12]


def test_what_is_cut_off_is_never_drawn() -> None:
    logits = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))
    for cuts, kept in (
        ({"top_k": 2}, {0, 1}),
        ({"top_p": 0.79}, {0, 1}),
        ({"min_p": 0.25}, {0, 1, 2}),
        ({"top_k": 0}, {0, 1, 2, 3}),
    ):
        open_ = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
        sampler = Sampler(Sampling(temperature=1.0, seed=1, **{**open_, **cuts}))
        assert {sampler.choose(logits)[0] for _ in range(300)} == kept


def test_temperature_flattens() -> None:
    logits = np.log(np.array([0.7, 0.3], np.float32))
    shares = []
    for temperature in (0.5, 1.0, 2.0):
        sampler = Sampler(Sampling(temperature=temperature, seed=3, top_k=0, top_p=1.0, min_p=0.0))
        shares.append(sum(sampler.choose(logits)[0] == 0 for _ in range(2000)) / 2000)
    expected = [0.7 ** (1 / t) / (0.7 ** (1 / t) + 0.3 ** (1 / t)) for t in (0.5, 1.0, 2.0)]
    assert shares == pytest.approx(expected, abs=0.04)


def test_likely_tokens_come_with_their_probabilities(engine: Engine) -> None:
    step = next(iter(engine.generate(PROMPT, Sampling(max_tokens=1, top_logprobs=4))))
    chosen, *likeliest = step.candidates
    assert step.id is not None
    assert (chosen.piece, len(likeliest)) == (engine.piece(step.id), 4)
    assert likeliest[0] == chosen
    assert 0 < sum(math.exp(candidate.logprob) for candidate in likeliest) <= 1


# What is refused


def test_a_grammar_is_refused_by_name(engine: Engine) -> None:
    with pytest.raises(FieldError) as caught:
        engine.generate(PROMPT, Sampling(grammar='root ::= "a"'))
    assert caught.value.field == "response_format"
    with pytest.raises(FieldError) as caught:
        engine.generate(PROMPT, Sampling(grammar='root ::= "a"', calls_tools=True))
    assert caught.value.field == "tools"


def refusal(file: Path, settings: Settings = SETTINGS) -> str:
    with pytest.raises(DeviceError) as caught:
        load(file, settings)
    assert caught.value.code == "bad_model"
    return caught.value.message


def test_more_context_than_the_file_has_is_refused(file: Path) -> None:
    assert (
        refusal(file, Settings(context=257, threads=1))
        == f"`{file.name}` has 256 tokens of context, 257 are asked"
    )


def test_an_adapter_beside_the_file_is_refused(file: Path) -> None:
    message = f"`{file.name}`: an adapter goes into a TFLite file when it is made, not beside it"
    assert refusal(file, Settings(adapter=Path("adapter"))) == message


def test_a_cut_file_is_refused(file: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.tflite"
    short.write_bytes(file.read_bytes()[:-1])
    assert "short.tflite: " in refusal(short)


def test_a_file_without_its_tokenizer_is_refused(file: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.tflite"
    alone.write_bytes(file.read_bytes())
    assert refusal(alone).startswith("`tokenizer.json` beside the model cannot be used: ")


def test_a_graph_that_is_no_decoder_is_refused(tmp_path: Path) -> None:
    from tests.device.manifest.test_tflite import one_product

    assert (
        refusal(one_product(tmp_path / "one.tflite", 9, 1))
        == "`one.tflite` has no signature `decode` of a decoder"
    )


@pytest.fixture
def legacy(monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime with tflite-runtime alone: its interpreter has the same interface."""
    from ai_edge_litert.interpreter import Interpreter

    version = importlib.metadata.version
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    monkeypatch.setitem(sys.modules, "tflite_runtime", SimpleNamespace())
    monkeypatch.setitem(
        sys.modules, "tflite_runtime.interpreter", SimpleNamespace(Interpreter=Interpreter)
    )
    monkeypatch.setattr(
        importlib.metadata,
        "version",
        lambda name: "2.14.0" if name == "tflite-runtime" else version(name),
    )


@pytest.mark.usefixtures("legacy")
def test_the_legacy_runtime_is_kept_from_numpy_2(file: Path) -> None:
    assert (
        refusal(file)
        == f"`{file.name}` is not run: tflite-runtime 2.14 needs numpy 1, here is {np.__version__}"
    )


@pytest.mark.usefixtures("legacy")
def test_the_legacy_runtime_runs_what_it_may(
    file: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(np, "__version__", "1.26.4")
    engine = load(file, SETTINGS)
    assert (engine.description.engine, engine.description.version) == ("tflite-runtime", "2.14.0")
    four = quantized_tflite(folder, folder.parent / "four", "dynamic_wi4_afp32_block32").file
    assert (
        refusal(four)
        == f"`{four.name}` is not run: tflite-runtime 2.14 has no FULLY_CONNECTED of version 12"
    )


def test_the_description_is_that_of_the_file(engine: Engine, file: Path) -> None:
    assert isinstance(engine, LiteEngine)
    found = engine.description
    assert (found.engine, found.model_filename, found.model_type) == (
        "litert",
        file.name,
        "llama dynamic_wi8_afp32",
    )
    assert (found.model_n_params, found.context_train, found.kv_type, engine.context) == (
        1443072,
        512,
        "f32",
        256,
    )
