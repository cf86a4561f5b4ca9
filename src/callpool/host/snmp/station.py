"""The manager's side of SNMP: hears notifications, forwards them, walks tables.

pysnmp as it is would take a trap at any security level and at any time, and remember every
engine that is claimed to it; so before it is asked, and after, these are checked here:
- how many messages come (`limit.py`), and that the sender's engine is one that we know;
- that SNMPv3 came with authentication and privacy, and is not a replay (RFC 3414, 3.2.7b).
An inform is acknowledged when whoever takes it says so, not before.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pyasn1.type import univ
from pysnmp.carrier.asyncio.dgram import udp, udp6
from pysnmp.entity import config
from pysnmp.entity.engine import SnmpEngine
from pysnmp.entity.rfc3413 import cmdgen, ntforg, ntfrcv
from pysnmp.error import PySnmpError
from pysnmp.proto import rfc1905, rfc3411
from pysnmp.proto.api import v2c
from pysnmp.proto.rfc1902 import ObjectIdentifier, OctetString

from callpool.host.snmp.engine import INFORM_REPEATS, INFORM_TIMEOUT, Dispatcher, engine_id
from callpool.host.snmp.limit import Limiter
from callpool.host.snmp.notify import VarBinds
from callpool.host.snmp.settings import Target, User, ip_address
from callpool.host.snmp.trap import Binds, Oid, Plain
from callpool.host.snmp.usm import Sender, is_v3, sender
from callpool.licensing.errors import CallpoolError

_V1, _V2C, _V3 = 0, 2, 3
_AUTH_PRIV: Final = 3
#: Seconds by which a message may be older than the newest of its engine (RFC 3414, 2.2.3).
WINDOW: Final = 150
#: Rows of a reply to one question of a walk, and the seconds to wait for it, and how often.
_ROWS: Final = 20
_WALK_TIMEOUT: Final = 2.0
_WALK_REPEATS: Final = 2

_AUTH: Final = config.USM_AUTH_HMAC192_SHA256
_PRIVACY: Final = config.USM_PRIV_CFB128_AES
#: What the library counts: our name, and its own.
_COUNTED: Final = {
    "packets": ("__SNMPv2-MIB", "snmpInPkts"),
    "bad_version": ("__SNMPv2-MIB", "snmpInBadVersions"),
    "bad_community": ("__SNMPv2-MIB", "snmpInBadCommunityNames"),
    "malformed": ("__SNMPv2-MIB", "snmpInASNParseErrs"),
    "wrong_digest": ("__SNMP-USER-BASED-SM-MIB", "usmStatsWrongDigests"),
    "unknown_user": ("__SNMP-USER-BASED-SM-MIB", "usmStatsUnknownUserNames"),
    "not_in_time": ("__SNMP-USER-BASED-SM-MIB", "usmStatsNotInTimeWindows"),
    "bad_level": ("__SNMP-USER-BASED-SM-MIB", "usmStatsUnsupportedSecLevels"),
    "not_decrypted": ("__SNMP-USER-BASED-SM-MIB", "usmStatsDecryptionErrors"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One notification that was verified."""

    #: Where it came from: address and port.
    source: tuple[str, int]
    #: The SNMPv3 user, empty for v2c.
    user: str
    #: The sender's engine: of a trap proven, of an inform only claimed; empty for v2c.
    engine: bytes
    #: Whether it is an inform.
    confirmed: bool
    binds: Binds
    #: Acknowledges an inform, once it is taken.
    acknowledge: Callable[[], None]


class _Door(Dispatcher):
    """Looks at each datagram before the library does."""

    def __init__(self, station: Station) -> None:
        super().__init__()
        self._station = station
        #: What is being handled: where it came from, and its security parameters.
        self.source: tuple[str, int] = ("", 0)
        self.sender: Sender | None = None

    def receive_message(self, engine: Any, domain: Any, address: Any, message: bytes) -> Any:
        self.source, self.sender = (str(address[0]), int(address[1])), None
        if not self._station.admits(self, message):
            return b""
        return super().receive_message(engine, domain, address, message)


