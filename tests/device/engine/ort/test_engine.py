"""The engine on ONNX Runtime against the stock session called by hand: logits, answers, memory and
refusals.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from device.engine import load, streamed_bytes
from device.engine.base import Engine, FieldError, Sampling, Settings, Token
from device.engine.ort.cells import PIECE
from device.errors import DeviceError
from tests.fakes.models import tiny_llama
from tests.fakes.onnx_files import forced_logits, quantized_onnx
from tests.toolchain.quantize.conftest import tensors

SETTINGS = Settings(threads=1)
GREEDY = Sampling(max_tokens=40)
PROMPT = [int(token) for token in np.random.default_rng(2).integers(3, 512, 150)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that never ends an answer."""
    return tiny_llama(tmp_path_factory.mktemp("model") / "model", initializer_range=0.1)


@pytest.fixture(scope="module")
def file(folder: Path) -> Path:
    return quantized_onnx(folder, folder.parent / "out", "int4_b32", context=256).file


@pytest.fixture(scope="module")
def exact(folder: Path) -> Path:
    """The same model in float32."""
    return quantized_onnx(folder, folder.parent / "exact", "fp32", context=256).file


@pytest.fixture
def engine(file: Path) -> Iterator[Engine]:
    loaded = load(file, SETTINGS)
    yield loaded
    loaded.close()


def ids(steps: list[Token]) -> list[int]:
    return [step.id for step in steps if step.id is not None]


def test_logits_and_tokens_are_those_of_the_stock_session(exact: Path) -> None:
    engine = load(exact, SETTINGS)
    rows = np.stack([np.frombuffer(row, np.float32) for row in engine.logits(PROMPT)])
    assert rows.shape == (150, 512)
    assert np.abs(rows - forced_logits(exact, PROMPT, 64)).max() < 1e-4

    answer = ids(list(engine.generate(PROMPT, GREEDY)))
    stock = forced_logits(exact, [*PROMPT, *answer], len(PROMPT))[len(PROMPT) - 1 : -1]
    assert answer == stock.argmax(-1).tolist()
    engine.close()


def test_tokens_of_four_bits_are_those_of_the_stock_session(engine: Engine, file: Path) -> None:
    answer = ids(list(engine.generate(PROMPT, GREEDY)))
    stock = forced_logits(file, [*PROMPT, *answer], len(PROMPT))[len(PROMPT) - 1 : -1]
    assert len(answer) == 40
    margins = np.sort(stock, -1)[:, -1] - np.sort(stock, -1)[:, -2]
    assert all(
        row.argmax() == token or margin < 0.1
        for row, token, margin in zip(stock, answer, margins, strict=True)
    )


def test_a_token_that_stops_is_no_part_of_the_answer(engine: Engine) -> None:
    whole = ids(list(engine.generate(PROMPT, GREEDY)))
    steps = list(engine.generate(PROMPT, GREEDY, stop_ids=[whole[5]]))
    assert ids(steps) == whole[: whole.index(whole[5])]
    assert steps[-1].finish_reason == "stop"


def test_the_file_itself_says_what_stops(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "model")

    def ends(found: dict) -> None:
        found["lm_head.weight"][:] = 0
        found["lm_head.weight"][2] = found["model.norm.weight"].sign() * 0.1

    tensors(ends)(model)
    engine = load(quantized_onnx(model, tmp_path / "out", context=256).file, SETTINGS)
    seen = [np.frombuffer(row, np.float32).argmax() for row in engine.logits(PROMPT)]
    at = seen.index(2) + 1
    assert ids(list(engine.generate(PROMPT[:at], GREEDY))) == []


@pytest.mark.parametrize("prefix", [0, 1, 17, PIECE, 100])
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


def test_cancelling_ends_the_reading_of_a_prompt_within_a_piece(engine: Engine) -> None:
    asked: list[int] = []

    def cancelled() -> bool:
        asked.append(1)
        return len(asked) > 1

    assert list(engine.generate(PROMPT, GREEDY, cancelled=cancelled)) == []
    assert len(asked) <= 3, "a prompt of three pieces was read on"


def test_the_whole_context_can_be_filled(engine: Engine) -> None:
    prompt = (PROMPT * 3)[:250]
    steps = list(engine.generate(prompt, GREEDY))
    assert len(ids(steps)) == 6
    assert steps[-1].finish_reason == "length"


def test_a_context_that_was_asked_for_is_the_memory_that_is_taken(file: Path) -> None:
    engine = load(file, Settings(threads=1, context=64))
    assert engine.context == 64
    with pytest.raises(DeviceError) as caught:
        engine.generate(PROMPT[:64], GREEDY)
    assert caught.value.code == "prompt_too_long"
    engine.close()


def test_threads_can_be_changed_without_changing_the_answer(engine: Engine) -> None:
    before = ids(list(engine.generate(PROMPT, GREEDY)))
    engine.use_threads(2, 2, (0,))
    assert engine.description.threads == 2
    assert ids(list(engine.generate(PROMPT, GREEDY))) == before
    engine.use_threads(1, 1)


def test_threads_do_not_spin_while_they_wait(engine: Engine) -> None:
    options = engine._cells._session.get_session_options()  # type: ignore[attr-defined]
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert (options.intra_op_num_threads, options.inter_op_num_threads) == (1, 1)


def test_the_description_names_library_and_scheme(engine: Engine, file: Path) -> None:
    import onnxruntime

    said = engine.description
    assert (said.engine, said.version) == ("ort", onnxruntime.__version__)
    assert (said.model_type, said.kv_type) == ("llama int4_b32", "f32")
    assert 0 < streamed_bytes(file) < said.model_size


# What is refused


def test_a_grammar_and_embeddings_are_refused_by_name(engine: Engine) -> None:
    with pytest.raises(FieldError) as caught:
        engine.generate(PROMPT, Sampling(grammar='root ::= "a"'))
    assert caught.value.field == "response_format"
    with pytest.raises(DeviceError) as refused:
        engine.embed(PROMPT)
    assert refused.value.code == "unsupported"


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
    message = f"`{file.name}`: an adapter goes into an ONNX file when it is made, not beside it"
    assert refusal(file, Settings(adapter=Path("adapter"))) == message


def test_what_the_library_refuses_is_said_and_nothing_is_printed(
    file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A slice without its end passes the check of the structure, and not the library's."""
    onnx = pytest.importorskip("onnx")
    model = onnx.ModelProto.FromString(file.read_bytes())
    node = next(each for each in model.graph.node if each.op_type == "Slice")
    del node.input[2:]
    broken = tmp_path / file.name
    broken.write_bytes(model.SerializeToString())
    Path(f"{broken}.data").write_bytes(Path(f"{file}.data").read_bytes())
    (tmp_path / "tokenizer.json").write_bytes(file.with_name("tokenizer.json").read_bytes())
    assert refusal(broken).startswith(f"`{file.name}` cannot be loaded: ")
    assert capfd.readouterr().out == ""


def test_a_file_without_its_data_or_its_tokenizer_is_refused(file: Path, tmp_path: Path) -> None:
    alone = tmp_path / file.name
    alone.write_bytes(file.read_bytes())
    assert refusal(alone) == f"{file.name}: `{file.name}.data` with its weights is missing"
    Path(f"{alone}.data").write_bytes(Path(f"{file}.data").read_bytes())
    assert refusal(alone).startswith("`tokenizer.json` beside the model cannot be used: ")
