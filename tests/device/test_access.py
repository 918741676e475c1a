"""Who may talk to the service."""

from pathlib import Path

import pytest

from device.errors import DeviceError
from device.serve.access import Access, access_for

OPEN = Access(frozenset({"localhost", "pi.local"}))
LOCKED = Access(frozenset({"localhost"}), "sixteen-characters")


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1:8080", "localhost", "LOCALHOST:1", "[::1]:8080", "pi.local:8080", "192.168.0.7"],
)
def test_this_machines_names_and_addresses_are_welcome(host: str) -> None:
    assert OPEN.refusal("/v1/models", {"host": host}) is None


@pytest.mark.parametrize(
    "host", ["", "evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil:80"]
)
def test_another_host_name_is_refused_as_a_rebinding_attack_would_send_it(host: str) -> None:
    error = OPEN.refusal("/v1/models", {"host": host})
    assert error and (error.code, error.status) == ("host_not_allowed", 403)


@pytest.mark.parametrize(
    ("origin", "welcome"),
    [
        ("http://localhost:8080", True),
        ("http://evil.example", False),
        ("null", False),
        ("http://localhost", False),
    ],
)
def test_only_pages_of_this_service_may_call_it(origin: str, welcome: bool) -> None:
    assert (
        OPEN.refusal("/v1/models", {"host": "localhost:8080", "origin": origin}) is None
    ) == welcome


@pytest.mark.parametrize(
    ("authorization", "welcome"),
    [
        ("Bearer sixteen-characters", True),
        ("bearer sixteen-characters", True),
        ("Bearer other", False),
        ("", False),
        ("Bearer é", False),
    ],
)
def test_a_token_is_asked_for_where_there_is_one(authorization: str, welcome: bool) -> None:
    error = LOCKED.refusal("/v1/models", {"host": "localhost", "authorization": authorization})
    assert (error is None) == welcome
    assert error is None or error.status == 401


@pytest.mark.parametrize("host", ["localhost", "evil.example", ""])
def test_health_is_public_by_any_name(host: str) -> None:
    assert LOCKED.refusal("/health", {"host": host}) is None


NAMED = access_for(
    "127.0.0.1",
    "",
    ["Kitchen-Pi", "pi.fritz.box.", "pi.tail1234.ts.net", "küche.local"],
    ["https://App.example/", "http://localhost:3000", "tauri://localhost"],
)


@pytest.mark.parametrize(
    "host",
    [
        "kitchen-pi",
        "KITCHEN-PI:8080",
        "kitchen-pi.",
        "pi.fritz.box:80",
        "xn--kche-0ra.local",
        "localhost.",
    ],
)
def test_a_name_that_is_allowed_is_welcome_however_it_is_written(host: str) -> None:
    assert NAMED.refusal("/v1/models", {"host": host}) is None


@pytest.mark.parametrize(
    "host", ["pi", "kitchen-pi.evil.example", "x.pi.fritz.box", "tail1234.ts.net"]
)
def test_a_name_beside_those_that_are_allowed_is_refused(host: str) -> None:
    error = NAMED.refusal("/v1/models", {"host": host})
    assert error and error.code == "host_not_allowed" and "--host-name" in error.hint


@pytest.mark.parametrize(
    ("origin", "welcome"),
    [
        ("https://app.example", True),
        ("http://localhost:3000", True),
        ("tauri://localhost", True),
        ("http://app.example", False),
        ("https://app.example:8443", False),
        ("https://sub.app.example", False),
        ("https://app.example2", False),
        ("null", False),
    ],
)
def test_pages_of_allowed_origins_alone_may_call(origin: str, welcome: bool) -> None:
    headers = {"host": "localhost:8080", "origin": origin}
    assert (NAMED.refusal("/v1/models", headers) is None) == welcome
    assert NAMED.allowed_origin(headers) == (origin if welcome else "")


@pytest.mark.parametrize(
    "name",
    ["", "*", "*.local", "http://pi", "pi:8080", "a b", "-pi", "x" * 254, "pi..local", "pi\nx"],
)
def test_what_is_no_name_of_a_host_is_refused(name: str) -> None:
    with pytest.raises(DeviceError) as caught:
        access_for("127.0.0.1", "", [name])
    assert caught.value.code == "bad_host_name"


@pytest.mark.parametrize(
    "origin",
    [
        "",
        "*",
        "null",
        "app.example",
        "https://",
        "https://a/b",
        "https://u@a",
        "https://a, https://b",
    ],
)
def test_what_is_no_origin_is_refused(origin: str) -> None:
    with pytest.raises(DeviceError) as caught:
        access_for("127.0.0.1", "", [], [origin])
    assert caught.value.code == "bad_origin"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.7", "pi.local"])
def test_a_network_address_without_a_token_is_refused(host: str) -> None:
    with pytest.raises(DeviceError) as caught:
        access_for(host, "")
    assert caught.value.code == "token_required"
    assert (
        caught.value.message
        == f"`{host}` can be reached from the network and no token is asked for"
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.0.0.53"])
def test_loopback_needs_no_token(host: str) -> None:
    assert access_for(host, "").token == ""


def test_a_network_address_with_a_token_asks_for_it(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("sixteen-characters\n")
    assert access_for("0.0.0.0", str(tmp_path / "token")).token == "sixteen-characters"


@pytest.mark.parametrize("content", ["short", "with spaces in it, long", "ünïcödé-tokens-are-not"])
def test_a_weak_token_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "token").write_text(content, encoding="utf-8")
    with pytest.raises(DeviceError, match="at least 16 printable ASCII characters"):
        access_for("0.0.0.0", str(tmp_path / "token"))


def test_a_missing_token_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="cannot be read"):
        access_for("0.0.0.0", str(tmp_path / "none"))
