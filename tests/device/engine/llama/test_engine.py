"""The engine's own loop against the high-level API of the same library, and how answers end.

An answer ends by a stop, by its length, by a cancel or by an error.
"""

import array
import math
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from llama_cpp import llama_cpp

from device.engine import load
from device.engine.base import Engine, FieldError, Sampling, Settings, Token
from device.engine.llama import LlamaEngine, objects
from device.errors import DeviceError
from tests.fakes.tiny_gguf import END, tiny_gguf

RECITAL = "树🍵é莓"
SETTINGS = Settings(context=512, threads=1)
GREEDY = Sampling(max_tokens=48)
QUESTION = list(b"what is it?\n")


@pytest.fixture(scope="module")
def random_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf(tmp_path_factory.mktemp("gguf") / "random.gguf")


@pytest.fixture
def engine(random_file: Path) -> Iterator[Engine]:
    loaded = load(random_file, SETTINGS)
    yield loaded
    loaded.close()


@pytest.fixture
def reciter(tmp_path: Path) -> Iterator[Engine]:
    loaded = load(tiny_gguf(tmp_path / "recites.gguf", recites=RECITAL), SETTINGS)
    yield loaded
    loaded.close()


def ids(steps: list[Token]) -> list[int]:
    return [step.id for step in steps if step.id is not None]


def likeliest(row: bytes) -> int:
    scores = array.array("f", row)
    return scores.index(max(scores))


def reused(steps: list[Token]) -> int:
    assert steps[-1].timing
    return steps[-1].timing.reused_tokens


def test_greedy_tokens_equal_those_of_the_stock_high_level_api(
    engine: Engine, random_file: Path
) -> None:
    import llama_cpp

    stock = llama_cpp.Llama(
        str(random_file),
        n_ctx=512,
        n_batch=512,
        n_threads=1,
        n_threads_batch=1,
        flash_attn=True,
        verbose=False,
    )
    for question in ("what is it?", "树莓派 🍵", "x" * 300):
        tokens = stock.tokenize(question.encode(), add_bos=False, special=True)
        assert engine.tokenize(question) == tokens
        theirs: list[int] = []
        for token in stock.generate(tokens, temp=0.0):
            theirs.append(int(token))
            if len(theirs) == GREEDY.max_tokens or token == END:
                break
        engine.forget()
        assert ids(list(engine.generate(tokens, GREEDY))) == [
            token for token in theirs if token != END
        ]
        stock.reset()
    stock.close()


def test_text_streams_in_whole_characters_only(reciter: Engine) -> None:
    steps = list(reciter.generate(QUESTION, GREEDY))
    assert ids(steps) == list(RECITAL.encode())
    assert [step.text for step in steps if step.text] == list(RECITAL)
    assert steps[-1].finish_reason == "stop"


def test_the_last_step_alone_has_the_reason_and_the_figures(reciter: Engine) -> None:
    *steps, last = reciter.generate(QUESTION, Sampling(max_tokens=4))
    assert [(step.finish_reason, step.timing) for step in steps] == [(None, None)] * 4
    assert (last.id, last.finish_reason) == (None, "length")
    assert last.timing
    assert (last.timing.prompt_tokens, last.timing.answer_tokens, last.timing.decode_steps) == (
        len(QUESTION),
        4,
        3,
    )


def test_a_stop_text_ends_the_answer_before_it(reciter: Engine) -> None:
    steps = list(reciter.generate(QUESTION, replace(GREEDY, stop=("é",))))
    assert "".join(step.text for step in steps) == "树🍵"
    assert steps[-1].finish_reason == "stop"


def test_a_stop_id_of_the_manifest_ends_the_answer(reciter: Engine) -> None:
    steps = list(reciter.generate(QUESTION, GREEDY, stop_ids=[0xF0]))
    assert ("".join(step.text for step in steps), steps[-1].finish_reason) == ("树", "stop")


def test_an_answer_ends_by_length_where_the_context_is_full(engine: Engine) -> None:
    prompt = [7] * 500
    steps = list(engine.generate(prompt, replace(GREEDY, max_tokens=100)))
    assert (len(ids(steps)), steps[-1].finish_reason) == (12, "length")


