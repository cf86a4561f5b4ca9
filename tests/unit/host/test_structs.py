from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from callpool.host.structs import ready_for_threads

#: How often the annotation below was evaluated.
LOOKS: list[int] = []


def counted() -> type:
    LOOKS.append(1)
    return int


class Looked(msgspec.Struct):
    """Tells by its annotation when it is worked out."""

    number: counted()  # type: ignore[valid-type]


def test_no_type_is_worked_out_at_its_first_decoding() -> None:
    ready_for_threads()
    assert len(LOOKS) == 1
    assert msgspec.json.decode(b'{"number": 4}', type=Looked).number == 4
    assert len(LOOKS) == 1


#: Whether types are worked out by the time that threads may start, in each program.
_PROBE = """
import asyncio, sys
import callpool.host.structs as structs
class Ready(Exception): pass
def told():
    raise Ready
structs.ready_for_threads = told
{program}
try:
    main()
except Ready:
    sys.exit(0)
sys.exit("it went on without")
"""


@pytest.mark.parametrize(
    "program",
    [
        "from callpool.manager.alarm_process.__main__ import main",
        "from callpool.device.faces.__main__ import main",
        "from callpool.device.faces.shell.__main__ import main",
        "from callpool.device.app import run_device\nmain = lambda: run_device(sys.argv[1])",
        "from callpool.manager.app import serve\nmain = lambda: serve(None, '')",
        "from callpool.lab.fleet import up\nmain = lambda: up(None, None, None)",
        "from callpool.lab.chaos.run import play\nmain = lambda: play(1, 1.0)",
        "from callpool.lab.simulated_fleet import SimulatedFleet\n"
        "main = lambda: SimulatedFleet(None, None, devices=1)",
    ],
)
def test_every_program_with_threads_works_its_types_out_first(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROBE.format(program=program), "nowhere"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
