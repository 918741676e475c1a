"""Pictures through libmtmd, with transformers as the referee, and what must not pass for one."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from device.engine import load
from device.engine.base import Sampling, Settings
from device.engine.llama import LlamaEngine
from device.errors import DeviceError
from tests.fakes.eyes import (
    POSITIONS,
    SPECIALS,
    can_see,
    picture,
    pixels,
    reference,
    seeing_files,
)

pytestmark = pytest.mark.skipif(not can_see(), reason="llama-cpp-python without libmtmd: make")
GREEDY = Sampling(max_tokens=12)
IMAGE = SPECIALS.index("<image>")
ENDS = [SPECIALS.index(text) for text in ("<|endoftext|>", "<end_of_utterance>")]
BEFORE = "<|im_start|>User:"
BEHIND = "Is the LED on?<end_of_utterance>\nAssistant:"
PICTURES = 100
Files = tuple[Path, Path, Path]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return seeing_files(tmp_path_factory.mktemp("eyes"))


@pytest.fixture
def engine(files: Files) -> Iterator[LlamaEngine]:
    loaded = opened(files)
    yield loaded
    loaded.close()


def opened(files: Files, **settings: Any) -> LlamaEngine:
    # What is compared is the file, not the rounding of its cache.
    cache = {"kv_type": "f32", "flash": False}
    given = {"context": 512, "threads": 1, "projector": files[2], **cache, **settings}
    loaded = load(files[1], Settings(**given))
    assert isinstance(loaded, LlamaEngine)
    return loaded


def asked(engine: LlamaEngine, image: bytes, question: str = BEHIND) -> tuple[list[int], int, Any]:
    """Return the tokens of a question about a picture, where the picture ends, and the picture."""
    seen = engine.see(image)
    before = [*engine.tokenize(BEFORE + seen.before), *seen.tokens]
    return [*before, *engine.tokenize(seen.behind + question)], len(before), seen


def answered(engine: LlamaEngine, tokens: Sequence[int], prefix: int = 0) -> tuple[list[int], int]:
    """Return the greedy answer, and how many tokens of the prompt were in memory."""
    steps = list(engine.generate(tokens, GREEDY, prefix=prefix))
    timing = steps[-1].timing
    assert timing
    return [step.id for step in steps if step.id is not None], timing.reused_tokens


def expected(model: Any, tokens: Sequence[int], image: bytes) -> list[int]:
    """Return transformers' greedy answer."""
    return [token for token in _generated(model, tokens, image)[0] if token not in ENDS]


def lead(model: Any, tokens: Sequence[int], image: bytes, ours: Sequence[int]) -> float:
    """Return by how much transformers prefers its token where our answer differs first, in logits;
    0 for the same answer.
    """
    theirs, scores = _generated(model, tokens, image)
    for place, (next_, row) in enumerate(zip(theirs, scores, strict=True)):
        chosen = [ours[place]] if place < len(ours) else ENDS
        if next_ not in chosen:
            return float(row[0, next_] - row[0, chosen].max())
    return 0.0


def _generated(model: Any, tokens: Sequence[int], image: bytes) -> tuple[list[int], Any]:
    """Return transformers' greedy answer and the scores before each of its tokens."""
    import torch

    ids = torch.tensor([[IMAGE if token < 0 else token for token in tokens]])
    with torch.inference_mode():
        made = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=pixels(image),
            max_new_tokens=GREEDY.max_tokens,
            do_sample=False,
            eos_token_id=ENDS,
            output_scores=True,
            return_dict_in_generate=True,
        )
    return made.sequences[0, ids.shape[1] :].tolist(), made.scores


def features(model: Any, image: bytes) -> np.ndarray:
    """Return transformers' embeddings of a picture, [positions, width]."""
    import torch

    with torch.inference_mode():
        found = model.model.get_image_features(pixel_values=pixels(image))
    each = getattr(found, "pooler_output", found)
    rows: np.ndarray = torch.cat(list(each)).reshape(POSITIONS, -1).numpy()
    return rows


def rows_of(engine: LlamaEngine, seen: Any) -> np.ndarray:
    """Return our embeddings of a picture, [positions, width]."""
    assert engine.eyes
    first = next(token for token in seen.tokens if token < 0)
    raw = engine.eyes.rows(first, POSITIONS)
    return np.frombuffer(raw, np.float32).reshape(POSITIONS, -1)


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    found: np.ndarray = (one * other).sum(-1) / lengths
    return found


def test_pictures_are_seen_as_transformers_sees_them(engine: LlamaEngine, files: Files) -> None:
    """Two tokens that transformers itself can hardly tell apart may swap: llama.cpp multiplies
    weights of 16 bits with activations of 16 bits.
    """
    model = reference(files[0])
    leads = []
    for seed in range(PICTURES):
        image = picture(seed, kind="PNG")
        tokens, prefix, seen = asked(engine, image)
        assert cosines(rows_of(engine, seen), features(model, image)).min() >= 0.9999
        leads.append(lead(model, tokens, image, answered(engine, tokens, prefix)[0]))
    assert max(leads) < 0.01, sorted(leads)
    assert leads.count(0.0) >= 0.9 * PICTURES


def test_a_projector_of_eight_bits_sees_nearly_the_same(tmp_path: Path) -> None:
    files = seeing_files(tmp_path, "Q8_0")
    loaded, model = opened(files), reference(files[0])
    for seed in range(4):
        seen = loaded.see(picture(seed))
        assert cosines(rows_of(loaded, seen), features(model, picture(seed))).min() >= 0.999
    loaded.close()