def test_the_next_turn_reads_only_what_is_new_and_answers_as_from_the_beginning(
    engine: Engine,
) -> None:
    first = list(engine.generate(QUESTION, GREEDY))
    turn = [*QUESTION, *ids(first), *b"and then?"]
    second = list(engine.generate(turn, GREEDY))
    assert second[-1].timing
    assert second[-1].timing.reused_tokens == len(QUESTION) + GREEDY.max_tokens - 1
    engine.forget()
    fresh = list(engine.generate(turn, GREEDY))
    assert fresh[-1].timing
    assert fresh[-1].timing.reused_tokens == 0
    assert ids(second) == ids(fresh)


def test_another_question_reuses_the_prefix_alone_and_answers_as_from_the_beginning(
    engine: Engine,
) -> None:
    prefix = b"system: be brief. "
    list(engine.generate([*prefix, *b"one"], GREEDY, prefix=len(prefix)))
    other = [*prefix, *b"once more"]
    second = list(engine.generate(other, GREEDY, prefix=len(prefix)))
    assert reused(second) == len(prefix)
    engine.forget()
    fresh = list(engine.generate(other, GREEDY, prefix=len(prefix)))
    assert (reused(fresh), ids(fresh)) == (0, ids(second))


def test_engines_side_by_side_answer_at_the_same_time_as_each_does_alone(random_file: Path) -> None:
    first = load(random_file, replace(SETTINGS, threads=2, slots=2))
    second = first.new_context()
    assert second and second.description.threads == 1
    questions = [[*QUESTION, *b"%d" % number] for number in range(4)]
    alone = [ids(list(first.generate(question, GREEDY))) for question in questions]
    with ThreadPoolExecutor(2) as both:
        turns = both.map(
            lambda each: [ids(list(each.generate(question, GREEDY))) for question in questions],
            (first, second),
        )
        assert list(turns) == [alone, alone]
    second.close()
    assert ids(list(first.generate(questions[0], GREEDY))) == alone[0]
    first.close()


def test_conversations_that_alternate_are_not_read_again(engine: Engine) -> None:
    prefix, turns = [*b"system: be brief. "], [[*b"x" * 40], [*b"y" * 40]]
    talks = [[*prefix, *turn] for turn in turns]
    for talk in talks:
        talk += ids(list(engine.generate(talk, GREEDY, prefix=len(prefix))))
    for talk in talks:
        before = len(talk)
        talk += b"and?"
        assert reused(list(engine.generate(talk, GREEDY, prefix=len(prefix)))) >= before - 1


def test_a_saved_state_is_taken_back_by_another_process_and_changes_no_token(
    random_file: Path,
) -> None:
    prefix, prompt = [*b"system: be very brief. "], [*b"system: be very brief. what is it?"]
    saved, plain, restored = (load(random_file, SETTINGS) for _ in range(3))
    state = saved.save(prefix)
    assert restored.restore(prefix, state)
    with_state, without = (
        list(engine.generate(prompt, GREEDY, prefix=len(prefix))) for engine in (restored, plain)
    )
    assert (reused(with_state), reused(without)) == (len(prefix), 0)
    assert ids(with_state) == ids(without)
    for engine in (saved, plain, restored):
        engine.close()


def test_scores_behind_a_prefix_come_from_its_state(engine: Engine) -> None:
    prefix, rest = [*b"system: be very brief. "], [*b"what is it?"]
    whole = list(engine.logits([*prefix, *rest]))[len(prefix) :]
    apart = list(engine.logits([*prefix, *rest], len(prefix)))
    assert [likeliest(row) for row in apart] == [likeliest(row) for row in whole]
    state = engine.save([*reversed(prefix)])
    engine.forget()
    assert engine.restore(prefix, state)
    assert list(engine.logits([*prefix, *rest], len(prefix))) != apart, (
        "the state of other tokens under these tokens' name"
    )
    engine.forget()
    assert list(engine.logits([*prefix, *rest], len(prefix))) == apart


