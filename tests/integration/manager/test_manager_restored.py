"""Law 1 with real processes: a backup is put back, on either database."""

from __future__ import annotations

from pathlib import Path

import pytest
from managerkit import MAIN, Device, Refused, Running, Site, cli

from callpool.host.clock import LabClock


class Moved:
    """Two devices; since the backup, what A had has gone to B."""

    def __init__(self, directory: Path) -> None:
        self.site = Site(directory / "manager", lease_seconds=1000.0)
        self.copy = directory / "old.backup"
        self.running = Running(self.site)
        self.listen = f"127.0.0.1:{self.running.port}"
        self.running.import_order(self.site.order("PO-1", sbc_sessions=20))
        self.devices: dict[str, Device] = {}
        for name in "ab":
            self.running.add(name, name.upper(), apply="live")
            self.devices[name] = self.running.device(name.upper())
        self.allocate("a", 20)
        self.devices["a"].contact()
        self.do("backup", str(self.copy))  # while it runs
        self.allocate("a", 5)
        for _ in range(3):
            self.devices["a"].contact()
        self.allocate("b", 15)
        assert self.counts("b") == 15

    def allocate(self, name: str, count: int, status: int = 200) -> str:
        body = {"sbc_sessions": count}
        reply = self.running.call("PUT", f"/devices/{name}/allocation", body, status)
        return str(reply.get("code", ""))

    def counts(self, name: str) -> int:
        device = self.devices[name]
        return device.counts(device.contact()).get("sbc_sessions", 0)

    def start(self) -> None:
        self.running = Running(self.site, self.listen)
        for device in self.devices.values():
            device.manager = self.running
        self.running.devices = list(self.devices.values())

    def restore(self) -> None:
        self.running.devices = []
        self.running.kill()
        self.do("restore", str(self.copy))
        self.start()

    def do(self, *words: str) -> None:
        status, _, error = cli(MAIN, *words, "--dir", str(self.site.layout.directory))
        assert status == 0, error


@pytest.fixture
def moved(tmp_path: Path) -> Moved:
    return Moved(tmp_path)


def test_what_has_moved_since_the_backup_is_not_given_twice(moved: Moved) -> None:
    moved.restore()
    try:
        pool = moved.running.pool()
        assert pool["restored"]["journal_agrees"] is True
        assert pool["restored"]["waiting_for"] == ["A", "B"]
        held = {u: moved.running.unit(u)["held"]["sbc_sessions"] for u in "AB"}
        assert held == {"A": 5, "B": 15}
        assert moved.counts("a") == 5  # the backup says 20: nothing grows
        assert moved.allocate("a", 21, 503) == "manager_restored"
        # B's share is given up by the backup's books: first it shrinks there, then A has it.
        assert moved.counts("b") == 0
        assert moved.running.pool()["restored"] is None
        for _ in range(3):
            moved.devices["b"].contact()
        assert moved.counts("a") == 20
        moved.site.check_sums()
    finally:
        moved.running.kill()


def test_without_its_journal_it_renews_no_lease_until_all_have_ended(moved: Moved) -> None:
    moved.site.layout.grants.unlink()
    moved.restore()
    try:
        assert moved.running.pool()["restored"] is None
        for name in "ba":
            with pytest.raises(Refused) as refused:
                moved.devices[name].contact()
            assert (refused.value.status, refused.value.code) == (503, "manager_restored")
        assert moved.running.pool()["restored"]["journal_agrees"] is False
        LabClock(moved.site.clock_file).advance(1100)
        for device in moved.devices.values():
            device.ahead, device.remote, device.applied = 1100.0, 0, 0
        assert moved.counts("a") == 20
        assert moved.counts("b") == 0
        assert moved.running.pool()["restored"] is None
    finally:
        moved.running.kill()


def test_an_operator_may_end_it_by_name_and_reason(moved: Moved) -> None:
    moved.restore()
    try:
        assert moved.running.pool()["restored"] is not None
        words = ("accept-restore", "--dir", str(moved.site.layout.directory))
        status, _, error = cli(MAIN, *words, "--reason", "")
        assert (status, "[bad_request]" in error) == (1, True)
        assert cli(MAIN, *words, "--reason", "B is off", "--operator", "jo")[0] == 0
        assert moved.running.pool()["restored"] is None
        (entry,) = [
            e
            for e in moved.running.call("GET", "/journal", status=200)["journal"]
            if e["cause"] == "restore_ended"
        ]
        assert (entry["who"], entry["detail"]["reason"]) == ("jo", "B is off")
        assert entry["detail"]["not_reported"] == ["A", "B"]
    finally:
        moved.running.kill()
