"""The SIPp answerer behind each lab device, and what its message trace proves.

The trace is the independent witness: it counts the calls that really were up at once behind a
device, whatever the gate says of itself.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from importlib import resources
from pathlib import Path
from typing import Final

from callpool.host.sipp import SippError

#: An answerer ends by itself after this many seconds: a lab is no permanent thing.
_LIFETIME: Final = 86_400
_TRACE: Final = "messages.csv"


def answerer_command(directory: Path, port: int, scenario: str = "uas") -> list[str]:
    """Return the command of an answerer on 127.0.0.1 at `port` that traces into `directory`.

    `scenario` is one of `callpool.host.sipp`'s answerers, such as `uas` or `uas_busy`.

    Raises SippError `sipp_missing`, OSError.
    """
    program = shutil.which("sipp")
    if program is None:
        raise SippError("sipp_missing", "SIPp is not installed: run apt-get install sip-tester.")
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / f"{scenario}.xml"
    packaged = resources.files("callpool.host.sipp") / "scenarios" / file.name
    file.write_text(packaged.read_text())
    return [
        program, "-sf", str(file), "-i", "127.0.0.1", "-p", str(port), "-t", "u1",
        "-nostdin", "-skip_rlimit", "-default_behaviors", "all,-bye", "-aa",
        "-trace_shortmsg", "-shortmessage_file", str(directory / _TRACE),
        "-timeout", str(_LIFETIME),
    ]  # fmt: skip


def trace_of(directory: Path) -> Path:
    """Return the trace that the answerer in `directory` writes."""
    return directory / _TRACE


def changes(lines: Iterable[str]) -> Iterator[tuple[float, int]]:
    """Yield (time, +1 or -1) as calls come and go at an answerer, by its trace.

    A call is up from its first INVITE's arrival to its BYE's. Times are seconds since 1970.
    """
    up: set[str] = set()
    for line in lines:
        fields = line.rstrip("\n").split("\t")
        if len(fields) < 7 or fields[3] != "R":
            continue
        call_id, what = fields[4], fields[6]
        if what.startswith("INVITE ") and call_id not in up:
            up.add(call_id)
            yield float(fields[2]), 1
        elif what.startswith("BYE ") and call_id in up:
            up.discard(call_id)
            yield float(fields[2]), -1


def most(moves: Iterable[tuple[float, int]]) -> int:
    """Return the highest sum that (time, change) reach in order of time."""
    now = highest = 0
    for _, change in sorted(moves):
        now += change
        highest = max(highest, now)
    return highest
