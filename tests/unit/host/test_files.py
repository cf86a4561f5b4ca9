from __future__ import annotations

import fcntl
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from callpool.host.files import locked, write_durably, write_whole


def test_a_file_is_replaced_whole_and_private(tmp_path: Path) -> None:
    file = tmp_path / "a"
    write_durably(file, b"one")
    write_durably(file, b"two")
    assert file.read_bytes() == b"two"
    assert file.stat().st_mode & 0o777 == 0o600
    write_durably(file, b"three", mode=0o644)
    assert file.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [file], "no temporary file is left"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    file = tmp_path / "a"
    write_durably(file, b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space"):
        write_durably(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_it_is_synced_before_it_is_named_and_the_name_is_synced_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    real_sync, real_replace = os.fsync, os.replace

    def sync(descriptor: int) -> None:
        order.append("sync directory" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "sync")
        real_sync(descriptor)

    def replace(a: str, b: Path) -> None:
        order.append("name")
        real_replace(a, b)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "replace", replace)
    write_durably(tmp_path / "a", b"x")
    assert order == ["sync", "name", "sync directory"]


WRITER = """
import sys
from pathlib import Path
from callpool.host.files import locked, write_durably, write_whole
file, n = Path(sys.argv[1]), 0
print("go", flush=True)
while True:
    n += 1
    write_durably(file, (f"{n} " * 2000).encode())
"""


def test_a_writer_killed_at_any_instant_leaves_a_whole_file(tmp_path: Path) -> None:
    file = tmp_path / "a"
    for _ in range(5):
        with subprocess.Popen(
            [sys.executable, "-c", WRITER, str(file)], stdout=subprocess.PIPE
        ) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(random.uniform(0.005, 0.06))
            writer.send_signal(signal.SIGKILL)
        words = file.read_text().split()
        assert len(words) == 2000
        assert len(set(words)) == 1


def test_two_who_write_one_file_at_once_disturb_each_other_not(tmp_path: Path) -> None:
    file = tmp_path / "a"
    failed: list[OSError] = []

    def write(content: bytes) -> None:
        try:
            for _ in range(200):
                write_whole(file, content)
        except OSError as error:
            failed.append(error)

    writers = [threading.Thread(target=write, args=(letter * 5000,)) for letter in (b"x", b"y")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert not failed
    assert file.read_bytes() in (b"x" * 5000, b"y" * 5000)
    assert list(tmp_path.iterdir()) == [file]


def test_a_lock_given_back_is_free_though_a_forked_child_has_its_file(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with locked(tmp_path / "lock"):
        child = os.fork()
        if child == 0:  # as between fork and exec: every file of the parent's is open
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
        with (
            pytest.raises(BlockingIOError),
            locked(tmp_path / "lock", fcntl.LOCK_EX | fcntl.LOCK_NB),
        ):
            pass
    try:
        with locked(tmp_path / "lock", fcntl.LOCK_EX | fcntl.LOCK_NB):
            pass
    finally:
        os.close(writer)
        os.close(reader)
        os.waitpid(child, 0)
