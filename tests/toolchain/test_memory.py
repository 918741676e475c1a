"""Memory of this computer, with `free` as the referee."""

import subprocess

import pytest

from toolchain.memory import available_bytes


def test_it_is_what_free_says() -> None:
    try:
        said = subprocess.run(["free", "-b"], capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        pytest.skip("no program `free`")
    header, memory, *_ = said.splitlines()
    column = header.split().index("available") + 1
    # Other programs take and give back some between the two looks.
    assert available_bytes() == pytest.approx(int(memory.split()[column]), rel=0.5)
