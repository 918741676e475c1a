"""A release is healthy if it gives its goldens token for token.

Otherwise the check says which one differs.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from device.check import check, check_bundle
from device.engine.base import Sampling, Settings
from device.errors import DeviceError
from device.model import open_file
from tests.fakes.tiny_gguf import tiny_bundle, tiny_gguf

RECITAL = "树🍵é莓"
MESSAGES = [{"role": "user", "content": "how hot?"}]
PROMPT = [257, *b"user\nhow hot?", 258, 10, 257, *b"assistant\n"]
RIGHT = {"messages": MESSAGES, "prompt_tokens": PROMPT, "tokens": list(RECITAL.encode())}


def bundle_with(tmp_path: Path, *goldens: dict[str, Any], recites: str = RECITAL) -> Path:
    return tiny_bundle(tmp_path / "bundle", goldens=goldens, recites=recites)


def test_a_healthy_bundle_says_so_with_its_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        check(
            [
                "--bundle",
                str(bundle_with(tmp_path, RIGHT, {**RIGHT, "finish_reason": "stop"})),
                "--threads",
                "1",
            ]
        )
        == 0
    )
    said = json.loads(capsys.readouterr().out)
    assert (said["ok"], said["goldens"]) == (True, 2)
    assert said["load_s"] > 0
    assert said["decode_tok_s"] > 0


def test_goldens_of_a_real_loop_come_out_again(tmp_path: Path) -> None:
    model = open_file(tiny_gguf(tmp_path / "random.gguf"), Settings(context=512, threads=1))
    prompt = model.prompt(MESSAGES).tokens
    tokens = [
        step.id
        for step in model.engine.generate(prompt, Sampling(max_tokens=30))
        if step.id is not None
    ]
    golden = {"messages": MESSAGES, "prompt_tokens": prompt, "tokens": tokens}
    assert check_bundle(bundle_with(tmp_path, golden, golden, recites=""), threads=1)["ok"]


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("golden", "code", "message"),
    [
        (
            {**RIGHT, "tokens": [*"树".encode(), 1, 2]},
            "golden_mismatch",
            "golden 2 of 2: the answer differs at token 4 of 5: expected 1, got 240",
        ),
        (
            {**RIGHT, "tokens": [*RECITAL.encode(), 7]},
            "golden_mismatch",
            "golden 2 of 2: the answer differs at token 13 of 13: expected 7, got the end",
        ),
        (
            {**RIGHT, "prompt_tokens": PROMPT[:-1]},
            "golden_mismatch",
            "golden 2 of 2: the prompt differs at token 27 of 26: expected the end, got 10",
        ),
        (
            {**RIGHT, "tokens": list("树".encode()), "finish_reason": "stop"},
            "golden_mismatch",
            "golden 2 of 2: the answer differs at token 4 of 3: expected the end, got 240",
        ),
        ({**RIGHT, "tokens": []}, "bad_goldens", "goldens.jsonl:2: no tokens to compare with"),
        ({"tokens": [1]}, "bad_goldens", "goldens.jsonl:2: not a golden"),
    ],
)
def test_a_golden_that_does_not_come_out_is_named(
    tmp_path: Path, golden: dict[str, Any], code: str, message: str
) -> None:
    with pytest.raises(DeviceError) as caught:
        check(["--bundle", str(bundle_with(tmp_path, RIGHT, golden)), "--threads", "1"])
    assert (caught.value.code, caught.value.message) == (code, message)


@pytest.mark.slow
def test_a_model_that_answers_nothing_is_named(tmp_path: Path) -> None:
    bundle = bundle_with(tmp_path, RIGHT)
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(
        json.dumps({**manifest, "stop_ids": [RECITAL.encode()[0]]})
    )
    with pytest.raises(DeviceError) as caught:
        check(["--bundle", str(bundle), "--threads", "1"])
    assert (caught.value.code, caught.value.message) == (
        "empty_answer",
        "golden 1 of 1: the model answers nothing",
    )


def test_a_bundle_without_goldens_is_not_healthy(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="holds no golden"):
        check_bundle(bundle_with(tmp_path))


def test_a_model_file_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    bundle = bundle_with(tmp_path, RIGHT)
    (bundle / "tiny.gguf").write_bytes(b"GGUF")
    with pytest.raises(DeviceError) as caught:
        check(["--bundle", str(bundle)])
    assert caught.value.code == "bad_model"


def taken_elsewhere(folder: Path) -> Path:
    """Say of a bundle that its goldens come from another kind of processor."""
    manifest = folder / "manifest.json"
    manifest.write_text(
        json.dumps(json.loads(manifest.read_text()) | {"arithmetic": "aarch64 asimddp"})
    )
    return folder


def test_goldens_of_another_processor_must_agree_nearly_always(tmp_path: Path) -> None:
    said = check_bundle(taken_elsewhere(bundle_with(tmp_path, RIGHT)), threads=1)
    assert (said["exact"], said["agreement"]) == (False, 1.0)


def test_goldens_of_another_processor_that_do_not_agree_are_refused(tmp_path: Path) -> None:
    tokens = list(RECITAL.encode())
    wrong = {**RIGHT, "tokens": [*tokens[:-3], 1, 1, 1]}
    with pytest.raises(DeviceError) as caught:
        check_bundle(taken_elsewhere(bundle_with(tmp_path, wrong)), threads=1)
    share = f"{(len(tokens) - 3) / len(tokens):.1%}"
    assert (caught.value.code, caught.value.message) == (
        "golden_mismatch",
        f"the goldens agree in {share} of their tokens, on this processor 90% are asked",
    )
