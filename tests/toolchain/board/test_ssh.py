"""Real SSH to an OpenSSH server of our own, and the sentence for each way in which it can fail."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import paramiko
import pytest

from toolchain.board import channel, known_hosts, loopback, ssh
from toolchain.board.route import Route
from toolchain.errors import BoardError, ToolchainError, ToolError, TrustError
from toolchain.tools import openssh


@pytest.fixture(scope="module", autouse=True)
def _an_ssh_server_is_installed() -> None:
    try:
        openssh.sshd()
    except ToolError as error:
        pytest.skip(f"{error.message}: {error.hint}")


@pytest.fixture(scope="module")
def server() -> Iterator[Route]:
    with loopback.server() as way:
        yield way


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Route) -> Path:
    """A user's home whose ~/.ssh/config calls the server `pi`."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (tmp_path / ".ssh").mkdir(mode=0o700)
    (tmp_path / ".ssh" / "config").write_text(
        f"Host pi\n HostName 127.0.0.1\n Port {server.port}\n User {server.user}\n"
        f" IdentityFile {server.identities[0]}\n IdentitiesOnly yes\n"
    )
    return tmp_path


@pytest.fixture
def connection(server: Route) -> Iterator[ssh.SshConnection]:
    opened = ssh.dial(server)
    yield opened
    opened.close()


def test_words_arrive_as_they_were_sent_whatever_is_in_them(connection: ssh.SshConnection) -> None:
    words = ["a b", "it's", '"', "$HOME", "*", "", "new\nline", "温度", "~", "~root"]
    done = connection.run(["printf", "%s|", *words])
    assert done.stdout.decode() == "".join(f"{word}|" for word in words)


def test_a_path_in_the_board_users_home_is_one_word(connection: ssh.SshConnection) -> None:
    home = connection.run(["sh", "-c", "echo $HOME"]).stdout.decode().strip()
    assert connection.run(["printf", "%s", "~/a b/c"]).stdout.decode() == f"{home}/a b/c"


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -4 $$", 132), ("kill -9 $$", 137)]
)
def test_the_exit_status_tells_signals_too(
    connection: ssh.SshConnection, script: str, code: int
) -> None:
    assert connection.run(["sh", "-c", script]).code == code


def test_input_output_and_the_last_of_the_complaints_keep_apart(
    connection: ssh.SshConnection,
) -> None:
    sent = bytes(range(256)) * 20_000
    done = connection.run(
        ["sh", "-c", "cat; head -c 3000000 /dev/zero | tr '\\0' x >&2"], stdin=sent
    )
    assert done.stdout == sent
    assert done.stderr == "x" * channel.KEPT_STDERR_BYTES


def test_a_command_that_talks_is_read_by_lines_and_by_bytes(connection: ssh.SshConnection) -> None:
    cat = connection.open(["cat"])
    cat.send(b"first\nsecond\n12345rest")
    assert (cat.read_line(), cat.read_line(), cat.read(5)) == (
        b"first\n",
        b"second\n",
        b"12345",
    )
    cat.close_input()
    assert cat.finish().stdout == b"rest"


def test_a_command_that_does_not_end_is_given_up(connection: ssh.SshConnection) -> None:
    with pytest.raises(BoardError) as caught:
        connection.run(["sleep", "60"], timeout_s=0.5)
    assert caught.value.message == "local: no end after 0.5 s"


def test_only_strong_ciphers_are_offered_and_the_fast_one_is_used(
    connection: ssh.SshConnection,
) -> None:
    transport = connection._line.transport
    assert transport.remote_cipher == "aes128-gcm@openssh.com"
    offered = transport.get_security_options()
    for names in (offered.ciphers, offered.digests, offered.kex):
        assert not [
            name for name in names if any(weak in name for weak in ("cbc", "3des", "md5", "sha1"))
        ]


