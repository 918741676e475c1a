"""Pictures from a client to an answer: bounds before decoding, parts of a question, goldens."""

import base64
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from device.check import check_bundle
from device.errors import DeviceError
from device.manifest import MAX_MANIFEST_BYTES, read_manifest, to_bytes
from device.manifest.pictures import MAX_BYTES, PARTS, to_url
from device.model import Model, open_bundle
from device.pictures import from_url, pictures_of, with_pictures
from tests.fakes.eyes import POSITIONS, can_see, picture, seeing_bundle
from tests.fakes.service import call, service, tiny_service, wait_until_loaded

CHAT = "/v1/chat/completions"
needs_eyes = pytest.mark.skipif(not can_see(), reason="llama-cpp-python without libmtmd: make")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seeing_bundle(tmp_path_factory.mktemp("seeing") / "bundle")


@pytest.fixture(scope="module")
def model(bundle: Path) -> Iterator[Model]:
    opened = open_bundle(bundle, read_manifest(bundle))
    yield opened
    opened.engine.close()


@pytest.fixture(scope="module")
def port(bundle: Path) -> Iterator[int]:
    manifest = read_manifest(bundle)
    with service(lambda: open_bundle(bundle, manifest), manifest=manifest) as number:
        wait_until_loaded(number)
        yield number


def asked(image: bytes | str, text: str = "Is the LED on?", **more: Any) -> dict[str, Any]:
    """Return the fields of a request about a picture."""
    url = to_url(image) if isinstance(image, bytes) else image
    parts = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": text},
    ]
    return {"messages": [{"role": "user", "content": parts}], "max_tokens": 8, **more}


