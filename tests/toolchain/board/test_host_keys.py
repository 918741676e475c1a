"""Host keys, patterns and certificates are trusted where OpenSSH's own client trusts them.

Both clients talk to a real sshd, which each connection starts for itself (`sshd -i` behind a
ProxyCommand), under a name that no name server knows.
"""

import getpass
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import paramiko
import pytest

from tests.fakes import signers
from toolchain.board import loopback, ssh
from toolchain.errors import ConfigError, ToolError, TrustError
from toolchain.tools import openssh

HOST, PORT = "pi.lan", 2222
_LAST_YEAR, _IN_2099 = ("-V", "20200101:20200102"), ("-V", "20990101:20990102")


@dataclass(frozen=True)
class Case:
    """Lines of known_hosts and the certificate that the server shows, if it shows one."""

    lines: tuple[str, ...]
    is_good: bool = True
    signer: str = ""
    words: tuple[str, ...] = ("-h", "-n", HOST)
    key: str = "host"
    problem: str = field(default="unknown host key", compare=False)


KNOWN = {
    "a name and its port": Case((f"[{HOST}]:{PORT} host",)),
    "a name without the port": Case((f"{HOST} host",)),
    "every name": Case(("* host",)),
    "a pattern": Case(("*.lan host",)),
    "a pattern with the port": Case((f"[p?.*]:{PORT} host",)),
    "a pattern in capitals": Case(("PI.* host",)),
    "a pattern for others": Case(("*.wan host",), False),
    "a pattern of another port": Case(("[*]:22 host",), False),
    "all but this name and port": Case((f"![{HOST}]:*,*:* host",), False),
    "an exception for another": Case(("!other.lan,*.lan host",)),
    "two keys of one kind": Case((f"[{HOST}]:{PORT} other", f"[{HOST}]:{PORT} host")),
    "another key with the port": Case(
        (f"[{HOST}]:{PORT} other", f"{HOST} host"), False, problem="the host key changed"
    ),
    "a key that is revoked": Case(("* host", "@revoked * host"), False, problem="is revoked"),
    "a mark that nobody knows": Case(("@blessed * host",), False),
    "only an authority": Case(("@cert-authority * host",), False),
}
AUTHORITY = ("@cert-authority *.lan authority",)
CERTIFIED = {
    "by its authority": Case(AUTHORITY, signer="authority"),
    "by its authority, with the port": Case(
        (f"@cert-authority [*]:{PORT} authority",), signer="authority"
    ),
    "by an ecdsa authority": Case(("@cert-authority * ecdsa",), signer="ecdsa"),
    "by an rsa authority": Case(("@cert-authority * rsa",), signer="rsa"),
    "an rsa key": Case(AUTHORITY, signer="authority", key="rsa"),
    "an ecdsa key": Case(AUTHORITY, signer="authority", key="ecdsa"),
    "for all names": Case(AUTHORITY, signer="authority", words=("-h",)),
    "by another authority": Case(AUTHORITY, False, signer="other"),
    "by another authority, the key is known": Case((*AUTHORITY, "* host"), signer="other"),
    "by an authority of other names": Case(
        ("@cert-authority *.wan authority",), False, signer="authority"
    ),
    "by a revoked authority": Case(
        (*AUTHORITY, "@revoked * authority"), False, signer="authority", problem="is revoked"
    ),
    "a revoked key": Case(
        (*AUTHORITY, "@revoked * host"), False, signer="authority", problem="is revoked"
    ),
    "for another name": Case(
        AUTHORITY,
        False,
        signer="authority",
        words=("-h", "-n", "tv.lan"),
        problem=f"refused: it is for `tv.lan`, not for `{HOST}`",
    ),
    "a pattern is no name": Case(
        AUTHORITY, False, signer="authority", words=("-h", "-n", "*.lan"), problem="refused: it is"
    ),
    "one that ended": Case(
        AUTHORITY,
        False,
        signer="authority",
        words=("-h", "-n", HOST, *_LAST_YEAR),
        problem="refused: it ended at 2020-01-0",
    ),
    "one that ended, the key is known": Case(
        (*AUTHORITY, "* host"), signer="authority", words=("-h", "-n", HOST, *_LAST_YEAR)
    ),
    "one that has not begun": Case(
        AUTHORITY,
        False,
        signer="authority",
        words=("-h", "-n", HOST, *_IN_2099),
        problem="refused: it begins at 20",
    ),
    "one for a user": Case(
        AUTHORITY, False, signer="authority", words=("-n", HOST), problem="refused: it is for users"
    ),
    "one with an option": Case(
        AUTHORITY,
        False,
        signer="authority",
        words=("-h", "-n", HOST, "-O", "critical:x@example.org=1"),
        problem="refused: it has an option",
    ),
}


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    try:
        openssh.sshd()
    except ToolError as error:
        pytest.skip(f"{error.message}: {error.hint}")
    if loopback._user() == "root":
        loopback._make_privilege_separation()

    folder = tmp_path_factory.mktemp("keys")
    kinds = {"rsa": ("-t", "rsa", "-b", "2048"), "ecdsa": ("-t", "ecdsa")}
    for name in ("host", "other", "authority", "rsa", "ecdsa", "user"):
        signers.make_key(folder / name, *kinds.get(name, ()))
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: Path) -> Path:
    """A user's home in which `pi` is a server of ours."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    folder = tmp_path / ".ssh"
    folder.mkdir(mode=0o700)
    (folder / "config").write_text(
        f"Host pi\n HostName {HOST}\n Port {PORT}\n User {getpass.getuser()}\n"
        f" IdentityFile {keys / 'user'}\n UserKnownHostsFile {folder / 'known_hosts'}\n"
        f" ProxyCommand {openssh.sshd()} -i -f {tmp_path / 'sshd_config'}\n"
    )
    return tmp_path


def _serve(home: Path, keys: Path, case: Case) -> None:
    """Write the server's configuration and the user's known_hosts."""
    shown = ""
    if case.signer:
        key = home / case.key
        key.write_bytes((keys / case.key).read_bytes())
        key.with_name(f"{case.key}.pub").write_text(signers.public(keys / case.key) + "\n")
        sign = ["ssh-keygen", "-q", "-s", str(keys / case.signer), "-I", "x", *case.words]
        subprocess.run([*sign, f"{key}.pub"], check=True, capture_output=True)
        shown = f"HostCertificate {key}-cert.pub\n"

    (home / "sshd_config").write_text(
        f"HostKey {keys / case.key}\n{shown}AuthorizedKeysFile {keys / 'user'}.pub\n"
        "PermitRootLogin prohibit-password\nUsePAM no\nStrictModes no\nPidFile none\n"
    )
    lines = [line.rsplit(" ", 1) for line in case.lines]
    (home / ".ssh" / "known_hosts").write_text(
        "".join(f"{names} {signers.public(keys / key)}\n" for names, key in lines)
    )


def _ssh_gets_in(home: Path) -> bool:
    """Return what OpenSSH's own client makes of it."""
    config = str(home / ".ssh" / "config")
    options = ["-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"]
    done = subprocess.run(
        ["ssh", "-F", config, *options, "pi", "true"], capture_output=True, check=False, timeout=60
    )
    return done.returncode == 0


