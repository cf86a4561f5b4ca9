"""What raises and clears alarms on a real device, and a network operations centre that watches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from devicekit import Device, Site, eventually, site
from snmpkit import ACTIVE, HISTORY, Notification, Snmp, TrapReceiver

from callpool.host.ports import free_port
from callpool.lab.hostile import Answered, Hostile, HostileServer
from callpool.licensing.alarm_table import DEFINITIONS
from callpool.licensing.capacity import Capacity
from callpool.licensing.order import SMART_ORDER
from callpool.wire.messages import CONTACT_PATH

DAY = 86_400.0


class Road(Hostile):
    """The way between device and manager; what goes over it can be cut, lost or altered."""

    def __init__(self, directory: Path, upstream: str) -> None:
        super().__init__(directory, upstream, share=0.0)
        #: Nothing reaches the manager.
        self.cut = False
        #: Contacts reach the manager, and their replies are lost.
        self.lose = False
        #: Replies to contacts come with another signature than the manager's.
        self.alter = False
        #: So many contacts get through; then the way is cut again. None: no limit.
        self.let_through: int | None = None

    def forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answered:
        contact = path == CONTACT_PATH
        if contact and self.let_through is not None:
            self.cut = self.let_through <= 0
            self.let_through -= 1
        if self.cut:
            raise OSError("cut")
        found = super().forward(method, path, headers, body)
        if contact and self.lose:
            raise OSError("lost")
        if contact and self.alter and found.status == 200:
            text, last = found.body[:-20], found.body[-20:]
            return Answered(found.status, found.content_type, text + last[::-1])
        return found


@contextmanager
def site_with_road(directory: Path) -> Iterator[tuple[Site, Road]]:
    """A site whose manager can be reached by way of a road as well (`by_road`)."""
    port = free_port()
    with site(directory, url=f"https://127.0.0.1:{port}") as made:
        road = Road(made.manager_directory, made.url)
        server = HostileServer(road, "127.0.0.1", port)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield made, road
        finally:
            server.shutdown()
            server.server_close()


def by_road(made: Site, device: Device) -> None:
    """Have a device that has not been started reach its manager by the road."""
    device.configure(manager=made.manager_options["url"])


class Watch:
    """One device's alarms as a network operations centre sees them: told, and in the tables."""

    def __init__(self, device: Device) -> None:
        self.receiver = TrapReceiver(device.site.directory / f"{device.name}.noc", device.serial)
        self.snmp = Snmp(device, targets=[{"address": self.receiver.address, "kind": "trap"}])

    def told(self, code: str) -> list[Notification]:
        """What came of the alarm that a condition belongs to."""
        oid = f".{DEFINITIONS[code].oid}"
        return [n for n in self.receiver.got() if n.oid == oid]

    def _rows(self, entry: str, code: str) -> list[dict[int, str]]:
        return [r for r in self.snmp.table(entry) if r[3] == f".{DEFINITIONS[code].oid}"]

    def raised(self, code: str) -> Notification:
        """Wait until a condition is told as the gravest of its alarm and stands in both tables."""
        severity = int(DEFINITIONS[code].severity)

        def told() -> bool:
            last = self.told(code)[-1:]
            return [(n.severity, _gravest(n.glob(8))) for n in last] == [(severity, code)]

        self._eventually(f"{code} to be told", told)
        for entry in (ACTIVE, HISTORY):
            self._eventually(
                f"{code} to stand in {entry}",
                lambda entry=entry: (
                    [  # type: ignore[misc]  # a lambda's default
                        (int(r[8]), _gravest(r[11])) for r in self._rows(entry, code)[-1:]
                    ]
                    == [(severity, code)]
                ),
            )
        return self.told(code)[-1]

    def cleared(self, code: str) -> None:
        """Wait until the alarm with that condition is told as over, and is active no more."""

        def told() -> bool:
            last = self.told(code)[-1:]
            return [(n.severity, code in n.glob(8)) for n in last] == [(0, True)]

        self._eventually(f"{code} to be told as cleared", told)
        self._eventually(f"{code} to leave the table", lambda: not self._rows(ACTIVE, code))
        self._eventually(
            f"the history to have {code} cleared",
            lambda: [r[8] for r in self._rows(HISTORY, code)[-1:]] == ["0"],
        )

    def _eventually(self, what: str, condition: Callable[[], bool]) -> None:
        try:
            eventually(condition)
        except AssertionError as error:
            said = [(n.oid[-6:], n.severity, n.glob(8)) for n in self.receiver.got() if len(n) > 2]
            raise AssertionError(f"{what}: {error}; told: {said[-12:]}") from None

    def close(self) -> None:
        self.receiver.stop()


def _gravest(codes: str) -> str:
    return codes.partition(",")[0]


def install_key(
    device: Device,
    *,
    counts: Capacity | None = None,
    maximum: Capacity | None = None,
    ends: float | None = None,
) -> None:
    """Let the vendor sign a newer local key and install it."""
    made = device.site
    _, envelope = made.vendor.key(
        serials=[device.serial],
        counts=Capacity.of(sbc_sessions=5, far_end_users=5) if counts is None else counts,
        maximum=maximum or Capacity.of(sbc_sessions=1000, far_end_users=1000),
        features=frozenset(),
        now=int(made.clock.now().wall),
        ends=None if ends is None else int(ends),
    )
    device.ask("key_install", envelope=envelope)


def buy_smart(made: Site, count: int) -> None:
    """Let the vendor sign an order of calls a second, and import it."""
    now = int(made.clock.now().wall)
    _, envelope = made.vendor.order(
        product_key=made.product_key,
        counts=Capacity.of(cps=count),
        starts=now - 10,
        ends=now + int(2000 * DAY),
        now=now,
        role=SMART_ORDER,
    )
    made.client.import_order(envelope.encode(), "/smart/orders?virtual_account=default")
