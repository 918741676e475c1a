"""Virtual boards: their life with a fake QEMU, and a real one where QEMU is installed."""

import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fakes import qemu as fake
from tests.fakes.ports import free_port
from toolchain.board import boot, faults, image, machine, open_board, qmp, virtual
from toolchain.board.virtual import VirtualBoard
from toolchain.errors import BoardError, ConfigError, ToolchainError, ToolError
from toolchain.target import find
from toolchain.tools import openssh, qemu

NAME = "rpi-4b-2gb"
FACTS = Path(__file__).resolve().parents[3] / "device" / "facts.py"


class Listener:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def step(self, name: str, done: float, total: float, unit: str = "", figures: str = "") -> None:
        assert 0 <= done <= total


@pytest.fixture
def report() -> Listener:
    return Listener()


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both keys, made once for all tests."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("host", "user"):
        openssh.make_key(folder / name, name)
    return folder


@pytest.fixture
def place(tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A computer with a fake QEMU; image and snapshot of NAME were built before."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(keys, image.cache() / "keys")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    fake.install(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    image.place(12).mkdir(parents=True)
    made = machine.state_id(machine.simulating(find(NAME)), image.place(12).name, fake.VERSION)
    snapshot = image.cache() / "machines" / made
    snapshot.mkdir(parents=True)
    (snapshot / boot.DISK).write_text("ready\n")
    (snapshot / boot.DEVICE_TREE).write_text("tree")
    yield tmp_path
    for board in virtual.listing():
        boot.stop(board.folder)


def started_with(board: VirtualBoard) -> list[str]:
    """Return the command line of the QEMU that runs, or ran last."""
    return list(json.loads((board.folder / "command.json").read_text()))


def loaded(board: VirtualBoard) -> str:
    """Return the kept state that the board went on from."""
    argv = started_with(board)
    return argv[argv.index("-loadvm") + 1] if "-loadvm" in argv else ""


def test_the_first_start_goes_on_from_the_snapshot(place: Path, report: Listener) -> None:
    board = virtual.up(NAME, report)
    assert (loaded(board), board.address, board.folder.parent) == (
        "ready",
        "virtual:rpi-4b-2gb",
        place / "state/demitasse/boards",
    )
    assert board.pid and Path(f"/proc/{board.pid}").exists()
    assert board.port and (board.folder / "known_hosts").read_text().startswith(
        f"[127.0.0.1]:{board.port} ssh-ed25519 "
    )


def test_the_clock_is_set_before_a_board_counts_as_up(place: Path, report: Listener) -> None:
    board = virtual.up(NAME, report)
    path, option, when = json.loads((board.folder / "executed").read_text())
    assert (path, option) == ("/bin/date", "-s")
    assert abs(float(when.removeprefix("@")) - (board.folder / "executed").stat().st_mtime) < 60


def test_a_board_that_is_up_stays_as_it_is(place: Path, report: Listener) -> None:
    board = virtual.up(NAME, report)
    assert virtual.up(NAME, report) == board
    assert report.notes == ["virtual:rpi-4b-2gb is already up"]


def test_a_board_that_is_up_is_not_moved_to_another_port(place: Path, report: Listener) -> None:
    board = virtual.up(NAME, report)
    with pytest.raises(BoardError) as caught:
        virtual.up(NAME, report, port=free_port())
    assert caught.value.message == f"virtual:rpi-4b-2gb: already up on port {board.port}"
    assert caught.value.hint == "demitasse board down rpi-4b-2gb"
    assert virtual.find(NAME) == board


def test_a_port_that_is_taken_is_named_and_another_try_works(place: Path, report: Listener) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(BoardError) as caught:
            virtual.up(NAME, report, port=port)
    assert caught.value.message == f"virtual:rpi-4b-2gb: port {port} is taken"
    assert virtual.up(NAME, report).pid


def test_ssh_gets_the_way_to_a_board_that_is_up(place: Path, report: Listener) -> None:
    with pytest.raises(BoardError, match="the board is not up"):
        virtual.ssh_command(NAME)
    board = virtual.up(NAME, report)
    argv = virtual.ssh_command(NAME, ["uname", "-m"])
    assert argv[-3:] == ["pi@127.0.0.1", "uname", "-m"] and argv[argv.index("-p") + 1] == str(
        board.port
    )
    assert f"UserKnownHostsFile={board.folder / 'known_hosts'}" in argv


def test_a_name_without_its_memory_is_the_smallest_board(place: Path) -> None:
    assert virtual.find("rpi-4b:13").address == "virtual:rpi-4b-1gb:13"


def test_a_wanted_port_is_used(place: Path, report: Listener) -> None:
    port = free_port()
    assert virtual.up(NAME, report, port=port).port == port


def test_down_keeps_the_state_and_up_goes_on_from_it(place: Path, report: Listener) -> None:
    board = virtual.up(NAME, report)
    virtual.down(NAME, report)
    assert virtual.find(NAME).pid is None
    assert (
        not Path(f"/proc/{board.pid}").exists()
        or "Z" in Path(f"/proc/{board.pid}/stat").read_text().split()[2]
    )
    assert loaded(virtual.up(NAME, report)) == "paused"


def test_a_state_that_cannot_be_kept_leaves_the_board_up(place: Path, report: Listener) -> None:
    board = virtual.up(NAME, report)
    (board.folder / "full").touch()
    with pytest.raises(
        BoardError, match=r"the machine's state cannot be kept: .* No space left on device"
    ):
        virtual.down(NAME, report)
    assert virtual.find(NAME) == board


def test_after_a_power_cut_a_board_boots_cold_from_its_disk(place: Path, report: Listener) -> None:
    virtual.up(NAME, report)
    virtual.power_cut(NAME)
    assert virtual.find(NAME).pid is None
    assert loaded(virtual.up(NAME, report)) == ""


def test_a_reset_board_is_as_after_its_first_boot(place: Path, report: Listener) -> None:
    board = virtual.up(NAME, report)
    (board.folder / boot.DISK).write_text("ready\nwhat it has become\n")
    again = virtual.reset(NAME, report)
    assert (again.folder / boot.DISK).read_text() == "ready\n"
    assert loaded(again) == "ready" and again.pid != board.pid


def test_nothing_happens_to_a_board_that_is_down(place: Path, report: Listener) -> None:
    virtual.down(NAME, report)
    assert report.notes == ["virtual:rpi-4b-2gb is not up"]
    with pytest.raises(BoardError, match="virtual:rpi-4b-2gb: the board is not up"):
        virtual.power_cut(NAME)


def test_a_board_whose_qemu_has_died_is_listed_as_down(place: Path, report: Listener) -> None:
    virtual.up(NAME, report)
    virtual.power_cut(NAME)
    (listed,) = virtual.listing()
    assert (listed.address, listed.pid, listed.port) == ("virtual:rpi-4b-2gb", None, None)


def test_a_state_of_another_qemu_is_not_loaded_and_the_disk_is_kept(
    place: Path, report: Listener
) -> None:
    board = virtual.up(NAME, report)
    virtual.down(NAME, report)
    fake.install(place / "bin", version="10.0.2")
    (board.folder / boot.DISK).write_text("ready\npaused\nwhat it has become\n")
    assert loaded(virtual.up(NAME, report)) == ""
    assert "what it has become" in (board.folder / boot.DISK).read_text()
    assert report.notes == [
        "virtual:rpi-4b-2gb: kept by another QEMU or machine, so it boots from its disk"
    ]


def test_a_disk_without_its_image_is_not_thrown_away(place: Path, report: Listener) -> None:
    board = virtual.up(NAME, report)
    virtual.down(NAME, report)
    image.place(12).rename(place / "elsewhere")
    with pytest.raises(BoardError) as caught:
        virtual.up(NAME, report)
    assert caught.value.message == "virtual:rpi-4b-2gb: the image that its disk stands on is gone"
    assert caught.value.hint == "demitasse board reset rpi-4b-2gb"
    assert (board.folder / boot.DISK).is_file()


def test_a_state_that_qemu_refuses_is_reported_with_its_words(
    place: Path, report: Listener
) -> None:
    board = virtual.up(NAME, report)
    virtual.down(NAME, report)
    (board.folder / boot.DISK).write_text("")
    with pytest.raises(BoardError) as caught:
        virtual.up(NAME, report)
    assert (
        caught.value.message == "virtual:rpi-4b-2gb: qemu-system-aarch64: "
        "Device 'disk' does not have the requested snapshot 'paused'"
    )


def test_a_board_that_panics_is_reported_with_its_last_words(place: Path, report: Listener) -> None:
    board = virtual.up(NAME, report)
    (board.folder / machine.SERIAL_LOG).write_text("booting\nKernel panic - not syncing: no init\n")
    with pytest.raises(
        BoardError, match="the board did not boot: booting / Kernel panic - not syncing: no init"
    ):
        boot.check_alive(board.address, board.folder)


def test_what_root_is_refused_on_the_board_is_said(place: Path, report: Listener) -> None:
    board = virtual.up(NAME, report)
    assert qmp.run(board.address, board.folder, ["/bin/true"]) == "done"
    (board.folder / "failing").touch()
    with pytest.raises(BoardError, match="virtual:rpi-4b-2gb: /bin/date: not permitted"):
        faults.set_clock(board, faults.NEVER_SET)


def test_several_boards_run_at_once(place: Path, report: Listener) -> None:
    one = virtual.up(NAME, report)
    other_id = machine.state_id(
        machine.simulating(find("rpi-zero-2w")), image.place(12).name, fake.VERSION
    )
    snapshots = image.cache() / "machines"
    (snapshots / one_machine(one)).rename(snapshots / other_id)
    other = virtual.up("rpi-zero-2w", report)
    assert [board.address for board in virtual.listing()] == [
        "virtual:rpi-4b-2gb",
        "virtual:rpi-zero-2w",
    ]
    assert one.pid != other.pid and one.port != other.port


def one_machine(board: VirtualBoard) -> str:
    return str(json.loads((board.folder / "board.json").read_text())["machine"])


def test_without_qemu_one_line_says_what_to_install(
    place: Path, report: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(place))
    with pytest.raises(ToolError) as caught:
        virtual.up(NAME, report)
    assert (
        caught.value.message == "a virtual board needs `qemu-system-aarch64`, `qemu-img`, `fdtput`"
    )
    packages = "qemu-system-arm qemu-utils device-tree-compiler"
    assert (
        caught.value.hint
        == f"sudo apt-get update && sudo apt-get install --no-install-recommends {packages}"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rpi-4b-3gb", "unknown target `rpi-4b-3gb`"),
        ("virtual:rpi-4b-2gb:11", "virtual:rpi-4b-2gb:11: `11` is not a Debian release"),
        ("rpi-4b-2gb:trixie", "rpi-4b-2gb:trixie: `trixie` is not a Debian release"),
        ("x86-64", "x86-64: no virtual board stands in for it"),
    ],
)
def test_a_name_that_is_no_board_is_refused(
    place: Path, report: Listener, name: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        virtual.up(name, report)
    assert caught.value.message == message and caught.value.hint


def test_a_board_of_debian_13_has_a_name_and_a_disk_of_its_own(place: Path) -> None:
    board = virtual.find("virtual:rpi-4b-2gb:13")
    assert (board.address, board.folder.name) == ("virtual:rpi-4b-2gb:13", "rpi-4b-2gb-debian13")


# --- one real board: QEMU, Debian's packages and, the first time, ten minutes


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VirtualBoard]:
    """A board of its own for these tests; image and snapshot are the user's."""
    try:
        qemu.verify()
    except ToolError as error:
        pytest.skip(f"{error.message}: {error.hint}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        board = virtual.up(NAME, Terminal())
        yield board
        boot.stop(board.folder)


class Terminal(Listener):
    """Says on standard error what takes minutes."""

    def note(self, text: str) -> None:
        os.write(2, f"{text}\n".encode())


@pytest.mark.board
@pytest.mark.timeout(2400)
def test_a_virtual_pi_is_to_its_facts_a_pi(real: VirtualBoard) -> None:
    with open_board(real.address) as connection:
        said = connection.run(["python3", "-", "~"], stdin=FACTS.read_bytes(), timeout_s=120)
    facts = json.loads(said.stdout)["facts"]
    assert facts["model"] == "Raspberry Pi 4 Model B Rev 1.4"
    assert (facts["machine"], facts["cores"], facts["cpu_parts"]) == ("aarch64", 4, ["0xd08"])
    assert {"asimd", "crc32"} <= set(facts["cpu_features"]) and not {"asimddp", "asimdhp"} & set(
        facts["cpu_features"]
    )
    assert facts["memory_total_mb"] == pytest.approx(find(NAME).memory_mb, rel=0.01)
    assert (facts["user"], facts["linger"], facts["systemd_user"], facts["time_sane"]) == (
        "pi",
        True,
        True,
        True,
    )
    assert (facts["python"][:4], facts["glibc"]) == ("3.11", "2.36")


@pytest.mark.board
@pytest.mark.timeout(2400)
def test_a_power_cut_loses_what_was_not_synced_and_a_reset_the_rest(real: VirtualBoard) -> None:
    write = "echo kept >~/synced && sync && echo lost >~/unsynced && cat ~/unsynced"
    with open_board(real.address) as connection:
        assert connection.run(["sh", "-c", write]).stdout == b"lost\n"
    virtual.power_cut(real.address)
    with open_board(real.address) as connection:
        assert connection.run(["sh", "-c", "cat ~/synced; cat ~/unsynced"]).stdout == b"kept\n"
        assert connection.run(["systemctl", "--user", "is-system-running"]).stdout in (
            b"running\n",
            b"degraded\n",
            b"starting\n",
        )
    virtual.reset(real.address, Listener())
    with open_board(real.address) as connection:
        assert connection.run(["ls"]).stdout == b""


@pytest.mark.board
@pytest.mark.timeout(2400)
def test_down_and_up_go_on_where_the_board_was(real: VirtualBoard) -> None:
    virtual.up(real.address, Listener())
    with open_board(real.address) as connection:
        connection.run(["sh", "-c", "echo unsynced >~/file"])
    virtual.down(real.address, Listener())
    with open_board(real.address) as connection:
        assert connection.run(["cat", "file"]).stdout == b"unsynced\n"


@pytest.mark.board
@pytest.mark.timeout(2400)
def test_what_goes_wrong_on_boards_goes_wrong_here(real: VirtualBoard) -> None:
    board = virtual.up(real.address, Listener())
    with open_board(real.address) as connection:
        faults.set_clock(board, faults.NEVER_SET)
        assert connection.run(["date", "+%Y"]).stdout == b"1970\n"
        with faults.small_disk(board, size_mb=16) as folder:
            full = connection.run(["sh", "-c", f"head -c 32000000 /dev/zero >{folder}/file"])
            assert full.code != 0 and "No space left on device" in full.stderr
        hungry = connection.run(
            ["python3", "-c", "x = [bytes(1) * (64 << 20) for _ in range(64)]"], timeout_s=1500
        )
        assert hungry.code == 137
        with faults.slow_link(board, delay_ms=400, rate_kbit=1000):
            assert connection.run(["echo", "late"]).stdout == b"late\n"
            shown = qmp.run(board.address, board.folder, ["/bin/sh", "-c", "tc qdisc"])
            assert "delay 400ms" in shown and "rate 1Mbit" in shown


@pytest.mark.board
@pytest.mark.timeout(2400)
def test_a_pulled_cable_is_a_lost_connection_until_it_is_back(real: VirtualBoard) -> None:
    board = virtual.up(real.address, Listener())
    with (
        faults.pulled_cable(board),
        pytest.raises(
            ToolchainError, match=r"connection lost|not a usable|not reachable|no answer in"
        ),
        open_board(real.address),
    ):
        pass
    with open_board(real.address) as connection:
        assert connection.run(["echo", "back"]).stdout == b"back\n"
