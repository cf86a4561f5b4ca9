"""`GateSettings`: what one gate is told, checked before any of it reaches a config file."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal

import msgspec

from callpool.licensing.errors import CallpoolError

#: The answers that a refusal may have.
REFUSAL_CODES: Final = (500, 503, 480, 403)

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,252}[A-Za-z0-9])?")
_USER = re.compile(r"[A-Za-z0-9_.+-]{1,64}")
_HA1 = re.compile(r"[0-9a-f]{32}")
_PREFIX = re.compile(r"\+?[0-9*#]{1,32}")
_PATH = re.compile(r"/[A-Za-z0-9_./@+-]*")
_SECRET = re.compile(r"[0-9a-f]{32,128}")
_WORD = re.compile(r"[a-z][a-z0-9_]{0,40}")


class GateError(CallpoolError):
    """The gate cannot be set up or driven; the code says why."""


class Destination(msgspec.Struct, frozen=True, kw_only=True):
    """Where calls go: a fixed next hop."""

    #: A host name or address (IPv6 in brackets).
    host: str
    port: int = 5060
    transport: Literal["udp", "tcp", "tls"] = "udp"
    #: Dialled numbers that begin so go here; the empty prefix is the default route.
    prefix: str = ""


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """How one reason is answered."""

    #: One of REFUSAL_CODES.
    code: int = 503
    #: Seconds of `Retry-After`, None for no such header: by RFC 3261 it tells the peer to send
    #: nothing at all for that time.
    retry_after: int | None = None


class PairGate(msgspec.Struct, frozen=True, kw_only=True):
    """The other unit of an HA pair, as the gate tells it what it does."""

    #: This unit's own address, and the other's: never the service address.
    address: str
    peer: str
    #: The UDP port of both units' Kamailios for one another.
    port: int = 5070
    #: What proves an operation: hex digits, the same on both units; a secret.
    secret: str

    def __repr__(self) -> str:
        """Show no secret."""
        return f"PairGate({self.address}, {self.peer}, {self.port})"

    @property
    def socket(self) -> str:
        """Return the listen address of this unit."""
        return f"udp:{_bracketed(self.address)}:{self.port}"

    @property
    def peer_uri(self) -> str:
        """Return where the other unit's Kamailio is told."""
        return f"sip:{_bracketed(self.peer)}:{self.port}"


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


class GateSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the driver of one gate needs; see `docs/gate.md`.

    Raises GateError `bad_gate_settings` when built with a value that could not stand in a
    Kamailio configuration as what it is meant to be.
    """

    #: Where the gate keeps its files (configuration, seed, journal, sockets, log).
    directory: str
    #: `udp:ADDRESS:PORT`, `tcp:...`, `tls:...`; at least one of them udp.
    listen: tuple[str, ...]
    #: Addresses or networks whose calls need no digest.
    trusted_peers: tuple[str, ...] = ()
    destinations: tuple[Destination, ...] = ()
    #: Far-end users: name to HA1 (MD5 of `name:realm:password`, 32 hex digits).
    users: Mapping[str, str] = {}
    realm: str = "callpool"
    emergency: bool = True
    emergency_numbers: tuple[str, ...] = ("112", "911")
    #: Reason code to answer; a reason that is not named is answered with 503.
    refusals: Mapping[str, Refusal] = {}
    #: SIP worker processes per listen address.
    workers: int = 4
    shared_memory_mb: int = 256
    #: A call older than this, in seconds, is taken for dead.
    max_call_seconds: int = 43_200
    #: Contacts per address of record.
    max_contacts: int = 8
    #: Bounds of a registration's life, in seconds.
    min_expires: int = 60
    max_expires: int = 3600
    #: Seconds between two looks for expired contacts.
    expiry_interval: int = 2
    #: Calls per second: how far calls may bunch, in milliseconds. At N calls a second no
    #: second sees more than N + N * cps_burst_ms / 1000 + 1.
    cps_burst_ms: int = 200
    #: A caller who was refused so many seconds before or less is a repeat, for the statistics.
    repeat_seconds: int = 30
    #: Requests in 2 s from one address that is no trusted peer before it is ignored; 0: no limit.
    flood_limit: int = 0
    #: How long a next hop may take to answer at all, and to answer the call, in milliseconds.
    reply_timeout_ms: int = 5_000
    ring_timeout_ms: int = 120_000
    tls_certificate: str = ""
    tls_private_key: str = ""
    tls_ca: str = ""
    #: What signs the Record-Route: hex digits; kept by the device across restarts.
    mac_secret: str
    #: Trust only the MAC in a dialog, not a live Call-ID alone.
    mac_only: bool = False
    #: The name in `Warning: 399`.
    host: str = "callpool"
    mode: Literal["child", "external"] = "child"
    #: How an external Kamailio is restarted, such as ("systemctl", "restart", "kamailio").
    restart_command: tuple[str, ...] = ()
    #: The program, for a Kamailio that is not on the path.
    kamailio: str = "kamailio"
    #: The other unit of an HA pair; None for a device of its own.
    pair: PairGate | None = None

    def __post_init__(self) -> None:
        """Check every value that is rendered in a configuration file."""
        _check(self)

    @property
    def path(self) -> Path:
        """Return the directory as a path."""
        return Path(self.directory)


def _bad(sentence: str) -> GateError:
    return GateError("bad_gate_settings", sentence)


def parse_listen(text: str) -> tuple[str, str, int]:
    """Return (transport, address without brackets, port) of a listen address.

    Raises GateError `bad_gate_settings`.
    """
    match = re.fullmatch(r"(udp|tcp|tls):(\[[0-9a-fA-F:]+\]|[0-9.]+):([0-9]{1,5})", text)
    if match is None or not 0 < int(match[3]) < 65536:
        raise _bad(f"{text[:60]!r} is not a listen address such as udp:192.0.2.1:5060.")
    address = match[2].strip("[]")
    try:
        ipaddress.ip_address(address)
    except ValueError as exc:
        raise _bad(f"{address[:60]!r} is not an IP address.") from exc
    return match[1], address, int(match[3])


def _whole(what: str, value: int, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _bad(f"{what} is a whole number from {low} to {high}, not {str(value)[:40]!r}.")


def _match(what: str, pattern: re.Pattern[str], value: str) -> None:
    if not pattern.fullmatch(value):
        raise _bad(f"{what} {value[:60]!r} holds characters that cannot stand there.")


def _check(s: GateSettings) -> None:
    _match("The directory", _PATH, s.directory)
    # A Unix socket's path has 108 bytes, and the longest name in the directory takes 20.
    if len(s.directory) > 84:
        raise _bad(f"The directory {s.directory!r} is longer than 84 characters; use a shorter.")
    if not any(parse_listen(a)[0] == "udp" for a in s.listen):
        raise _bad("The gate needs at least one udp listen address.")
    for peer in s.trusted_peers:
        try:
            ipaddress.ip_network(peer)
        except ValueError as exc:
            raise _bad(f"{peer[:60]!r} is not an address or a network.") from exc
    for d in s.destinations:
        if d.host.startswith("["):
            parse_listen(f"udp:{d.host}:1")
        else:
            _match("The destination", _HOST, d.host)
        _whole("A destination's port", d.port, 1, 65535)
        if d.prefix:
            _match("The prefix", _PREFIX, d.prefix)
    for name, ha1 in s.users.items():
        _match("The user", _USER, name)
        _match("The HA1 of a user", _HA1, ha1)
    _match("The realm", _HOST, s.realm)
    _match("The host name", _HOST, s.host)
    for number in s.emergency_numbers:
        _match("The emergency number", _PREFIX, number)
    for reason, refusal in s.refusals.items():
        _match("The reason", _WORD, reason)
        if refusal.code not in REFUSAL_CODES:
            raise _bad(f"A refusal's code is one of {REFUSAL_CODES}, not {refusal.code}.")
        if refusal.retry_after is not None:
            _whole("Retry-After", refusal.retry_after, 1, 86_400)
    _whole("The number of workers", s.workers, 1, 64)
    _whole("The shared memory in MB", s.shared_memory_mb, 32, 65_536)
    _whole("The longest call in seconds", s.max_call_seconds, 2, 864_000)
    _whole("The most contacts", s.max_contacts, 1, 32)
    _whole("The shortest registration", s.min_expires, 1, 86_400)
    _whole("The longest registration", s.max_expires, s.min_expires, 864_000)
    _whole("The expiry interval", s.expiry_interval, 1, 60)
    _whole("The burst in milliseconds", s.cps_burst_ms, 0, 1000)
    _whole("The seconds of a repeat", s.repeat_seconds, 1, 3600)
    _whole("The flood limit", s.flood_limit, 0, 100_000)
    _whole("The reply timeout", s.reply_timeout_ms, 500, 60_000)
    _whole("The ring timeout", s.ring_timeout_ms, 1_000, 600_000)
    for path in (s.tls_certificate, s.tls_private_key, s.tls_ca):
        if path:
            _match("The path", _PATH, path)
    _match("The MAC secret", _SECRET, s.mac_secret)
    if any(a.startswith("tls:") for a in s.listen) and not (
        s.tls_certificate and s.tls_private_key
    ):
        raise _bad("A tls listen address needs tls_certificate and tls_private_key.")
    if s.pair is not None:
        parse_listen(s.pair.socket)
        parse_listen(f"udp:{_bracketed(s.pair.peer)}:{s.pair.port}")
        _match("The pair's secret", _SECRET, s.pair.secret)
        if s.pair.address == s.pair.peer:
            raise _bad("The two units of a pair have an address each.")
    if s.mode == "external" and not s.restart_command:
        raise _bad("An external Kamailio needs a restart_command.")
