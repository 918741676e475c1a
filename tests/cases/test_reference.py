"""The gate's reference is the user's own model: transformers and peft on the folders as they came,
and nothing of ours.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.fakes.adapters import tiny_adapter
from tests.fakes.models import CHATML, SMALL, tiny_llama, tiny_tokenizer
from toolchain.errors import ArtifactError, FitError
from toolchain.evaluate import reference
from toolchain.evaluate.reference import Reference, memory_bytes
from toolchain.models.original import Original
from toolchain.progress import Silent

OURS = (
    "toolchain.models.adapter_config",
    "toolchain.models.architecture",
    "toolchain.models.config_defaults",
    "toolchain.models.lora",
    "toolchain.models.rope",
    "toolchain.models.tokenizer",
    "toolchain.models.tokenizer_files",
    "toolchain.quantize",
    "toolchain.training.adapters",
    "toolchain.models.checkpoints",
    "toolchain.tune",
)
"""What makes the model file: the gate must not believe it."""
ASKED = [{"role": "user", "content": "How hot is too hot?"}]
SHOUTED = CHATML.replace("message['role']", "message['role'] | upper")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("base") / "base", **SMALL)


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    """An adapter with a tokenizer of its own, whose template is in tokenizer_config.json while the
    base has a file.
    """
    folder = tiny_adapter(tmp_path / "skill", base)
    tiny_tokenizer(folder)
    (folder / "chat_template.jinja").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": SHOUTED}))
    return folder


def load(base: Path, *adapters: Path, **more: Any) -> Reference:
    return Reference.load(Original(base=base, adapters=adapters, **more), Silent())


@pytest.mark.slow
def test_the_reference_loads_nothing_of_what_it_checks(base: Path, adapter: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from toolchain.evaluate.reference import Reference; "
        "from toolchain.models.original import Original; from toolchain.progress import Silent; "
        f"model = Reference.load(Original(base=Path({str(base)!r}), "
        f"adapters=(Path({str(adapter)!r}),)), Silent()); "
        "model.prompt([{'role': 'user', 'content': 'hi'}]); model.log_probabilities([5, 6, 7]); "
        "print(*sorted(name for name in sys.modules if name.startswith('toolchain')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "toolchain.evaluate.reference" in done.stdout.split()
    assert set(done.stdout.split()) & set(OURS) == set()


def test_the_template_is_the_one_that_the_adapter_was_trained_with(
    base: Path, adapter: Path
) -> None:
    model = load(base, adapter)
    assert model.own.decode(model.prompt(ASKED)).startswith("<|im_start|>USER\nHow hot")
    assert load(base).own.decode(load(base).prompt(ASKED)).startswith("<|im_start|>user\n")


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
def test_log_probabilities_are_those_of_peft_in_float32(base: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    skill, ids = tiny_adapter(tmp_path / "skill", base), list(range(5, 25))
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    before = plain(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    with torch.inference_mode():
        logits = (
            PeftModel.from_pretrained(plain, skill).eval()(input_ids=torch.tensor([ids])).logits
        )
    found = load(base, skill).log_probabilities(ids)
    np.testing.assert_allclose(found, logits[0].double().log_softmax(-1).numpy(), atol=1e-5)
    assert np.abs(found - before.detach().numpy()).max() > 0.01


def test_a_reference_that_does_not_fit_is_refused_with_its_memory(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need = memory_bytes(Original(base=base))
    assert need > 4 * 64 * 512
    monkeypatch.setattr(reference, "available_bytes", lambda: need - 1)
    with pytest.raises(FitError, match=r"^evaluate: the reference `base` needs 0\.0 GB of memory"):
        load(base)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rope_parameters", {"rope_theta": "1e6", "rope_type": "default"}),
        ("eos_token_id", "2"),
        ("hidden_act", "magic"),
        ("num_attention_heads", 0),
    ],
)
def test_a_model_that_transformers_cannot_load_is_one_sentence(
    base: Path, tmp_path: Path, key: str, value: Any
) -> None:
    spoiled = Path(shutil.copytree(base, tmp_path / "spoiled"))
    config = json.loads((spoiled / "config.json").read_text())
    (spoiled / "config.json").write_text(json.dumps(config | {key: value}))
    with pytest.raises(ArtifactError, match=r"^spoiled: the reference cannot be loaded: "):
        load(spoiled)


def test_a_trimmed_vocabulary_is_compared_token_by_token(base: Path, tmp_path: Path) -> None:
    from toolchain.models.vocabulary import Tokens

    whole = load(base)
    tokens = Tokens(base)
    kept = tokens.filled(set(whole.prompt(ASKED)), 400)
    (tmp_path / "trimmed").mkdir()
    tokens.write(kept, tmp_path / "trimmed")
    model = load(base, trimmed=tmp_path / "trimmed")
    assert model.old_ids == tuple(sorted(kept))
    ids = [model.old_ids.index(number) for number in whole.prompt(ASKED)]
    assert model.is_prompt(ids, ASKED)
    assert not model.is_prompt(ids[:-2], ASKED)
    expected = whole.log_probabilities(whole.prompt(ASKED))[:, sorted(kept)]
    expected -= np.log(np.exp(expected).sum(-1, keepdims=True))
    np.testing.assert_allclose(model.log_probabilities(ids), expected, atol=1e-9)