@pytest.mark.parametrize(
    "harm", [lambda state: state[: len(state) // 2], lambda state: b"", lambda state: b"\xff" * 64]
)
def test_a_state_that_holds_other_tokens_than_it_should_is_not_taken(
    engine: Engine, harm: Callable[[bytes], bytes]
) -> None:
    prefix = [*b"system: be brief. "]
    state = engine.save(prefix)
    engine.forget()
    assert not engine.restore(prefix, harm(state))
    assert not engine.restore(prefix[:-1], state)
    assert reused(list(engine.generate([*prefix, 7], GREEDY, prefix=len(prefix)))) == 0


COPIED = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+-*/=<>()[]{}"


@pytest.fixture(scope="module")
def copier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf(tmp_path_factory.mktemp("copier") / "copies.gguf", recites=COPIED)


def drafting(file: Path, *, speculative: bool = True) -> LlamaEngine:
    loaded = load(file, replace(SETTINGS, speculative=speculative))
    assert isinstance(loaded, LlamaEngine)
    return loaded


def test_an_answer_that_repeats_its_prompt_is_drafted_and_stays_the_same(copier: Path) -> None:
    prompt, sampling = [*COPIED.encode(), 10], Sampling(max_tokens=100)
    one, other = drafting(copier), drafting(copier, speculative=False)
    steps, plain = (list(engine.generate(prompt, sampling)) for engine in (one, other))
    assert [(step.id, step.text, step.finish_reason) for step in steps] == [
        (step.id, step.text, step.finish_reason) for step in plain
    ]
    assert "".join(step.text for step in steps) == COPIED
    assert one._decoder.exact and not other._decoder.exact
    assert len(one._sequence) == len(other._sequence)
    one.close()
    other.close()


def test_noise_is_the_same_with_drafts_and_without(random_file: Path) -> None:
    one, other = drafting(random_file), drafting(random_file, speculative=False)
    for prompt in (QUESTION, [*b"ab" * 40], [*b"the same, the same, the same"]):
        answers = [
            ids(list(engine.generate(prompt, Sampling(max_tokens=200)))) for engine in (one, other)
        ]
        assert answers[0] == answers[1]
    one.close()
    other.close()


@pytest.mark.parametrize("taken", range(9, 40, 3))
def test_an_answer_that_is_left_among_drafts_leaves_no_token_too_many(
    copier: Path, taken: int
) -> None:
    engine = drafting(copier)
    prompt = [*COPIED.encode(), 10]
    answer = engine.generate(prompt, Sampling(max_tokens=100))
    said = [next(answer).id for _ in range(taken)]
    answer.close()  # type: ignore[attr-defined]
    assert engine._sequence.live.tokens == [*prompt, *said[:-1]]
    engine.close()


def test_what_a_batch_gives_is_not_believed_where_its_bits_differ(
    copier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = drafting(copier)
    rows = iter(range(1 << 20))
    monkeypatch.setattr(engine._decoder, "_row", lambda row: next(rows))
    prompt, sampling = [*COPIED.encode(), 10], Sampling(max_tokens=100)
    assert "".join(step.text for step in engine.generate(prompt, sampling)) == COPIED
    assert set(engine._decoder.exact.values()) == {False}
    engine.close()


def test_closing_an_answer_stops_within_one_token(engine: Engine) -> None:
    answer = engine.generate(QUESTION, GREEDY)
    said = [next(answer).id for _ in range(3)]
    answer.close()  # type: ignore[attr-defined]
    follow = list(
        engine.generate([*QUESTION, *(token for token in said if token is not None), *b"!"], GREEDY)
    )
    assert follow[-1].timing
    assert follow[-1].timing.reused_tokens == len(QUESTION) + 2


def test_cancelling_ends_the_answer_within_one_token(engine: Engine) -> None:
    seen: list[Token] = []
    for step in engine.generate(QUESTION, GREEDY, cancelled=lambda: len(seen) >= 3):
        seen.append(step)
    assert len(seen) == 3


def test_cancelling_stops_the_reading_of_a_prompt_and_the_next_answer_is_right(
    engine: Engine,
) -> None:
    right = ids(list(engine.generate(QUESTION, GREEDY)))
    asked: list[int] = []

    def cancelled() -> bool:
        asked.append(1)
        return len(asked) > 5

    assert list(engine.generate([9] * 400, GREEDY, cancelled=cancelled)) == []
    assert ids(list(engine.generate(QUESTION, GREEDY))) == right


def test_the_same_seed_draws_the_same_tokens_and_another_draws_others(engine: Engine) -> None:
    def drawn(seed: int) -> list[int]:
        engine.forget()
        return ids(
            list(
                engine.generate(
                    QUESTION, replace(GREEDY, temperature=1.5, top_k=0, top_p=1, min_p=0, seed=seed)
                )
            )
        )

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_one_candidate_draws_what_greedy_takes(engine: Engine) -> None:
    greedy = ids(list(engine.generate(QUESTION, GREEDY)))
    engine.forget()
    assert ids(list(engine.generate(QUESTION, replace(GREEDY, temperature=1.0, top_k=1)))) == greedy


def test_a_row_of_logits_for_each_token_names_the_greedy_answer(engine: Engine) -> None:
    steps = ids(list(engine.generate(QUESTION, Sampling(max_tokens=40))))
    tokens = [*QUESTION, *steps]
    rows = [array.array("f", row) for row in engine.logits(tokens)]
    assert [len(row) for row in rows] == [engine.n_vocab] * len(tokens)
    assert [row.index(max(row)) for row in rows[len(QUESTION) - 1 : -1]] == steps


@pytest.mark.parametrize(
    ("tokens", "code", "message"),
    [
        ([], "empty_prompt", "the prompt is empty"),
        (
            [1] * 512,
            "prompt_too_long",
            "the prompt has 512 tokens, the context holds 512 with the answer",
        ),
        ([1, 259], "bad_token", "token 259 is not one of the model's 259"),
        ([-1], "bad_token", "token -1 is not one of the model's 259"),
    ],
)
def test_a_prompt_that_cannot_be_answered_is_refused_at_once(
    engine: Engine, tokens: list[int], code: str, message: str
) -> None:
    with pytest.raises(DeviceError) as caught:
        engine.generate(tokens, GREEDY)
    assert (caught.value.code, caught.value.message, caught.value.status) == (code, message, 400)


def test_logits_fill_the_context_and_no_more(engine: Engine) -> None:
    assert len(list(engine.logits([1] * 512))) == 512
    with pytest.raises(DeviceError, match=r"the prompt has 513 tokens, the context holds 512$"):
        engine.logits([1] * 513)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def unknown_architecture(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"llama", b"lyama"))


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(cut, "`?broken.gguf`?: "), (unknown_architecture, "unknown model architecture: 'lyama'")],
)
def test_a_file_that_cannot_be_loaded_is_refused_with_the_reason(
    tmp_path: Path, spoil: Any, reason: str
) -> None:
    path = tiny_gguf(tmp_path / "broken.gguf")
    spoil(path)
    with pytest.raises(DeviceError, match=reason) as caught:
        load(path, SETTINGS)
    assert caught.value.code == "bad_model"


