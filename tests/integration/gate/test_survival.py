"""Law 3, fail static: what a killed, frozen or deaf process costs, and what it does not."""

from __future__ import annotations

import asyncio
import contextlib
import glob
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from gatekit import (
    DEADLINE,
    HOST,
    Call,
    Phone,
    Rig,
    call_ids,
    call_up,
    caps,
    eventually,
    invite,
    rig,
)

from callpool.device.gate.driver import KamailioGate
from callpool.device.gate.settings import GateError
from callpool.host import sipp
from callpool.host.clock import SystemClock
from callpool.host.process import ProcessId, end_group, group_members, identify
from callpool.licensing.admission import AdmissionPolicy, Step


async def killed_and_back(r: Rig) -> None:
    """kill -9 of Kamailio's main process; return once the driver has put it back."""
    before = len([a for a in r.alarms if a.code == "gate_restarted"])
    os.kill(r.gate.kamailio_pid, signal.SIGKILL)
    await eventually(lambda: len([a for a in r.alarms if a.code == "gate_restarted"]) > before)


def written(r: Rig, policy: AdmissionPolicy) -> tuple[Path, Path]:
    """Settings and policy as files for a driver in another process."""
    directory = Path(r.gate.settings.directory)
    directory.mkdir(exist_ok=True)
    settings, steps = directory / "settings.json", directory / "steps.json"
    settings.write_bytes(msgspec.json.encode(r.gate.settings))
    steps.write_bytes(msgspec.json.encode(policy.steps))
    return settings, steps


@contextlib.asynccontextmanager
async def separate_driver(r: Rig, policy: AdmissionPolicy) -> AsyncIterator[Any]:
    """A driver of the rig's gate in its own process."""
    settings, steps = written(r, policy)
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(Path(__file__).with_name("driver_process.py")), settings, steps,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), DEADLINE)
        assert line.startswith(b"ready"), line
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_kamailio_killed_under_calls_counts_them_again_before_it_listens() -> None:
    async with rig(caps(sessions=6)) as r:
        running = await sipp.caller(r.address, calls=4, rate=100, hold_ms=8000)
        await eventually(lambda: r.gate.usage().sessions == 4)
        with Phone(r.address) as phone:
            call = await call_up(phone, "stays@test")
            await eventually(lambda: r.gate.usage().sessions == 5)
            await killed_and_back(r)
            assert await r.count() == 5
            assert not r.gate.usage().uncertain
            assert (await phone.ask(invite(phone, "sixth@test"))).code == 200
            assert (await phone.ask(invite(phone, "seventh@test"))).code == 503
            assert (await call.bye()).code == 200
        result = await running.wait(60)
        assert (result.completed, result.failed) == (4, 0)
        await r.settled(1)


async def test_a_kamailio_that_died_on_a_full_disk_is_started_as_soon_as_there_is_room() -> None:
    """Found by chaos: the disk's error ended who watches over Kamailio, and it stayed dead."""
    async with rig(None, start=False) as r:
        disk = r.gate.settings.path
        disk.mkdir(parents=True)
        words = ("mount", "-t", "tmpfs", "-o", "size=16m", "none", str(disk))
        subprocess.run(words, check=True)  # noqa: ASYNC221  over in a moment
        try:
            await r.gate.start(caps(sessions=3))
            with Phone(r.address) as phone:
                call = await call_up(phone, "stays@test")
                await eventually(lambda: r.gate.usage().sessions == 1)
                filler = disk / "filler"
                with contextlib.suppress(OSError), filler.open("wb", buffering=0) as out:
                    while True:
                        out.write(bytes(4096))
                os.kill(r.gate.kamailio_pid, signal.SIGKILL)
                await eventually(lambda: [a for a in r.alarms if a.code == "gate_down"])
                filler.unlink()
                await eventually(lambda: [a for a in r.alarms if a.code == "gate_restarted"])
                assert await r.count() == 1
                assert (await call.bye()).code == 200
            await r.settled(0)
            await r.gate.stop()
        finally:
            subprocess.run(("umount", "--lazy", str(disk)), check=True)  # noqa: ASYNC221


