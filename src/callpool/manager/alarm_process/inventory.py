"""Which units there are, and who may speak for them.

What an attacker with trap credentials can do is raise and clear alarms in the name of the units
that the credentials are good for: no license depends on an alarm.
"""

from __future__ import annotations

from collections import OrderedDict

from callpool.host.snmp.engine import engine_id
from callpool.host.snmp.station import Received
from callpool.manager.snmp_settings import DeviceEntry, StationSettings
from callpool.manager.store.tx import Tx

#: Addresses that are remembered as those of units.
_MOST_ADDRESSES = 10_000


def listed(tx: Tx) -> list[str]:
    """Return the serial numbers of the units in the inventory."""
    rows = tx.rows(
        "SELECT u.serial FROM unit u JOIN device d ON d.device_id = u.device_id"
        " WHERE u.state = 'active' AND d.removed_at IS NULL"
    )
    return [r["serial"] for r in rows]


class Inventory:
    """The units, and what the settings say of their SNMP."""

    def __init__(self, settings: StationSettings) -> None:
        """Know no unit yet: `refresh` says which there are."""
        self.entries = {entry.serial: entry for entry in settings.devices}
        self._speakers = {user.name: frozenset(user.serials) for user in settings.users}
        self._engine_of: dict[str, bytes] = {}
        self._serials: frozenset[str] = frozenset()
        self._engines: dict[bytes, str] = {}
        self._addresses: OrderedDict[str, set[str]] = OrderedDict()
        self._fixed: dict[str, set[str]] = {}
        for entry in settings.devices:
            if entry.address:
                self._fixed.setdefault(entry.asked_at()[0], set()).add(entry.serial)

    def refresh(self, serials: list[str]) -> None:
        """Take the units that there are."""
        if len(serials) == len(self._serials) and self._serials.issuperset(serials):
            return
        self._serials = frozenset(serials)
        self._engine_of = {s: self._engine_of.get(s) or engine_id(s) for s in serials}
        self._engines = {engine: s for s, engine in self._engine_of.items()}
        for entry in self.entries.values():
            if entry.engine_id and entry.serial in self._serials:
                self._engines[bytes.fromhex(entry.engine_id)] = entry.serial

    def knows_engine(self, engine: bytes) -> bool:
        """Tell whether an engine is that of a unit."""
        return engine in self._engines

    def entry(self, serial: str) -> DeviceEntry:
        """Return what the settings say of a unit."""
        return self.entries.get(serial) or DeviceEntry(serial=serial)

    def units_at(self, address: str) -> set[str]:
        """Return the units that are known to speak from an address."""
        return self._fixed.get(address) or self._addresses.get(address) or set()

    def speaker(self, received: Received, named: str) -> tuple[str, str]:
        """Return the unit that a notification speaks for, and why it is refused ('' for not).

        `named` is the serial number that it carries, empty where it carries none.
        """
        by_engine = self._engines.get(received.engine, "")
        address = received.source[0]
        serial = named or by_engine
        if not serial:
            there = self.units_at(address)
            serial = next(iter(there)) if len(there) == 1 else ""
        if serial not in self._serials:
            return "", "unknown_unit"
        entry = self.entry(serial)
        if entry.address and entry.asked_at()[0] != address:
            return "", "wrong_sender"
        if not received.user:
            # A community is no proof of anything: the address at least has to be the unit's.
            return (serial, "") if entry.address else ("", "wrong_sender")
        allowed = self._speakers.get(received.user, frozenset())
        if (
            (allowed and serial not in allowed)
            or (entry.user and entry.user != received.user)
            # A trap is signed by its sender's engine, and that is another unit's.
            or (not received.confirmed and by_engine and by_engine != serial)
        ):
            return "", "wrong_sender"
        self._learn(address, serial)
        return serial, ""

    def _learn(self, address: str, serial: str) -> None:
        there = self._addresses.setdefault(address, set())
        if len(there) < 100:
            there.add(serial)
        self._addresses.move_to_end(address)
        if len(self._addresses) > _MOST_ADDRESSES:
            self._addresses.popitem(last=False)
