"""A device in virtual time: a manager that speaks the wire protocol, a gate that takes notes."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509

from callpool.device.agent import Agent
from callpool.device.core import Core
from callpool.device.errors import DeviceError, LinkError
from callpool.device.flash import Flash
from callpool.device.manager_link import STREAM_OPEN
from callpool.device.record import FlashRecord
from callpool.device.settings import Layout, Settings
from callpool.device.setup import Plan, set_up
from callpool.licensing.admission import AdmissionPolicy
from callpool.licensing.capacity import Capacity
from callpool.licensing.instant import Instant
from callpool.licensing.key import LocalKey
from callpool.licensing.lease import APPLY_RESTART, Grant, Slice
from callpool.wire.envelope import (
    CONTACT,
    ENROL,
    KEY_SET,
    LOCAL_KEY,
    REPLY,
    read,
    sign,
    trust,
    unverified,
    verify,
)
from callpool.wire.keys import PublicKey, SigningKey
from callpool.wire.messages import (
    ENROL_PATH,
    MANAGED,
    ContactReply,
    ContactRequest,
    EnrolReply,
    EnrolRequest,
    GrantMessage,
    KeySet,
    RestartOrder,
    SigningKeyEntry,
    SwitchOrder,
    WaitingMessage,
)
from callpool.wire.tokens import join

NOW = 1_800_000_000.0
DAY = 86_400.0
URL = "https://manager.test"
VENDOR = SigningKey.generate()
FAR = NOW + 3650 * DAY


class FakeClock:
    """A clock that moves when told."""

    def __init__(self) -> None:
        self.instant = Instant(wall=NOW, boottime=1000.0, boot_id="boot-1")

    def now(self) -> Instant:
        return self.instant

    def real_seconds(self, seconds: float) -> float:
        return seconds

    def advance(self, seconds: float) -> None:
        at = self.instant
        self.instant = replace(at, wall=at.wall + seconds, boottime=at.boottime + seconds)

    def jump(self, seconds: float) -> None:
        """Move the wall clock alone."""
        self.instant = replace(self.instant, wall=self.instant.wall + seconds)

    def boot(self, *, off: float, wall: float | None = None) -> None:
        """Power off for `off` seconds; come up with the wall clock at `wall`."""
        self.instant = Instant(
            wall=self.instant.wall + off if wall is None else wall,
            boottime=5.0,
            boot_id=secrets.token_hex(4),
        )


@dataclass(frozen=True)
class FakeUsage:
    sessions: int = 0
    users: int = 0
    emergency: int = 0
    peak_sessions: int = 0
    peak_users: int = 0
    uncertain: int = 0
    admitted: int = 0
    ended: int = 0
    alive: bool = True
    in_sync: bool = True
    refused: Mapping[str, int] = field(default_factory=dict)
    turned_away: Mapping[str, tuple[int, int]] = field(default_factory=dict)


class FakeGate:
    """A gate that notes what it was told and what the flash held at that moment."""

    def __init__(self, flash: MemoryFlash) -> None:
        self.flash = flash
        self.told: list[tuple[str, AdmissionPolicy]] = []
        self.flash_then: list[FlashRecord | None] = []
        self.used = FakeUsage()
        self.high = (0, 0)
        self.broken = False

    def _tell(self, what: str, policy: AdmissionPolicy) -> None:
        if self.broken:
            raise DeviceError("kamailio_unreachable", "The gate of this test is broken.")
        self.told.append((what, policy))
        self.flash_then.append(self.flash.record)

    async def attach(self, policy: AdmissionPolicy) -> None:
        self._tell("attach", policy)

    async def apply(self, policy: AdmissionPolicy) -> None:
        self._tell("apply", policy)

    async def restart(self, policy: AdmissionPolicy) -> None:
        self._tell("restart", policy)

    async def stop(self) -> None:
        return

    def usage(self) -> FakeUsage:
        return self.used

    def take_high(self) -> tuple[int, int]:
        high, self.high = self.high, (0, 0)
        return max(high[0], self.used.sessions), max(high[1], self.used.users)

    @property
    def policy(self) -> AdmissionPolicy:
        return self.told[-1][1]

    @property
    def restarts(self) -> int:
        return sum(1 for what, _ in self.told if what == "restart")


class MemoryFlash(Flash):
    """The flash without a disk; it can be full."""

    def __init__(self) -> None:
        super().__init__(Path("/nowhere"), b"\0" * 32)
        self.record: FlashRecord | None = None
        self.full = False
        self.writes = 0

    def load(self) -> FlashRecord | None:
        return self.record

    def store(self, record: FlashRecord) -> None:
        if self.full:
            raise DeviceError("flash_write_failed", "The flash of this test is full.")
        self.writes += 1
        self.record = msgspec.json.decode(msgspec.json.encode(record), type=FlashRecord)


class NoJournal:
    """Notes in memory."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def note(self, event: str, *, at: float, **details: Any) -> None:
        self.lines.append((event, details))