async def test_the_first_packet_that_a_new_kamailio_judges_meets_full_counters() -> None:
    async with rig(caps(sessions=3)) as r:
        with Phone(r.address) as phone:
            for i in range(3):
                await call_up(phone, f"up{i}@test")
            await eventually(lambda: r.gate.usage().sessions == 3)
            os.kill(r.gate.kamailio_pid, signal.SIGKILL)
            # From now on an INVITE every few milliseconds: not one may get in.
            codes: list[int] = []
            deadline = time.monotonic() + DEADLINE
            number = 0
            while time.monotonic() < deadline:
                number += 1
                phone.send(invite(phone, f"early{number}@test"))
                with contextlib.suppress(TimeoutError):
                    answer = await phone.receive(0.005)
                    if answer.code >= 200:
                        codes.append(answer.code)
                if len(codes) > 20 and [a for a in r.alarms if a.code == "gate_restarted"]:
                    break
            assert set(codes) == {503}, codes
            assert await r.count() == 3


async def test_a_killed_kamailio_leaves_no_worker_behind_to_answer() -> None:
    async with rig(caps(sessions=2)) as r:
        old = identify(r.gate.kamailio_pid)
        assert old is not None
        await killed_and_back(r)
        config = str(r.gate.settings.path / "kamailio.cfg")
        assert group_members(old, config) == []


async def killed_whole(r: Rig) -> None:
    """kill -9 of every process of a Kamailio whose driver is dead."""
    state = msgspec.json.decode((r.gate.settings.path / "gate.json").read_bytes())
    leader = ProcessId(pid=state["pid"], started=state["started"])
    assert end_group(leader, str(r.gate.settings.path / "kamailio.cfg"))


async def test_a_restart_keeps_calls_and_puts_the_new_policy_in_force() -> None:
    async with rig(caps(sessions=1)) as r:
        with Phone(r.address) as phone:
            call = await call_up(phone, "through@test")
            first = r.gate.kamailio_pid
            await r.gate.restart(caps(sessions=2))
            assert r.gate.kamailio_pid != first
            assert await r.count() == 1
            await call_up(phone, "second@test")
            assert (await phone.ask(invite(phone, "third@test"))).code == 503
            assert (await call.bye()).code == 200
            await r.settled(1)


async def test_a_clean_stop_and_start_keeps_the_count_and_makes_nothing_uncertain() -> None:
    async with rig(caps(sessions=5)) as r:
        with Phone(r.address) as phone:
            call = await call_up(phone, "over@test")
            await eventually(lambda: r.gate.usage().sessions == 1)
            await r.gate.stop()
            await r.gate.start(caps(sessions=5))
            assert (r.gate.usage().sessions, r.gate.usage().uncertain) == (1, 0)
            assert r.gate.usage().admitted == 1
            assert (await call.bye()).code == 200
            await r.settled(0)


async def test_kamailio_walks_the_steps_alone_while_the_driver_is_frozen() -> None:
    # From the moment at which the driver says that it is ready.
    steps = (
        Step(until=4.0, caps={"sbc_sessions": 9}),
        Step(until=8.0, caps={"sbc_sessions": 0}),
        Step(admit=False, reason="eval_expired"),
    )
    policy = AdmissionPolicy(steps=steps)
    async with rig(None, start=False) as r, separate_driver(r, policy) as driver:
        os.kill(driver.pid, signal.SIGSTOP)
        now = float((r.gate.settings.path / "ready").read_text())
        with Phone(r.address) as phone:
            seen: list[tuple[float, float, int, str]] = []
            number = 0
            while time.time() < now + 10.0:
                number += 1
                asked = time.time() - now
                answer = await phone.ask(invite(phone, f"step{number}@test"))
                told = time.time() - now
                seen.append((asked, told, answer.code, answer.header("Warning")))
                await asyncio.sleep(0.05)
            # A step ends by the wall or by ticks, whichever comes first: up to a second early.
            for asked, told, code, warning in seen:
                if told < 2.9:
                    assert code in (200, 503)
                    assert "no_license" not in warning
                elif asked > 4.1 and told < 6.9:
                    assert code == 503
                    assert "no_license" in warning, (asked, told, warning)
                elif asked > 8.1:
                    assert "eval_expired" in warning, (asked, told, warning)
            assert [code for _, told, code, _ in seen if told < 2.9][:1] == [200]
        os.kill(driver.pid, signal.SIGCONT)
        driver.kill()
        await driver.wait()
        await r.gate.attach(caps(sessions=1))


