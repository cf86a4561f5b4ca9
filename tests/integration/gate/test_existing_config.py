"""A Kamailio configuration of somebody else's, with the gate merged in, and `gate check`."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from gatekit import HOST, Phone, Rig, call_up, caps, eventually, invite, settings

from callpool.device.gate.check import check
from callpool.device.gate.driver import KamailioGate
from callpool.device.gate.seeding import seed_external
from callpool.host import sipp
from callpool.host.clock import SystemClock
from callpool.host.ports import free_port
from callpool.host.process import ProcessId, end_group

EXAMPLE = Path(__file__).parents[3] / "docs" / "examples" / "existing-kamailio.cfg"


def unmerged(text: str) -> str:
    """The example as it was before the gate."""
    text = re.sub(r"^include_file.*$", "", text, flags=re.M)
    text = re.sub(r"^#!define CALLPOOL.*$", "", text, flags=re.M)
    return re.sub(r"^.*route\(CALLPOOL_\w+\).*$", "", text, flags=re.M)


def codes(path: Path) -> list[str]:
    return sorted(f.code for f in check(path).findings if not f.warning)


def test_check_accepts_the_example() -> None:
    report = check(EXAMPLE)
    assert report.ok, str(report)
    assert report.findings == ()


def test_check_names_what_an_unmerged_configuration_lacks(tmp_path: Path) -> None:
    file = tmp_path / "plain.cfg"
    file.write_text(unmerged(EXAMPLE.read_text()))
    report = check(file)
    assert not report.ok
    assert codes(file) == [
        "failure_without_end", "include_missing", "route_not_called", "route_not_called",
        "route_not_called",
    ]  # fmt: skip
    assert 'Add include_file "<gate directory>/callpool.cfg"' in str(report)


@pytest.mark.parametrize(
    ("find", "put", "code"),
    [
        (r"#!define CALLPOOL_HAVE_TM\n", "", "module_twice"),
        (r"    route\(CALLPOOL_ADMIT\);[^\n]*\n    record_route\(\);",
         "    record_route();\n    route(CALLPOOL_ADMIT);", "record_route_early"),
        (r"    record_route\(\);\n", "", "record_route_missing"),
        (r"    route\(CALLPOOL_ADMIT\);", "    t_relay();\n    route(CALLPOOL_ADMIT);",
         "relay_before_admit"),
        (r"request_route \{", "failure_route[CALLPOOL_FAILURE] { exit; }\nrequest_route {",
         "route_name"),
        (r"sl_reply_error\(\);", "no_such_function();", "kamailio_refuses"),
    ],
)  # fmt: skip
def test_check_finds_one_mistake_by_its_code(
    tmp_path: Path, find: str, put: str, code: str
) -> None:
    file = tmp_path / "mistake.cfg"
    text, changed = re.subn(find, put, EXAMPLE.read_text())
    assert changed
    file.write_text(text)
    assert code in codes(file)


@contextlib.asynccontextmanager
async def external() -> AsyncIterator[Rig]:
    """The example run by a service manager's stand-in: end, seed, start."""
    place = Path(tempfile.mkdtemp(prefix="cpext"))
    uas = await sipp.answerer()
    port = free_port()
    directory = place / "g"
    config = place / "existing.cfg"
    config.write_text(
        EXAMPLE.read_text()
        .replace("/var/lib/callpool/gate", str(directory))
        .replace("127.0.0.1:5060", f"{HOST}:{port}")
        .replace("127.0.0.1:5070", f"{HOST}:{uas.port}")
    )
    # What a unit file says: KillMode=control-group, ExecStartPre=seed, ExecStart=kamailio.
    script = place / "restart"
    script.write_text(f"""#!{sys.executable}
import os, subprocess, sys, pathlib
sys.path[:0] = {[p for p in sys.path if p]!r}
from callpool.device.gate.seeding import seed_external
from callpool.host.process import end_group, identify, ProcessId
place = pathlib.Path({str(place)!r})
note = place / "leader"
if note.exists():
    pid, started = map(int, note.read_text().split())
    end_group(ProcessId(pid=pid, started=started), {str(config)!r}, grace=1.0)
seed_external(pathlib.Path({str(directory)!r}))
log = open(place / "log", "ab")
child = subprocess.Popen(["kamailio", "-f", {str(config)!r}, "-DD", "-E", "-m", "64",
    "-Y", str(place)], stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True)
note.write_text(f"{{child.pid}} {{identify(child.pid).started}}")
""")
    script.chmod(0o755)
    gate = KamailioGate(
        settings(directory, port, uas.port, mode="external", restart_command=(str(script),)),
        SystemClock(),
    )
    made = Rig(gate, uas)
    try:
        await gate.start(caps(sessions=3))
        yield made
    finally:
        await gate.stop()
        await uas.stop(grace=0.5)
        if (place / "leader").exists():
            pid, started = map(int, (place / "leader").read_text().split())
            end_group(ProcessId(pid=pid, started=started), str(config))
        shutil.rmtree(place, ignore_errors=True)


async def test_the_example_admits_to_the_license_and_counts_every_end() -> None:
    async with external() as r:
        result = await r.calls(12, rate=200, hold_ms=6000)
        assert (result.admitted, result.refused) == (3, 9)
        await r.settled(0)
        with Phone(r.address) as phone:
            forged = phone.message("BYE", f"sip:x@{HOST}", call_id="f@t", to_tag="x")
            assert (await phone.ask(forged)).code == 481
            await r.uas.stop()
            text = invite(phone, "dead@t")
            answer = await phone.ask(text)
            assert answer.code >= 400
            phone.acknowledge(text, answer)
            await r.settled(0)


async def test_an_external_kamailio_is_seeded_before_each_start() -> None:
    async with external() as r:
        with Phone(r.address) as phone:
            call = await call_up(phone, "through@t")
            await eventually(lambda: r.gate.usage().sessions == 1)
            await r.gate.restart(caps(sessions=2))
            assert (await r.count(), r.gate.usage().uncertain) == (1, 0)
            await call_up(phone, "second@t")
            assert (await phone.ask(invite(phone, "third@t"))).code == 503
            # Somebody else restarts it: the driver notices by itself.
            gen = r.gate.book.gen
            process = await asyncio.create_subprocess_exec(*r.gate.settings.restart_command)
            assert await process.wait() == 0
            await eventually(lambda: r.gate.book.gen > gen)
            assert await r.count() == 2
            assert (await call.bye()).code == 200
            await r.settled(1)


def test_a_seed_without_a_gate_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="holds no gate") as caught:
        seed_external(tmp_path)
    assert getattr(caught.value, "code", "") == "gate_not_set_up"