class _Receiver(ntfrcv.NotificationReceiver):  # type: ignore[misc]
    """Takes notifications; answers an inform later."""

    def __init__(self, engine: Any, station: Station) -> None:
        super().__init__(engine, lambda *_: None)
        self._station = station

    def process_pdu(
        self, engine: Any, model: Any, security: Any, name: Any, level: Any, context: Any,
        context_name: Any, version: Any, pdu: Any, room: Any, reference: Any,
    ) -> None:  # fmt: skip
        confirmed = pdu.tagSet in rfc3411.CONFIRMED_CLASS_PDUS

        def acknowledge() -> None:
            if not confirmed:
                return
            answer = v2c.apiPDU.get_response(pdu)
            v2c.apiPDU.set_error_status(answer, 0)
            v2c.apiPDU.set_error_index(answer, 0)
            v2c.apiPDU.set_varbinds(answer, v2c.apiPDU.get_varbinds(pdu))
            try:
                engine.message_dispatcher.return_response_pdu(
                    engine, model, security, name, level, context, context_name, version,
                    answer, room, reference, {},
                )  # fmt: skip
            except PySnmpError:
                self._station.counts["not_acknowledged"] += 1

        self._station.take(
            v3=int(security) == _V3,
            level=int(level),
            user=str(name),
            context=bytes(context),
            confirmed=confirmed,
            binds=v2c.apiPDU.get_varbinds(pdu),
            acknowledge=acknowledge,
        )


