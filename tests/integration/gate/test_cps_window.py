"""The CPS policy `window` on a real Kamailio: a mean of five minutes, judged for calls alone."""

from __future__ import annotations

from pathlib import Path

import msgspec
from gatekit import Phone, eventually, rig, users

from callpool.device.core import Core
from callpool.device.flash import Flash
from callpool.device.journal import FileJournal
from callpool.device.settings import Settings
from callpool.device.window import WINDOW
from callpool.host import sipp
from callpool.host.clock import LabClock
from callpool.licensing.smart import Event
from callpool.licensing.smart_events import Moment, Occurrence

#: Calls a second configured; five minutes of them; and the pace at which SIPp offers these.
LICENSED = 5
FULL = LICENSED * 300
RATE = 125.0


async def enabled(core: Core) -> None:
    """Turn smart licensing on with a count, as the device's commands do."""
    agent = core.opened.record.smart.agent
    for occurrence in (Occurrence(Event.ENABLE), Occurrence(Event.SET_COUNT, count=LICENSED)):
        agent, _ = agent.receive(occurrence, Moment.of(core.mark, core.now()))
    await core.change_smart(msgspec.structs.replace(core.opened.record.smart, agent=agent))


async def test_the_mean_of_five_minutes_refuses_calls_alone_and_ends_by_itself(
    tmp_path: Path,
) -> None:
    clock = LabClock(tmp_path / "clock")
    async with rig(None, start=False, clock=clock, users=users(2)) as r:
        (tmp_path / "flash").mkdir()
        core = Core(
            settings=Settings(serial="S1", smart=True, cps_policy=WINDOW),
            flash=Flash(tmp_path / "flash", b"\0" * 32),
            clock=clock,
            gate=r.gate,
            journal=FileJournal(tmp_path / "journal.jsonl"),
        )
        await core.start()
        await enabled(core)

        # Far more than five in one second, and all are admitted: it is the mean that counts.
        result = await r.calls(FULL, rate=RATE)
        assert result.answers == {200: FULL}
        await eventually(lambda: r.gate.usage().admitted == FULL)
        long = await sipp.caller(r.address, calls=2, rate=10, hold_ms=8000)
        await eventually(lambda: r.gate.usage().sessions == 2)

        clock.advance(30.0)
        await core.tick()
        result = await r.calls(20)
        assert result.answers == {503: 20}
        await eventually(lambda: dict(r.gate.usage().refused) == {"cps_limit": 20})
        with Phone(r.address) as phone:
            assert (await phone.register("u0")).code == 200, "registrations are no calls"
        kept = await long.wait(60)
        assert (kept.completed, kept.failed) == (2, 0), "an established call is never cut"

        # Five minutes later the burst has left the window.
        for _ in range(10):
            clock.advance(30.0)
            await core.tick()
        assert (await r.calls(20)).answers == {200: 20}
        await eventually(lambda: r.gate.usage().admitted == FULL + 2 + 20)

        # Over the mean again, and the core dies: the step ends by itself, in real time.
        # (The window reaches back to a snapshot: up to half a minute more than five.)
        before, again = r.gate.usage().admitted, FULL + 30 * LICENSED * 2
        await r.calls(again, rate=RATE)
        await eventually(lambda: r.gate.usage().admitted == before + again)
        clock.advance(30.0)
        clock.set_rate(60.0)
        await core.tick()
        assert core.policy(core.now()).steps[0].reason == "cps_limit"

        async def admitted_again() -> bool:
            return bool((await r.calls(1)).answers == {200: 1})

        await eventually(admitted_again)