def test_an_unknown_key_is_refused_with_its_fingerprint(home: Path, server: Route) -> None:
    with pytest.raises(TrustError) as caught:
        ssh.connect("pi")
    key = ssh.fetch_host_key("pi")
    assert caught.value.message == f"pi: unknown host key {key.fingerprint} (ssh-ed25519)"
    assert caught.value.hint.endswith("then: demitasse trust pi")
    assert not (home / ".ssh" / "known_hosts").exists()


def test_a_key_that_was_pinned_is_trusted_from_then_on(home: Path, server: Route) -> None:
    ssh.pin("pi", ssh.fetch_host_key("pi"))
    opened = ssh.connect("pi")
    assert opened.run(["echo", "hello"]).stdout == b"hello\n"
    opened.close()
    kept = home / ".ssh" / "known_hosts"
    assert kept.read_text().startswith(f"[127.0.0.1]:{server.port} ssh-ed25519 ")
    assert kept.stat().st_mode & 0o777 == 0o600
    ssh.pin("pi", ssh.fetch_host_key("pi"))
    assert len(kept.read_text().splitlines()) == 1


def test_accept_new_pins_what_is_unknown(home: Path) -> None:
    ssh.connect("pi", accept_new=True).close()
    ssh.connect("pi").close()


@pytest.mark.parametrize("accept_new", [False, True])
def test_a_changed_key_is_refused_even_where_new_ones_are_accepted(
    home: Path, server: Route, accept_new: bool
) -> None:
    other = paramiko.Ed25519Key.from_private_key_file(server.identities[0])
    known_hosts.pin(home / ".ssh" / "known_hosts", server.known_as, other)
    with pytest.raises(TrustError) as caught:
        ssh.connect("pi", accept_new=accept_new)
    assert caught.value.message.startswith("pi: the host key changed: it is now SHA256:")
    assert f"ssh-keygen -R '{server.known_as}'" in caught.value.hint
    with pytest.raises(TrustError, match="the host key changed"):
        ssh.pin("pi", ssh.fetch_host_key("pi"))


def test_a_key_of_another_kind_for_a_known_host_counts_as_changed(
    home: Path, server: Route
) -> None:
    known_hosts.pin(home / ".ssh" / "known_hosts", server.known_as, paramiko.ECDSAKey.generate())
    with pytest.raises(TrustError, match="pi: the host key changed"):
        ssh.connect("pi")


def test_a_revoked_key_is_refused_though_it_is_known(home: Path) -> None:
    key = ssh.fetch_host_key("pi")
    ssh.pin("pi", key)
    with (home / ".ssh" / "known_hosts").open("a") as stream:
        stream.write(f"@revoked * {key.get_name()} {key.get_base64()}\n")
    with pytest.raises(TrustError, match=r"pi: the host key SHA256:.* is revoked"):
        ssh.connect("pi")


def test_a_server_that_knows_none_of_our_keys_says_how_to_give_it_one(
    home: Path, server: Route
) -> None:
    openssh.make_key(home / "stranger", "nobody knows it")
    config = home / ".ssh" / "config"
    config.write_text(config.read_text().replace(server.identities[0], str(home / "stranger")))
    with pytest.raises(BoardError) as caught:
        ssh.connect("pi", accept_new=True)
    assert caught.value.message == f"pi: the board refused every key of `{server.user}`"
    assert caught.value.hint == f"ssh-copy-id -p {server.port} {server.user}@127.0.0.1"


def test_no_key_at_all_is_told_with_where_it_was_looked_for(home: Path, server: Route) -> None:
    config = home / ".ssh" / "config"
    config.write_text(config.read_text().replace(server.identities[0], str(home / "missing")))
    with pytest.raises(BoardError) as caught:
        ssh.connect("pi", accept_new=True)
    looked = home / "missing"
    assert caught.value.message == f"pi: there is no key to log in with: looked for {looked}"


