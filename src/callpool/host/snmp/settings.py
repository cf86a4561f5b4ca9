"""`snmp.json`: who may read and who is told. It holds secrets: mode 0600, never in a log."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Final, Literal

import msgspec

from callpool.host.addresses import address
from callpool.host.files import write_durably
from callpool.licensing.errors import CallpoolError

#: Where the agent listens unless told otherwise: SNMP's own port.
DEFAULT_LISTEN: Final = "0.0.0.0:161"
#: The shortest secret, in characters (RFC 3414, 11.2).
SHORTEST: Final = 8


class User(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One SNMPv3 user: authPriv with HMAC-SHA-256 (RFC 7860) and AES-128 (RFC 3826)."""

    name: str
    auth_secret: str
    privacy_secret: str

    def __post_init__(self) -> None:
        """Check it; raises CallpoolError `bad_snmp_user`."""
        if not 1 <= len(self.name) <= 32 or not self.name.isprintable():
            raise CallpoolError("bad_snmp_user", "A user's name has 1 to 32 characters.")
        if min(len(self.auth_secret), len(self.privacy_secret)) < SHORTEST:
            raise CallpoolError(
                "bad_snmp_user",
                f"The secrets of user {self.name} have at least {SHORTEST} characters each.",
            )

    def __repr__(self) -> str:
        """Show the name only."""
        return f"User({self.name})"


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One receiver of notifications."""

    #: IP address and port; names are not looked up.
    address: str
    kind: Literal["trap", "inform"] = "trap"
    #: The SNMPv3 user to send as; empty: v2c with the community.
    user: str = ""

    def __post_init__(self) -> None:
        """Check it; raises CallpoolError `bad_address`."""
        ip_address(self.address)


class SnmpSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    listen: str = DEFAULT_LISTEN
    users: tuple[User, ...] = ()
    #: With a community v2c is served too; without one it is not.
    community: str = ""
    targets: tuple[Target, ...] = ()
    contact: str = ""
    location: str = ""

    def __post_init__(self) -> None:
        """Check it; raises CallpoolError `bad_address`, `bad_snmp_settings`."""
        family = ip_address(self.listen)[0].version
        names = [u.name for u in self.users]
        if len(set(names)) != len(names):
            raise CallpoolError("bad_snmp_settings", "Two users have the same name.")
        if not self.users and not self.community:
            raise CallpoolError("bad_snmp_settings", "Name a user, or a community for v2c.")
        for target in self.targets:
            if target.user and target.user not in names:
                raise CallpoolError(
                    "bad_snmp_settings", f"Target {target.address} names no user of this file."
                )
            if not target.user and not self.community:
                raise CallpoolError(
                    "bad_snmp_settings",
                    f"Target {target.address} has no user, and there is no community for v2c.",
                )
            if ip_address(target.address)[0].version != family:
                raise CallpoolError(
                    "bad_snmp_settings",
                    f"Target {target.address} and the listen address are not of one IP version.",
                )

    def __repr__(self) -> str:
        """Show no secret: the community is one."""
        return f"SnmpSettings({self.listen})"


IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def ip_address(text: str) -> tuple[IpAddress, int]:
    """Split `ip:port` or `[ip6]:port`; raises CallpoolError `bad_address`."""
    host, port = address(text)
    try:
        return ipaddress.ip_address(host), port
    except ValueError as error:
        raise CallpoolError("bad_address", f"{host[:60]!r} is not an IP address.") from error


def read_settings(file: Path) -> SnmpSettings:
    """Read the settings; raises CallpoolError `bad_snmp_settings` (never with their content)."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=SnmpSettings)
    except FileNotFoundError as error:
        raise CallpoolError("bad_snmp_settings", f"{file}: there is no such file.") from error
    except msgspec.DecodeError as error:
        raise CallpoolError("bad_snmp_settings", f"{file}: {error}.") from error


def write_settings(file: Path, settings: SnmpSettings) -> None:
    """Write the settings, mode 0600; raises OSError."""
    write_durably(file, msgspec.json.format(msgspec.json.encode(settings)) + b"\n")
