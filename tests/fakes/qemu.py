"""QEMU as far as virtual boards use it: QMP, the guest's agent, a forwarded port, kept states.

`install` puts it in a folder for PATH under the programs' names; the disk is a text file with one
kept state a line.
"""

import base64
import contextlib
import json
import os
import socket
import sys
import threading
from pathlib import Path

VERSION = "7.2.22"
PROGRAMS = ("qemu-system-aarch64", "qemu-img", "fdtput")


def install(folder: Path, *, version: str = VERSION) -> None:
    """Make the programs, which say that they are of this version."""
    folder.mkdir(exist_ok=True)
    for name in PROGRAMS:
        program = folder / name
        said = f"QEMU emulator version {version} (a fake)"
        program.write_text(
            f'#!/bin/sh\n[ "$1" = --version ] && exec echo "{said}"\n'
            f'exec {sys.executable} -IS {__file__} {name} "$@"\n'
        )
        program.chmod(0o755)


def main(program: str, argv: list[str]) -> int:
    if program == "qemu-img":
        Path(argv[-1] if not argv[-1].isdigit() else argv[-2]).touch()
    elif program == "qemu-system-aarch64":
        tree = argv[argv.index("-M") + 1].partition("dumpdtb=")[2]
        if tree:
            Path(tree).write_text("tree")
        else:
            return run(argv)
    return 0


def run(argv: list[str]) -> int:
    """Open everything, then go on in a process of its own, as `-daemonize` does."""
    disk = Path(
        next(value for value in argv if "id=disk" in value).partition("file=")[2].partition(",")[0]
    )
    wanted = argv[argv.index("-loadvm") + 1] if "-loadvm" in argv else ""
    if wanted and wanted not in disk.read_text().split():
        return refuse(f"Device 'disk' does not have the requested snapshot '{wanted}'")
    netdev = argv[argv.index("-netdev") + 1]
    ssh = socket.socket()
    try:
        ssh.bind(("127.0.0.1", int(netdev.rpartition("127.0.0.1:")[2].partition("-")[0])))
    except OSError:
        return refuse(f"-netdev {netdev}: Could not set up host forwarding rule")
    ssh.listen()
    ready, child_is_ready = os.pipe()
    if os.fork():
        os.close(child_is_ready)
        os.read(ready, 1)
        os._exit(0)
    os.setsid()
    for number in (0, 1, 2):
        os.dup2(os.open(os.devnull, os.O_RDWR), number)
    Path("command.json").write_text(json.dumps(argv))
    serve_unix("monitor.sock", Monitor(disk, ssh.getsockname()[1]).talk)
    serve_unix("agent.sock", answer_as_agent)
    os.close(child_is_ready)
    while True:
        client, _ = ssh.accept()
        with client:
            client.sendall(b"SSH-2.0-fake\r\n")


def refuse(text: str) -> int:
    sys.stderr.write(f"qemu-system-aarch64: {text}\n")
    return 1


def serve_unix(path: str, talk) -> None:
    Path(path).unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()

    def loop() -> None:
        while True:
            client, _ = server.accept()
            with (
                contextlib.suppress(OSError),
                client,
                client.makefile("rw", encoding="latin-1") as stream,
            ):
                talk(stream)

    threading.Thread(target=loop, daemon=True).start()


def say(stream, value) -> None:
    stream.write(json.dumps(value) + "\n")
    stream.flush()


class Monitor:
    def __init__(self, disk: Path, port: int) -> None:
        self.disk, self.port = disk, port

    def talk(self, stream) -> None:
        say(stream, {"QMP": {}})
        for line in stream:
            asked = json.loads(line)
            say(stream, {"event": "SOMETHING_ELSE"})
            text = (
                self.command(asked["arguments"]["command-line"])
                if asked["execute"] == "human-monitor-command"
                else {}
            )
            say(stream, {"return": text})
            if asked["execute"] == "quit":
                os._exit(0)

    def command(self, line: str) -> str:
        if line == "info usernet":
            host = f"  TCP[HOST_FORWARD]  12       127.0.0.1 {self.port}"
            return f"Hub -1 (link):\r\n{host}       10.0.2.15    22     0     0\r\n"
        verb, _, name = line.partition(" ")
        if verb != "savevm":
            return f"unknown command: '{line}'\r\n"
        if Path("full").exists():
            return "Error: Error while writing VM state: No space left on device\r\n"
        self.disk.write_text(f"{self.disk.read_text()}{name}\n")
        return ""


def answer_as_agent(stream) -> None:
    for line in stream:
        asked = json.loads(line)
        if asked["execute"] == "guest-sync-delimited":
            stream.write("\xff")
            say(stream, {"return": asked["arguments"]["id"]})
        elif asked["execute"] == "guest-exec":
            say(stream, {"return": {"pid": 1}})
            with Path("executed").open("a") as log:
                log.write(
                    json.dumps([asked["arguments"]["path"], *asked["arguments"]["arg"]]) + "\n"
                )
        else:
            failed = Path("failing").exists()
            said = base64.b64encode(b"not permitted" if failed else b"done").decode()
            say(
                stream,
                {
                    "return": {
                        "exited": True,
                        "exitcode": int(failed),
                        "err-data" if failed else "out-data": said,
                    }
                },
            )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
