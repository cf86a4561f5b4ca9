"""An authority of one smart device in virtual time, as the protocol has it."""

from __future__ import annotations

import asyncio
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from device_world import DAY, FAR, FakeClock, FakeLink, WireManager, World

from callpool.device.errors import LinkError
from callpool.device.smart_door import SmartDoor
from callpool.wire import smart_messages as wire
from callpool.wire.envelope import KEY_SET, sign, unverified
from callpool.wire.keys import SigningKey
from callpool.wire.messages import KeySet, SigningKeyEntry
from callpool.wire.tokens import join


class Authority:
    """Answers every smart request; a test bends it."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.anchor, self.key = SigningKey.generate(), SigningKey.generate()
        self.secret = secrets.token_urlsafe(16)
        self.value = ""
        self.good = True
        self.version = 0
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.last: tuple[str, str] = ("", "")
        #: Refuse with this code, counted or not.
        self.refuse: tuple[str, bool] | None = None
        #: Changes to every reply.
        self.bend: dict[str, Any] = {}
        self.signer: SigningKey | None = None
        self.ahead = 0.0

    @property
    def token(self) -> str:
        return join(self.secret, self.anchor.public.kid)

    def key_set(self) -> str:
        entry = SigningKeyEntry(public_key=self.key.public.text, not_after=FAR)
        return sign(self.anchor, KEY_SET, KeySet(serial=1, keys=(entry,)))

    def now(self) -> float:
        return self.clock.now().wall + self.ahead

    def answer(self, path: str, envelope: str) -> str:
        if envelope == self.last[0]:
            return self.last[1]
        asked = msgspec.json.decode(unverified(envelope), type=dict[str, Any])
        self.requests.append((path, asked))
        told = {"nonce": asked["nonce"], "serial": asked["serial"], "time": self.now()}
        if self.refuse is not None:
            code, counts = self.refuse
            told |= {"anchor": self.anchor.public.text, "key_set": self.key_set()}
            no = wire.Refusal(**told, code=code, detail=f"No: {code}.", counts=counts)
            return sign(self.key, wire.SMART_REFUSAL, no)
        if path != wire.REGISTER_PATH:
            assert asked["contact"] == self.value, "the device lost its contact value"
        self.value = secrets.token_urlsafe(8)
        told |= {"instance_id": "PI-1", "contact": self.value, "key_set": self.key_set()}
        reply = self._reply(path, asked, told)
        signed = sign(self.signer or self.key, wire.SMART_REPLY, {**reply, **self.bend})
        self.last = (envelope, signed)
        return signed

    def _reply(self, path: str, asked: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
        now = self.now()
        if path == wire.AUTHORIZE_PATH:
            self.version = max(self.version, asked["held_version"]) + 1
            given = wire.Authorization(
                version=self.version,
                tag=asked["tag"],
                count=asked["count"],
                status=wire.IN_COMPLIANCE if self.good else wire.OUT_OF_COMPLIANCE,
                issued_at=now,
                renew_at=now + (30 * DAY if self.good else DAY / 2),
                expires_at=now + 90 * DAY,
            )
            body: wire.SmartReply = wire.AuthorizeReply(
                **told, authorization=given, account="acme", virtual_account="default"
            )
        elif path == wire.DEREGISTER_PATH:
            body = wire.DeregisterReply(**told)
        else:
            dates = wire.IdCertificate(
                pem=self.certificate(asked["request"]),
                not_before=now,
                renew_at=now + 180 * DAY,
                not_after=now + 365 * DAY,
            )
            body = (
                wire.RenewIdReply(**told, certificate=dates)
                if path == wire.RENEW_ID_PATH
                else wire.RegisterReply(
                    **told,
                    certificate=dates,
                    anchor=self.anchor.public.text,
                    product_key="PK-1",
                    account="acme",
                    virtual_account="default",
                    export_allowed=False,
                )
            )
        return msgspec.json.decode(msgspec.json.encode(body), type=dict[str, Any])

    def certificate(self, request: str) -> str:
        wanted = x509.load_pem_x509_csr(request.encode())
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
        return made.public_bytes(Encoding.PEM).decode()


class SmartLink(FakeLink):
    """The way to manager and authority."""

    def __init__(self, manager: WireManager, authority: Authority) -> None:
        super().__init__(manager)
        self.authority = authority
        self.lose_answers = 0

    async def answer(self, path: str, envelope: str) -> str:
        if self.down:
            raise LinkError("manager_unreachable", "cut.")
        said = self.authority.answer(path, envelope)
        if self.lose_answers:
            self.lose_answers -= 1
            raise LinkError("manager_unreachable", "the answer was lost.")
        return said


class SmartWorld(World):
    """One smart device and its authority."""

    def __init__(self, directory: Any) -> None:
        super().__init__(directory, enrolled=False, local=0)
        self.authority = Authority(self.clock)
        self.link: SmartLink = SmartLink(self.manager, self.authority)
        self.settings = msgspec.structs.replace(self.settings, smart=True)

    async def tell(self, action: str, **fields: Any) -> dict[str, Any]:
        """Give a command as the socket does, and let it come to its end."""
        door = SmartDoor(self.agent)
        task = asyncio.create_task(door.command({"action": action, **fields}))
        for _ in range(200):
            await asyncio.sleep(0)
            await self.agent.settle()
            await self.go(0.0)
            if task.done():
                break
        return await task

    @property
    def state(self) -> str:
        return self.agent.smart.agent.state.value

    async def authorized(self) -> None:
        await self.tell("enable")
        await self.tell("count", count=50)
        await self.tell("register", token=self.authority.token)


__all__ = ["Authority", "SmartWorld"]