class Station:
    """One SNMP engine that listens for notifications. Make it inside a running event loop."""

    def __init__(
        self,
        *,
        listen: str,
        receives: bool,
        users: Sequence[User],
        community: str,
        identity: str,
        boots: int,
        targets: Sequence[Target],
        knows: Callable[[bytes], bool],
        received: Callable[[Received], None],
        limiter: Limiter | None = None,
    ) -> None:
        """Listen; `identity` makes the engine ID, `boots` counts its starts, this one included.

        `knows` tells whether an engine is one of a device of ours. Raises CallpoolError
        `snmp_address` where the address cannot be listened on.
        """
        self._knows, self._received = knows, received
        self._limiter = limiter or Limiter()
        self._users = {user.name: _master(user) for user in users}
        self._registered: set[tuple[bytes, str]] = set()
        self._newest: dict[bytes, tuple[int, int]] = {}
        self._walks = 0
        #: What was turned away here, by its name.
        self.counts: Counter[str] = Counter()
        #: Hears of each message that was turned away for its rate: the address.
        self.on_limited: Callable[[str], None] = lambda address: None
        self._door = _Door(self)
        self._engine = engine = SnmpEngine(msgAndPduDsp=self._door)
        self.engine_id = engine_id(identity)
        self._symbol("__SNMP-FRAMEWORK-MIB", "snmpEngineID").syntax = engine.snmpEngineID = (
            engine.snmpEngineID.clone(self.engine_id)
        )
        counted = self._symbol("__SNMP-FRAMEWORK-MIB", "snmpEngineBoots")
        counted.syntax = counted.syntax.clone(boots)
        del engine.message_processing_subsystems[_V1]
        address, port = ip_address(listen)
        self._domain = udp.DOMAIN_NAME if address.version == 4 else udp6.DOMAIN_NAME
        transport = (udp.UdpTransport if address.version == 4 else udp6.Udp6Transport)()
        try:
            config.add_transport(
                engine, self._domain, transport.open_server_mode((str(address), port))
            )
        except Exception as error:  # pysnmp wraps whatever the socket says
            raise CallpoolError(
                "snmp_address", f"SNMP cannot listen on {listen}: {error}"
            ) from error
        self._transport, self._listen = transport, listen
        for user in users:
            self._register(self.engine_id, user.name)
            config.add_vacm_user(engine, _V3, user.name, "authPriv", notifySubTree=(1, 3, 6))
        if community:
            config.add_v1_system(engine, "community", community)
            config.add_vacm_user(engine, _V2C, "community", "noAuthNoPriv", notifySubTree=(1, 3, 6))
        self._notifier = ntforg.NotificationOriginator()
        self._asker = cmdgen.BulkCommandGeneratorSingleRun()
        for number, target in enumerate(targets):
            self._add_target(f"target{number}", target.address, target.user, target.kind)
        if receives:
            _Receiver(engine, self)

    async def listening(self) -> None:
        """Return once the address is listened on; raises CallpoolError `snmp_address`."""
        try:
            await self._transport._lport
        except OSError as error:
            raise CallpoolError(
                "snmp_address", f"SNMP cannot listen on {self._listen}: {error.strerror or error}."
            ) from error

    def close(self) -> None:
        """Stop listening."""
        self._engine.close_dispatcher()

    def _symbol(self, module: str, name: str) -> Any:
        return self._engine.get_mib_builder().import_symbols(module, name)[0]

    def counters(self) -> dict[str, int]:
        """Return what was received and turned away since the start."""
        found = {name: int(self._symbol(*at).syntax) for name, at in _COUNTED.items()}
        return {**found, **self.counts}

    # -- users and engines

    def _register(self, engine: bytes, name: str) -> None:
        """Let a user speak for an engine."""
        auth, privacy = self._users[name]
        config.add_v3_user(
            self._engine, name, _AUTH, auth, _PRIVACY, privacy,
            securityEngineId=OctetString(engine),
            authKeyType=config.USM_KEY_TYPE_MASTER, privKeyType=config.USM_KEY_TYPE_MASTER,
        )  # fmt: skip
        self._registered.add((engine, name))

    # -- hearing

    def admits(self, door: _Door, message: bytes) -> bool:
        """Tell whether a datagram is worth decoding."""
        if not self._limiter.allows(door.source[0], time.monotonic()):
            self.counts["limited"] += 1
            self.on_limited(door.source[0])
            return False
        if not is_v3(message):
            return True
        try:
            door.sender = claimed = sender(message)
        except ValueError:
            self.counts["unreadable"] += 1
            return False
        if claimed.engine and claimed.engine != self.engine_id and claimed.user in self._users:
            # An answer to our own question is by an engine that the library has learned.
            new = (claimed.engine, claimed.user) not in self._registered
            if new and self._knows(claimed.engine):
                self._register(claimed.engine, claimed.user)
        return True

    def take(
        self, *, v3: bool, level: int, user: str, context: bytes, confirmed: bool, binds: Any,
        acknowledge: Callable[[], None],
    ) -> None:  # fmt: skip
        """Take a notification that the library has decoded and, where it asked, verified."""
        engine = b""
        if v3:
            claimed = self._door.sender
            if level != _AUTH_PRIV or claimed is None:
                # The library asks for a level only where it is the authoritative engine.
                self.counts["bad_level_of_trap"] += 1
                return
            engine = context
            if claimed.engine != self.engine_id:
                engine = claimed.engine
                newest = self._newest.get(engine, (0, 0))
                if (claimed.boots, claimed.time + WINDOW) < newest:
                    self.counts["replayed"] += 1
                    return
                self._newest[engine] = max(newest, (claimed.boots, claimed.time))
        plain = tuple((tuple(int(n) for n in name), _plain(value)) for name, value in binds)
        self._received(
            Received(
                source=self._door.source,
                user=user if v3 else "",
                engine=engine,
                confirmed=confirmed,
                binds=plain,
                acknowledge=acknowledge,
            )
        )

    # -- telling

    def _add_target(self, name: str, at: str, user: str, kind: str) -> None:
        address, port = ip_address(at)
        self._add_address(name, (str(address), port), user, INFORM_TIMEOUT, INFORM_REPEATS)
        config.add_notification_target(self._engine, name, name, name, kind)

    def _add_address(
        self, name: str, at: tuple[str, int], user: str, timeout: float, repeats: int
    ) -> None:
        if user:
            config.add_target_parameters(self._engine, name, user, "authPriv", 3)
        else:
            config.add_target_parameters(self._engine, name, "community", "noAuthNoPriv", 1)
        config.add_target_address(
            self._engine, name, self._domain, at, name,
            timeout=int(timeout * 100), retryCount=repeats, tagList=name,
        )  # fmt: skip

    async def send(self, number: int, kind: str, notification: VarBinds) -> bool:
        """Send to target `number`; return whether it is done with.

        A trap is, once sent; an inform, once acknowledged.
        """
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

        def heard(
            engine: Any, handle: Any, failure: Any, status: Any, index: Any, binds: Any, ctx: Any
        ) -> None:
            if not done.done():
                done.set_result(not failure)

        # Octets for no context: a string is another one for the library.
        self._notifier.send_varbinds(
            self._engine, f"target{number}", None, b"", notification, heard
        )
        return True if kind == "trap" else await done

    # -- asking

    async def walk(self, at: tuple[str, int], user: str, entry: Oid, most: int) -> dict[Oid, Plain]:
        """Return everything under `entry` at a device; without a user by v2c.

        Raises CallpoolError `walk_failed`; also where there are more than `most` values.
        """
        self._walks += 1
        name = f"walk{self._walks}"
        self._add_address(name, at, user, _WALK_TIMEOUT, _WALK_REPEATS)
        found: dict[Oid, Plain] = {}
        after = entry
        try:
            while True:
                for oid, value in await self._ask(name, after):
                    if oid[: len(entry)] != entry or value is None:
                        return found
                    if oid <= after or len(found) >= most:
                        raise CallpoolError("walk_failed", "The device's table has no end.")
                    found[oid] = value
                    after = oid
        finally:
            config.delete_target_address(self._engine, name)
            config.delete_target_parameters(self._engine, name)

    async def _ask(self, name: str, after: Oid) -> list[tuple[Oid, Plain]]:
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def heard(
            engine: Any, handle: Any, failure: Any, status: Any, index: Any, binds: Any, ctx: Any
        ) -> None:
            if not done.done():
                done.set_result((failure or status, binds))

        try:
            self._asker.send_varbinds(
                self._engine, name, None, b"", 0, _ROWS, [(ObjectIdentifier(after), v2c.null)],
                heard,
            )  # fmt: skip
        except PySnmpError as error:
            raise CallpoolError("walk_failed", f"The device cannot be asked: {error}.") from error
        failure, binds = await done
        if failure or not binds:
            raise CallpoolError("walk_failed", f"The device does not answer: {failure}.")
        return [(tuple(int(n) for n in oid), _plain(value)) for oid, value in binds]


def _master(user: User) -> tuple[Any, Any]:
    """Return a user's keys before they are bound to an engine: a megabyte is hashed for each."""
    auth = config.AUTH_SERVICES[_AUTH].hash_passphrase(OctetString(user.auth_secret))
    privacy = config.PRIV_SERVICES[_PRIVACY].hash_passphrase(
        _AUTH, OctetString(user.privacy_secret)
    )
    return auth, privacy


def _plain(value: Any) -> Plain:
    """Return a value as Python has it; None where there is none."""
    if isinstance(value, rfc1905.EndOfMibView | rfc1905.NoSuchObject | rfc1905.NoSuchInstance):
        return None
    if isinstance(value, univ.ObjectIdentifier):
        return tuple(int(n) for n in value)
    if isinstance(value, univ.OctetString):
        return bytes(value)
    try:
        return int(value)
    except (TypeError, ValueError):
        return None


__all__ = ["WINDOW", "Received", "Station"]