REFUSED = [
    ("https://example.org/led.jpg", "a picture comes as a `data:` URL of a JPEG or PNG file"),
    ("file:///etc/passwd", "a picture comes as a `data:` URL of a JPEG or PNG file"),
    ("data:image/svg+xml;base64,AAAA", "a picture comes as a `data:` URL of a JPEG or PNG file"),
    ("data:image/png;base64,A?A", "the picture's base64 is broken"),
    ("data:image/png;base64,AAAA", "the picture is not a whole JPEG or PNG file"),
    ("data:image/png;base64," + "A" * (MAX_BYTES * 4 // 3 + 8), "has more than 2,097,152 bytes"),
]


@pytest.mark.parametrize(("url", "message"), REFUSED, ids=lambda value: value[:32])
def test_what_is_no_picture_within_bounds_is_refused(url: str, message: str) -> None:
    with pytest.raises(DeviceError) as caught:
        from_url(url)
    assert message in caught.value.message
    assert (caught.value.code, caught.value.status) == ("bad_picture", 400)


def test_the_pixels_of_a_bomb_are_counted_in_its_header() -> None:
    """A PNG of 60,000 × 60,000 pixels in a few bytes is never decoded."""
    header = bytearray(picture(1))
    header[16:24] = (60_000).to_bytes(4, "big") * 2
    with pytest.raises(DeviceError, match="60000 × 60000 pixels, at most 4,194,304 are read"):
        from_url(to_url(bytes(header)))


def test_stored_parts_name_files_of_their_folder_alone(tmp_path: Path) -> None:
    (tmp_path / "led.png").write_bytes(picture(1))
    message = {"role": "user", "content": "?", PARTS: [{"picture": "led.png"}, "?"]}
    assert pictures_of(with_pictures([message], tmp_path)) == [picture(1)]
    message[PARTS] = [{"picture": "lost.png"}]
    with pytest.raises(DeviceError, match=r"the picture `lost\.png` cannot be read"):
        with_pictures([message], tmp_path)
    with pytest.raises(DeviceError, match="comes as a `data:` URL"):
        with_pictures([message])


def test_a_model_that_reads_text_alone_refuses_by_name(tmp_path: Path) -> None:
    with tiny_service(tmp_path) as number:
        status, _, answer = call(number, CHAT, asked(picture(1)))
        assert (status, answer["error"]["code"]) == (400, "cannot_see")
        assert answer["error"]["message"].startswith("`tiny.gguf` on llama.cpp reads text")
        assert call(number, CHAT, {"messages": [{"role": "user", "content": "hot?"}]})[0] == 200


@needs_eyes
def test_a_question_about_a_picture_is_answered_and_the_next_one_sooner(port: int) -> None:
    status, _, first = call(port, CHAT, asked(picture(1)))
    assert status == 200
    status, _, second = call(port, CHAT, asked(picture(1), "How many are there?"))
    assert status == 200
    before = first["timings"]["cache_n"], second["timings"]["cache_n"]
    assert before[0] == 0
    assert before[1] > POSITIONS
    assert call(port, CHAT, asked(picture(2)))[2]["timings"]["cache_n"] == 0
    again = call(port, CHAT, asked(picture(1)))[2]
    assert again["choices"] == first["choices"]


@needs_eyes
@pytest.mark.parametrize(("url", "message"), REFUSED[:5], ids=lambda value: value[:32])
def test_the_service_refuses_with_the_place_and_goes_on(port: int, url: str, message: str) -> None:
    status, _, answer = call(port, CHAT, asked(url))
    assert (status, answer["error"]["code"]) == (400, "bad_picture")
    assert answer["error"]["message"].startswith("`messages[0].content`: ")
    assert message in answer["error"]["message"]
    assert call(port, CHAT, asked(picture(3)))[0] == 200


@needs_eyes
def test_a_picture_that_breaks_while_it_is_decoded_is_refused(port: int) -> None:
    status, _, answer = call(port, CHAT, asked(picture(4)[:80]))
    assert (status, answer["error"]["code"]) == (400, "bad_picture")
    assert answer["error"]["message"].startswith("the picture cannot be decoded")


@needs_eyes
def test_a_body_may_hold_a_picture_of_two_megabytes_where_the_model_sees(port: int) -> None:
    padded = picture(5) + bytes(MAX_BYTES - len(picture(5)))
    assert call(port, CHAT, asked(padded))[0] == 200
    status, _, answer = call(port, CHAT, asked("data:" + "x" * (5 << 20)))
    assert (status, answer["error"]["code"]) == (413, "too_large")
    assert answer["error"]["message"] == "the body is larger than 4 MiB"


@needs_eyes
def test_a_text_that_looks_like_a_picture_is_a_text(model: Model, port: int) -> None:
    """Neither libmtmd's marker nor the template's becomes a picture, nor hides one."""
    for text in ("<__media__>", "<image>", "<__media__><image><fake_token_around_image>"):
        message = {"role": "user", "content": text}
        prompt = model.prompt([message])
        assert not [token for token in prompt.tokens if token < 0]
        assert not prompt.pictures
        beside = model.prompt([{**message, PARTS: [picture(1), text]}])
        assert len([token for token in beside.tokens if token < 0]) == POSITIONS
    status, _, answer = call(port, CHAT, asked(picture(1), "<__media__> or <image>?"))
    assert status == 200
    assert answer["choices"]


TOOL = {
    "type": "function",
    "function": {
        "name": "show",
        "description": "Shows <image>.",
        "parameters": {"type": "object", "properties": {"place": {"enum": ["<image>"]}}},
    },
}


@needs_eyes
def test_a_picture_stands_beside_tools_and_their_texts_have_none(model: Model) -> None:
    """Descriptions, calls and results that name the marker show no picture and hide none."""
    call_ = {"name": "show", "arguments": {"place": "<image>"}}
    history = [
        {"role": "user", "content": "show it"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "a", "type": "function", "function": call_}],
        },
        {"role": "tool", "content": "<image>", "tool_call_id": "a"},
    ]
    asked_ = {"role": "user", "content": "on?", PARTS: [picture(1), "on?"]}
    bare = model.prompt([asked_]).tokens
    for messages in ([asked_], [*history, asked_]):
        prompt = model.prompt(messages, tools=[TOOL])
        assert [token for token in prompt.tokens if token < 0] == [
            token for token in bare if token < 0
        ]
        text = model.render(messages, tools=[TOOL])
        assert "Shows < image>." in text
        assert text.count("<image>") == 1
        assert text.endswith("<image>on?<end_of_utterance>\nAssistant:")


