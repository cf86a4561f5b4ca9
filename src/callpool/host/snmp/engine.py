"""The SNMP engine: pysnmp with our users, our objects and our receivers.

pysnmp is not typed; what crosses to it is `Any`, and it is used in this file and `writing.py`
alone (the value types apart). v1 is not spoken. Nothing can be written but the switches that an
agent names, and those by a v3 user only: a community is read by whoever sees one packet.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, Final

from pysnmp.carrier.asyncio.dgram import udp, udp6
from pysnmp.entity import config
from pysnmp.entity.engine import SnmpEngine
from pysnmp.entity.rfc3413 import cmdrsp, context, ntforg
from pysnmp.proto import rfc1905
from pysnmp.proto.rfc3412 import MsgAndPduDispatcher
from pysnmp.smi.error import NoAccessError, NotWritableError
from pysnmp.smi.instrum import AbstractMibInstrumController

from callpool.host.snmp.notify import VarBinds
from callpool.host.snmp.settings import SnmpSettings, Target, ip_address
from callpool.host.snmp.values import Oid, Value, View
from callpool.host.snmp.writing import SetResponder, Writable
from callpool.licensing.errors import CallpoolError

#: Seconds before an inform is repeated, and how often, before `notify.Receiver` waits longer.
INFORM_TIMEOUT: Final = 2.0
INFORM_REPEATS: Final = 1

_NO_AUTH, _AUTH_PRIV = 1, 3
_EVERYTHING, _SWITCHES, _NOTHING = "everything", "switches", "nothing"
_SNMP_V1, _V2C, _V3 = 0, 2, 3
#: Octets: a string is another context for the library, and the notification is lost.
_NO_CONTEXT: Final = b""
_ALL: Final[Oid] = (1, 3, 6)
#: Counters of the engine itself that are served: module and name in pysnmp's own tree.
_COUNTERS: Final = (
    ("__SNMPv2-MIB", "snmpInPkts"),
    ("__SNMPv2-MIB", "snmpInBadVersions"),
    ("__SNMPv2-MIB", "snmpInBadCommunityNames"),
    ("__SNMPv2-MIB", "snmpInBadCommunityUses"),
    ("__SNMPv2-MIB", "snmpInASNParseErrs"),
    ("__SNMPv2-MIB", "snmpSilentDrops"),
    ("__SNMP-FRAMEWORK-MIB", "snmpEngineID"),
    ("__SNMP-FRAMEWORK-MIB", "snmpEngineBoots"),
    ("__SNMP-FRAMEWORK-MIB", "snmpEngineTime"),
    ("__SNMP-FRAMEWORK-MIB", "snmpEngineMaxMessageSize"),
    ("__SNMP-USER-BASED-SM-MIB", "usmStatsUnsupportedSecLevels"),
    ("__SNMP-USER-BASED-SM-MIB", "usmStatsNotInTimeWindows"),
    ("__SNMP-USER-BASED-SM-MIB", "usmStatsUnknownUserNames"),
    ("__SNMP-USER-BASED-SM-MIB", "usmStatsUnknownEngineIDs"),
    ("__SNMP-USER-BASED-SM-MIB", "usmStatsWrongDigests"),
    ("__SNMP-USER-BASED-SM-MIB", "usmStatsDecryptionErrors"),
)


def engine_id(serial: str) -> bytes:
    """Return the engine's ID: always the same for a serial number (RFC 3411, format 5)."""
    return b"\x80\x00\x7e\xd9\x05" + hashlib.sha256(serial.encode()).digest()[:12]


class Dispatcher(MsgAndPduDispatcher):  # type: ignore[misc]
    """Drops and counts what the library stumbles over: a flood of it fills no log."""

    def receive_message(self, engine: Any, *message: Any) -> Any:
        """Take one datagram."""
        try:
            return super().receive_message(engine, *message)
        except Exception:  # a malformed packet raises whatever it broke
            (errors,) = engine.get_mib_builder().import_symbols(
                "__SNMPv2-MIB", "snmpInASNParseErrs"
            )
            errors.syntax += 1
            return b""


