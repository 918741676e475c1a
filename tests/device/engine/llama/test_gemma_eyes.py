"""Pictures whose positions see each other; the referee is transformers' own processor and model."""

import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device.engine.base import Sampling, Settings
from device.engine.llama import LlamaEngine
from device.engine.states import BATCH
from device.errors import DeviceError
from device.manifest.pictures import PARTS
from device.model import Model, Prompt, open_file
from tests.fakes.eyes import can_see, picture
from tests.fakes.gemma_eyes import POSITIONS, tiny_gemma3
from toolchain.artifacts import ModelFile, external
from toolchain.progress import Silent
from toolchain.quantize.gguf import ModelLabel, quantize
from toolchain.recipe import QuantizeSpec

pytestmark = pytest.mark.skipif(not can_see(), reason="llama-cpp-python without libmtmd: make")
GREEDY = Sampling(max_tokens=12)
ASKED = "Is the LED on?"
PICTURES = 100


def made(folder: Path, **model: Any) -> tuple[Path, ModelFile]:
    source = tiny_gemma3(folder / "model", **model)
    spec = QuantizeSpec(scheme="F16", projector="F16")
    return source, quantize(external(source), spec, ModelLabel(name="g"), folder / "o", Silent())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelFile]:
    return made(tmp_path_factory.mktemp("gemma"))


def opened(file: ModelFile, **settings: Any) -> Model:
    # What is compared is the file, not the rounding of its cache.
    cache = {"kv_type": "f32", "flash": False}
    given = {"context": 1024, "threads": 1, "projector": file.projector, **cache, **settings}
    return open_file(file.file, Settings(**given))


@pytest.fixture
def model(files: tuple[Path, ModelFile]) -> Iterator[Model]:
    loaded = opened(files[1])
    yield loaded
    loaded.engine.close()


def photo(seed: int) -> bytes:
    """Return a picture of the tile's size, or, for odd seeds, one of another size and shape."""
    from PIL import Image

    if seed % 2 == 0:
        return picture(seed)
    shape = (100 + 13 * seed % 170, 70 + 29 * seed % 110)
    written = io.BytesIO()
    Image.open(io.BytesIO(picture(seed, 220))).resize(shape).save(written, "PNG")
    return written.getvalue()


def prompt_of(model: Model, image: bytes, *around: str) -> Prompt:
    before, behind = around or ("", ASKED)
    parts = [*([before] if before else []), image, behind]
    return model.prompt([{"role": "user", "content": before + behind, PARTS: parts}])


def answered(model: Model, prompt: Prompt) -> tuple[list[int], int]:
    """Return the greedy answer, and how many tokens of the prompt were in memory."""
    steps = list(model.engine.generate(prompt.tokens, GREEDY, prefix=prompt.prefix))
    timing = steps[-1].timing
    assert timing
    return [step.id for step in steps if step.id is not None], timing.reused_tokens


