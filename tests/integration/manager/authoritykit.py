"""A smart device of a few lines: it signs, keeps contact values, and believes signed answers."""

from __future__ import annotations

import math
import secrets
import ssl
from collections.abc import Iterator
from typing import Any, TypeVar

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from managerkit import Running, Site

from callpool.host.clock import LabClock
from callpool.licensing.capacity import Capacity
from callpool.licensing.errors import TrustError
from callpool.licensing.order import SMART_ORDER, PurchaseOrder
from callpool.wire.envelope import KEY_SET, ORDER, read, sign, trust, unverified, verify
from callpool.wire.keys import PublicKey, SigningKey
from callpool.wire.messages import CONTENT_TYPE, KeySet
from callpool.wire.smart_messages import (
    AUTHORIZE_PATH,
    DEREGISTER_PATH,
    REGISTER_PATH,
    RENEW_ID_PATH,
    SMART_AUTHORIZE,
    SMART_DEREGISTER,
    SMART_HINTS,
    SMART_HINTS_PATH,
    SMART_REGISTER,
    SMART_RENEW_ID,
    AuthorizeReply,
    AuthorizeRequest,
    DeregisterReply,
    DeregisterRequest,
    Refusal,
    RegisterReply,
    RegisterRequest,
    RenewIdReply,
    RenewIdRequest,
    SmartHintsRequest,
    SmartReply,
    open_answer,
)
from callpool.wire.tokens import split

SMART = (
    "import sys; from callpool.host.console import run; "
    "from callpool.manager.smart_commands import smart_app; sys.exit(run(smart_app))"
)
R = TypeVar("R", bound=SmartReply)

_KINDS: dict[type[SmartReply], tuple[str, str]] = {
    AuthorizeReply: (AUTHORIZE_PATH, SMART_AUTHORIZE),
    RenewIdReply: (RENEW_ID_PATH, SMART_RENEW_ID),
    DeregisterReply: (DEREGISTER_PATH, SMART_DEREGISTER),
}


class Denied(Exception):
    """The authority's signed refusal."""

    def __init__(self, status: int, refusal: Refusal) -> None:
        super().__init__(f"{status} {refusal.code}: {refusal.detail}")
        self.status = status
        self.refusal = refusal
        self.code = refusal.code


def smart_order(site: Site, order_id: str, count: int, *, days: float = 365) -> str:
    """Return a signed order of calls per second, from the lab's now."""
    now = int(LabClock(site.clock_file).now().wall)
    bought = PurchaseOrder(
        order_id=order_id,
        product_key=site.product_key,
        counts=Capacity.of(cps=count),
        starts=now,
        ends=now + int(days * 86_400),
        issued_at=now,
        role=SMART_ORDER,
    )
    return sign(site.vendor, ORDER, bought.to_payload())


def buy(
    manager: Running, order_id: str, count: int, va: str = "default", *, days: float = 365
) -> None:
    """Sign and import an order into a virtual account of the only account, or `acme`'s."""
    reply = manager.http.post(
        f"/api/v1/smart/orders?account=acme&virtual_account={va}",
        content=smart_order(manager.site, order_id, count, days=days),
        headers={"content-type": CONTENT_TYPE},
    )
    assert reply.status_code == 201, reply.text


def smart_token(manager: Running, va: str = "default", **body: Any) -> str:
    """Make a registration token of a virtual account of `acme`."""
    asked = {"account": "acme", "virtual_account": va, **body}
    return str(manager.call("POST", "/smart/tokens", asked, 201)["token"])