@contextlib.contextmanager
def listening(answer: bytes | None) -> Iterator[int]:
    """Listen on a port; answer each connection with these bytes, or close the port at once."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
        if answer is None:
            listener.close()
            yield port
            return
        listener.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                peer, _ = listener.accept()
                peer.sendall(answer)
                peer.close()

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield port
        thread.join()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "pi@127.0.0.1:{port}: nothing listens on port {port}"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "pi@127.0.0.1:{port}: not a usable SSH server: "),
        (b"", "pi@127.0.0.1:{port}: not a usable SSH server: "),
    ],
)
def test_what_is_no_ssh_server_is_told_so(home: Path, answer: bytes | None, message: str) -> None:
    with listening(answer) as port, pytest.raises(ToolchainError) as caught:
        ssh.connect(f"pi@127.0.0.1:{port}")
    assert isinstance(caught.value, BoardError)
    assert caught.value.message.startswith(message.format(port=port))


def test_a_name_that_nobody_knows_is_told_so(home: Path) -> None:
    with pytest.raises(BoardError) as caught:
        ssh.connect("pi@board.invalid")
    assert caught.value.message == "pi@board.invalid: name not found"
    assert caught.value.hint == "is the board on this network? try its IP address"


@pytest.mark.slow
def test_a_board_behind_another_is_reached_through_it(home: Path, server: Route) -> None:
    config = home / ".ssh" / "config"
    config.write_text(
        config.read_text() + f"Host inner\n HostName 127.0.0.1\n Port {server.port}\n"
        f" User {server.user}\n ProxyJump pi\n"
        f" HostKeyAlias inner-board\n IdentityFile {server.identities[0]}\n"
    )
    with pytest.raises(TrustError, match="pi: unknown host key"):
        ssh.connect("inner")
    ssh.pin("pi", ssh.fetch_host_key("pi"))
    with pytest.raises(TrustError, match="inner: unknown host key"):
        ssh.connect("inner")
    opened = ssh.connect("inner", accept_new=True)
    assert opened.run(["echo", "through"]).stdout == b"through\n"
    opened.close()
    config.write_text(
        config.read_text().replace(
            f"Port {server.port}\n User {server.user}\n ProxyJump", "Port 1\n ProxyJump"
        )
    )
    with pytest.raises(BoardError, match=r"pi: does not lead to 127\.0\.0\.1 port 1: "):
        ssh.connect("inner")


class Cutter:
    """A TCP relay that resets the connection after so many bytes from the client."""

    def __init__(self, port: int, after: int) -> None:
        self._after, self._target = after, port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        client, _ = self._listener.accept()
        server = socket.create_connection(("127.0.0.1", self._target))
        threading.Thread(target=self._back, args=(server, client), daemon=True).start()
        left = self._after
        while left > 0 and (chunk := client.recv(min(left, 65536))):
            server.sendall(chunk)
            left -= len(chunk)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        for end in (client, server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._listener.close()

    def _back(self, server: socket.socket, client: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while chunk := server.recv(65536):
                client.sendall(chunk)


@pytest.mark.slow
def test_a_lost_connection_is_one_error_that_says_at_which_byte(home: Path, server: Route) -> None:
    cutter = Cutter(server.port, after=2_000_000)
    config = home / ".ssh" / "config"
    config.write_text(config.read_text().replace(f"Port {server.port}", f"Port {cutter.port}"))
    known_hosts.pin(home / ".ssh" / "known_hosts", f"[127.0.0.1]:{cutter.port}", _host_key(server))
    opened = ssh.connect("pi")
    sink = opened.open(["sh", "-c", "cat >/dev/null"])
    with pytest.raises(BoardError, match=r"pi: connection lost at byte [\d,]+") as caught:
        for _ in range(100):
            sink.send(bytes(100_000))
        sink.close_input()
        sink.finish()
    assert caught.value.hint == "run the same command again: it goes on where it stopped"
    with pytest.raises(BoardError, match="pi: connection lost"):
        opened.run(["true"])
    opened.close()


def _host_key(server: Route) -> paramiko.PKey:
    name, kind, key = server.known_hosts[0].read_text().split()[:3]
    entry = paramiko.hostkeys.HostKeyEntry.from_line(f"{name} {kind} {key}")
    assert entry is not None
    return entry.key