class Referee:
    """transformers' own model and processor."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoProcessor, Gemma3ForConditionalGeneration

        self.processor = AutoProcessor.from_pretrained(folder)
        loaded = Gemma3ForConditionalGeneration.from_pretrained(folder)
        # Its weights are rounded as those of the file.
        self.model = loaded.half().float().eval()

    def inputs(self, image: bytes, before: str = "", behind: str = ASKED) -> Any:
        from PIL import Image

        shown = {"type": "image", "image": Image.open(io.BytesIO(image)).convert("RGB")}
        parts = [*([{"type": "text", "text": before}] if before else []), shown]
        return self.processor.apply_chat_template(
            [{"role": "user", "content": [*parts, {"type": "text", "text": behind}]}],
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
        )

    def answer(self, inputs: Any) -> tuple[list[int], Any]:
        """Return the greedy answer, and the scores before each of its tokens."""
        import torch

        with torch.inference_mode():
            found = self.model.generate(
                **inputs,
                max_new_tokens=GREEDY.max_tokens,
                do_sample=False,
                output_scores=True,
                return_dict_in_generate=True,
            )
        return found.sequences[0, inputs["input_ids"].shape[1] :].tolist(), found.scores

    def lead(self, inputs: Any, ours: list[int]) -> float:
        """Return by how much it prefers its token where our answer differs first, in logits."""
        ends = self.model.generation_config.eos_token_id
        theirs, scores = self.answer(inputs)
        for place, (token, row) in enumerate(zip(theirs, scores, strict=True)):
            chosen = [ours[place]] if place < len(ours) else ends
            if token not in chosen:
                return float(row[0, token] - row[0, chosen].max())
        return 0.0

    def ids(self, prompt: Prompt) -> list[int]:
        place = self.model.config.image_token_id
        return [place if token < 0 else token for token in prompt.tokens]

    def rows(self, inputs: Any) -> np.ndarray:
        """Return its embeddings of a picture, [positions, width]."""
        import torch

        with torch.inference_mode():
            found = self.model.model.get_image_features(pixel_values=inputs["pixel_values"])
        rows: np.ndarray = found.pooler_output[0].numpy()
        return rows


@pytest.fixture(scope="module")
def referee(files: tuple[Path, ModelFile]) -> Referee:
    return Referee(files[0])


def rows_of(model: Model, prompt: Prompt) -> np.ndarray:
    assert isinstance(model.engine, LlamaEngine) and model.engine.eyes
    first = next(token for token in prompt.tokens if token < 0)
    raw = model.engine.eyes.rows(first, POSITIONS)
    return np.frombuffer(raw, np.float32).reshape(POSITIONS, -1)


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(one, axis=-1) * np.linalg.norm(other, axis=-1)
    found: np.ndarray = (one * other).sum(-1) / lengths
    return found


@pytest.mark.slow
def test_pictures_of_any_shape_are_seen_as_transformers_sees_them(
    model: Model, referee: Referee
) -> None:
    """Half of them are squeezed into the tile, as transformers does; libmtmd alone leaves a black
    rest. The picture has more positions than layers with a window look back.
    """
    leads = []
    for seed in range(PICTURES):
        prompt, inputs = prompt_of(model, photo(seed)), referee.inputs(photo(seed))
        assert referee.ids(prompt) == inputs["input_ids"][0].tolist()
        assert cosines(rows_of(model, prompt), referee.rows(inputs)).min() >= 0.9999
        leads.append(referee.lead(inputs, answered(model, prompt)[0]))
    assert max(leads) < 0.01, sorted(leads)
    assert leads.count(0.0) >= 0.9 * PICTURES


def test_a_causal_mask_would_be_noticed(
    model: Model, referee: Referee, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(model.engine, LlamaEngine) and model.engine.eyes
    monkeypatch.setattr(model.engine.eyes, "is_mutual", False)
    leads = [
        referee.lead(referee.inputs(photo(seed)), answered(model, prompt_of(model, photo(seed)))[0])
        for seed in range(10)
    ]
    assert max(leads) > 0.05


@pytest.mark.parametrize(
    "around", [("a\n", "b"), ("first:", "\n\nwhat?"), ("x", "\n"), ("\n", "y")]
)
def test_line_ends_around_a_picture_are_tokens_as_transformers_cuts_them(
    model: Model, referee: Referee, around: tuple[str, str]
) -> None:
    prompt = prompt_of(model, photo(1), *around)
    # What ends a text is trimmed by the template; the ids show what it left.
    assert referee.ids(prompt) == referee.inputs(photo(1), *around)["input_ids"][0].tolist()


def test_a_second_question_about_a_picture_neither_encodes_nor_reads_it_again(
    model: Model, referee: Referee
) -> None:
    assert isinstance(model.engine, LlamaEngine) and model.engine.eyes
    first = prompt_of(model, photo(1))
    assert (answered(model, first)[1], model.engine.eyes.encoded) == (0, 1)
    answered(model, prompt_of(model, photo(2)))
    second = prompt_of(model, photo(1), "", "How many?")
    again, reused = answered(model, second)
    assert (reused, model.engine.eyes.encoded) == (second.prefix, 2)
    assert second.tokens[second.prefix - 1] < 0 <= second.tokens[second.prefix]
    model.engine.forget()
    assert answered(model, second)[0] == again
    inputs = referee.inputs(photo(1), "", "How many?")
    assert referee.lead(inputs, again) < 0.01


def test_a_saved_state_that_holds_a_picture_answers_as_the_picture_does(
    files: tuple[Path, ModelFile], model: Model
) -> None:
    prompt = prompt_of(model, photo(3))
    whole = answered(model, prompt)[0]
    prefix = prompt.tokens[: prompt.prefix]
    state = model.engine.save(prefix)
    other = opened(files[1])
    same = prompt_of(other, photo(3))
    assert other.engine.restore(prefix, state)
    assert answered(other, same) == (whole, prompt.prefix)
    assert isinstance(other.engine, LlamaEngine) and other.engine.eyes
    assert other.engine.eyes.encoded == 0
    other.engine.close()


@pytest.mark.parametrize("settings", [{}, {"batch": 4}], ids=["as ever", "small batches"])
def test_a_picture_at_the_end_of_a_batch_is_read_whole_in_the_next(
    files: tuple[Path, ModelFile], referee: Referee, settings: dict[str, int]
) -> None:
    """A smaller batch than the picture would end the process inside llama.cpp."""
    model = opened(files[1], **settings)
    filler = " ".join(["x"] * 252)
    prompt = prompt_of(model, photo(5), filler, ASKED)
    first = next(at for at, token in enumerate(prompt.tokens) if token < 0)
    assert first < BATCH < first + POSITIONS
    ours = answered(model, Prompt(prompt.tokens))[0]
    inputs = referee.inputs(photo(5), filler, ASKED)
    assert referee.ids(prompt) == inputs["input_ids"][0].tolist()
    assert referee.lead(inputs, ours) < 0.01
    # A prefix that ends behind the picture is reused, whichever way the batches were cut.
    model.engine.forget()
    assert answered(model, prompt)[0] == ours
    other = prompt_of(model, photo(5), filler, "How many?")
    assert answered(model, other)[1] == other.prefix
    model.engine.close()


def changed(projector: Path, out: Path, numbers: dict[str, int]) -> None:
    """Write a projector file again, with other whole numbers in its header."""
    import gguf

    writer = gguf.GGUFWriter(out, "clip")
    reader = gguf.GGUFReader(projector)
    for key, entry in reader.fields.items():
        if key.startswith("clip.") and key not in numbers:
            kind = entry.types[0]
            sub = entry.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
            writer.add_key_value(key, entry.contents(), kind, sub_type=sub)
    for key, number in numbers.items():
        writer.add_uint32(key, number)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize(
    "numbers", [{"clip.vision.image_size": 7}, {"clip.vision.patch_size": 64}], ids=str
)
def test_a_picture_without_a_position_is_refused_and_not_passed_over(
    files: tuple[Path, ModelFile], numbers: dict[str, int], tmp_path: Path
) -> None:
    projector = files[1].projector
    assert projector
    changed(projector, tmp_path / "none.gguf", numbers)
    loaded = opened(files[1], projector=tmp_path / "none.gguf")
    with pytest.raises(DeviceError, match="a picture takes no position"):
        loaded.engine.see(picture(1))
    loaded.engine.close()


def test_a_projector_of_another_width_is_refused_in_one_line(
    files: tuple[Path, ModelFile], tmp_path: Path
) -> None:
    """libmtmd's own reason has a second line with a hint."""
    _, other = made(tmp_path, hidden=32)
    with pytest.raises(DeviceError, match="cannot be loaded: ") as caught:
        opened(files[1], projector=other.projector)
    assert "\n" not in caught.value.message