class Objects(AbstractMibInstrumController):  # type: ignore[misc]
    """Answers GET, GETNEXT and GETBULK from the view of now; refuses SET (see `writing.py`)."""

    def __init__(self, view: Callable[[], View]) -> None:
        """Read from what `view` returns."""
        self._view = view

    def read_variables(self, *asked: Any, **context: Any) -> list[tuple[Any, Any]]:
        """Return the value of each OID that is asked for."""
        view, found = self._view(), []
        for index, (name, value) in enumerate(asked):
            oid = tuple(name)
            if not self._allowed(oid, value, index, context):
                found.append((name, rfc1905.noSuchObject))
                continue
            held = view.get(oid)
            if held is None:
                missing = rfc1905.noSuchInstance if view.is_object(oid) else rfc1905.noSuchObject
                found.append((name, missing))
            else:
                found.append((name, held))
        return found

    def read_next_variables(self, *asked: Any, **context: Any) -> list[tuple[Any, Any]]:
        """Return the first object after each OID that is asked for."""
        view = self._view()
        found: list[tuple[Any, Any]] = []
        for index, (name, value) in enumerate(asked):
            oid: Oid | None = tuple(name)
            while oid is not None:
                oid = view.next_after(oid)
                if oid is not None and self._allowed(oid, value, index, context):
                    break
            found.append((name, rfc1905.endOfMibView) if oid is None else (oid, view.get(oid)))
        return found

    def write_variables(self, *asked: Any, **_: Any) -> list[tuple[Any, Any]]:
        """Refuse."""
        raise NotWritableError(name=asked[0][0], idx=0)

    @staticmethod
    def _allowed(oid: Oid, value: Any, index: int, context: dict[str, Any]) -> bool:
        """Ask the access control (VACM); raises what it raises for no access at all."""
        try:
            hidden = context["acFun"](
                "read", (oid, value), idx=index, snmpEngine=context["snmpEngine"]
            )
        except NoAccessError:
            return False
        return not hidden


