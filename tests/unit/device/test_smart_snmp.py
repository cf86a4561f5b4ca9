"""Smart licensing by SNMP: notices that are told once, exact variables, switches that last."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from smart_authority import SmartWorld

from callpool.device.faces.snmp import smart_notify as notify
from callpool.device.faces.snmp import smart_tree as tree
from callpool.device.smart_switches import NAMES, SmartNotices, SwitchBook, Switches
from callpool.device.status import Status
from callpool.host.snmp.notify import Receiver, standard
from callpool.host.snmp.values import Oid, text
from callpool.licensing.call_rates import CallRates
from callpool.licensing.errors import CallpoolError
from callpool.licensing.notice_log import Notice
from callpool.licensing.smart import Enforcement
from callpool.licensing.smart_timers import DAY

SLA, USP = (1, 3, 6, 1, 4, 1, 9, 9, 831), (1, 3, 6, 1, 4, 1, 9, 9, 827)
SUDI = (*SLA, 0, 2, 0)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SmartWorld]:
    made = SmartWorld(tmp_path / "device")
    await made.start()
    yield made
    await made.agent.smart.close()
    await made.crash()


def book(world: SmartWorld) -> SwitchBook:
    return SwitchBook(world.layout.smart_switches, world.agent.core)


def read(world: SmartWorld, after: int = 0) -> SmartNotices:
    """What the core tells, as it comes over its socket."""
    return msgspec.convert(
        msgspec.json.decode(msgspec.json.encode(book(world).notices(after))), SmartNotices
    )


def names(world: SmartWorld, after: int = 0) -> list[str]:
    return [t.notice.name for t in read(world, after).told]


# -- notices, durable and in order


async def test_notices_are_told_in_order_and_outlive_a_crash_with_their_numbers(
    world: SmartWorld,
) -> None:
    await world.authorized()
    before = read(world)
    assert [t.notice.name for t in before.told] == [
        "Ready", "Enabled", "EnforcementMode", "CountConfigured", "EnforcementMode",
        "RegisterStarted", "RegisterSuccess", "EnforcementMode", "AuthRenewSuccess",
        "EnforcementMode",
    ]  # fmt: skip
    assert [t.sequence for t in before.told] == list(range(1, 11))
    await world.agent.smart.close()
    await world.crash()
    world.clock.advance(30.0)
    await world.start()
    after = read(world)
    assert after.told[:10] == before.told
    assert names(world, before.sequence) == ["Ready"]
    assert after.before == before.sequence, "which are of this run is known"


async def test_only_what_is_on_disk_is_told_so_no_number_means_two_things(
    world: SmartWorld,
) -> None:
    await world.authorized()
    told = read(world).sequence
    world.flash.full = True
    world.link.down = True
    await world.go(31 * DAY)
    assert "AuthRenewFail" in [t.notice.name for t in world.agent.smart.record.notices.after(told)]
    assert names(world, told) == [], "not written, so not told"
    world.flash.full = False
    await world.go(DAY)
    assert "AuthRenewFail" in names(world, told), "told once it is written"
    assert [t.sequence for t in read(world, told).told] == list(
        range(told + 1, read(world).sequence + 1)
    )


async def test_a_flash_that_fell_back_uses_no_number_again(world: SmartWorld) -> None:
    await world.authorized()
    told = read(world).sequence
    await world.agent.smart.close()
    await world.crash()
    world.flash.fell_back = True
    await world.start()
    assert read(world).told[-1].sequence > told + 99
    assert names(world, told) == ["Ready"]


async def test_a_factory_reset_keeps_the_numbers(world: SmartWorld) -> None:
    await world.authorized()
    told = read(world).sequence
    await world.agent.factory_reset("S1")
    await world.go(60.0)
    assert world.state == "Unconfigured"
    assert read(world).sequence >= told


async def test_a_renewal_that_cannot_be_written_is_not_started(world: SmartWorld) -> None:
    await world.authorized()
    await world.go(179 * DAY)
    told = read(world).sequence
    world.flash.full = True
    await world.go(1.5 * DAY)
    world.flash.full = False
    await world.go(120.0)
    said = names(world, told)
    assert "IdCertRenewNotStarted" in said
    assert "IdCertRenewFail" not in said
    assert "CommunicationFailure" not in said
    (warning,) = (t for t in world.agent.smart_status().timers if t.what.startswith("Warning"))
    end = world.agent.smart_status().certificate_end
    assert end is not None
    assert warning.at == pytest.approx(end - 60 * DAY)
    await world.go(DAY)
    assert "IdCertRenewSuccess" in names(world, told)
    assert not [t for t in world.agent.smart_status().timers if t.what.startswith("Warning")]


async def test_a_device_without_smart_licensing_tells_nothing(world: SmartWorld) -> None:
    await world.agent.smart.close()
    await world.crash()
    world.flash.record = None
    world.settings = msgspec.structs.replace(world.settings, smart=False)
    await world.start()
    assert names(world) == []
    assert world.agent.status().smart is None


# -- what is sent

#: Every notification of the public modules that can be sent, with its variables in order.
EXPECTED: dict[Oid, list[Oid]] = {
    **{(*SLA, 1, n): [SUDI] for n in range(2, 22) if n != 15},
    (*SLA, 1, 1): [SUDI, (*SLA, 0, 5, 1, 1, 5, 1)],
    (*SLA, 1, 15): [
        (*SLA, 0, 5, 1, 1, 2, 1),
        (*SLA, 0, 5, 1, 1, 3, 1),
        (*SLA, 0, 5, 1, 1, 4, 1),
        (*SLA, 0, 5, 1, 1, 5, 1),
        SUDI,
    ],
    (*SLA, 1, 22): [SUDI, (*SLA, 0, 9, 1, 0), (*SLA, 0, 9, 2, 0)],
    (*USP, 0, 5): [(*USP, 1, 3, 1, 0), (*USP, 1, 1, 10, 3, 0), (*USP, 1, 1, 4, 0)],
    (*USP, 0, 6): [(*USP, 1, 3, 1, 0), (*USP, 1, 1, 5, 0)],
}


def everything() -> list[notify.Sending]:
    made = [
        Notice(name=name, severity="error", cause="x", sentence="Cut.") for name in notify.NUMBERS
    ]
    mode = Notice(
        name="EnforcementMode", severity="warning", cause="x", count=50,
        was=Enforcement.IN_COMPLIANCE, mode=Enforcement.OUT_OF_COMPLIANCE,
    )  # fmt: skip
    found = [s for n in (*made, mode) for s in notify.sendings(n, text("who"))]
    return [*found, notify.exceeding(tree.per_second(70.4), tree.per_second(50))]


def test_all_22_notifications_and_both_alerts_carry_exactly_their_variables() -> None:
    sent = {s.oid: [oid for oid, _ in s.binds] for s in everything()}
    assert sent == EXPECTED
    values = {s.oid: [str(v) for _, v in s.binds] for s in everything()}
    assert values[(*SLA, 1, 15)] == ["50", "cps", "1.0", "4", "who"]
    assert values[(*SLA, 1, 22)] == ["who", "3", "Cut."]
    assert values[(*USP, 0, 5)] == ["1", "70", "50"]
    assert values[(*USP, 0, 6)] == ["2", "3"], "warning, outofcompliance"


def test_a_mode_that_stays_and_what_has_no_number_are_not_sent() -> None:
    same = Notice(name="EnforcementMode", severity="error", cause="x")
    own = Notice(name="ListenMode", severity="error", cause="x")
    assert [*notify.sendings(same, text("")), *notify.sendings(own, text(""))] == []


def test_each_notification_hangs_on_the_switch_that_its_module_names() -> None:
    hang = {s.oid: notify.switch_of(s.oid) for s in everything()}
    assert set(hang.values()) == set(NAMES)
    for name in NAMES:
        off = msgspec.structs.replace(Switches(), **{name: False})
        stopped = {oid for oid in hang if not notify.wanted(oid, off)}
        assert stopped == {oid for oid in hang if hang[oid] == name}
    assert hang[(*SLA, 1, 15)] == "sla_entitlement"
    assert notify.switch_of((1, 3, 6, 1, 6, 3, 1, 1, 5, 1)) == "", "coldStart hangs on none"


def test_what_is_turned_off_leaves_the_queues_too() -> None:
    receiver = Receiver(lambda *_: None)
    off = Switches(sla_global=False)
    for sending in everything():
        receiver.put(sending.varbinds(0))
    receiver.put(standard("1.3.6.1.6.3.1.1.5.1", 0))
    receiver.drop(lambda oid: not notify.wanted(tuple(map(int, oid.split("."))), off))
    kept = [str(n[1][1]) for n in receiver._waiting]
    assert kept == [
        "1.3.6.1.4.1.9.9.831.1.15", "1.3.6.1.4.1.9.9.827.0.6", "1.3.6.1.4.1.9.9.827.0.5",
        "1.3.6.1.6.3.1.1.5.1",
    ]  # fmt: skip


# -- what is served


def served(status: Status) -> dict[Oid, Any]:
    assert status.smart is not None
    now = status.smart
    return {
        **tree.sla_objects(status, now),
        **tree.usp_objects(
            status, now, uptime=12.5, since=status.time, base=(0, 0, 0, 0), rates=CallRates()
        ),
    }


async def test_times_are_whole_seconds_and_what_there_is_none_of_is_not_there(
    world: SmartWorld,
) -> None:
    absent = [(6, 3), *((6, g, n) for g in (5, 6) for n in (1, 2, 3, 4)), (7, 1), (7, 3), (7, 4, 2)]
    found = served(world.agent.status())
    for suffix in absent:
        assert (*SLA, 0, *suffix, 0) not in found
    await world.authorized()
    status = world.agent.status()
    found = served(status)
    now = int(status.time)
    assert int(found[(*SLA, 0, 6, 3, 0)]) == pytest.approx(now + 365 * DAY, abs=2)
    assert int(found[(*SLA, 0, 6, 6, 4, 0)]) == pytest.approx(now + 180 * DAY, abs=2)
    assert int(found[(*SLA, 0, 7, 5, 1, 0)]) == pytest.approx(now, abs=2)
    assert int(found[(*SLA, 0, 7, 5, 2, 0)]) == 1
    assert int(found[(*SLA, 0, 7, 5, 4, 0)]) == pytest.approx(now + 30 * DAY, abs=2)
    assert int(found[(*SLA, 0, 7, 4, 3, 0)]) == pytest.approx(90 * DAY, abs=2)
    world.link.down = True
    with pytest.raises(CallpoolError):
        await world.tell("renew_auth")
    found = served(world.agent.status())
    assert int(found[(*SLA, 0, 7, 5, 2, 0)]) == 2
    assert str(found[(*SLA, 0, 7, 5, 3, 0)]) == "cut."


async def test_a_gate_that_is_not_confirmed_is_a_system_that_is_down(world: SmartWorld) -> None:
    assert int(served(world.agent.status())[(*USP, 1, 1, 2, 0)]) == 1
    world.agent.core.fault("gate_down", "x")
    assert int(served(world.agent.status())[(*USP, 1, 1, 2, 0)]) == 2


async def test_calls_are_offered_dropped_and_routed_and_users_are_no_calls(
    world: SmartWorld,
) -> None:
    refused = {"cps_limit": 20, "eval_expired": 5, "user_limit": 7}
    status = msgspec.structs.replace(world.agent.status(), admitted=100, refused=refused)
    assert tree.counts_of(status) == (125, 25, 100, 20)
    found = served(status)
    assert int(found[(*USP, 1, 1, 10, 1, 0)]) == 125
    assert int(found[(*USP, 1, 1, 10, 12, 0)]) == 20
    assert (*USP, 1, 1, 10, 2, 0) not in found, "what became of an admitted call is not known"


# -- switches


async def test_a_switch_is_on_disk_before_it_counts_and_journalled_with_who(
    world: SmartWorld,
) -> None:
    made = book(world)
    await made.start()
    after = await made.change({"sla_global": False, "usp_state": False}, who="snmp:noc")
    assert (after.sla_global, after.sla_entitlement, after.usp_state) == (False, True, False)
    told = [d for event, d in world.journal.lines if event == "notifications_switched"]
    assert [(d["switch"], d["on"], d["who"]) for d in told] == [
        ("sla_global", False, "snmp:noc"),
        ("usp_state", False, "snmp:noc"),
    ]
    again = book(world)
    await again.start()
    assert again.switches == after
    assert (await again.change({"sla_global": False}, who="x")) == after, "no news, no line"
    assert len([e for e, _ in world.journal.lines if e == "notifications_switched"]) == 2


async def test_what_happened_while_a_switch_was_off_is_not_told_once_it_is_on(
    world: SmartWorld,
) -> None:
    made = book(world)
    await made.change({"sla_global": False}, who="x")
    await world.authorized()
    last = read(world).sequence
    on = await made.change({"sla_global": True}, who="x")
    assert on.since == {"sla_global": last}
    ready = (*SLA, 1, 2)
    assert not notify.wanted(ready, on, last)
    assert notify.wanted(ready, on, last + 1)
    assert notify.wanted((*SLA, 1, 15), on, last), "another switch was never off"


async def test_a_switch_that_cannot_be_written_changes_nothing(
    world: SmartWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = book(world)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("callpool.device.smart_switches.write_durably", full)
    with pytest.raises(CallpoolError) as refused:
        await made.change({"sla_global": False}, who="x")
    assert refused.value.code == "switches_not_saved"
    assert made.switches == Switches()
    for bad in ({"other": False}, {"since": True}, {"sla_global": 1}):
        with pytest.raises(CallpoolError) as refused:
            await made.change(bad, who="x")  # type: ignore[arg-type]
        assert refused.value.code == "bad_switch"


async def test_switches_that_cannot_be_read_are_on_and_the_journal_says_so(
    world: SmartWorld,
) -> None:
    world.layout.smart_switches.write_text("{")
    made = book(world)
    await made.start()
    assert made.switches == Switches()
    assert "switches_unreadable" in [event for event, _ in world.journal.lines]
