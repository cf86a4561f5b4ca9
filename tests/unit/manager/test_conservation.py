"""Law 1 against devices that may use whatever grant they hold, by the real device rules."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from machines import machine
from poolmodel import DAY, START, Model, ModelDevice

from callpool.licensing.errors import LicenseError
from callpool.manager import bulk, inventory, requests, windows
from callpool.manager.bulk import BulkRow
from callpool.manager.preview import preview
from callpool.manager.store.tx import Tx

SERIALS = ("A1", "B1", "C1", "D1", "H1", "H2")
NAMES = ("a", "b", "c", "d", "h")
TYPES = ("sbc_sessions", "far_end_users")

serials = st.sampled_from(SERIALS)
names = st.sampled_from(NAMES)
counts = st.sampled_from([0, 1, 2, 5, 8, 10, 12, 20])


@contextlib.contextmanager
def may_be_refused(*codes: str) -> Iterator[None]:
    try:
        yield
    except LicenseError as error:
        # The rules say no before the database has to.
        if error.code not in codes or "database" in error.sentence:
            raise


def _everything(tx: Tx) -> list[list[Any]]:
    tables = ("device", "allocation", "holding", "request", "unit", "tenant_share", "journal")
    return [[tuple(r.items()) for r in tx.rows(f"SELECT * FROM {t}")] for t in tables]  # noqa: S608


class Pool(RuleBasedStateMachine):
    """Operators, devices, a network that loses and delays, and time."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        model = self.model
        model.tenant("east")
        model.tenant("west")
        model.order(starts=START - DAY, ends=START + 20 * DAY, sbc_sessions=20, far_end_users=10)
        model.order(starts=START - DAY, ends=START + 400 * DAY, sbc_sessions=10)
        for tenant, share in (("east", 14), ("west", 10)):
            self._shares(tenant, {"sbc_sessions": share})
        model.add("a", "A1", tenant="east", apply="live")
        model.add("b", "B1", tenant="east", apply="restart")
        model.add("c", "C1", tenant="west", apply="restart")
        model.add("d", "D1", tenant="east", apply="live")
        model.add("h", "H1", "H2", apply="live")
        self.entry = 0
        plain = model.manager._changed

        def changed(*words: Any, **more: Any) -> Any:
            result = plain(*words, **more)
            self._check_requests()
            return result

        # Looked at after every transaction, a contact's as well, while its reports are the latest.
        model.manager._changed = changed  # type: ignore[method-assign]
        # East has given out its share, so that what is asked for there has to be waited for.
        for name, count in (("a", 8), ("d", 6)):
            model.allocate(name, sbc_sessions=count)
        self.settle([0.5] * len(SERIALS))

    def _check_requests(self) -> None:
        """Nothing is taken from a donor that it uses; a request is granted whole."""

        def look(tx: Tx) -> None:
            for row in tx.rows(
                "SELECT * FROM journal WHERE entry > :last ORDER BY entry", last=self.entry
            ):
                self.entry, detail = row["entry"], msgspec.json.decode(row["detail"])
                if row["cause"] == "taken_for_request":
                    used = self._per_unit(tx, detail["device"], detail["type"])[0]
                    assert detail["left"] >= max(used), (detail, used)
                elif row["cause"] == "request_granted":
                    for kind, count in detail["counts"].items():
                        granted = self._per_unit(tx, detail["device"], kind)[1]
                        assert min(granted) >= count, (detail, granted)

        self.model.manager.database.read(look)

    @staticmethod
    def _per_unit(tx: Tx, device: str, kind: str) -> tuple[list[int], list[int]]:
        """Return what each unit last reported as in use of a type, and what it is granted."""
        rows = tx.rows(
            "SELECT u.report, (SELECT coalesce(sum(h.granted), 0) FROM holding h"
            "  WHERE h.serial = u.serial AND h.type = :type AND h.since = 0) AS granted"
            " FROM unit u JOIN device d ON d.device_id = u.device_id"
            " WHERE d.name = :name AND u.state = 'active'",
            type=kind,
            name=device,
        )
        reports = [msgspec.json.decode(r["report"]) if r["report"] else {} for r in rows]
        used = [int(r.get("remote_in_use", {}).get(kind, 0)) for r in reports]
        return used, [int(r["granted"]) for r in rows]

    def _shares(self, tenant: str, shares: dict[str, Any]) -> None:
        self.model.change(lambda c: inventory.set_shares(c, tenant, shares))
        self.model.shares[tenant].update(shares)

    def _device(self, serial: str) -> ModelDevice:
        return self.model.devices[serial]

    @rule(first=serials, second=serials, name=names, other=names, count=counts, more=counts)
    def move(self, first: str, second: str, name: str, other: str, count: int, more: int) -> None:
        """Take from one, give to another, with contacts in between or not."""
        for kind in TYPES:
            self.allocate(name, kind, count)
            self.poll(first)
            self.allocate(other, kind, more)
            self.poll(second)

    @rule(name=names, kind=st.sampled_from(TYPES), count=counts)
    def allocate(self, name: str, kind: str, count: int) -> None:
        with may_be_refused("pool_exceeded", "tenant_exceeded", "requests_waiting"):
            self.model.allocate(name, **{kind: count})

    @rule(name=names, sessions=counts, users=counts)
    def wait(self, name: str, sessions: int, users: int) -> None:
        wanted = {"sbc_sessions": sessions, "far_end_users": users}
        with may_be_refused("pool_exceeded", "tenant_exceeded"):
            self.model.change(
                lambda c: requests.allocate_or_wait(c, inventory.device_by_name(c, name), wanted)
            )

    @rule(
        name=st.sampled_from(["a", "b", "d"]),
        count=counts,
        parts=st.lists(st.floats(0, 1), min_size=len(SERIALS), max_size=len(SERIALS)),
    )
    def wait_while_calls_end(self, name: str, count: int, parts: list[float]) -> None:
        self.wait(name, count, 0)
        self.settle(parts)
        self.settle([part / 2 for part in parts])

    @rule(name=names)
    def cancel(self, name: str) -> None:
        with may_be_refused("no_request"):
            self.model.change(lambda c: requests.cancel(c, inventory.device_by_name(c, name)))

    @rule(
        rows=st.lists(st.tuples(names, counts), min_size=1, max_size=4, unique_by=lambda r: r[0]),
        wait=st.booleans(),
        only_look=st.booleans(),
    )
    def bulk(self, rows: list[tuple[str, int]], wait: bool, only_look: bool) -> None:
        """Change many at once, or preview it: then nothing at all is changed."""
        read = [
            BulkRow(number=n, device=name, counts={"sbc_sessions": count})
            for n, (name, count) in enumerate(rows, 1)
        ]
        model = self.model
        with may_be_refused("bad_row"):
            if only_look:
                model.manager.sweep()  # as a preview does: what the clock brings is not its doing
                before = model.manager.database.read(_everything)
                preview(
                    model.manager, "tester", "here", lambda c: bulk.carry_out(c, read, wait=wait)
                )
                assert model.manager.database.read(_everything) == before
            else:
                model.change(lambda c: bulk.carry_out(c, read, wait=wait))

    @rule(
        name=names,
        window=st.sampled_from(["00:00-12:00", "11:00-11:30", "23:00-01:00"]),
        save=st.booleans(),
    )
    def restart_in_a_window(self, name: str, window: str, save: bool) -> None:
        self.model.change(
            lambda c: windows.ask(
                c, inventory.device_by_name(c, name), windows.parse(window), save=save
            )
        )

    @rule(serial=serials)
    def poll(self, serial: str) -> None:
        self._ask(serial)
        self._deliver(self._device(serial))

    @rule(parts=st.lists(st.floats(0, 1), min_size=len(SERIALS), max_size=len(SERIALS)))
    def settle(self, parts: list[float]) -> None:
        """All are in contact, apply what they have and report their calls."""
        for serial, part in zip(SERIALS, parts, strict=True):
            self.poll(serial)
            self.restart(serial, save=True)
            self.carry_calls(serial, part)
            self.poll(serial)

    def _deliver(self, device: ModelDevice) -> None:
        """Let an answer arrive, and carry out the restart that it orders, once."""
        reply = self.model.deliver(device)
        if reply is not None and reply.restart and reply.restart.number > device.restart_done:
            device.license = device.license.restarted(save=reply.restart.save)
            device.restart_done = reply.restart.number

    @rule(serial=serials)
    def ask(self, serial: str) -> None:
        self._ask(serial)

    def _ask(self, serial: str) -> None:
        device = self._device(serial)
        if device.locked:
            return
        if device.asked is not None and device.answered is None:
            # A device whose reply was lost repeats its request, and gets the same reply.
            self.model.send(device, device.asked)
        else:
            self._deliver(device)
            self.model.ask(device)
        assert not device.locked

    @rule(serial=serials)
    def deliver(self, serial: str) -> None:
        self._deliver(self._device(serial))

    @rule(serial=serials)
    def lose(self, serial: str) -> None:
        self.model.lose(self._device(serial))

    @rule(serial=serials, save=st.booleans())
    def restart(self, serial: str, save: bool) -> None:
        device = self._device(serial)
        self.model.tick(device)
        device.license = device.license.restarted(save=save)

    @rule(serial=serials, part=st.floats(0, 1))
    def carry_calls(self, serial: str, part: float) -> None:
        device = self._device(serial)
        most = self.model.may_use(device, "sbc_sessions")
        device.in_use = {"sbc_sessions": int(part * most)}

    @rule(seconds=st.sampled_from([1.0, 60.0, 3600.0, DAY, 5 * DAY, 8 * DAY]))
    def pass_time(self, seconds: float) -> None:
        # In small steps: the law holds at every moment on the way.
        for _ in range(3):
            self.model.clock.advance(seconds / 3)
            self.model.check()
        self.model.manager.sweep()
        self.model.check()

    @precondition(lambda self: len(self.model.orders) < 5)
    @rule(
        count=st.integers(1, 20),
        starts=st.sampled_from([-1, 0, 5]),
        days=st.sampled_from([3, 12, 300]),
        kind=st.sampled_from(TYPES),
    )
    def buy(self, count: int, starts: int, days: int, kind: str) -> None:
        now = self.model.clock.wall
        begin = now + starts * DAY
        self.model.order(starts=begin, ends=now + (days + max(0, starts)) * DAY, **{kind: count})

    @rule(tenant=st.sampled_from(["east", "west"]), share=st.integers(0, 25) | st.none())
    def share(self, tenant: str, share: int | None) -> None:
        with may_be_refused("pool_exceeded", "share_below_held"):
            self._shares(tenant, {"sbc_sessions": share})

    @invariant()
    def conserved(self) -> None:
        self.model.check()
        self.model.check_tables()

    def teardown(self) -> None:
        self.model.close()


def test_law_1_holds_whatever_is_asked() -> None:
    run_state_machine_as_test(Pool, settings=machine(5, 25))


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_law_1_holds_whatever_is_asked_at_length() -> None:
    run_state_machine_as_test(Pool, settings=machine(100, 50))