async def test_a_step_ends_by_ticks_when_the_wall_clock_was_set_back() -> None:
    async with rig(caps(sessions=1)) as r:
        r.gate._policy = None
        tick = await r.count("up")
        until = int(time.time()) + 9000
        text = f"{until};0;{tick + 5};1;5;5;-1;;503;0;/0;0;0;0;0;0;-1;late;503;0;late"
        await r.gate._rpc.call("htable.sets", "cp_pol", "p", text)
        with Phone(r.address) as phone:
            assert (await phone.ask(invite(phone, "in@test"))).code == 200

            async def late() -> bool:
                answer = await phone.ask(invite(phone, f"late{time.monotonic()}@test"))
                return "callpool late:" in answer.header("Warning")

            await eventually(late)


async def test_a_killed_driver_changes_nothing_and_the_next_one_adopts_kamailio() -> None:
    async with rig(None, start=False) as r:
        with Phone(r.address) as phone:
            async with separate_driver(r, caps(sessions=3)) as driver:
                one = await call_up(phone, "one@test")
                driver.kill()
                await driver.wait()
                # Nobody listens: calls are judged as before.
                await call_up(phone, "two@test")
                await call_up(phone, "three@test")
                assert (await phone.ask(invite(phone, "four@test"))).code == 503
                assert (await one.bye()).code == 200
            assert r.gate.is_running()
            await r.gate.attach(caps(sessions=3))
            usage = r.gate.usage()
            assert (usage.sessions, usage.uncertain, usage.in_sync) == (2, 0, True)
            assert call_ids(r) == {"two@test", "three@test"}
            # And what it adopted it can put back.
            await killed_and_back(r)
            assert await r.count() == 2


async def test_what_nobody_counted_counts_as_used_until_its_bye_comes() -> None:
    async with rig(None, start=False) as r:
        with Phone(r.address) as phone:
            unknown: Call
            async with separate_driver(r, caps(sessions=4)) as driver:
                known = await call_up(phone, "known@test")
                await r.journalled("known@test")
                driver.kill()
                await driver.wait()
                unknown = await call_up(phone, "unknown@test")
                await killed_whole(r)
            await r.gate.attach(caps(sessions=4))
            assert (r.gate.usage().sessions, r.gate.usage().uncertain) == (4, 3)
            assert [a.code for a in r.alarms] == ["gate_uncertain"]
            assert (await phone.ask(invite(phone, "new@test"))).code == 503
            # A BYE whose MAC is good gives one back, once; a known call's gives back its own.
            text = unknown.text("BYE", 9)
            for _ in range(5):
                phone.send(text)
            assert (await phone.final("9 BYE")).code == 200
            await eventually(lambda: r.gate.usage().uncertain == 2)
            phone.send(unknown.text("BYE", 10))
            assert (await known.bye()).code == 200
            phone.send(known.text("BYE", 10))
            await r.settled(2)
            await call_up(phone, "now@test")
            await r.settled(3)


async def test_uncertain_units_are_given_up_when_the_longest_call_is_over() -> None:
    async with rig(None, start=False, max_call_seconds=8) as r:
        async with separate_driver(r, caps(sessions=2)) as driver:
            driver.kill()
            await driver.wait()
            await killed_whole(r)
        await r.gate.attach(caps(sessions=2))
        assert r.gate.usage().uncertain == 2
        await r.settled(0)
        assert await r.count("ph") == 0


