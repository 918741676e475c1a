"""A release whose chat template names the day is healthy on any day, in any zone, by any clock."""

import json
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from device.check import check_bundle
from device.engine.base import Settings
from device.engine.chat import ChatTemplate
from device.errors import DeviceError
from device.manifest.moment import RENDERED_AT, moment
from device.model import open_file
from tests.fakes.models import tiny_tokenizer
from tests.fakes.tiny_gguf import tiny_bundle, tiny_gguf
from toolchain.chat import encode, render_prompt

RECITAL = "树🍵é莓"
MESSAGES = [{"role": "user", "content": "how hot?"}]
DATED = (
    "<|im_start|>system\n{{ strftime_now('%d %b %Y %H:%M') }}<|im_end|>\n"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
FAR_ZONES = ("Pacific/Kiritimati", "Pacific/Pago_Pago")


PAST = datetime(2020, 2, 29, 23, 59)


def dated_bundle(folder: Path, **moment_of_golden: Any) -> Path:
    """Write a bundle whose template names the day, its golden rendered at a moment long past."""
    model = open_file(tiny_gguf(folder / "probe.gguf", recites=RECITAL), Settings(context=512))
    prompt = model.engine.tokenize(ChatTemplate(DATED, {}).render(MESSAGES, PAST))
    model.engine.close()
    row = {"messages": MESSAGES, "prompt_tokens": prompt, "tokens": list(RECITAL.encode())}
    goldens = [row | moment_of_golden]
    return tiny_bundle(folder / "bundle", goldens=goldens, recites=RECITAL, template=DATED)


@pytest.mark.parametrize("zone", FAR_ZONES)
def test_a_golden_of_another_day_is_checked_at_its_own_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zone: str
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    assert check_bundle(dated_bundle(tmp_path, now=PAST.isoformat()), threads=1)["ok"]


def test_a_golden_without_a_moment_is_rendered_by_the_clock(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="the prompt differs"):
        check_bundle(dated_bundle(tmp_path), threads=1)


@pytest.mark.parametrize(
    "now", [5, None, "yesterday", "2026-01-01T12:00:00+02:00", [], "9999999999999"]
)
def test_a_moment_that_is_none_is_a_bad_golden(tmp_path: Path, now: object) -> None:
    with pytest.raises(DeviceError) as refused:
        check_bundle(dated_bundle(tmp_path, now=now), threads=1)
    assert refused.value.code == "bad_goldens"


def test_the_service_itself_renders_by_the_boards_clock() -> None:
    template = ChatTemplate("{{ strftime_now('%Y-%m-%d %H') }}", {})
    assert template.render(MESSAGES)[:10] in (
        datetime.now().strftime("%Y-%m-%d"),
        datetime.now().isoformat()[:10],
    )


def test_host_and_board_render_a_dated_template_alike(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tiny_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.chat_template = DATED
    board = ChatTemplate(DATED, {}).render(MESSAGES, moment(RENDERED_AT))
    assert tokenizer.decode(render_prompt(tokenizer, MESSAGES)) == board


def test_what_is_learned_does_not_depend_on_the_day(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer

    tiny_tokenizer(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.chat_template = DATED
    chat = [*MESSAGES, {"role": "assistant", "content": "80"}]
    learned = []
    for zone in FAR_ZONES:
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        learned.append(json.dumps(encode(tokenizer, chat, 512)))
    assert learned[0] == learned[1]
