"""`snmp.json` and `syslog.json` of a manager: who may speak to it, and whom it tells.

Both hold secrets or name their files: mode 0600, never in a log.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, TypeVar

import msgspec

from callpool.host.files import write_durably
from callpool.host.snmp.settings import Target, User, ip_address
from callpool.host.syslog.target import SyslogTarget
from callpool.licensing.alarm_table import Severity
from callpool.licensing.errors import CallpoolError

#: Where notifications are listened for unless told otherwise: the standard's port.
DEFAULT_LISTEN: Final = "0.0.0.0:162"
#: SNMP's own port, where a device is asked.
ASK_PORT: Final = 161
#: The vendor's prefix of notifications.
PREFIX: Final = "1.3.6.1.4.1.5003.9.10.1.21"

Level = Literal["indeterminate", "warning", "minor", "major", "critical"]
S = TypeVar("S")


class Speaker(User, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An SNMPv3 user, and the units that it may speak for; none named: any listed unit."""

    serials: tuple[str, ...] = ()


class DeviceEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is known of one unit's SNMP; what is left out is not asked for."""

    serial: str
    #: Its IP address, with the port where it is asked if that is not 161. Notifications in its
    #: name come from this address only.
    address: str = ""
    #: The user that notifications in its name come by.
    user: str = ""
    #: The user that it is asked as, instead of `ask_user`.
    ask_user: str = ""
    #: The engine that its traps are signed by, in hexadecimal, where it is no callpool device.
    engine_id: str = ""
    #: DeviceDescription of what is forwarded.
    description: str = ""

    def __post_init__(self) -> None:
        """Check it; raises CallpoolError `bad_address`, `bad_snmp_settings`."""
        if self.address:
            self.asked_at()
        try:
            long = len(bytes.fromhex(self.engine_id))
        except ValueError:
            long = -1
        if self.engine_id and not 5 <= long <= 32:
            raise CallpoolError(
                "bad_snmp_settings",
                f"The engine ID of {self.serial} is not 5 to 32 bytes in hexadecimal.",
            )

    def asked_at(self) -> tuple[str, int]:
        """Return the address and port where it is asked."""
        text = self.address
        if text.count(":") == 0 or (text.count(":") > 1 and not text.startswith("[")):
            text = f"[{text}]:{ASK_PORT}" if ":" in text else f"{text}:{ASK_PORT}"
        elif text.startswith("[") and text.endswith("]"):
            text = f"{text}:{ASK_PORT}"
        host, port = ip_address(text)
        return str(host), port


class Filtered(msgspec.Struct, frozen=True, kw_only=True):
    """What of all alarms a target is told."""

    #: From this severity on; an alarm that was graver once is told to its end.
    severity: Level = "indeterminate"
    #: Only of these tenants; none named: of all, and the manager's own.
    tenants: tuple[str, ...] = ()

    def wants(self, worst: int, tenant: str) -> bool:
        """Tell whether an alarm whose gravest was `worst` is told."""
        least = Severity[self.severity.upper()]
        return worst >= least and (not self.tenants or tenant in self.tenants)


class SnmpTarget(Target, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A receiver of what is forwarded by SNMP."""

    filter: Filtered = Filtered()

    @property
    def name(self) -> str:
        """What its position is kept under: a target that is changed begins anew."""
        return f"snmp {self.kind} {self.address}"


class ForwardSyslog(SyslogTarget, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A receiver of what is forwarded by syslog."""

    filter: Filtered = Filtered()

    @property
    def name(self) -> str:
        """What its position is kept under."""
        return f"syslog {self.transport} {self.address}"


class StationSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of `snmp.json`."""

    #: Where notifications are listened for; empty: nowhere, alarms are only forwarded.
    listen: str = DEFAULT_LISTEN
    users: tuple[Speaker, ...] = ()
    #: With a community v2c is taken too, from the addresses in `devices` alone.
    community: str = ""
    #: Prefixes of notifications, as set on the devices.
    prefixes: tuple[str, ...] = (PREFIX,)
    #: The user that devices are asked as for their active alarms; empty: they are not asked.
    ask_user: str = ""
    devices: tuple[DeviceEntry, ...] = ()
    targets: tuple[SnmpTarget, ...] = ()

    def __post_init__(self) -> None:
        """Check it; raises CallpoolError `bad_address`, `bad_snmp_settings`."""
        names = [u.name for u in self.users]
        serials = [d.serial for d in self.devices]
        told = [t.name for t in self.targets]
        for several, what in ((names, "users"), (serials, "devices"), (told, "targets")):
            if len(set(several)) != len(several):
                raise _bad(f"Two {what} are the same.")
        if not names and not self.community:
            raise _bad("Name a user, or a community for v2c.")
        wanted = {
            self.ask_user, *(d.user for d in self.devices), *(d.ask_user for d in self.devices),
            *(t.user for t in self.targets),
        }  # fmt: skip
        for name in sorted(wanted - {"", *names}):
            raise _bad(f"{name[:40]!r} is no user of this file.")
        if any(not t.user for t in self.targets) and not self.community:
            raise _bad("A target has no user, and there is no community for v2c.")
        for prefix in self.prefixes:
            if not all(part.isdecimal() for part in prefix.split(".")):
                raise _bad(f"{prefix[:60]!r} is no prefix of an OID.")
        families = {ip_address(a)[0].version for a in (self.listen, *(t.address for t in
                    self.targets)) if a}  # fmt: skip
        if len(families) > 1:
            raise _bad("Targets and the listen address are not of one IP version.")

    def __repr__(self) -> str:
        """Show no secret."""
        return f"StationSettings({self.listen})"

    @property
    def asks(self) -> bool:
        """Whether any device is asked for its alarms."""
        known = any(d.address for d in self.devices)
        return bool(
            self.ask_user or any(d.ask_user for d in self.devices) or (self.community and known)
        )

    @property
    def bound_to(self) -> str:
        """Where the engine listens, for answers at least."""
        if self.listen:
            return self.listen
        v6 = any(ip_address(t.address)[0].version == 6 for t in self.targets)
        return "[::]:0" if v6 else "0.0.0.0:0"


class SyslogSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of `syslog.json`."""

    targets: tuple[ForwardSyslog, ...] = ()

    def __post_init__(self) -> None:
        """Check it; raises CallpoolError `bad_syslog_target`."""
        names = [t.name for t in self.targets]
        if len(set(names)) != len(names):
            raise CallpoolError("bad_syslog_target", "Two targets are the same.")


def _bad(sentence: str) -> CallpoolError:
    return CallpoolError("bad_snmp_settings", sentence)


def read_settings(file: Path, kind: type[S]) -> S:
    """Read a settings file; raises CallpoolError `bad_snmp_settings` (never with its content)."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except FileNotFoundError as error:
        raise _bad(f"{file}: there is no such file.") from error
    except msgspec.DecodeError as error:
        raise _bad(f"{file}: {error}.") from error


def write_settings(file: Path, settings: object) -> None:
    """Write a settings file, mode 0600; raises OSError."""
    write_durably(file, msgspec.json.format(msgspec.json.encode(settings)) + b"\n")
