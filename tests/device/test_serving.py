"""The socket that a service listens on."""

import asyncio
import socket

from device.serve import serving


def test_an_answer_does_not_wait_for_its_askers_acknowledgement() -> None:
    """On a kept connection each answer's body would come 40 ms after its head (Nagle's
    algorithm).
    """
    found: list[int] = []

    async def take(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.append(
            writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        )
        writer.close()

    async def story(listener: socket.socket) -> None:
        async with await asyncio.start_server(take, sock=listener):
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            await reader.read()
            writer.close()

    with serving._listen("127.0.0.1", 0) as listener:
        asyncio.run(story(listener))
    assert found == [1]
