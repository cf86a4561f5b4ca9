"""Receivers that swallow everything: they delay no timer, no policy and nobody else."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from alarmkit import install_key
from devicekit import Device, eventually, site
from snmpkit import COLD_START, HISTORY, TRAPS, USER, Snmp, TrapReceiver

from callpool.host.snmp.notify import QUEUE
from callpool.licensing.alarm_table import POOL_APPLICATION, Severity
from callpool.licensing.alarms import HISTORY as KEPT
from callpool.licensing.alarms import AlarmLog, Event

#: Seconds that a policy or an alarm may be late on a busy machine. A queue that held the core
#: up would hold it up for minutes: each inform waits 4 seconds and more for its answer.
LATE = 3.0


def a_whole_history() -> AlarmLog:
    """As many events as the history holds: an alarm raised and cleared again and again."""
    events = tuple(
        Event(
            sequence=number,
            at=1_800_000_000.0 + number,
            oid=POOL_APPLICATION,
            severity=Severity.MAJOR if number % 2 else Severity.CLEARED,
            codes=("restart_pending",),
            text="New licenses have arrived.",
        )
        for number in range(1, KEPT + 1)
    )
    return AlarmLog(sequence=KEPT, history=events)


@pytest.fixture
def told(tmp_path: Path) -> Iterator[tuple[Device, Snmp, TrapReceiver]]:
    """A device with a whole history to tell, two black holes before its one receiver."""
    with ExitStack() as stack:
        made = stack.enter_context(site(tmp_path))
        holes = []
        for _ in range(2):
            hole = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            hole.bind(("127.0.0.1", 0))  # takes what comes, and never answers
            holes.append(f"127.0.0.1:{hole.getsockname()[1]}")
        device = made.device("a", apply="live")
        receiver = TrapReceiver(tmp_path / "receiver", device.serial)
        stack.callback(receiver.stop)
        snmp = Snmp(
            device,
            targets=[
                {"address": holes[0], "kind": "inform", "user": USER},
                {"address": holes[1], "kind": "inform"},
                {"address": receiver.address, "kind": "inform"},
            ],
        )
        device.layout.alarms.write_bytes(msgspec.json.encode(a_whole_history()))
        device.start()
        eventually(device.connected)
        eventually(receiver.count)  # the history has been queued
        yield device, snmp, receiver


def journal(device: Device, event: str) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in device.layout.journal.read_text().splitlines())
    return [line for line in lines if line["event"] == event]


def test_a_black_hole_delays_no_timer_no_policy_and_no_other_receiver(
    told: tuple[Device, Snmp, TrapReceiver],
) -> None:
    device, snmp, receiver = told
    made = device.site
    # While a thousand informs wait for the black holes, a key comes to its end to the second.
    end = float(int(made.clock.now().wall) + 8)
    install_key(device, ends=end)
    made.allocate("a", sbc_sessions=10)
    device.becomes(10, 5, 15)
    device.becomes(10, 0, 10)
    enforced = eventually(lambda: [e for e in journal(device, "enforced") if e["at"] >= end])
    assert enforced[0]["at"] - end < LATE
    assert enforced[0]["actual"]["sbc_sessions"] == 10

    def ended() -> list[Any]:
        report = device.ask("alarms", after=KEPT)
        return [e for e in report["history"] if e["codes"][0] == "local_key_ended"]

    assert eventually(ended)[0]["at"] - end < LATE
    install_key(device)
    device.becomes(10, 5, 15)

    # The receiver that answers has it all, in order; the black holes' queues run over, and what
    # falls out of them is in the history.
    eventually(lambda: receiver.count() == 2 + KEPT + 3, within=150)
    assert 2 + KEPT + 3 > QUEUE
    first, second, *rest = receiver.got()
    assert (first.oid, second.oid) == (COLD_START, f"{TRAPS}4")
    assert [int(n.glob(5)) for n in rest] == list(range(1, KEPT + 4))
    assert [n.severity for n in rest[-3:]] == [2, 4, 0]
    assert [int(row[1]) for row in snmp.table(HISTORY)] == list(range(4, KEPT + 4))
