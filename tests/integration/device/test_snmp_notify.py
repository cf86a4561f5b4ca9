"""Alarms raised and cleared by their real causes, received by snmptrapd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from devicekit import Device, Site, eventually, site
from snmpkit import ACTIVE, COLD_START, HISTORY, TRAPS, USER, Notification, Snmp, TrapReceiver

from callpool.host.ports import free_port


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as made:
        yield made


@pytest.fixture
def receivers(tmp_path: Path) -> Iterator[list[TrapReceiver]]:
    made = [TrapReceiver(tmp_path / f"receiver{n}", "SN-a") for n in range(2)]
    yield made
    for receiver in made:
        receiver.stop()


def with_snmp(device: Device, receivers: list[TrapReceiver]) -> Snmp:
    """Three receivers: an inform by v3, a trap by v3, and an inform to where nobody listens."""
    first, second = receivers
    return Snmp(
        device,
        targets=[
            {"address": f"127.0.0.1:{free_port()}", "kind": "inform", "user": USER},
            {"address": first.address, "kind": "inform", "user": USER},
            {"address": second.address, "kind": "trap", "user": USER},
        ],
    )


def alarms(receiver: TrapReceiver) -> list[tuple[str, int, str]]:
    """(number, severity, first condition) of each alarm that was received."""
    return [
        (n.oid.rpartition(".")[2], n.severity, n.glob(8).partition(",")[0])
        for n in receiver.got()
        if n.oid.startswith(TRAPS) and n.oid not in (f"{TRAPS}4", f"{TRAPS}5")
    ]


def last(receiver: TrapReceiver, *wanted: tuple[str, int, str]) -> None:
    """Wait until the last alarms that were received are these."""
    eventually(lambda: alarms(receiver)[-len(wanted) :] == list(wanted))


def test_the_three_alarms_by_their_real_causes(alone: Site, receivers: list[TrapReceiver]) -> None:
    device = alone.device("a")
    snmp = with_snmp(device, receivers)
    informed, trapped = receivers
    device.start()
    eventually(device.connected)
    eventually(lambda: len(informed.got()) >= 2)
    first, second = informed.got()[:2]
    assert first.oid == COLD_START
    assert second.oid == f"{TRAPS}4"
    assert second.glob(2) == "Initialization Ended"

    # New licenses wait for a restart: raised, then cleared by the restart with save.
    alone.allocate("a", sbc_sessions=10)
    last(informed, ("107", 4, "restart_pending"))
    check_varbinds(informed.got()[-1])
    assert [r[8] for r in snmp.table(ACTIVE)] == ["4"]
    alone.client.call("POST", "/devices/a/restart", {"save": True})
    last(informed, ("107", 4, "restart_pending"), ("107", 0, "restart_pending"))
    eventually(lambda: snmp.table(ACTIVE) == [])

    # More than the device supports: told at receipt, and again at application.
    alone.allocate("a", sbc_sessions=5000)
    eventually(lambda: ("125", 4, "over_allocated") in alarms(informed))
    alone.client.call("POST", "/devices/a/restart", {"save": True})
    eventually(lambda: alarms(informed).count(("125", 4, "over_allocated")) == 2)
    texts = [n.glob(2) for n in informed.got() if n.oid == f"{TRAPS}125"]
    assert "will not be applied" in texts[0]
    assert "are not used" in texts[1]
    alone.allocate("a", sbc_sessions=10)
    alone.client.call("POST", "/devices/a/restart", {"save": True})
    eventually(lambda: ("125", 0, "over_allocated") in alarms(informed))
    eventually(lambda: not snmp.table(ACTIVE))

    # The manager is lost, the lease nears its end and ends; then the manager is back.
    assert alone.manager is not None
    alone.manager.end()
    device.ask("pull")
    last(informed, ("106", 4, "contact_lost"))
    alone.clock.advance(6.5 * 86400)
    last(informed, ("106", 4, "contact_lost"), ("106", 5, "lease_warning"))
    active = snmp.table(ACTIVE)
    assert [(r[3], r[8]) for r in active] == [(f"{TRAPS}106", "5")]
    assert active[0][11] == "lease_warning,contact_lost"
    alone.clock.advance(86400)
    last(informed, ("106", 5, "lease_warning"), ("106", 5, "lease_ended"))
    alone.start()
    device.ask("pull")
    eventually(lambda: ("106", 0, "lease_ended") in alarms(informed))

    # The manager no longer lists the device.
    alone.client.call("DELETE", "/devices/a")
    eventually(lambda: ("107", 4, "not_listed") in alarms(informed))

    # The same went to the other receiver, in the same order, and the history holds it all.
    eventually(lambda: len(trapped.got()) == len(informed.got()))
    assert [dict(n) for n in trapped.got()] == [dict(n) for n in informed.got()]
    assert all("inform" in s.lower() for s in informed.security())
    history = snmp.table(HISTORY)
    assert [int(r[1]) for r in history] == list(range(1, len(history) + 1))
    told = [(f"{TRAPS}{number}", str(severity)) for number, severity, _ in alarms(informed)]
    assert [(r[3], r[8]) for r in history if r[3].startswith(TRAPS)] == told


def check_varbinds(alarm: Notification) -> None:
    """Facts of the vendor's traps: 16 of them, in their ranges."""
    assert len(alarm) == 18, "sysUpTime, snmpTrapOID and 16"
    assert alarm.glob(1) == "106", "the last arc less one"
    assert alarm.glob(2) == "License Pool Alarm. New license pool allocations received"
    assert alarm.glob(3) == "system0Mo"
    assert alarm.severity == 4
    assert alarm.glob(5) == "1"
    assert alarm.glob(6) == "1", "communicationsAlarm"
    assert alarm.glob(7) == "0"
    assert alarm.glob(8) == "restart_pending"
    assert alarm.glob(10).startswith("Restart the device with save")
    assert alarm.glob(12) == "4"
    assert (alarm.glob(13), alarm.glob(14), alarm.glob(15)) == ("", "", "")
    assert alarm.glob(16) == "SN-a"


