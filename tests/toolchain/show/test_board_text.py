"""A board's answers are laid out for people; a field of a wrong type is left out."""

import copy
import time
from typing import Any

import pytest

from toolchain.show.board_text import lines

STATUS: dict[str, Any] = {
    "root": "/home/pi/.local/share/demitasse",
    "release": {
        "release": "4530e886965e6756",
        "runtime": "f4dc4323e1539123",
        "port": 8080,
        "service": "systemd",
        "unsigned": False,
        "host_names": ["kitchen-pi.local"],
        "cors_origins": [],
        "name": "pi-help-desk",
        "version": "1.1",
        "counter": 2,
        "target": "rpi-4b-2gb",
        "signed_by": "SHA256:abc",
    },
    "previous": {"release": "9a06ec9824f76796", "name": "pi-help-desk", "version": "1.0"},
    "confirmed": True,
    "since": None,
    "speed": {"decode_tok_s": 11.25, "expected_tok_s": 11.5},
    "refused": None,
    "disk_free_bytes": 20_000_000_000,
    "store_bytes": 412_000_000,
    "service": {
        "kind": "systemd",
        "pid": 812,
        "port": 8080,
        "healthy": True,
        "health": {
            "engine": "llama.cpp",
            "engine_version": "0.5.0",
            "model_type": "qwen2 0.5B Q4_0",
            "context": 2048,
            "threads": 4,
            "slots": 1,
            "temperature_c": 51.2,
        },
        "failure": "",
        "stopped": False,
        "survives_reboot": True,
        "hint": "",
    },
}


def status(**changes: Any) -> dict[str, Any]:
    answer = copy.deepcopy(STATUS)
    for path, value in changes.items():
        table = answer
        *parents, name = path.split("__")
        for parent in parents:
            table = table[parent]
        table[name] = value
    return answer


def text(answer: dict[str, Any]) -> str:
    return "\n".join(lines("pi", answer))


def test_a_status_says_what_it_serves_how_fast_and_what_a_rollback_brings() -> None:
    assert text(STATUS) == (
        "pi serves pi-help-desk 1.1 on port 8080\n"
        "\n"
        "  speed           11.25 tokens/s when it was checked, 11.5 expected\n"
        "  engine          llama.cpp 0.5.0, qwen2 0.5B Q4_0\n"
        "  settings        2,048 tokens of context, 4 threads, 1 question at once\n"
        "  heat            51.2 °C\n"
        "  release         4530e886965e, made for rpi-4b-2gb, counter 2\n"
        "  signature       SHA256:abc\n"
        "  names           kitchen-pi.local\n"
        "  rollback to     pi-help-desk 1.0, release 9a06ec9824f7\n"
        "  after a reboot  starts by itself\n"
        "  disk            412.0 MB in /home/pi/.local/share/demitasse, 20.0 GB free\n"
        "\n"
        "next:\n"
        '  demitasse ask pi "…"\n'
        "  demitasse bench pi\n"
        "  demitasse rollback pi"
    )


@pytest.mark.parametrize(
    ("ago_s", "words"),
    [(0, "(1 min)"), (300, "(5 min)"), (8000, "(2 hours)"), (300_000, "(3 days)")],
)
def test_a_status_says_since_when(ago_s: int, words: str) -> None:
    moment = int(time.time()) - ago_s
    local = time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))
    assert f"  since           {local} {words}\n" in text(status(since=moment))


@pytest.mark.parametrize("moment", [0, 12, 10**30, "1700000000", True, None])
def test_a_clock_that_was_never_set_says_no_time(moment: object) -> None:
    assert "since" not in text(status(since=moment))


def test_a_stopped_service_has_no_since() -> None:
    assert "since" not in text(status(since=int(time.time()), service__stopped=True))


