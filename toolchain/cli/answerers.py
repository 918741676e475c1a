"""What `ask`, `chat` and `bench` speak with: a board, or an endpoint with OpenAI's API."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from toolchain import console
from toolchain.cli.words import device_at, refuse_given
from toolchain.endpoint.address import KEY, is_endpoint

if TYPE_CHECKING:
    from toolchain.endpoint.client import Endpoint
    from toolchain.talk import Answerer


@contextmanager
def answerer_at(address: str, model: str, *, sources: bool = False) -> "Iterator[Answerer]":
    """Yield what answers at an address; raise ConfigError for options that it does not have."""
    from toolchain.talk import BoardAnswers, EndpointAnswers

    if is_endpoint(address):
        refuse_for_endpoint(sources=sources)
        yield EndpointAnswers(endpoint_at(address, model))
        return
    refuse_for_board(model=model)
    with device_at(address) as device:
        yield BoardAnswers(device)


def endpoint_at(address: str, model: str) -> "Endpoint":
    """Return the endpoint at an address; warn of a key that would cross a network unencrypted."""
    from toolchain.endpoint.client import Endpoint
    from toolchain.endpoint.exchange import key

    endpoint = Endpoint(address, model)
    place = endpoint.address
    if key() and place.scheme == "http" and not place.is_here:
        console.show_note(f"{place.text}: the key in {KEY} crosses the network unencrypted")
    return endpoint


def refuse_for_board(**given: object) -> None:
    """Raise ConfigError for options of an endpoint that are given with a board."""
    refuse_given(
        given,
        "is for an endpoint, a board has one model",
        "an endpoint is an address such as http://127.0.0.1:8080",
    )


def refuse_for_endpoint(**given: object) -> None:
    """Raise ConfigError for options of a board that are given with an endpoint."""
    refuse_given(
        given,
        "is for a board, an endpoint shows its answers alone",
        "leave it out, or name the board by its SSH address",
    )
