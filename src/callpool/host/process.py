"""Process groups: know one again after a crash, and end the whole of it.

A killed Kamailio main process leaves its workers behind, answering SIP; so what is started
here gets a group of its own, and what is ended is the group. A number alone proves nothing
(the kernel gives it out again): a process is known by number and start time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_PROC: Final = Path("/proc")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessId:
    """A process that can be known again."""

    pid: int
    #: Clock ticks from the machine's boot to the start of the process.
    started: int


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on; empty when there is none."""
    try:
        text = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return []
    return text.rpartition(")")[2].split()


def identify(pid: int) -> ProcessId | None:
    """Return the process's identity, None when it is gone or only waits to be reaped."""
    fields = _stat(pid)
    if not fields or fields[0] in ("Z", "X"):
        return None
    return ProcessId(pid=pid, started=int(fields[19]))


def is_alive(process: ProcessId) -> bool:
    """Tell whether this very process still runs."""
    return identify(process.pid) == process


def command_line(pid: int) -> list[str]:
    """Return the arguments of a process; empty when it is gone."""
    try:
        raw = (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return []
    return raw.decode(errors="replace").split("\0")[:-1]


def group_members(leader: ProcessId, argument: str) -> list[int]:
    """Return the live processes of the group that `leader` led, itself included.

    Only those that started no earlier than the leader and have `argument` (such as the path
    of a configuration file) on their command line: the group's number may be another's by now.
    """
    found = []
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        fields = _stat(int(entry.name))
        if not fields or fields[0] in ("Z", "X") or int(fields[2]) != leader.pid:
            continue
        line = command_line(int(entry.name))
        # One without a command line is on its way out, and may still have its sockets.
        if int(fields[19]) >= leader.started and (argument in line or not line):
            found.append(int(entry.name))
    return found


def groups_of(arguments: Sequence[str]) -> list[ProcessId]:
    """Return the leaders, dead ones too, of groups that run with these arguments in a row.

    For what was started by a process that was killed before it could note the number. A dead
    leader is given with the start of its oldest follower.
    """
    wanted = list(arguments)
    groups: dict[int, int] = {}
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        fields, line = _stat(int(entry.name)), command_line(int(entry.name))
        if not fields or fields[0] in ("Z", "X"):
            continue
        if any(line[i : i + len(wanted)] == wanted for i in range(len(line))):
            leader, started = int(fields[2]), int(fields[19])
            groups[leader] = min(started, groups.get(leader, started))
    return [ProcessId(pid=pid, started=started) for pid, started in groups.items()]


def end_group(leader: ProcessId, argument: str, *, grace: float = 0.0, limit: float = 5.0) -> bool:
    """End every process of the group of `leader`; return whether none is left.

    First SIGTERM to the leader with `grace` seconds to end by itself, then SIGKILL to each
    member. Waits at most `limit` seconds for the last to go.
    """
    if grace > 0 and is_alive(leader):
        with contextlib.suppress(ProcessLookupError):
            os.kill(leader.pid, signal.SIGTERM)
        _wait_gone(leader, argument, grace)
    return _wait_gone(leader, argument, limit, kill=True)


def _wait_gone(leader: ProcessId, argument: str, seconds: float, *, kill: bool = False) -> bool:
    deadline = time.monotonic() + seconds
    while True:
        # Our own dead child counts as gone once it is reaped.
        with contextlib.suppress(ChildProcessError, OSError):
            os.waitpid(leader.pid, os.WNOHANG)
        members = group_members(leader, argument)
        if not members:
            return True
        # Each time: whoever was forked after the last look has not been killed yet.
        for pid in members if kill else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.005)


async def closed_input() -> None:
    """Return once standard input is closed: whoever started this process is gone."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while await reader.read(4096):
        pass
