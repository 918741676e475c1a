"""A merge keeps what was learned: 16 bits are only written where they lose next to none of it."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.fakes.adapters import tiny_adapter
from tests.fakes.datasets import Recorder
from tests.fakes.models import SMALL, tiny_llama
from toolchain import artifacts
from toolchain.models.checkpoints import load_model
from toolchain.models.lora import Merged, open_lora
from toolchain.models.weights import open_weights
from toolchain.tune import merge

ONE_LAYER = SMALL | {"layers": 1}
NAME = "model.layers.0.self_attn.q_proj.weight"


@pytest.mark.parametrize(("alpha", "written"), [(0.02, "F32"), (400.0, "BF16")])
def test_a_small_change_of_16_bit_weights_is_written_in_32_bits(
    tmp_path: Path, alpha: float, written: str
) -> None:
    base = tiny_llama(tmp_path / "base", dtype="bfloat16", **ONE_LAYER)
    skill, report = tiny_adapter(tmp_path / "skill", base, alpha=alpha), Recorder()
    made = merge(artifacts.external(base), skill, tmp_path / "out", report)
    with open_weights(base) as weights, open_weights(made.path) as stored:
        exact = Merged(weights, open_lora(skill, weights, "base")).rows(NAME, 0, 64)
        before, after = weights.rows(NAME, 0, 64), stored.rows(NAME, 0, 64)
        assert stored.tensors[NAME].dtype == written
    lost = np.linalg.norm(after - exact) / np.linalg.norm(exact - before)
    errors = made.record.figures["merge_error"]
    assert lost <= 0.02
    assert errors["float32"] < 1e-3
    assert (errors["rounded"] > 0.01) == (written == "F32")
    assert f"{errors['rounded']:.2%} of the changes" in report.notes[-1]


def test_a_merge_in_32_bits_is_loaded_in_32_bits(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base", dtype="bfloat16", **ONE_LAYER)
    skill = tiny_adapter(tmp_path / "skill", base, alpha=0.02)
    made = merge(artifacts.external(base), skill, tmp_path / "out", Recorder())
    with open_weights(made.path) as stored:
        expected = stored.rows(NAME, 0, 64)
    assert json.loads((made.path / "config.json").read_text())["dtype"] == "float32"
    found = load_model(made.path).state_dict()[NAME]
    np.testing.assert_array_equal(found.numpy(), expected)
