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


def test_health_is_public() -> None:
    assert LOCKED.refusal("/health", {"host": "localhost"}) is None


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
