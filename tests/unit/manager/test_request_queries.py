"""A contact asks the database as often in a large tenant as in a small one."""

from __future__ import annotations

from typing import Any

from poolmodel import DAY, START, Model
from sqlalchemy import event
from test_waiting_requests import wait

from callpool.manager import inventory, pools


def queries_of_a_contact(devices: int, requests: int) -> int:
    """Return how many statements a contact takes while requests wait."""
    model = Model()
    model.order(starts=START - DAY, ends=START + 400 * DAY, sbc_sessions=10 * devices)
    names = [f"D{i}" for i in range(devices)]
    waiting = [f"W{i}" for i in range(requests)]

    def add(change: Any) -> None:
        for name in (*names, *waiting):
            inventory.add_device(change, name, [name], "default", "live")
            if name in names:
                device = inventory.device_by_name(change, name)
                pools.allocate(change, device, {"sbc_sessions": 10})

    model.change(add)
    for name in names:
        model.enrol(name, "default")
        model.devices[name].in_use = {"sbc_sessions": 9}
        model.poll(name)
    for name in waiting:
        assert wait(model, name, sbc_sessions=10 * devices - 1)
    for name in names:
        model.poll(name)
    done = 0

    def count(*_: object) -> None:
        nonlocal done
        done += 1

    event.listen(model.manager.database._store.writer, "before_cursor_execute", count)
    model.poll(names[0])
    model.check()
    model.close()
    return done


def test_a_contact_asks_as_often_in_a_large_tenant() -> None:
    assert queries_of_a_contact(30, 1) == queries_of_a_contact(3, 1)


def test_a_contact_asks_as_often_where_many_requests_wait() -> None:
    assert queries_of_a_contact(3, 12) == queries_of_a_contact(3, 2)
