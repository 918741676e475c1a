"""Addresses of endpoints: what people paste is understood, what would leak is refused."""

import pytest

from toolchain.board.route import parse as parse_board
from toolchain.endpoint.address import is_endpoint, parse
from toolchain.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "shown", "path"),
    [
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080", "/v1"),
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080", "/v1"),
        ("http://127.0.0.1:8080/v1/", "http://127.0.0.1:8080", "/v1"),
        ("http://pi:8080/v1/chat/completions", "http://pi:8080", "/v1"),
        ("HTTP://Pi.Local:8080/v1/models", "http://pi.local:8080", "/v1"),
        ("https://host.example", "https://host.example", "/v1"),
        ("https://host.example:443/openai/v1", "https://host.example/openai", "/openai/v1"),
        ("https://host.example/api/v3", "https://host.example/api/v3", "/api/v3"),
        ("http://[::1]:8080", "http://[::1]:8080", "/v1"),
        (" http://pi:80 ", "http://pi", "/v1"),
    ],
)
def test_an_address_means_the_api_behind_it(text: str, shown: str, path: str) -> None:
    address = parse(text)
    assert (address.text, address.path) == (shown, path)


@pytest.mark.parametrize(
    "text",
    [
        "http://",
        "http://:8080",
        "http://pi:0",
        "http://pi:99999",
        "http://pi:eighty",
        "http://pi 5:8080",
        "http://pi\n:8080",
        "http://[::1:8080",
        "http://p\u00ed:8080",
        "http://pi/v1\r\nx: y",
        "http://pi/\u202e",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="not an address of an endpoint"):
        parse(text)


@pytest.mark.parametrize("text", ["http://pi/v1?key=1", "http://pi/#top"])
def test_an_endpoint_has_no_query(text: str) -> None:
    with pytest.raises(ConfigError, match="an endpoint has no"):
        parse(text)


@pytest.mark.parametrize("text", ["http://sk-secret@pi", "https://me:sk-secret@pi:8080/v1"])
def test_a_key_in_the_address_is_refused_and_not_shown(text: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(text)
    assert "DEMITASSE_API_KEY" in error.value.hint
    assert "sk-secret" not in error.value.message + error.value.hint


@pytest.mark.parametrize(
    "text", ["pi@raspberrypi.local", "local", "virtual:rpi-4b", "ssh://pi", "pi"]
)
def test_boards_are_no_endpoints(text: str) -> None:
    assert not is_endpoint(text)


def test_a_verb_of_boards_says_that_an_endpoint_is_none() -> None:
    with pytest.raises(ConfigError, match="http://pi:8080: an endpoint, not a board") as error:
        parse_board("http://pi:8080")
    assert "`ask`, `chat` and `bench`" in error.value.hint
    with pytest.raises(ConfigError) as error:
        parse_board("http://sk-secret@pi:8080/v1")
    assert "sk-secret" not in error.value.message


@pytest.mark.parametrize(
    ("text", "is_here"),
    [
        ("http://127.0.0.1:8080", True),
        ("http://127.8.9.1", True),
        ("http://[::1]:80", True),
        ("http://localhost", True),
        ("http://127.0.0.1.somebody.example", False),
        ("http://127.somebody.example", False),
        ("http://localhost.somebody.example", False),
        ("http://192.168.1.2", False),
    ],
)
def test_only_a_loopback_address_stays_on_this_computer(text: str, is_here: bool) -> None:
    assert parse(text).is_here is is_here
