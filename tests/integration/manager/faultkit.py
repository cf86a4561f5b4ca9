"""Disks that are small, and disks that are ill: the system's own errors, in running processes."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

#: Calls by which a program has the disk take what it wrote.
SYNCS = ("fsync", "fdatasync", "sync_file_range")


@contextlib.contextmanager
def small_disk(directory: Path, size: str) -> Iterator[Path]:
    """Mount a small disk for as long as the block lasts."""
    directory.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(directory)], check=True
    )
    try:
        yield directory
    finally:
        subprocess.run(["umount", "--lazy", str(directory)], check=True)


@contextlib.contextmanager
def ill_disk(pid: int, calls: tuple[str, ...] = SYNCS) -> Iterator[None]:
    """Answer `calls` of a process, its threads and its children by EIO; the rest is untouched.

    That is what a disk does that has lost a block: the system's own error, which strace puts
    in. It stands once this returns.
    """
    program = shutil.which("strace")
    assert program, "strace is missing: run apt-get install strace"
    pids = [pid, *_children(pid)]
    names = ",".join(calls)
    tracer = subprocess.Popen(
        [program, "-f", "-qq", "-o", "/dev/null", "-e", f"trace={names}",
         "-e", f"inject={names}:error=EIO", *(w for p in pids for w in ("-p", str(p)))],
        stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while not all(_traced(p, tracer.pid) for p in pids):
            assert tracer.poll() is None, "strace may not trace: run the tests as root"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield
    finally:
        tracer.terminate()
        tracer.communicate()


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def _traced(pid: int, by: int) -> bool:
    """Tell whether every thread of a process is traced; one that is gone is none."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        return all(f"TracerPid:\t{by}\n" in (t / "status").read_text() for t in tasks)
    except OSError:
        return not Path(f"/proc/{pid}").exists()