def test_a_missing_file_and_a_foreign_kind_are_refused(tmp_path: Path) -> None:
    for name, message in (
        ("no.gguf", "`no.gguf` is missing"),
        ("m.bin", "`m.bin` is no model file that this runtime runs"),
    ):
        with pytest.raises(DeviceError) as caught:
            load(tmp_path / name, SETTINGS)
        assert (caught.value.code, caught.value.message) == ("bad_model", message)


def test_an_unknown_kv_type_is_refused(random_file: Path) -> None:
    with pytest.raises(DeviceError, match="cannot be run with 512 tokens of q3_x context"):
        load(random_file, replace(SETTINGS, kv_type="q3_x"))


def test_a_quantized_kv_cache_runs(random_file: Path) -> None:
    engine = load(random_file, replace(SETTINGS, kv_type="q8_0"))
    assert len(ids(list(engine.generate(QUESTION, GREEDY)))) == GREEDY.max_tokens
    assert engine.description.kv_type == "q8_0"
    engine.close()


def test_the_engine_says_what_it_is(engine: Engine) -> None:
    said = engine.description
    assert (said.engine, said.model_filename, said.model_type, said.context_train) == (
        "llama.cpp",
        "random.gguf",
        "llama ?B all F32",
        512,
    )
    assert (said.threads, said.threads_batch, said.n_batch) == (1, 1, 512)
    assert engine.special_tokens() == {"eos_token": "<|im_end|>"}