class WireManager:
    """A manager of one device, as the protocol has it."""

    def __init__(self, clock: FakeClock, serial: str = "S1", url: str = URL) -> None:
        self.clock, self.serial, self.url = clock, serial, url
        self.anchor, self.key = SigningKey.generate(), SigningKey.generate()
        self.key_serial, self.not_after = 1, FAR
        self.offer_keys = ""
        self.secret = secrets.token_urlsafe(16)
        self.device: PublicKey | None = None
        self.contact = secrets.token_urlsafe(8)
        self.last: tuple[str, str] = ("", "")
        self.version, self.sessions, self.users = 0, 0, 0
        self.apply, self.status = APPLY_RESTART, MANAGED
        self.until = FAR
        self.lease = 7 * DAY
        self.poll = 12 * 3600.0
        self.retry, self.later, self.later_after = 900.0, 4 * 3600.0, 7200.0
        self.restart: RestartOrder | None = None
        self.switch: SwitchOrder | None = None
        self.expect_ha_alarms_until = 0.0
        self.waiting: tuple[WaitingMessage, ...] = ()
        self.requests: list[ContactRequest] = []
        self.envelopes: list[str] = []
        self.refuse: tuple[str, int] | None = None
        #: Whether it takes the devices' alarms, as managers of old do not.
        self.takes_alarms = False

    @property
    def token(self) -> str:
        return join(self.secret, self.anchor.public.kid)

    def allocate(self, sessions: int, users: int = 0) -> None:
        self.version += 1
        self.sessions, self.users = sessions, users

    def roll(self) -> None:
        """Sign by a new key from now on; the old one leaves the set."""
        self.key = SigningKey.generate()
        self.key_serial += 1
        self.offer_keys = self.key_set()

    def key_set(self) -> str:
        entry = SigningKeyEntry(public_key=self.key.public.text, not_after=self.not_after)
        return sign(self.anchor, KEY_SET, KeySet(serial=self.key_serial, keys=(entry,)))

    def grant(self) -> GrantMessage:
        counts = Capacity.of(sbc_sessions=self.sessions, far_end_users=self.users)
        part = Slice(order_id="PO-1", since=0.0, until=self.until, counts=counts)
        return GrantMessage.of(
            Grant(
                serial=self.serial,
                version=self.version,
                slices=(part,) if counts else (),
                apply=self.apply,
            )
        )

    def reply(self, nonce: str, **changes: Any) -> ContactReply:
        now = self.clock.now().wall
        values: dict[str, Any] = {
            "nonce": nonce,
            "serial": self.serial,
            "time": now,
            "status": self.status,
            "contact": self.contact,
            "grant": self.grant() if self.status == MANAGED else None,
            "lease_end": now + self.lease,
            "lease_seconds": self.lease,
            "poll_seconds": self.poll,
            "retry_seconds": self.retry,
            "retry_later_seconds": self.later,
            "retry_later_after": self.later_after,
            "restart": self.restart,
            "switch": self.switch,
            "expect_ha_alarms_until": self.expect_ha_alarms_until,
            "waiting": self.waiting,
            "key_set": self.offer_keys,
        }
        return ContactReply(**{**values, **changes})

    def answer(self, path: str, envelope: str) -> str:
        self.envelopes.append(envelope)
        if self.refuse is not None:
            code, status = self.refuse
            raise LinkError(code, f"refused: {code}.", final=400 <= status < 500)
        if path == ENROL_PATH:
            return self._enrol(envelope)
        assert self.device is not None
        request = read(verify(envelope, CONTACT, trust(self.device)), ContactRequest)
        assert (request.url, request.serial) == (self.url + path, self.serial)
        if envelope == self.last[0]:
            return self.last[1]
        assert request.contact == self.contact, "the device lost its contact value"
        self.requests.append(request)
        self.contact = secrets.token_urlsafe(8)
        log = request.alarm_log if self.takes_alarms else None
        taken = None if log is None else max((e.sequence for e in log.events), default=0)
        reply = sign(self.key, REPLY, self.reply(request.nonce, alarms_taken=taken))
        self.last = (envelope, reply)
        return reply

    def _enrol(self, envelope: str) -> str:
        claimed = read(unverified(envelope), EnrolRequest)
        key = PublicKey.from_text(claimed.public_key)
        request = read(verify(envelope, ENROL, trust(key)), EnrolRequest)
        if request.token != self.secret:
            raise LinkError("unknown_token", "The token is not valid here.", final=True)
        self.device = key
        return sign(
            self.key,
            REPLY,
            EnrolReply(
                nonce=request.nonce,
                serial=self.serial,
                time=self.clock.now().wall,
                certificate=self.certificate(request),
                anchor=self.anchor.public.text,
                key_set=self.key_set(),
                contact=self.contact,
                product_key="PK-1",
            ),
        )

    def certificate(self, request: EnrolRequest) -> str:
        wanted = x509.load_pem_x509_csr(request.request.encode())
        start = datetime.now(UTC) - timedelta(days=1)
        made = (
            x509.CertificateBuilder()
            .subject_name(wanted.subject)
            .issuer_name(wanted.subject)
            .public_key(wanted.public_key())
            .serial_number(1)
            .not_valid_before(start)
            .not_valid_after(start + timedelta(days=365))
            .sign(self.anchor.private, None)
        )
        from cryptography.hazmat.primitives.serialization import Encoding

        return made.public_bytes(Encoding.PEM).decode()