@needs_eyes
def test_a_question_with_tools_and_no_picture_is_in_its_prompt(model: Model) -> None:
    text = model.render([{"role": "user", "content": "how hot is it?"}], tools=[TOOL])
    assert "<|im_start|>System: # Tools" in text
    assert text.endswith("User: how hot is it?<end_of_utterance>\nAssistant:")


@needs_eyes
def test_ids_of_pictures_are_no_tokens_of_a_client(model: Model, port: int) -> None:
    seen = model.prompt([{"role": "user", "content": "?", PARTS: [picture(1), "?"]}])
    body = {"prompt": [token if token > -(2**63) else -5 for token in seen.tokens]}
    status, _, answer = call(port, "/v1/completions", body)
    assert (status, answer["error"]["code"]) == (400, "bad_token")


@needs_eyes
def test_pictures_stand_where_the_conversation_has_them(model: Model) -> None:
    messages = [
        {"role": "user", "content": "on?", PARTS: [picture(1), "on?"]},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "and?", PARTS: ["and ", picture(2), "?"]},
    ]
    prompt = model.prompt(messages)
    assert [each.digest for each in prompt.pictures] == [
        model.engine.see(picture(number)).digest for number in (1, 2)
    ]
    last = max(at for at, token in enumerate(prompt.tokens) if token < 0)
    assert prompt.prefix == last + 1
    assert len([token for token in prompt.tokens if token < 0]) == 2 * POSITIONS


@needs_eyes
def test_more_pictures_than_a_conversation_may_have_are_refused(port: int) -> None:
    fields = asked(picture(1))
    fields["messages"][0]["content"][:1] *= 5
    status, _, answer = call(port, CHAT, fields)
    assert (status, answer["error"]["message"]) == (
        400,
        "`messages`: at most 4 pictures in a conversation",
    )


@needs_eyes
def test_goldens_with_pictures_are_checked_before_the_switch(bundle: Path, tmp_path: Path) -> None:
    found = check_bundle(bundle)
    assert (found["ok"], found["goldens"]) == (True, 2)
    other = tmp_path / "other"
    shutil.copytree(bundle, other)
    (other / "picture-1.png").write_bytes(picture(2))
    with pytest.raises(DeviceError, match="golden 2 of 2: the prompt differs"):
        check_bundle(other)
    (other / "picture-1.png").unlink()
    with pytest.raises(DeviceError, match=r"the picture `picture-1\.png` cannot be read"):
        check_bundle(other)


@needs_eyes
def test_a_golden_with_a_picture_fails_where_the_eyes_are_others(
    bundle: Path, tmp_path: Path
) -> None:
    """The answer of another projector, of the same size, is not the golden's."""
    import numpy as np
    from gguf import GGUFReader

    other = tmp_path / "other"
    shutil.copytree(bundle, other)
    eyes = other / read_manifest(other).projector
    reader = GGUFReader(eyes, "r+")
    weights = next(each for each in reader.tensors if each.name == "mm.model.fc.weight")
    weights.data[:] = np.roll(weights.data, 7, axis=0)
    reader.data.flush()
    with pytest.raises(DeviceError, match="golden 2 of 2: the answer differs"):
        check_bundle(other)


@needs_eyes
def test_the_projector_is_a_file_that_the_manifest_names(bundle: Path, tmp_path: Path) -> None:
    manifest = read_manifest(bundle)
    assert manifest.projector in manifest.opened
    wrong = replace(manifest, projector="lost.gguf")
    (tmp_path / "manifest.json").write_bytes(to_bytes(wrong))
    with pytest.raises(ValueError, match=r"the manifest names no `lost\.gguf`"):
        read_manifest(tmp_path)
    assert len(to_bytes(manifest)) < MAX_MANIFEST_BYTES


