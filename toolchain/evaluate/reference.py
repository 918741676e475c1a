"""Reference of the gate: the user's own model, as transformers and peft load and run it.

Nothing that made the model file may be used here: not our merge, our template carrying, our reading
of a tokenizer, our view of a config. A check that shares code with what it checks passes every
fault that they share.
"""

import base64
import io
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device.manifest.pictures import PICTURE
from toolchain.chat import shown_to
from toolchain.errors import ArtifactError, FitError
from toolchain.memory import available_bytes
from toolchain.models.original import Original
from toolchain.models.weights import open_weights
from toolchain.progress import Reporter

if TYPE_CHECKING:
    import numpy as np

Messages = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]]
FLOAT32_BYTES = 4
HEADROOM = 1.15
"""Memory of a loaded model, as a multiple of its weights."""
# More than 1 because of one tensor of the file next to its float32 copy, and the activations of one
# conversation.
BATCH = 16
"""Questions that the reference answers at once."""
_LOCAL = {"local_files_only": True, "trust_remote_code": False}


@dataclass(frozen=True, slots=True)
class Reference:
    """A model through transformers: what the model file is compared with."""

    tokenizer: Any
    """The tokenizer whose ids the model file uses."""
    model: Any
    own: Any
    """The model's own tokenizer: another one than `tokenizer` only where the vocabulary was
    trimmed."""
    old_ids: tuple[int, ...] = ()
    """Own id of each id of the model file; empty where both are the same."""
    scaler: Any = None
    """What scales pictures, of a model of pictures and text: its template takes contents in parts.

    Of Gemma 3 it is the whole processor, which writes the text around a picture too."""

    @classmethod
    def load(cls, original: Original, report: Reporter) -> "Reference":
        """Load a model in float32.

        Raise FitError if this computer lacks the memory, ArtifactError for what cannot be loaded.
        """
        _check_memory(original, report)
        own = _tokenizer(original)
        tokenizer = _auto_tokenizer(original.trimmed) if original.trimmed else own
        old_ids = _old_ids(own, tokenizer) if original.trimmed else ()
        kind, sees = _kind_of_model(original.base)
        scaler = _scaler(original.base, own) if sees else None
        return cls(tokenizer, _model(original, kind), own, old_ids, scaler)

    def prompt(self, messages: Messages, tools: Tools = ()) -> list[int]:
        """Return the prompt of a conversation in the model's own ids."""
        # A template that shows no tools has no rendering of its own to compare with: ours is asked.
        shown, given = shown_to(self.own, messages, tools)
        if self.scaler:
            shown = [_in_parts(each) for each in shown]
        ids = self.own.apply_chat_template(
            [dict(message) for message in shown],
            tools=list(given) or None,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
        )
        return list(ids)

    def is_prompt(self, ids: Sequence[int], messages: Messages, tools: Tools = ()) -> bool:
        """Say whether these ids of the model file are the prompt of a conversation.

        With a trimmed vocabulary a word may be cut into smaller pieces: then the text must be the
        same, marks of turns included.
        """
        expected = self.prompt(messages, tools)
        if not self.old_ids:
            return list(ids) == expected
        own = [self.old_ids[number] for number in ids if number < len(self.old_ids)]
        return len(own) == len(ids) and bool(self.own.decode(own) == self.own.decode(expected))

    def answers_about(self, messages: Messages, max_tokens: int) -> list[int]:
        """Return the own greedy answer to a question about a picture, without its end.

        The picture is scaled by transformers' own processor, and takes as many places as the
        model's configuration says.
        """
        import torch

        shown = [_in_parts(message) for message in messages]
        text = self.own.apply_chat_template(shown, add_generation_prompt=True, tokenize=False)
        url = next(message[PICTURE] for message in messages if PICTURE in message)
        given = self._seen(str(text), _image(url))
        count = given["input_ids"].shape[1]
        with torch.inference_mode():
            made = self.model.generate(
                **given,
                max_new_tokens=max_tokens,
                do_sample=False,
                eos_token_id=self.end_ids or None,
            )
        return [token for token in made[0, count:].tolist() if token not in self.end_ids]

    def _seen(self, text: str, image: Any) -> dict[str, Any]:
        """Return a rendered question and its picture as transformers' model takes them."""
        import torch

        if _has_processor(self.model.config):
            given = self.scaler(
                text=text, images=[image], add_special_tokens=False, return_tensors="pt"
            )
            return dict(given)
        config = self.model.config
        vision = config.vision_config
        places = (vision.image_size // vision.patch_size // config.scale_factor) ** 2
        around = "<fake_token_around_image>"
        place = f"{around}<global-img>{'<image>' * places}{around}"
        ids = self.own(text.replace("<image>", place), add_special_tokens=False).input_ids
        return {
            "input_ids": torch.tensor([ids]),
            "attention_mask": torch.ones(1, len(ids), dtype=torch.long),
            "pixel_values": self.scaler(images=[image], return_tensors="pt")["pixel_values"],
        }

    def log_probabilities(self, ids: Sequence[int]) -> "np.ndarray":
        """Return float64 [len(ids), vocabulary of the model file].

        The probabilities of the tokens that stayed in a trimmed vocabulary sum to one.
        """
        import torch

        own = [self.old_ids[number] for number in ids] if self.old_ids else list(ids)
        with torch.inference_mode():
            logits = self.model(input_ids=torch.tensor([own])).logits[0].double()
        if self.old_ids:
            logits = logits[:, list(self.old_ids)]
        rows: np.ndarray = logits.log_softmax(-1).numpy()
        return rows

    def ends(self, prompts: Sequence[tuple[Messages, Tools]], max_tokens: int) -> list[bool]:
        """Say for each conversation whether the model's own greedy answer ends in `max_tokens`."""
        ids = [self.prompt(*each) for each in prompts]
        found = [False] * len(ids)
        # Prompts of about one length are answered together: little of such a batch is padding.
        order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
        for first in range(0, len(order), BATCH):
            rows = order[first : first + BATCH]
            ended = _answers_end(self, [ids[row] for row in rows], max_tokens)
            for row, end in zip(rows, ended, strict=True):
                found[row] = end
        return found

    @property
    def end_ids(self) -> list[int]:
        """Own ids of the tokens that end an answer."""
        named = self.model.generation_config.eos_token_id
        several = named if isinstance(named, list) else [named]
        return sorted({end for end in (*several, self.own.eos_token_id) if end is not None})


def _answers_end(reference: Reference, prompts: list[list[int]], max_tokens: int) -> list[bool]:
    """Say of each prompt of a batch whether an end token comes; prompts are padded on the left."""
    import torch
    from transformers import GenerationConfig

    ends = reference.end_ids
    pad, width = ends[0] if ends else 0, max(map(len, prompts))
    ids = [[pad] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    greedy = GenerationConfig(
        max_new_tokens=max_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        no_repeat_ngram_size=0,
        eos_token_id=ends or None,
        pad_token_id=pad,
    )
    with torch.inference_mode():
        made = reference.model.generate(
            input_ids=torch.tensor(ids),
            attention_mask=torch.tensor(mask),
            generation_config=greedy,
        )
    return [any(end in row for end in ends) for row in made[:, width:].tolist()]


def memory_bytes(original: Original) -> int:
    """Return the memory that a model takes in float32, from the headers of its weights."""
    with open_weights(original.base) as weights:
        count = sum(tensor.rows * tensor.columns for tensor in weights.tensors.values())
    return int(count * FLOAT32_BYTES * HEADROOM)


def _check_memory(original: Original, report: Reporter) -> None:
    need, free = memory_bytes(original), available_bytes()
    names = " with ".join(folder.name for folder in (original.base, *original.adapters))
    report.note(
        f"reference: {names} through transformers in float32: {need / 1e9:.2f} GB of memory"
    )
    if free and need > free:
        raise FitError(
            f"evaluate: the reference `{names}` needs {need / 1e9:.1f} GB of memory in float32, "
            f"{free / 1e9:.1f} GB are available on this computer",
            hint="close other programs, or run this stage on a computer with more memory: "
            "the work folder can be copied there",
        )


def _has_processor(config: Any) -> bool:
    """Say whether a model's own processor needs no library beside transformers."""
    return bool(config.model_type == "gemma3")


def _scaler(base: Path, tokenizer: Any) -> Any:
    """Return transformers' own processor of a folder's pictures, which makes one tile of each."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(base, **_LOCAL)
    if _has_processor(config):
        from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
        from transformers.models.gemma3.processing_gemma3 import Gemma3Processor

        scaler = Gemma3ImageProcessorPil.from_pretrained(base, do_pan_and_scan=False)
        return Gemma3Processor(scaler, tokenizer, image_seq_length=config.mm_tokens_per_image)

    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    return SmolVLMImageProcessorPil.from_pretrained(base, do_image_splitting=False)


def _image(url: str) -> Any:
    """Return the picture of a `data:` URL."""
    from PIL import Image

    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).convert("RGB")


def _in_parts(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return a message as templates of models that see take it: its picture, then its text."""
    picture = [{"type": "image"}] if PICTURE in message else []
    text = {"type": "text", "text": message["content"]}
    rest = {name: value for name, value in message.items() if name != PICTURE}
    return {**rest, "content": [*picture, text]}


def _kind_of_model(base: Path) -> tuple[Any, bool]:
    """Return transformers' own class for a folder, and whether it is one of pictures and text."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    try:
        config = AutoConfig.from_pretrained(base, **_LOCAL)
    except Exception as error:  # a value of another kind fails somewhere in its own code
        raise _not_loaded(base, error) from error
    # transformers lists some models of pictures and text under both kinds.
    if hasattr(config, "vision_config") and (
        type(config) in AutoModelForImageTextToText._model_mapping
    ):
        return AutoModelForImageTextToText, True
    return AutoModelForCausalLM, False


def _model(original: Original, kind: Any) -> Any:
    """Return the base with its adapters, the last one not merged."""
    import torch
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        loaded: Any = kind.from_pretrained(
            original.base,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
            **_LOCAL,
        )
    except Exception as error:  # a value of another kind fails somewhere in the model's own code
        raise _not_loaded(original.base, error) from error
    model, loading = loaded
    if loading["missing_keys"]:
        raise ArtifactError(
            f"{original.base.name}: tensor `{min(loading['missing_keys'])}` is missing"
        )
    for number, adapter in enumerate(original.adapters, 1):
        model = _adapted(model, adapter)
        if number < len(original.adapters):
            model = model.merge_and_unload()
    return model.eval()


def _adapted(model: Any, adapter: Path) -> Any:
    from peft import PeftModel

    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        try:
            adapted = PeftModel.from_pretrained(model, adapter)
        except Exception as error:
            raise _not_loaded(adapter, error) from error
    missing = [
        str(entry.message) for entry in raised if "missing adapter keys" in str(entry.message)
    ]
    if missing:
        raise ArtifactError(f"{adapter.name}: peft says: {missing[0].splitlines()[0][:200]}")
    return adapted


def _tokenizer(original: Original) -> Any:
    """Return the tokenizer and template of the newest folders that have one."""
    folders = original.tokenizer_folders
    number = next(
        (place for place, folder in enumerate(folders) if (folder / "tokenizer.json").is_file()),
        len(folders) - 1,
    )
    tokenizer = _auto_tokenizer(folders[number])
    templates = [template for folder in folders[:number] if (template := _own_template(folder))]
    templates += [tokenizer.chat_template]
    templates += [_auto_tokenizer(folder).chat_template for folder in folders[number + 1 :][-1:]]
    tokenizer.chat_template = next((template for template in templates if template), None)
    return tokenizer


def _own_template(folder: Path) -> Any:
    """Return the template of an adapter folder without a tokenizer; AutoTokenizer loads none."""
    file, settings = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    if not settings.is_file():
        return None
    template = json.loads(settings.read_text(encoding="utf-8")).get("chat_template")
    if isinstance(template, list):
        return {entry["name"]: entry["template"] for entry in template}
    return template


def _auto_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, **_LOCAL)
    except Exception as error:  # the tokenizers library raises no narrower type
        raise _not_loaded(folder, error) from error


def _old_ids(own: Any, trimmed: Any) -> tuple[int, ...]:
    """Return, for each id after trimming, the id of the same token before it."""
    # A token is its text, whatever its number.
    old, new = own.get_vocab(), trimmed.get_vocab()
    foreign = [text for text in new if text not in old]
    if foreign:
        raise ArtifactError(f"trim: token {foreign[0]!r} is not one of the model's own")
    texts = {number: text for text, number in new.items()}
    if sorted(texts) != list(range(len(texts))):
        raise ArtifactError("trim: tokenizer.json: the ids of its tokens are not without a gap")
    return tuple(old[texts[number]] for number in range(len(texts)))


def _not_loaded(folder: Path, error: Exception) -> ArtifactError:
    text = str(error).strip().splitlines()
    return ArtifactError(
        f"{folder.name}: the reference cannot be loaded: "
        f"{text[0] if text else type(error).__name__}"
    )