class Engine:
    """One SNMP engine on one address. Make it inside a running event loop."""

    def __init__(
        self,
        settings: SnmpSettings,
        *,
        serial: str,
        boots: int,
        view: Callable[[], View],
        writable: Writable | None = None,
    ) -> None:
        """Listen; `boots` is how often this engine has been started, this one included.

        What is `writable` v3 users may write; None for nothing.

        Raises CallpoolError `snmp_address` where the address cannot be listened on.
        """
        self._engine = engine = SnmpEngine(msgAndPduDsp=Dispatcher())
        # Set here and not by the constructor: that would keep the count in the system's
        # temporary directory.
        self._symbol("__SNMP-FRAMEWORK-MIB", "snmpEngineID").syntax = engine.snmpEngineID = (
            engine.snmpEngineID.clone(engine_id(serial))
        )
        counted = self._symbol("__SNMP-FRAMEWORK-MIB", "snmpEngineBoots")
        counted.syntax = counted.syntax.clone(boots)
        del engine.message_processing_subsystems[_SNMP_V1]
        address, port = ip_address(settings.listen)
        self._domain = udp.DOMAIN_NAME if address.version == 4 else udp6.DOMAIN_NAME
        transport = (udp.UdpTransport if address.version == 4 else udp6.Udp6Transport)()
        try:
            config.add_transport(
                engine, self._domain, transport.open_server_mode((str(address), port))
            )
        except Exception as error:  # pysnmp wraps whatever the socket says
            raise CallpoolError(
                "snmp_address", f"SNMP cannot listen on {settings.listen}: {error}"
            ) from error
        self._transport = transport
        self._add_users(settings, writable)
        self._notifier = ntforg.NotificationOriginator()
        for number, target in enumerate(settings.targets):
            self._add_target(number, target, settings.community)
        here = context.SnmpContext(engine, engine.snmpEngineID)
        here.context_names[b""] = Objects(view)
        for responder in (
            cmdrsp.GetCommandResponder,
            cmdrsp.NextCommandResponder,
            cmdrsp.BulkCommandResponder,
        ):
            responder(engine, here)
        self._setting = SetResponder(engine, here, writable) if writable else None
        if writable is None:
            cmdrsp.SetCommandResponder(engine, here)

    async def listening(self) -> None:
        """Return once the address is listened on; raises CallpoolError `snmp_address`."""
        try:
            await self._transport._lport
        except OSError as error:
            raise CallpoolError("snmp_address", f"SNMP cannot listen: {error}.") from error

    def _symbol(self, module: str, name: str) -> Any:
        return self._engine.get_mib_builder().import_symbols(module, name)[0]

    def _add_users(self, settings: SnmpSettings, writable: Writable | None) -> None:
        """Let v3 users read all and write the switches, and the community read."""
        engine = self._engine
        config.add_context(engine, _NO_CONTEXT)
        config.add_vacm_view(engine, _EVERYTHING, "included", _ALL, b"")
        # Named and made: to the library a view that is not there is one that includes all.
        config.add_vacm_view(engine, _NOTHING, "excluded", _ALL, b"")
        for oid in writable.oids if writable else ():
            config.add_vacm_view(engine, _SWITCHES, "included", oid, b"")
        for model, level, group, write in (
            (_V3, _AUTH_PRIV, "users", _SWITCHES if writable else _NOTHING),
            (_V2C, _NO_AUTH, "communities", _NOTHING),
        ):
            config.add_vacm_access(
                engine, group, _NO_CONTEXT, model, level, "exact", _EVERYTHING, write, _EVERYTHING
            )
        for user in settings.users:
            config.add_v3_user(
                engine, user.name,
                config.USM_AUTH_HMAC192_SHA256, user.auth_secret,
                config.USM_PRIV_CFB128_AES, user.privacy_secret,
            )  # fmt: skip
            config.add_vacm_group(engine, "users", _V3, user.name)
        if settings.community:
            config.add_v1_system(engine, "community", settings.community)
            config.add_vacm_group(engine, "communities", _V2C, "community")

    def _add_target(self, number: int, target: Target, community: str) -> None:
        address, port = ip_address(target.address)
        name = f"target{number}"
        if target.user:
            config.add_target_parameters(self._engine, name, target.user, "authPriv", 3)
        else:
            config.add_target_parameters(self._engine, name, "community", "noAuthNoPriv", 1)
            # From an address that is a target's, the library takes the community only by that
            # target's tag: without this no acknowledgement of an inform would be believed.
            config.add_v1_system(
                self._engine, name, community, transportTag=name, securityName="community"
            )
        config.add_target_address(
            self._engine, name, self._domain, (str(address), port), name,
            timeout=int(INFORM_TIMEOUT * 100), retryCount=INFORM_REPEATS, tagList=name,
        )  # fmt: skip
        config.add_notification_target(self._engine, name, name, name, target.kind)

    def send(
        self, number: int, kind: str, notification: VarBinds, answered: Callable[[bool], None]
    ) -> None:
        """Send to target `number`; `answered` hears whether it is done with.

        A trap is, once sent; an inform, once acknowledged.
        """

        def heard(
            engine: Any, handle: Any, failure: Any, status: Any, index: Any, binds: Any, ctx: Any
        ) -> None:
            answered(not failure)

        self._notifier.send_varbinds(
            self._engine, f"target{number}", None, _NO_CONTEXT, notification, heard
        )
        if kind == "trap":
            answered(True)

    def own_objects(self) -> dict[Oid, Value]:
        """Return the engine's own identity and counters."""
        found: dict[Oid, Value] = {}
        for module, name in _COUNTERS:
            symbol = self._symbol(module, name)
            found[tuple(symbol.name)] = symbol.syntax.clone()
        return found

    def close(self) -> None:
        """Stop listening; a change that is being written is made, but not answered."""
        if self._setting is not None:
            self._setting.give_up()
        self._engine.close_dispatcher()
