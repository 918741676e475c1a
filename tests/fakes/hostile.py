"""A board that is somebody else's: a whole SSH server (paramiko's) that lets everybody in and
answers every command as it likes.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

import paramiko

from toolchain.board.shell import MARK

Answer = Callable[[paramiko.Channel], None]


class SshServer(paramiko.ServerInterface):
    """An SSH server on a loopback port; what it allows is said by its children."""

    def __init__(self) -> None:
        self.key = paramiko.ECDSAKey.generate()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._transports: list[paramiko.Transport] = []
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                transport = paramiko.Transport(peer)
                transport.add_server_key(self.key)
                self._transports.append(transport)
                with contextlib.suppress(paramiko.SSHException, EOFError):
                    transport.start_server(server=self)

    def close(self) -> None:
        self._listener.close()
        for transport in self._transports:
            transport.close()


class HostileBoard(SshServer):
    """Lets everybody in; `answer` is what each command does."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        super().__init__()

    def get_allowed_auths(self, username: str) -> str:
        return "publickey"

    def check_auth_none(self, username: str) -> int:
        return int(paramiko.AUTH_SUCCESSFUL)

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return int(paramiko.OPEN_SUCCEEDED)

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        threading.Thread(target=self._run, args=(channel,), daemon=True).start()
        return True

    def _run(self, channel: paramiko.Channel) -> None:
        # paramiko says that the command was taken only after this thread was started.
        time.sleep(0.2)
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            self._answer(channel)
            channel.send_exit_status(0)
            channel.close()


def says(stdout: bytes, stderr: bytes = b"", *, times: int = 1) -> Answer:
    """Return an answer that begins as a command of ours does and then prints this."""

    def answer(channel: paramiko.Channel) -> None:
        channel.sendall(MARK)
        channel.sendall_stderr(MARK)
        for _ in range(times):
            channel.sendall(stdout)
            channel.sendall_stderr(stderr)

    return answer


@contextlib.contextmanager
def hostile(answer: Answer) -> Iterator[HostileBoard]:
    """Run such a board."""
    board = HostileBoard(answer)
    try:
        yield board
    finally:
        board.close()