@pytest.mark.sampled(8)
@pytest.mark.parametrize("case", KNOWN.values(), ids=KNOWN)
def test_a_host_key_is_known_where_openssh_knows_it(home: Path, keys: Path, case: Case) -> None:
    _check(home, keys, case)


@pytest.mark.sampled(12)
@pytest.mark.parametrize("case", CERTIFIED.values(), ids=CERTIFIED)
def test_a_certificate_is_good_where_openssh_takes_it(home: Path, keys: Path, case: Case) -> None:
    _check(home, keys, case)


def _check(home: Path, keys: Path, case: Case) -> None:
    _serve(home, keys, case)
    assert _ssh_gets_in(home) == case.is_good
    if case.is_good:
        ssh.connect("pi").close()
        return

    with pytest.raises(TrustError) as caught:
        ssh.connect("pi")
    assert case.problem in caught.value.message


@pytest.mark.parametrize("signer", ["", "authority"])
@pytest.mark.parametrize("how", ["text", "binary", "another key", "missing"])
def test_a_list_of_revoked_keys_is_obeyed(home: Path, keys: Path, how: str, signer: str) -> None:
    _serve(home, keys, Case((*AUTHORITY, "* host"), signer=signer))
    revoked = home / "revoked"
    if how == "binary":
        command = ["ssh-keygen", "-q", "-k", "-f", str(revoked), str(keys / "host.pub")]
        subprocess.run(command, check=True, capture_output=True)
    elif how != "missing":
        revoked.write_text(signers.public(keys / ("host" if how == "text" else "other")) + "\n")

    config = home / ".ssh" / "config"
    config.write_text(config.read_text() + f" RevokedHostKeys {revoked}\n")
    assert _ssh_gets_in(home) == (how == "another key")
    if how == "another key":
        ssh.connect("pi").close()
        return

    with pytest.raises(TrustError, match=f"the host key SHA256:.* is refused by {revoked}: "):
        ssh.connect("pi")