def test_a_second_question_about_a_picture_neither_encodes_nor_reads_it_again(
    engine: LlamaEngine,
) -> None:
    assert engine.eyes
    tokens, prefix, first = asked(engine, picture(1))
    _, reused = answered(engine, tokens, prefix)
    assert (reused, engine.eyes.encoded) == (0, 1)
    other, other_prefix, second = asked(engine, picture(2))
    answered(engine, other, other_prefix)
    tokens, prefix, _ = asked(engine, picture(1), "How many?<end_of_utterance>\nAssistant:")
    again, reused = answered(engine, tokens, prefix)
    assert (reused, engine.eyes.encoded) == (prefix, 2)
    engine.forget()
    assert answered(engine, tokens, prefix)[0] == again
    assert first.digest != second.digest


def test_a_picture_that_is_cut_by_a_batch_is_read_all_the_same(files: Files) -> None:
    """Batches end every 512 tokens, wherever a picture stands."""
    loaded, model = opened(files, context=1024), reference(files[0])
    seen = loaded.see(picture(3))
    filler = loaded.tokenize("x " * 600)[: 512 - 3]
    around = loaded.tokenize(seen.before), loaded.tokenize(seen.behind + BEHIND)
    tokens = [*filler[len(around[0]) :], *around[0], *seen.tokens, *around[1]]
    assert min(tokens[510:514]) < 0
    assert answered(loaded, tokens)[0] == expected(model, tokens, picture(3))
    loaded.close()


def test_an_answer_does_not_depend_on_the_pictures_before(engine: LlamaEngine) -> None:
    images = [picture(seed) for seed in range(4)]
    alone = []
    for image in images:
        engine.forget()
        tokens, prefix, _seen = asked(engine, image)
        alone.append(answered(engine, tokens, prefix)[0])
    engine.forget()
    kept = [asked(engine, image) for image in images]
    mixed = [answered(engine, tokens, prefix)[0] for tokens, prefix, _ in reversed(kept)]
    assert mixed == list(reversed(alone))
    assert len(set(map(tuple, alone))) > 1


def test_contexts_of_one_model_share_what_they_have_seen(engine: LlamaEngine) -> None:
    assert engine.eyes
    tokens, prefix, _seen = asked(engine, picture(5))
    first = answered(engine, tokens, prefix)[0]
    other = engine.new_context()
    assert answered(other, tokens, prefix)[0] == first
    assert engine.eyes.encoded == 1
    other.close()


def test_a_picture_that_nobody_holds_is_forgotten_and_its_ids_are_refused(
    engine: LlamaEngine,
) -> None:
    tokens, _, seen = asked(engine, picture(6))
    engine.check(tokens, GREEDY)
    del seen
    for seed in range(10, 15):
        engine.see(picture(seed))
    with pytest.raises(DeviceError, match="is not one of the model's"):
        engine.check(tokens, GREEDY)
    with pytest.raises(DeviceError, match="is not one of the model's"):
        engine.check([-1], GREEDY)


def test_rows_of_words_and_pictures_cannot_be_asked_for_together(engine: LlamaEngine) -> None:
    tokens, prefix, _seen = asked(engine, picture(7))
    assert len(list(engine.logits(tokens, prefix))) == len(tokens) - prefix
    with pytest.raises(DeviceError, match="rows of words and pictures"):
        list(engine.logits(tokens))


def test_an_engine_without_a_projector_refuses_by_name(files: Files) -> None:
    loaded = load(files[1], Settings(context=64, threads=1))
    with pytest.raises(DeviceError, match=r"on llama.cpp reads text, no pictures$") as caught:
        loaded.see(picture(1))
    assert (caught.value.code, caught.value.status) == ("cannot_see", 400)
    assert loaded.picture_marker == ""
    loaded.close()


def test_a_projector_of_another_kind_and_a_broken_one_are_refused(
    files: Files, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(files[2].read_bytes()[:-100])
    with pytest.raises(DeviceError, match=r"broken\.gguf") as caught:
        opened(files, projector=broken)
    assert caught.value.code == "bad_model"

    other = tmp_path / "other.gguf"
    writer = gguf.GGUFWriter(other, "clip")
    writer.add_string("clip.projector_type", "gemma4v")
    writer.add_tensor("v.post_ln.bias", np.zeros(4, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(DeviceError, match="a projector of the kind `gemma4v` is not run here"):
        opened(files, projector=other)


def test_eyes_that_were_opened_are_closed_where_the_rest_fails(
    files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llama_cpp import mtmd_cpp

    from device.engine.llama import eyes, objects

    freed: list[Any] = []
    free = mtmd_cpp.mtmd_free
    monkeypatch.setattr(mtmd_cpp, "mtmd_free", lambda ctx: (freed.append(ctx), free(ctx)))

    def fail(*words: Any) -> Any:
        raise DeviceError("bad_model", "no room")

    with monkeypatch.context() as broken:
        broken.setattr(objects, "context", fail)
        with pytest.raises(DeviceError, match="no room"):
            opened(files)
    assert len(freed) == 1
    with monkeypatch.context() as broken:
        broken.setattr(eyes.Eyes, "_check_tokens", fail)
        with pytest.raises(DeviceError, match="no room"):
            opened(files)
    assert len(freed) == 2
