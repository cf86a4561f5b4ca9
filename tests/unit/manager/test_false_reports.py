"""What a device reports is its word alone: a false one harms nobody else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from poolmodel import DAY, START, Model

from callpool.manager import inventory, requests
from callpool.manager.restored import restored
from callpool.manager.windows import restart_now
from callpool.wire.messages import ContactRequest


@pytest.fixture
def model() -> Iterator[Model]:
    made = Model()
    made.order(starts=START - DAY, ends=START + 400 * DAY, sbc_sessions=100)
    for name in ("A", "B", "C"):
        made.add(name, name)
    for name in ("A", "B"):
        made.allocate(name, sbc_sessions=50)
        made.poll(name)
        made.poll(name)
    yield made
    made.check()
    made.close()


def report(model: Model, serial: str, **false: Any) -> None:
    """Let a device call and be answered, with something in its report that is not so."""
    device = model.devices[serial]
    request = ContactRequest(
        **{
            "url": "",
            "nonce": f"n{model.clock.boottime}",
            "serial": serial,
            "contact": device.value,
            "time": model.clock.wall,
            "reason": "poll",
            "remote_version": device.license.seen_version,
            "applied_version": device.license.seen_version,
            "remote_in_use": {},
            **false,
        }
    )
    model.send(device, msgspec.convert(msgspec.to_builtins(request), ContactRequest))
    model.deliver(device)


@pytest.mark.parametrize("false", [{"remote_version": 999}, {"applied_version": 999}])
def test_a_version_that_nobody_gave_stops_no_other_device(
    model: Model, false: dict[str, int]
) -> None:
    report(model, "A", **false)
    assert model.manager.database.read(restored) is None
    end = model.devices["B"].license.lease_end
    model.clock.advance(DAY)
    model.poll("B")
    assert model.devices["B"].license.lease_end == end + DAY


@pytest.mark.parametrize(
    "false",
    [
        {"remote_in_use": {"sbc_sessions": -(10**6)}},
        {"remote_in_use": {"sbc_sessions": 10**30}},
        {"maximum": {"sbc_sessions": 10**30}},
        {"remote_version": -1},
        {"applied_version": 10**30},
        {"restart_done": 10**30},
    ],
)
def test_a_number_that_cannot_be_is_refused_and_stops_nobody(
    model: Model, false: dict[str, Any]
) -> None:
    def ask(change: Any) -> bool:
        device = inventory.device_by_name(change, "C")
        return requests.allocate_or_wait(change, device, {"sbc_sessions": 80})[1]

    assert model.change(ask)
    with pytest.raises(msgspec.ValidationError):
        report(model, "A", **false)
    model.change(lambda c: restart_now(c, "A", save=True))
    for serial in ("A", "B", "C"):
        model.poll(serial)