def test_an_alarm_outlives_a_killed_core_and_is_not_told_twice(
    alone: Site, receivers: list[TrapReceiver]
) -> None:
    device = alone.device("a")
    snmp = with_snmp(device, receivers)
    informed, _ = receivers
    device.start()
    eventually(lambda: len(informed.got()) >= 2)
    boots = int(snmp.get(".1.3.6.1.6.3.10.2.1.2.0"))
    alone.allocate("a", sbc_sessions=10)
    eventually(lambda: [r[11] for r in snmp.table(ACTIVE)] == ["restart_pending"])
    before = snmp.table(HISTORY)
    last(informed, ("107", 4, "restart_pending"))
    device.kill()
    device.start()
    eventually(lambda: [n.oid for n in informed.got()].count(COLD_START) == 2)
    eventually(snmp.answers)
    assert int(snmp.get(".1.3.6.1.6.3.10.2.1.2.0")) == boots + 1
    assert [(r[1], r[4]) for r in snmp.table(HISTORY)] == [(r[1], r[4]) for r in before]
    assert [r[11] for r in snmp.table(ACTIVE)] == ["restart_pending"]
    assert alarms(informed).count(("107", 4, "restart_pending")) == 1, "not told again"


def test_a_receiver_that_was_down_gets_all_in_order_and_nobody_waits_for_it(
    alone: Site, receivers: list[TrapReceiver]
) -> None:
    device = alone.device("a")
    snmp = with_snmp(device, receivers)
    informed, trapped = receivers
    device.start()
    eventually(lambda: len(informed.got()) >= 2)
    informed.stop()
    alone.allocate("a", sbc_sessions=10)
    last(trapped, ("107", 4, "restart_pending"))
    device.ask("restart", save=True)
    wanted = ("107", 4, "restart_pending"), ("107", 0, "restart_pending")
    last(trapped, *wanted)
    assert not snmp.table(ACTIVE)
    assert alarms(informed) == []
    informed.start()
    last(informed, *wanted)