def test_a_picture_with_more_positions_than_a_batch_is_refused(tmp_path: Path) -> None:
    """quantize refuses it too; a file of somebody else may have it."""
    _, file = made(tmp_path, vision={"image_size": 192})
    assert file.projector
    changed(file.projector, tmp_path / "many.gguf", {"clip.vision.projector.scale_factor": 1})
    loaded = open_file(
        file.file, Settings(context=1024, threads=1, projector=tmp_path / "many.gguf")
    )
    with pytest.raises(DeviceError, match="a picture takes 576 positions, at most 512 are read"):
        loaded.engine.see(picture(1))
    loaded.engine.close()


def test_a_model_without_the_tokens_of_a_picture_is_refused(
    files: tuple[Path, ModelFile], tmp_path: Path
) -> None:
    from tests.fakes.families import tiny_family

    blind = tiny_family("gemma 3", tmp_path / "blind", hidden_size=64)
    spec = QuantizeSpec(scheme="F16")
    text = quantize(external(blind), spec, ModelLabel(name="b"), tmp_path / "o", Silent())
    shutil.copy(files[1].file.parent / "chat_template.jinja", text.file.parent)
    with pytest.raises(DeviceError, match=r"the model has no token `<start_of_image>`"):
        open_file(text.file, Settings(context=64, threads=1, projector=files[1].projector))


def test_a_published_config_without_defaults_gives_the_same_files(
    files: tuple[Path, ModelFile], tmp_path: Path
) -> None:
    """Published checkpoints name few sizes; transformers' classes know the others."""
    source = tmp_path / "sparse"
    shutil.copytree(files[0], source)
    config = json.loads((source / "config.json").read_text())
    config.pop("tie_word_embeddings", None)
    for key in ("attention_bias", "hidden_activation", "layer_types", "tie_word_embeddings"):
        config["text_config"].pop(key, None)
    for key in ("hidden_act", "layer_norm_eps", "num_channels"):
        config["vision_config"].pop(key, None)
    (source / "config.json").write_text(json.dumps(config))
    spec = QuantizeSpec(scheme="F16", projector="F16")
    again = quantize(external(source), spec, ModelLabel(name="g"), tmp_path / "o", Silent())
    assert again.file.read_bytes() == files[1].file.read_bytes()
    assert again.projector and files[1].projector
    assert again.projector.read_bytes() == files[1].projector.read_bytes()
