"""The authority without a network: instances register and ask through the real transactions."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from poolmodel import Model

from callpool.licensing.capacity import Capacity
from callpool.licensing.errors import CallpoolError
from callpool.licensing.order import SMART_ORDER, PurchaseOrder
from callpool.manager import authority
from callpool.manager.authority_contacts import Given, authorize, deregister
from callpool.manager.authority_instances import register
from callpool.manager.authority_moves import move_instance
from callpool.wire.envelope import read, unverified
from callpool.wire.keys import SigningKey
from callpool.wire.smart_messages import (
    Authorization,
    AuthorizeReply,
    AuthorizeRequest,
    DeregisterReply,
    DeregisterRequest,
    RegisterReply,
    RegisterRequest,
)


@dataclass
class ModelInstance:
    """One registered device, as it knows itself."""

    serial: str
    va: str
    instance_id: str
    value: str
    kid: str
    count: int = 0
    told: str = ""
    version: int = 0
    last_contact: float = 0.0
    #: The end of its ID certificate.
    until: float = 0.0


@dataclass
class Authority:
    """A manager with one account and two virtual accounts, and what was done to it."""

    model: Model = field(default_factory=Model)
    instances: dict[str, ModelInstance] = field(default_factory=dict)
    #: (order, virtual account) -> count, and order -> (starts, ends)
    lots: dict[tuple[str, str], int] = field(default_factory=dict)
    dates: dict[str, tuple[float, float]] = field(default_factory=dict)
    key: SigningKey = field(default_factory=SigningKey.generate)

    def __post_init__(self) -> None:
        self.model.change(lambda c: authority.add_account(c, "acme"))
        self.model.change(lambda c: authority.add_virtual_account(c, "acme", "lab"))

    @property
    def now(self) -> float:
        return self.model.clock.wall

    def close(self) -> None:
        self.model.close()

    def buy(self, va: str, count: int, days: float, wait: float = 0.0) -> None:
        """Import an order that begins in `wait` days and is in date for `days`."""
        number = f"PO-{len(self.dates) + 1}"
        starts = int(self.now + wait * 86_400)
        order = PurchaseOrder(
            order_id=number,
            product_key=self.model.product_key,
            counts=Capacity.of(cps=count),
            starts=starts,
            ends=starts + max(1, int(days * 86_400)),
            issued_at=int(self.now),
            role=SMART_ORDER,
        )
        self.model.change(lambda c: authority.import_order(c, order, "", "acme", va))
        self.lots[number, va] = count
        self.dates[number] = (order.starts, order.ends)

    def register(self, serial: str, va: str, **over: Any) -> ModelInstance:
        key = SigningKey.generate()
        _, secret = self.model.change(
            lambda c: authority.make_token(
                c, "acme", va, description="", days=1, uses=1, export_allowed=False
            )
        )
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, serial)])
        request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key.private, None)
        asked = RegisterRequest(
            **{
                "url": "",
                "nonce": secrets.token_urlsafe(9),
                "serial": serial,
                "time": self.now,
                "token": secret,
                "public_key": key.public.text,
                "request": request.public_bytes(Encoding.PEM).decode(),
                **over,
            }
        )
        manager = self.model.manager
        reply = read(
            unverified(
                manager.change(
                    serial, "", lambda c: register(c, asked, key.public, manager.identity)
                )
            ),
            RegisterReply,
        )
        made = ModelInstance(
            serial,
            va,
            reply.instance_id,
            reply.contact,
            key.public.kid,
            last_contact=self.now,
            until=reply.certificate.not_after,
        )
        self.instances[serial] = made
        return made

    def _asking(self, made: ModelInstance) -> dict[str, Any]:
        return {
            "url": "",
            "nonce": secrets.token_urlsafe(9),
            "serial": made.serial,
            "time": self.now,
            "instance_id": made.instance_id,
            "contact": made.value,
        }

    def authorize(self, serial: str, count: int) -> Authorization:
        made = self.instances[serial]
        asked = AuthorizeRequest(
            **self._asking(made),
            tag="cps",
            count=count,
            maximum=1000,
            held_version=made.version,
        )
        manager = self.model.manager
        given = manager.change(
            serial, "", lambda c: authorize(c, asked, made.kid, manager.identity)
        )
        reply = read(unverified(_reply(given)), AuthorizeReply)
        made.value, made.count, made.last_contact = reply.contact, count, self.now
        made.told, made.version = reply.authorization.status, reply.authorization.version
        return reply.authorization

    def deregister(self, serial: str) -> None:
        made = self.instances[serial]
        asked = DeregisterRequest(**self._asking(made))
        manager = self.model.manager
        given = manager.change(
            serial, "", lambda c: deregister(c, asked, made.kid, manager.identity)
        )
        read(unverified(_reply(given)), DeregisterReply)
        del self.instances[serial]

    def remove(self, serial: str) -> None:
        self.model.change(lambda c: authority.remove_instance(c, serial))
        del self.instances[serial]

    def transfer(self, count: int, source: str, target: str) -> None:
        self.model.change(lambda c: authority.transfer(c, "acme", "cps", count, source, target, ""))
        left = count
        movable = [o for o, (_, ends) in self.dates.items() if ends > self.now]
        for order in sorted(movable, key=lambda o: (-self.dates[o][1], o)):
            part = min(left, self.lots.get((order, source), 0))
            if part:
                self.lots[order, source] -= part
                self.lots[order, target] = self.lots.get((order, target), 0) + part
                left -= part

    def relocate(self, serial: str, target: str) -> None:
        self.model.change(lambda c: move_instance(c, serial, target))
        self.instances[serial].va = target

    def purchased(self, va: str) -> int:
        return sum(
            count
            for (order, where), count in self.lots.items()
            if where == va and self.dates[order][0] <= self.now < self.dates[order][1]
        )


def _reply(given: Given) -> str:
    if given.refusal is not None:
        raise given.refusal
    return given.reply


__all__ = ["Authority", "CallpoolError"]