class SmartDevice:
    """What the authority sees of a device."""

    def __init__(
        self, manager: Running, serial: str, key: SigningKey | None = None, url: str = ""
    ) -> None:
        self.manager = manager
        self.url = url or manager.url
        self.serial = serial
        self.key = key or SigningKey.generate()
        self.clock = LabClock(manager.site.clock_file)
        self.ahead = 0.0
        #: A repeated answer has the time of the first, which may lie days back on the lab's clock.
        self.most_off = math.inf
        self.instance_id = ""
        self.value = ""
        self.version = 0
        self.keys: tuple[PublicKey, ...] = ()
        self.last = b""
        self.http = httpx.Client(
            verify=ssl.create_default_context(cafile=str(manager.site.layout.ca)),
            timeout=60,
            trust_env=False,
        )
        manager.devices.append(self)  # type: ignore[arg-type]  # closed with the others

    def csr(self, serial: str | None = None) -> str:
        name = x509.NameAttribute(NameOID.COMMON_NAME, serial or self.serial)
        request = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(x509.Name([name]))
            .sign(self.key.private, None)
        )
        return request.public_bytes(Encoding.PEM).decode()

    def bound(self, path: str) -> dict[str, Any]:
        """Return what every request is bound to."""
        return {
            "url": self.url + path,
            "nonce": secrets.token_urlsafe(12),
            "serial": self.serial,
            "time": self.clock.now().wall + self.ahead,
        }

    def post(self, path: str, envelope: str) -> httpx.Response:
        reply = self.http.post(
            self.url + path, content=envelope, headers={"content-type": CONTENT_TYPE}
        )
        self.last = reply.content
        return reply

    def check_time(self, answer: SmartReply) -> None:
        """Believe no answer whose time is more than an hour off; the lab's clock may be stepped."""
        if abs(answer.time - self.clock.now().wall) > self.most_off:
            raise TrustError("clock_skew", "The authority's clock is off.")

    def registration(self, token: str, **over: Any) -> RegisterRequest:
        values = {
            **self.bound(REGISTER_PATH),
            "token": split(token)[0],
            "public_key": self.key.public.text,
            "request": self.csr(),
            "name": self.serial.lower(),
            **over,
        }
        return RegisterRequest(**values)

    def send_registration(self, request: RegisterRequest, anchor_kid: str) -> RegisterReply:
        reply = self.post(REGISTER_PATH, sign(self.key, SMART_REGISTER, request))
        assert reply.headers["content-type"] == CONTENT_TYPE, reply.text
        body = unverified(reply.content)
        good = reply.status_code == 200
        claimed = read(body, RegisterReply) if good else read(body, Refusal)
        anchor = PublicKey.from_text(claimed.anchor)
        assert anchor.kid == anchor_kid
        keys = read(verify(claimed.key_set, KEY_SET, trust(anchor)), KeySet)
        self.keys = tuple(PublicKey.from_text(k.public_key) for k in keys.keys)
        answer = open_answer(
            reply.content,
            RegisterReply,
            trust(*self.keys),
            nonce=request.nonce,
            serial=request.serial,
        )
        if isinstance(answer, Refusal):
            raise Denied(reply.status_code, answer)
        self.check_time(answer)
        self.instance_id, self.value = answer.instance_id, answer.contact
        return answer

    def register(self, token: str, **over: Any) -> RegisterReply:
        return self.send_registration(self.registration(token, **over), split(token)[1])

    def send(self, kind: type[R], request: Any) -> R:
        """Send one request; returns the verified reply, takes nothing of it."""
        path, typ = _KINDS[kind]
        reply = self.post(path, sign(self.key, typ, request))
        assert reply.headers["content-type"] == CONTENT_TYPE, reply.text
        answer = open_answer(
            reply.content, kind, trust(*self.keys), nonce=request.nonce, serial=self.serial
        )
        if isinstance(answer, Refusal):
            raise Denied(reply.status_code, answer)
        assert reply.status_code == 200
        self.check_time(answer)
        return answer

    def take(self, answer: R) -> R:
        if isinstance(answer, AuthorizeReply):
            assert answer.authorization.version > self.version
            self.version = answer.authorization.version
        self.value = answer.contact
        if answer.key_set:
            anchor = trust(self.anchor)
            keys = read(verify(answer.key_set, KEY_SET, anchor), KeySet)
            self.keys = tuple(PublicKey.from_text(k.public_key) for k in keys.keys)
        return answer

    @property
    def anchor(self) -> PublicKey:
        """Return the anchor's key, from the manager's own directory."""
        return SigningKey.load(self.manager.site.layout.identity / "anchor.pem").public

    def asking(self, path: str) -> dict[str, Any]:
        return {**self.bound(path), "instance_id": self.instance_id, "contact": self.value}

    def authorization(self, count: int, **over: Any) -> AuthorizeRequest:
        values = {
            **self.asking(AUTHORIZE_PATH),
            "tag": "cps",
            "count": count,
            "maximum": 1000,
            "held_version": self.version,
            **over,
        }
        return AuthorizeRequest(**values)

    def authorize(self, count: int, **over: Any) -> AuthorizeReply:
        return self.take(self.send(AuthorizeReply, self.authorization(count, **over)))

    def status(self, count: int) -> str:
        """Ask anew; return the status."""
        return self.authorize(count).authorization.status

    def renew_id(self, **over: Any) -> RenewIdReply:
        values = {**self.asking(RENEW_ID_PATH), "request": self.csr(), **over}
        return self.take(self.send(RenewIdReply, RenewIdRequest(**values)))

    def deregistration(self, **over: Any) -> DeregisterRequest:
        return DeregisterRequest(**{**self.asking(DEREGISTER_PATH), **over})

    def deregister(self, **over: Any) -> DeregisterReply:
        return self.take(self.send(DeregisterReply, self.deregistration(**over)))

    def hints(self) -> Iterator[str]:
        """Open the stream of hints; yield each line that is not empty."""
        request = SmartHintsRequest(**self.bound(SMART_HINTS_PATH), instance_id=self.instance_id)
        with self.http.stream(
            "POST",
            self.url + SMART_HINTS_PATH,
            content=sign(self.key, SMART_HINTS, request),
            headers={"content-type": CONTENT_TYPE},
        ) as stream:
            assert stream.status_code == 200
            for line in stream.iter_lines():
                if line:
                    yield line
