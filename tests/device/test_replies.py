"""The bodies of replies: OpenAI's fields, in one piece and in chunks, and errors in
OpenAI's shape.
"""

import base64
import json
import struct

from device.engine.base import Candidate, FieldError, Timing, Token
from device.errors import DeviceError
from device.serve.replies import Reply, embeddings, error_body, event

TIMING = Timing(
    prompt_tokens=10,
    reused_tokens=4,
    prefill_s=0.5,
    answer_tokens=2,
    decode_steps=2,
    decode_s=0.1,
)
STEPS = [Token(1, "It "), Token(2, "is"), Token(None, "", "stop", TIMING)]
SCORED = Token(7, "é", candidates=(Candidate(b"\xc3\xa9", -0.5), Candidate(b"e", -1.5)))


def test_a_whole_conversation_has_one_message_with_all_texts() -> None:
    body = Reply("m", chat=True).whole(STEPS)
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["content"] == "It is"
    assert body["choices"][0]["finish_reason"] == "stop"


def test_a_whole_plain_answer_has_its_text() -> None:
    body = Reply("m", chat=False).whole(STEPS)
    assert body["object"] == "text_completion"
    assert body["choices"][0]["text"] == "It is"


def test_the_usage_counts_reused_tokens_as_cached() -> None:
    body = Reply("m", chat=True).whole(STEPS)
    assert body["usage"] == {
        "prompt_tokens": 10,
        "completion_tokens": 2,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 4},
    }
    assert body["timings"]["prompt_n"] == 6
    assert body["timings"]["predicted_per_second"] == 20.0


def test_the_chunks_of_a_conversation_make_the_whole_again() -> None:
    reply = Reply("m", chat=True)
    chunks = [
        *reply.opening(),
        *(reply.chunk(step, 0) for step in STEPS[:2]),
        *reply.closing(STEPS[2], 0, include_usage=False),
    ]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas) == "It is"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]


def test_all_chunks_of_a_reply_have_the_same_id_and_time() -> None:
    reply = Reply("m", chat=True)
    chunks = [*reply.opening(), *reply.closing(STEPS[2], 0, include_usage=True)]
    assert len({(chunk["id"], chunk["created"]) for chunk in chunks}) == 1
    assert chunks[0]["id"].startswith("chatcmpl-")


def test_the_usage_comes_in_a_chunk_of_its_own_without_choices() -> None:
    chunks = Reply("m", chat=True).closing(STEPS[2], 0, include_usage=True)
    assert "usage" not in chunks[0]
    assert chunks[1]["choices"] == []
    assert chunks[1]["usage"]["total_tokens"] == 12


def test_a_plain_stream_has_no_opening() -> None:
    assert Reply("m", chat=False).opening() == []


def test_log_probabilities_of_a_conversation_carry_the_bytes_of_each_token() -> None:
    choice = Reply("m", chat=True).whole([SCORED, STEPS[2]])["choices"][0]
    assert choice["logprobs"]["content"] == [
        {
            "token": "é",
            "logprob": -0.5,
            "bytes": [0xC3, 0xA9],
            "top_logprobs": [{"token": "e", "logprob": -1.5, "bytes": [0x65]}],
        }
    ]


def test_log_probabilities_of_a_plain_answer_carry_the_offset_of_each_token() -> None:
    choice = Reply("m", chat=False).whole([STEPS[0], SCORED, STEPS[2]])["choices"][0]
    assert choice["logprobs"] == {
        "tokens": ["é"],
        "token_logprobs": [-0.5],
        "top_logprobs": [{"e": -1.5}],
        "text_offset": [3],
    }


def test_no_log_probabilities_are_null() -> None:
    assert Reply("m", chat=True).whole(STEPS)["choices"][0]["logprobs"] is None


def test_packed_vectors_are_little_endian_float32_in_base64() -> None:
    body = embeddings("m", [[0.25, -1.0]], 3, packed=True)
    packed = base64.b64decode(body["data"][0]["embedding"])
    assert struct.unpack("<2f", packed) == (0.25, -1.0)


def test_vectors_come_as_numbers_in_the_order_of_their_texts() -> None:
    body = embeddings("m", [[1.0], [2.0]], 3, packed=False)
    assert [(item["index"], item["embedding"]) for item in body["data"]] == [(0, [1.0]), (1, [2.0])]
    assert body["usage"] == {"prompt_tokens": 3, "total_tokens": 3}


def test_an_error_has_its_code_its_hint_and_its_kind() -> None:
    error = error_body(DeviceError("busy", "too many", hint="try later", status=429))["error"]
    assert error == {
        "message": "too many; try later",
        "type": "invalid_request_error",
        "param": None,
        "code": "busy",
    }


def test_a_wrong_field_is_named_and_a_fault_of_the_server_is_called_so() -> None:
    assert error_body(FieldError("top_p", "is large"))["error"]["param"] == "top_p"
    assert error_body(DeviceError("bad_model", "x"))["error"]["type"] == "server_error"


def test_an_event_is_one_line_of_utf_8_and_an_empty_one() -> None:
    line = event({"text": "é\n"})
    assert line.startswith(b"data: ")
    assert line.endswith(b"\n\n")
    assert line.count(b"\n") == 2
    assert json.loads(line[6:]) == {"text": "é\n"}
