"""`pair.json` and `pair.secret`: what makes a device one unit of an HA pair."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import secrets
from pathlib import Path
from typing import Final

import msgspec

from callpool.device.errors import DeviceError
from callpool.device.gate.settings import PairGate
from callpool.host.files import write_durably
from callpool.licensing.errors import CallpoolError
from callpool.licensing.key import check_serial

#: UDP, between the units' Kamailios; TCP, between their cores.
SIP_PORT: Final = 5070
CORE_PORT: Final = 5071
#: VRRP's virtual router and the seconds between its advertisements.
ROUTER: Final = 51
ADVERT: Final = 0.3
#: Seconds that the other unit may be away, as for a restart of its machine.
PATIENCE: Final = 30.0

_SECRET = re.compile(r"[0-9a-f]{64}")
_INTERFACE = re.compile(r"[A-Za-z0-9_.-]{1,15}")
_PATH = re.compile(r"/[A-Za-z0-9_./@+-]*")


class PairSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`pair.json`. Raises DeviceError `bad_pair_settings` on what cannot be."""

    #: The other unit's serial number.
    peer_serial: str
    #: This unit's own address and the other's, on the way between them.
    address: str
    peer: str
    #: The service address with its prefix length, and the interface that it comes to.
    service: str
    interface: str
    #: UDP between the Kamailios, TCP between the cores; the same on both units.
    sip_port: int = SIP_PORT
    core_port: int = CORE_PORT
    #: VRRP's virtual router identifier, 1 to 255, of no other pair on the network.
    router: int = ROUTER
    #: Seconds between two advertisements, 0.1 to 0.5.
    advert: float = ADVERT
    #: Seconds that the other unit may be away before that is a fault, 5 to 600.
    patience: float = PATIENCE
    #: Where core and keepalived meet; on no disk that can fill. Empty: /run/callpool-pair-SERIAL.
    runtime: str = ""

    def __post_init__(self) -> None:
        """Check what a person may have typed."""
        try:
            check_serial(self.peer_serial)
            own, peer = ipaddress.ip_address(self.address), ipaddress.ip_address(self.peer)
            service = ipaddress.ip_interface(self.service)
        except (ValueError, CallpoolError) as error:
            raise _bad(f"{error}") from error
        if "/" not in self.service:
            raise _bad(f"The service address {self.service} lacks its prefix length, such as /24.")
        if len({own, peer, service.ip}) != 3:
            raise _bad("Each unit has an address of its own, and the service address is a third.")
        if not _INTERFACE.fullmatch(self.interface):
            raise _bad(f"{self.interface[:20]!r} is no network interface.")
        for port in (self.sip_port, self.core_port):
            if not 0 < port < 65536:
                raise _bad(f"{port} is no port.")
        if not 1 <= self.router <= 255:
            raise _bad("A virtual router identifier is a number from 1 to 255.")
        if not 0.1 <= self.advert <= 0.5:
            raise _bad("Advertisements are 0.1 to 0.5 seconds apart.")
        if not 5.0 <= self.patience <= 600.0:
            raise _bad("The other unit may be away for 5 to 600 seconds before that is a fault.")
        if self.runtime and not _PATH.fullmatch(self.runtime):
            raise _bad(f"{self.runtime[:60]!r} is no directory that keepalived can be told.")

    def runtime_of(self, serial: str) -> Path:
        """Return the directory where core and keepalived meet."""
        return Path(self.runtime or f"/run/callpool-pair-{serial}")

    def gate(self, secret: str) -> PairGate:
        """Return what the gate is told."""
        return PairGate(
            address=self.address,
            peer=self.peer,
            port=self.sip_port,
            secret=derived(secret, "operations"),
        )


def _bad(sentence: str) -> DeviceError:
    return DeviceError("bad_pair_settings", f"The pair's settings: {sentence}")


def derived(secret: str, purpose: str) -> str:
    """Return a key for one purpose, hex digits: no key serves two."""
    return hmac.new(
        bytes.fromhex(secret), f"callpool pair {purpose}".encode(), hashlib.sha256
    ).hexdigest()


def read_pair(file: Path) -> PairSettings | None:
    """Return the settings, None for a device of its own; raises DeviceError."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=PairSettings)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise _bad(f"{file}: {error}.") from error


def write_pair(file: Path, settings: PairSettings) -> None:
    """Write the settings; raises OSError."""
    write_durably(file, msgspec.json.format(msgspec.json.encode(settings)) + b"\n")


def read_secret(file: Path) -> str:
    """Return the pair's secret; raises DeviceError `no_pair_secret`."""
    try:
        text = file.read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        raise DeviceError(
            "no_pair_secret", f"The pair's secret {file} cannot be read: {error.strerror}."
        ) from error
    if not _SECRET.fullmatch(text):
        raise DeviceError("no_pair_secret", f"{file} does not hold a pair's secret, 64 hex digits.")
    return text


def write_secret(file: Path, text: str = "") -> None:
    """Write the pair's secret, mode 0600; a new one where none is given. Raises OSError."""
    write_durably(file, (text or secrets.token_hex(32)).encode() + b"\n")