async def test_lost_datagrams_are_noticed_and_the_book_is_repaired() -> None:
    async with rig(caps(sessions=20)) as r:
        with Phone(r.address) as phone:
            kept = await call_up(phone, "kept@test")
            await eventually(lambda: r.gate.usage().sessions == 1)
            intake = r.gate._intake
            events = intake.events
            assert events is not None
            loop = asyncio.get_running_loop()
            intake.events = None  # deaf
            loop.remove_reader(events.socket)
            for i in range(3):
                await call_up(phone, f"unheard{i}@test")
            assert (await kept.bye()).code == 200
            # What came meanwhile is thrown away, as the kernel would.
            while True:
                try:
                    events.socket.recv(65536)
                except BlockingIOError:
                    break
            assert call_ids(r) == {"kept@test"}
            intake.events = events
            loop.add_reader(events.socket, intake.readable)
            await eventually(lambda: call_ids(r) == {f"unheard{i}@test" for i in range(3)})
            await eventually(lambda: r.gate.usage().in_sync)


async def test_forged_datagrams_are_not_believed() -> None:
    async with rig(caps(sessions=2)) as r:
        events = r.gate._intake.events
        assert events is not None
        with Phone((HOST, events.port)) as stranger:
            for token in ("", "0" * 16, "x"):
                stranger.send(f"{token} {r.gate.book.gen} 900 A 0 1 1 forged@test")
            await eventually(lambda: events.refused == 3)
        assert r.gate.book.calls == {}


async def test_a_wall_clock_that_jumps_frees_no_license_and_blocks_no_call(
    tmp_path: Path,
) -> None:
    fake = tmp_path / "fake"
    fake.write_text("+0")
    wrapper = tmp_path / "kamailio"
    library = next(iter(glob.glob("/usr/lib/*/faketime/libfaketime.so.1")))
    wrapper.write_text(
        "#!/bin/sh\n"
        f"export LD_PRELOAD={library} FAKETIME_TIMESTAMP_FILE={fake} FAKETIME_NO_CACHE=1"
        " FAKETIME_DONT_FAKE_MONOTONIC=1\n"
        'exec kamailio "$@"\n'
    )
    wrapper.chmod(wrapper.stat().st_mode | stat.S_IXUSR)
    async with rig(caps(sessions=2, cps=10), kamailio=str(wrapper)) as r:
        with Phone(r.address) as phone:
            call = await call_up(phone, "long@test")
            for step in ("+1d", "-1d", "+30d", "+0"):
                fake.write_text(step)
                up = await r.count("up")
                await eventually(lambda up=up: _later(r, up + 1))
                assert await r.count() == 1
                short = await call_up(phone, f"short{step}@test")
                assert (await phone.ask(invite(phone, f"over{step}@test"))).code == 503
                assert (await short.bye()).code == 200
                await eventually(lambda: _is(r, 1))
            assert (await call.bye()).code == 200
            await r.settled(0)


async def _later(r: Rig, tick: int) -> bool:
    return await r.count("up") > tick


async def _is(r: Rig, sessions: int) -> bool:
    return await r.count() == sessions


async def test_two_gates_do_not_take_each_others_port() -> None:
    async with rig(caps(sessions=1)) as r, rig(caps(), start=False) as other:
        settings = msgspec.structs.replace(other.gate.settings, listen=r.gate.settings.listen)
        second = KamailioGate(settings, SystemClock())
        with pytest.raises(GateError) as caught:
            await second.start(caps())
        assert caught.value.code == "port_in_use"
        with Phone(r.address) as phone:
            await call_up(phone, "mine@test")


async def test_a_kamailio_that_its_driver_could_not_note_is_ended_by_the_next() -> None:
    async with rig(None, start=False) as r:
        async with separate_driver(r, caps(sessions=2)) as driver:
            driver.kill()
            await driver.wait()
        note = r.gate.settings.path / "gate.json"
        state = msgspec.json.decode(note.read_bytes())
        orphan = ProcessId(pid=state["pid"], started=state["started"])
        note.write_bytes(msgspec.json.encode({**state, "pid": 0, "started": 0}))
        await r.gate.attach(caps(sessions=2))
        assert group_members(orphan, str(r.gate.settings.path / "kamailio.cfg")) == []
        assert r.gate.kamailio_pid != orphan.pid
        with Phone(r.address) as phone:
            assert r.gate.usage().uncertain == 2
            await r.gate.forget_uncertain()
            await call_up(phone, "new@test")