def test_nothing_is_printed_by_the_library(
    random_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    load(random_file, SETTINGS).close()
    assert capfd.readouterr() == ("", "")


def test_half_a_surrogate_pair_is_tokenized_as_a_question_mark(engine: Engine) -> None:
    assert engine.tokenize("\ud800") == [ord("?")]


def test_the_reason_is_heard_after_somebody_else_set_the_log(tmp_path: Path) -> None:
    load(tiny_gguf(tmp_path / "sound.gguf"), SETTINGS).close()
    silent = llama_cpp.llama_log_callback(lambda level, text, context: None)
    llama_cpp.llama_log_set(silent, None)
    path = tiny_gguf(tmp_path / "broken.gguf")
    unknown_architecture(path)
    with pytest.raises(DeviceError, match="unknown model architecture"):
        load(path, SETTINGS)


def test_an_adapter_that_does_not_fit_is_refused_with_its_name(
    random_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "skill.gguf").write_bytes(random_file.read_bytes())
    with pytest.raises(DeviceError) as caught:
        load(random_file, replace(SETTINGS, adapter=tmp_path / "skill.gguf"))
    assert caught.value.code == "bad_model"
    assert caught.value.message.startswith("the adapter `skill.gguf` does not fit the model: ")


@pytest.mark.parametrize("step", ["describe", "batch"])
def test_a_context_is_freed_if_a_later_step_fails(
    random_file: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    first = load(random_file, SETTINGS)
    freed: list[object] = []
    free = llama_cpp.llama_free

    def fail(*_: object) -> None:
        raise MemoryError(step)

    def counted(context: object) -> None:
        freed.append(context)
        free(context)

    monkeypatch.setattr(llama_cpp, "llama_free", counted)
    monkeypatch.setattr(objects, step, fail)
    with pytest.raises(MemoryError, match=step):
        first.new_context()
    assert len(freed) == 1
    monkeypatch.undo()
    assert ids(list(first.generate(QUESTION, GREEDY)))
    first.close()


def test_an_adapter_with_a_broken_header_never_reaches_the_engine(
    random_file: Path, tmp_path: Path
) -> None:
    (tmp_path / "skill.gguf").write_bytes(b"GGUF")
    with pytest.raises(DeviceError) as caught:
        load(random_file, replace(SETTINGS, adapter=tmp_path / "skill.gguf"))
    assert caught.value.code == "bad_model"


def test_each_token_comes_with_its_log_probability_and_the_likeliest(engine: Engine) -> None:
    rows = [array.array("f", row) for row in engine.logits(QUESTION)]
    *steps, _ = engine.generate(QUESTION, Sampling(max_tokens=3, top_logprobs=4))
    assert [len(step.candidates) for step in steps] == [5, 5, 5]
    logits = rows[-1]
    total = math.log(sum(math.exp(score - max(logits)) for score in logits)) + max(logits)
    best = sorted(range(len(logits)), key=lambda token: -logits[token])[:4]
    assert [candidate.piece for candidate in steps[0].candidates] == [
        engine.piece(token) for token in (best[0], *best)
    ]
    expected = [logits[token] - total for token in (best[0], *best)]
    assert [candidate.logprob for candidate in steps[0].candidates] == pytest.approx(
        expected, abs=0.01
    )


@pytest.mark.parametrize(
    "sampling", [GREEDY, Sampling(max_tokens=48, temperature=1.5, seed=1, top_k=0)]
)
def test_a_grammar_holds_whatever_the_model_would_say(engine: Engine, sampling: Sampling) -> None:
    grammar = 'root ::= "{" [a-c]{3} "é" ("x" | "y") "}"'
    steps = list(engine.generate(QUESTION, replace(sampling, grammar=grammar, top_logprobs=1)))
    text = "".join(step.text for step in steps)
    assert re.fullmatch(r"\{[abc]{3}é[xy]\}", text)
    assert steps[-1].finish_reason == "stop"


def test_a_grammar_that_is_none_is_refused_and_the_engine_lives(engine: Engine) -> None:
    with pytest.raises(
        FieldError, match="`response_format`: the engine does not take this grammar"
    ):
        list(engine.generate(QUESTION, replace(GREEDY, grammar="root ::= undefined")))
    assert ids(list(engine.generate(QUESTION, GREEDY)))


def test_a_grammar_that_no_token_follows_is_named(engine: Engine) -> None:
    with pytest.raises(DeviceError) as caught:
        list(engine.generate(QUESTION, replace(GREEDY, grammar='root ::= "a" "\\x00" "b"')))
    assert caught.value.code == "no_token"