def test_a_url_says_the_kind_of_its_picture() -> None:
    for kind in ("PNG", "JPEG"):
        image = picture(1, kind=kind)
        url = to_url(image)
        assert url.startswith(f"data:image/{kind.lower()};base64,")
        assert base64.b64decode(url.partition(",")[2]) == image
        assert from_url(url) == image
    assert json.dumps(url)


@needs_eyes
def test_ollamas_images_are_the_pictures_of_a_question(port: int) -> None:
    plain = call(port, CHAT, asked(picture(1)))[2]["choices"][0]["message"]["content"]
    image = base64.b64encode(picture(1)).decode()
    options = {"num_predict": 8}
    question = {"role": "user", "content": "Is the LED on?", "images": [image]}
    shared = {"model": "tiny-eyes", "stream": False, "options": options}
    status, _, chatted = call(port, "/api/chat", {**shared, "messages": [question]})
    assert (status, chatted["message"]["content"]) == (200, plain)
    given = {**shared, "prompt": "Is the LED on?", "images": [image]}
    status, _, generated = call(port, "/api/generate", given)
    assert (status, generated["response"]) == (200, plain)
    assert "vision" in call(port, "/api/show", {"model": "tiny-eyes"})[2]["capabilities"]
    many = {**question, "images": [image] * 5}
    status, _, answer = call(port, "/api/chat", {**shared, "messages": [many]})
    assert (status, answer["error"]) == (400, "`messages`: at most 4 pictures in a conversation")
    status, _, answer = call(port, "/api/generate", {**given, "images": [image] * 5})
    assert (status, answer["error"]) == (400, "`images`: at most 4 pictures in a conversation")


@needs_eyes
def test_ollamas_images_may_have_the_line_ends_that_go_reads_over(port: int) -> None:
    image = picture(1)
    given = {"model": "tiny-eyes", "stream": False, "prompt": "Is the LED on?"}
    given["options"] = {"num_predict": 8}
    plain, folded, broken = (
        call(port, "/api/generate", {**given, "images": [text]})
        for text in (
            base64.b64encode(image).decode(),
            base64.encodebytes(image).decode().replace("\n", "\r\n"),
            base64.b64encode(image).decode() + " ",
        )
    )
    assert folded[0] == plain[0] == 200
    assert folded[2]["response"] == plain[2]["response"]
    assert broken[2]["error"] == "`images`: the picture's base64 is broken"


@needs_eyes
def test_an_input_image_of_the_responses_api_is_a_picture(port: int) -> None:
    plain = call(port, CHAT, asked(picture(1)))[2]["choices"][0]["message"]["content"]
    parts = [
        {"type": "input_image", "image_url": to_url(picture(1)), "detail": "auto"},
        {"type": "input_text", "text": "Is the LED on?"},
    ]
    given = {"input": [{"role": "user", "content": parts}], "max_output_tokens": 8}
    status, _, answer = call(port, "/v1/responses", given)
    assert (status, answer["output"][0]["content"][0]["text"]) == (200, plain)


def test_a_text_model_refuses_pictures_of_every_api_by_name(tmp_path: Path) -> None:
    image = base64.b64encode(picture(1)).decode()
    question = {"role": "user", "content": "on?", "images": [image]}
    part = {"type": "input_image", "image_url": to_url(picture(1))}
    with tiny_service(tmp_path) as number:
        said = call(number, "/api/chat", {"model": "tiny", "messages": [question]})
        assert said[0] == 400
        assert said[2]["error"].startswith("`tiny.gguf` on llama.cpp reads text, no pictures")
        given = {
            "input": [{"role": "user", "content": [part, {"type": "input_text", "text": "?"}]}]
        }
        said = call(number, "/v1/responses", given)
        assert (said[0], said[2]["error"]["code"]) == (400, "cannot_see")
