from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from managerkit import Running, Site, running


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "manager")


@pytest.fixture
def manager(site: Site) -> Iterator[Running]:
    with running(site) as made:
        yield made


def test_an_order_is_handed_out_confirmed_and_taken_back(site: Site, manager: Running) -> None:
    manager.import_order(site.order("PO-1", far_end_users=20, sbc_sessions=60))
    manager.add("sbc-a", "A1", apply="live")
    manager.add("sbc-b", "B1", apply="live")
    a, b = manager.device("A1"), manager.device("B1")
    manager.call("PUT", "/devices/sbc-a/allocation", {"far_end_users": 15}, 200)
    reply = a.contact()
    assert a.counts(reply) == {"far_end_users": 15}
    assert reply.status == "managed"
    refused = manager.call("PUT", "/devices/sbc-b/allocation", {"far_end_users": 6}, 409)
    assert refused["code"] == "pool_exceeded"
    assert "at most 5" in refused["detail"]
    manager.call("PUT", "/devices/sbc-a/allocation", {"far_end_users": 10}, 200)
    assert manager.unit("A1")["held"]["far_end_users"] == 15
    a.contact()  # receives the smaller grant
    a.contact()  # proves that it runs it
    assert manager.unit("A1")["held"]["far_end_users"] == 10
    manager.call("PUT", "/devices/sbc-b/allocation", {"far_end_users": 10}, 200)
    assert b.counts(b.contact()) == {"far_end_users": 10}
    site.check_sums()


def test_a_stopped_manager_ends_by_itself(manager: Running) -> None:
    assert manager.stop() == 0