class FakeLink:
    """A way to the manager that can be cut, on the way there or back."""

    def __init__(self, manager: WireManager) -> None:
        self.manager = manager
        self.down = False
        self.lose_replies = 0
        self.altered: Any = None
        self.attempts: list[float] = []
        self.hint = asyncio.Event()
        self.retry_after: float | None = None
        self.trusted: tuple[str, ...] = ()
        #: Seconds for which the manager puts each contact off.
        self.busy = 0.0

    def url(self, path: str) -> str:
        return self.manager.url + path

    def trust(self, authorities: tuple[str, ...]) -> None:
        self.trusted = authorities

    async def exchange(self, path: str, envelope: str) -> str:
        self.attempts.append(self.manager.clock.now().boottime)
        if self.down:
            raise LinkError("manager_unreachable", "cut.", retry_after=self.retry_after)
        if self.busy:
            self.manager.envelopes.append(envelope)
            raise LinkError("overloaded", "No room.", retry_after=self.busy)
        reply = self.manager.answer(path, envelope)
        if self.lose_replies:
            self.lose_replies -= 1
            raise LinkError("manager_unreachable", "the reply was lost.")
        return str(self.altered(reply)) if self.altered else reply

    async def answer(self, path: str, envelope: str) -> str:
        return await self.exchange(path, envelope)

    async def hints(self, path: str, envelope: str) -> AsyncIterator[str]:
        if self.down:
            raise LinkError("manager_unreachable", "cut.")
        yield STREAM_OPEN
        while True:
            await self.hint.wait()
            self.hint.clear()
            yield "message"

    async def close(self) -> None:
        return


def local_key(sequence: int = 1, serial: str = "S1", ends: int | None = None, **counts: int) -> str:
    key = LocalKey(
        key_id=f"LK-{sequence}",
        sequence=sequence,
        serials=(serial,),
        counts=Capacity.of(counts),
        maximum=Capacity.of(sbc_sessions=1000, far_end_users=1000),
        features=frozenset({"test_call"}),
        issued_at=1,
        ends=ends,
    )
    return sign(VENDOR, LOCAL_KEY, key.to_payload())


class World:
    """One device, its manager and its gate, in virtual time."""

    def __init__(self, directory: Path, *, enrolled: bool = True, local: int = 5) -> None:
        self.clock = FakeClock()
        self.manager = WireManager(self.clock)
        self.link = FakeLink(self.manager)
        self.layout = Layout(directory)
        set_up(
            self.layout,
            Plan(
                serial="S1",
                manager=URL,
                token=self.manager.token if enrolled else "",
                vendor_key=VENDOR.public.text,
            ),
        )
        self.settings: Settings = self.layout.load()
        self.flash = MemoryFlash()
        self.gate = FakeGate(self.flash)
        self.journal = NoJournal()
        self.key = local_key(sbc_sessions=local, far_end_users=2) if local else ""
        self.agent: Agent

    async def start(self, *, key: bool = True) -> None:
        """Start (or start anew) the device's core, and let it make its first contacts."""
        core = Core(
            settings=self.settings,
            flash=self.flash,
            clock=self.clock,
            gate=self.gate,
            journal=self.journal,
        )
        self.agent = Agent(
            core=core, layout=self.layout, identity=self.layout.load_identity(), link=self.link
        )
        self.agent.contacts.shift = lambda: 0.0
        await self.agent.start()
        if self.key and key and core.opened.local_key is None:
            await core.install_key(self.key)
        await self.go(0.0)

    async def crash(self) -> None:
        """End the core as a kill does: nothing is written."""
        await self.agent.contacts._hints.close()
        await self.agent.contacts.give_up()

    async def go(self, seconds: float) -> None:
        """Let `seconds` pass, doing all that comes due on the way."""
        end = self.clock.now().boottime + seconds
        for _ in range(20_000):
            await self.agent.tick()
            await self.agent.settle()
            wait = self.agent.next_due()
            left = end - self.clock.now().boottime
            if wait <= 0.0:
                continue
            if wait > left or math.isinf(wait):
                self.clock.advance(left)
                await self.agent.tick()
                await self.agent.settle()
                if self.agent.next_due() > 0.0:
                    return
                end = self.clock.now().boottime
                continue
            self.clock.advance(wait + 1e-3)
        raise AssertionError("the device never comes to rest")

    def sessions(self) -> int:
        """What the gate would admit now."""
        return self.gate.policy.at(self.clock.now().wall).caps["sbc_sessions"]

    def row(self) -> tuple[int, int, int]:
        """Remote, Local, Actual of SBC sessions, as the page shows them."""
        row = self.agent.status().capacity[0]
        return row.remote, row.local, row.actual

    def alarms(self) -> set[str]:
        """The codes of the active alarms."""
        return {a.code for a in self.agent.status().alarms}

    async def restart(self, *, save: bool) -> None:
        """Restart locally."""
        await self.agent.restart(save=save)
        await self.go(0.0)
