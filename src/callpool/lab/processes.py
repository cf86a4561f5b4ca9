"""The lab's processes: started with a log each, ended by identity, never by name."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from callpool.host.process import ProcessId, identify, is_alive
from callpool.lab.spec import ProcessEntry
from callpool.licensing.errors import CallpoolError

#: Our own children, by process id, so that the dead among them are reaped.
_CHILDREN: Final[dict[int, subprocess.Popen[bytes]]] = {}


def pause(waited: float) -> float:
    """Return how long to wait, in seconds, before one looks again after having `waited` so long.

    A look costs those who are looked at the time in which they would get there.
    """
    return min(0.25, max(0.02, waited / 10))


def wait_for(what: str, condition: Callable[[], bool], *, seconds: float) -> None:
    """Await `condition`, looked at every `pause`; raises CallpoolError `timed_out`."""
    began = time.monotonic()
    while not condition():
        waited = time.monotonic() - began
        if waited >= seconds:
            raise CallpoolError("timed_out", f"Waited {seconds:g} seconds in vain for {what}.")
        time.sleep(pause(waited))


def spawn(
    name: str, command: Sequence[str], log: Path, *, environment: Mapping[str, str] | None = None
) -> ProcessEntry:
    """Start `command` in a session of its own, its output appended to `log`.

    Raises CallpoolError `did_not_start`.
    """
    with log.open("ab") as output:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
    _reap()
    _CHILDREN[child.pid] = child
    found = identify(child.pid)
    if found is None:
        raise CallpoolError("did_not_start", f"{name} ended at once: {last_line(log)}")
    return ProcessEntry(name=name, pid=found.pid, started=found.started)


def _reap() -> None:
    """Let go of children that have ended, whoever ended them: else they stay as zombies."""
    for pid, child in list(_CHILDREN.items()):
        if child.poll() is not None:
            _CHILDREN.pop(pid, None)


def last_line(log: Path) -> str:
    """Return the last line of a log, for an error's sentence."""
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1] if lines else ""


def identity(entry: ProcessEntry) -> ProcessId:
    """Return what tells this process from a later one of the same number."""
    return ProcessId(pid=entry.pid, started=entry.started)


def stop(entry: ProcessEntry, *, grace: float) -> None:
    """End one process: SIGTERM, `grace` seconds, then SIGKILL. One that is gone is left alone."""
    process = identity(entry)

    def gone() -> bool:
        alive = is_alive(process)
        _reap()
        return not alive

    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
        if gone():
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)
        with contextlib.suppress(CallpoolError):
            wait_for(f"{entry.name} to end", gone, seconds=seconds)


def run(command: Sequence[str], *, environment: Mapping[str, str] | None = None) -> str:
    """Run a command to its end; return what it printed.

    Raises CallpoolError `command_failed` with the command's own last line.
    """
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(environment or {})},
    )
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise CallpoolError(
            "command_failed", f"{' '.join(command[-4:])}: {said[-1] if said else done.returncode}"
        )
    return done.stdout