def test_a_board_with_a_good_certificate_needs_no_pin(home: Path, keys: Path) -> None:
    _serve(home, keys, CERTIFIED["by its authority"])
    before = (home / ".ssh" / "known_hosts").read_text()
    ssh.connect("pi", accept_new=True).close()
    assert ssh.is_pinned("pi", ssh.fetch_host_key("pi"))
    assert (home / ".ssh" / "known_hosts").read_text() == before


def test_a_certificate_with_any_changed_bit_is_good_for_nothing(home: Path, keys: Path) -> None:
    """The bit is changed on the way: the server itself would not show such a certificate."""
    _serve(home, keys, CERTIFIED["by its authority"])
    key = ssh.fetch_host_key("pi")
    known = ssh.known_hosts.read([home / ".ssh" / "known_hosts"])
    name = f"[{HOST}]:{PORT}"
    assert known.trusts(name, key)

    whole = key.public_blob.key_blob
    for place in range(8 * len(whole)):
        changed = bytearray(whole)
        changed[place // 8] ^= 1 << place % 8
        key.public_blob = paramiko.pkey.PublicBlob(key.public_blob.key_type, bytes(changed))
        assert not known.trusts(name, key), place

    for size in range(len(whole)):
        key.public_blob = paramiko.pkey.PublicBlob(key.public_blob.key_type, whole[:size])
        assert not known.trusts(name, key), size


COMMANDS = {
    "the key of this host": ("/bin/echo %H {host}", True),
    "by name, reason and kind": (
        "/bin/sh -c 'test %t != NONE -o %I = ORDER && echo %H {host}'",
        True,
    ),
    "the very key that was shown": ("/bin/sh -c 'echo %H %t %K'", True),
    "another key": ("/bin/echo %H {other}", False),
    "another name": ("/bin/echo %%H {host}", False),
    "revoked": ("/bin/sh -c 'echo %H {host}; echo @revoked %H {host}'", False),
    "nothing": ("/bin/true", False),
    "it fails": ("/bin/sh -c 'echo %H {host}; exit 3'", False),
    "no such program": ("/nowhere/at/all %H", False),
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("command", "is_good"), COMMANDS.values(), ids=COMMANDS)
def test_a_program_that_prints_host_keys_is_believed_where_openssh_believes_it(
    home: Path, keys: Path, command: str, is_good: bool
) -> None:
    _serve(home, keys, Case(()))
    filled = command.format(
        host=signers.public(keys / "host"), other=signers.public(keys / "other")
    )
    config = home / ".ssh" / "config"
    config.write_text(config.read_text() + f" KnownHostsCommand {filled}\n")
    assert _ssh_gets_in(home) == is_good
    if is_good:
        ssh.connect("pi").close()
        return
    with pytest.raises(TrustError):
        ssh.connect("pi")


@pytest.mark.parametrize("command", ["keys %H", "/bin/echo '%H"])
def test_a_program_without_a_whole_path_or_with_open_quotes_is_refused(
    home: Path, keys: Path, command: str
) -> None:
    _serve(home, keys, Case(("* host",)))
    config = home / ".ssh" / "config"
    config.write_text(config.read_text() + f" KnownHostsCommand {command}\n")
    with pytest.raises(ConfigError, match=r"is not absolute|quotes do not close|cannot say how"):
        ssh.connect("pi")
