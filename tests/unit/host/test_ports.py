from __future__ import annotations

import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from callpool.host import ports
from callpool.host.ports import free_port


def test_no_port_is_told_twice_whoever_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a range of twelve, three processes and their threads are told of each once."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    asks = (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from callpool.host import ports\n"
        "ports._RANGE = range(14000, 14012)\n"
        "ports._TRIES = 12\n"
        "print(*ThreadPoolExecutor(4).map(lambda _: ports.free_port(), range(4)))\n"
    )

    def ask(_: int) -> list[int]:
        done = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return [int(word) for word in done.stdout.split()]

    with ThreadPoolExecutor(3) as pool:
        told = [port for found in pool.map(ask, range(3)) for port in found]
    assert sorted(told) == list(range(14000, 14012))


def test_a_directory_that_cannot_be_written_keeps_nobody_from_a_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setattr(tempfile, "tempdir", str(file))
    assert free_port() in ports._RANGE