def test_a_clock_ahead_of_ours_is_named() -> None:
    assert "by the board's clock" in text(status(since=int(time.time()) + 90_000))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"release": None, "service": None}, "pi has no release\n"),
        ({"release": None, "service": None}, "demitasse push BUNDLE pi"),
        ({"service__stopped": True}, "pi: pi-help-desk 1.1 is stopped\n"),
        ({"service__stopped": True}, "the same bundle starts it again"),
        ({"service__healthy": False}, "pi: pi-help-desk 1.1 does NOT answer on port 8080\n"),
        ({"service__healthy": False}, "demitasse logs pi"),
        ({"service__failure": "ended with signal 9"}, "the service ended with signal 9"),
        ({"service__survives_reboot": False}, "after a reboot  stays off"),
        ({"service__hint": "sudo loginctl enable-linger pi"}, "hint: sudo loginctl enable-linger"),
        (
            {"service__health__documents": {"passages": 830, "answer": "quote"}},
            "  documents       830 passages, quoted as they stand\n",
        ),
        (
            {"service__health__documents": {"passages": 1, "answer": "model"}},
            "  documents       1 passage, worded by the model\n",
        ),
        ({"service__health__documents": {"answer": 7}}, "  documents       ? passages\n"),
        ({"release__unsigned": True}, "none: this release runs unsigned"),
        ({"previous": None}, "nothing: no release came before"),
        ({"confirmed": False}, "it was never seen healthy"),
        ({"speed": {"decode_tok_s": 0.0}}, "not measured by its check"),
        (
            {"speed": {"decode_tok_s": 9.0, "unjudged": "its check measures no speed"}},
            "9 tokens/s when it was checked (not judged: its check measures no speed)",
        ),
        (
            {"refused": {"name": "x", "version": "2", "reason": "the goldens differ"}},
            "the last push was refused: x 2: the goldens differ",
        ),
    ],
)
def test_a_status_says_what_is_not_usual(changes: dict[str, Any], words: str) -> None:
    assert words in text(status(**changes))


@pytest.mark.parametrize("field", [*STATUS, *(f"service__{name}" for name in STATUS["service"])])
@pytest.mark.parametrize("wrong", [None, 7, -1.5, True, "x", ["x"], {"x": {"y": []}}])
def test_a_field_of_another_type_ends_nothing(field: str, wrong: object) -> None:
    assert lines("pi", status(**{field: wrong}))


def test_a_clean_scrub_is_one_line() -> None:
    answer = {"blobs": 291, "read_bytes": 10_700_000, "rotten": [], "hint": ""}
    assert lines("pi", answer) == ["pi: 291 files read, 10.7 MB; every byte is as it was sent"]


def test_a_scrub_names_what_is_damaged_and_what_to_do() -> None:
    fault = {"in": "4530e886965e6756", "kind": "release", "what": "`model.gguf` has rotted"}
    answer = {"blobs": 3, "read_bytes": 2000, "rotten": [fault], "hint": "push the release again"}
    assert lines("pi", answer) == [
        "pi: 3 files read, 2.0 kB; 1 DAMAGED",
        "",
        "  release 4530e886965e  `model.gguf` has rotted",
        "",
        "hint: push the release again",
    ]


def test_trust_lists_the_keys_and_what_they_may_sign() -> None:
    signer = {"key": "SHA256:abc", "names": ["kitchen-*"], "comment": "me@desk"}
    answer = {"signers": [signer], "revoked": ["SHA256:old"], "target": "rpi-5-8gb"}
    assert lines("pi", answer) == [
        "pi runs what these keys have signed:",
        "",
        "  SHA256:abc  models kitchen-*, me@desk",
        "",
        "revoked for ever: SHA256:old",
        "",
        "bundles made for: rpi-5-8gb",
    ]


def test_trust_without_a_key_says_so() -> None:
    text = lines("pi", {"signers": [], "revoked": [], "target": ""})
    assert "  none yet: the key of the first push is pinned" in text
    assert text[-1] == "bundles made for: any board"


def test_a_measurement_that_goes_on_is_named_with_its_process() -> None:
    said = text(status(measuring={"verb": "bench", "pid": 77, "seconds": 12}))
    assert "measured        by `bench` (process 77) for 12 s: answers are slow meanwhile" in said
    assert "measured" not in text(STATUS)


def test_a_change_that_goes_on_is_named_with_its_process() -> None:
    said = text(status(changing={"verb": "activate", "pid": 78, "seconds": 9}))
    assert "busy            with `activate` (process 78) for 9 s: other changes wait" in said
    assert "busy" not in text(STATUS)


def test_a_service_that_is_about_to_start_is_not_called_broken() -> None:
    said = text(status(service__healthy=False, service__health=None, service__starting=True))
    assert said.startswith("pi: pi-help-desk 1.1 is starting on port 8080\n")
