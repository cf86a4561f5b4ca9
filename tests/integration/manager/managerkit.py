"""What the manager's integration tests share: real processes, a vendor's key, a tiny device."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psycopg
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from callpool.lab.processes import pause
from callpool.licensing.capacity import Capacity
from callpool.licensing.order import PurchaseOrder
from callpool.manager.core import Manager
from callpool.manager.settings import Layout, Settings
from callpool.wire.envelope import (
    CONTACT,
    ENROL,
    KEY_SET,
    ORDER,
    REPLY,
    read,
    sign,
    trust,
    unverified,
    verify,
)
from callpool.wire.keys import PublicKey, SigningKey
from callpool.wire.messages import (
    CONTACT_PATH,
    CONTENT_TYPE,
    ENROL_PATH,
    ContactReply,
    ContactRequest,
    EnrolReply,
    EnrolRequest,
    KeySet,
)
from callpool.wire.tokens import split

MAIN = (
    "import sys; from callpool.host.console import run; "
    "from callpool.manager.commands import manager_app; sys.exit(run(manager_app))"
)
POOL = (
    "import sys; from callpool.host.console import run; "
    "from callpool.manager.pool_commands import pool_app; sys.exit(run(pool_app))"
)


def eventually(condition: Callable[[], Any], *, within: float = 60.0) -> Any:
    """Return the first true value of `condition`; fail after `within` seconds."""
    began = time.monotonic()
    while True:
        value = condition()
        if value:
            return value
        waited = time.monotonic() - began
        assert waited < within, "the condition did not come true"
        time.sleep(pause(waited))


#: Makes an empty database on PostgreSQL for each new site; None for SQLite in its directory.
new_database: Callable[[], str] | None = None


class Site:
    """A manager's directory, the vendor that it trusts, and its processes."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.layout = Layout(directory)
        if new_database is not None:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.layout.database_url.write_text(new_database())
        self.vendor = SigningKey.generate()
        self.clock_file = directory.parent / f"{directory.name}.clock"
        manager = Manager.create(
            self.layout,
            Settings(
                **{
                    "listen": "127.0.0.1:0",
                    "vendor_keys": (self.vendor.public.text,),
                    "lab_clock": str(self.clock_file),
                    **settings,
                }
            ),
        )
        self.product_key = manager.product_key()
        self.anchor_kid = manager.identity.anchor.public.kid
        manager.close()
        self.password = self.layout.password.read_text().strip()

    def order(
        self, order_id: str, *, days: float = 365, starts: int | None = None, **counts: int
    ) -> str:
        """Return a signed order for this manager."""
        now = int(time.time())
        begin = now - 10 if starts is None else starts
        bought = PurchaseOrder(
            order_id=order_id,
            product_key=self.product_key,
            counts=Capacity.of(counts),
            starts=begin,
            ends=begin + int(days * 86_400),
            issued_at=now,
        )
        return sign(self.vendor, ORDER, bought.to_payload())

    def sql(self, statement: str) -> list[Any]:
        """Read the database directly."""
        place = self.layout.database_place()
        if isinstance(place, str):
            with psycopg.connect(place.replace("+psycopg", "")) as connection:
                return connection.execute(statement).fetchall()
        with contextlib.closing(sqlite3.connect(self.layout.database, timeout=60)) as database:
            return database.execute(statement).fetchall()

    def alter(self, statement: str) -> None:
        """Change the database behind its managers' backs."""
        place = self.layout.database_place()
        if isinstance(place, str):
            with psycopg.connect(place.replace("+psycopg", "")) as connection:
                connection.execute(statement)
            return
        with contextlib.closing(sqlite3.connect(self.layout.database, timeout=60)) as database:
            database.execute(statement)
            database.commit()

    def check_sums(self) -> None:
        """Law 1, as an outsider reads it from the tables."""
        # One statement each: one consistent view, while managers are writing.
        for count, held, total in self.sql(
            "SELECT count, held, (SELECT coalesce(sum(h.held), 0) FROM holding h WHERE"
            " h.order_id = l.order_id AND h.type = l.type) FROM order_line l"
        ):
            assert total == held <= count
        for share, held, total in self.sql(
            "SELECT share, held, (SELECT coalesce(sum(h.held), 0) FROM holding h WHERE"
            " h.tenant_id = s.tenant_id AND h.type = s.type AND h.since = 0) FROM tenant_share s"
        ):
            assert total == held
            assert share is None or held <= share


class Running:
    """One manager process."""

    def __init__(self, site: Site, listen: str = "127.0.0.1:0") -> None:
        self.site = site
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-c",
                MAIN,
                "run",
                "--dir",
                str(site.layout.directory),
                "--listen",
                listen,
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("callpool manager: "), line
        self.url = line.split()[-1]
        self.port = int(self.url.rpartition(":")[2])
        self._clients: list[httpx.Client] = []
        self.http = self.client()
        self.devices: list[Device] = []

    def client(self, *, signed_in: bool = True) -> httpx.Client:
        """Return a signed-in client of the operators' API; it ends with the manager."""
        context = ssl.create_default_context(cafile=str(self.site.layout.ca))
        made = httpx.Client(
            base_url=self.url,
            verify=context,
            auth=("admin", self.site.password) if signed_in else None,
            timeout=60,
            trust_env=False,
        )
        self._clients.append(made)
        return made

    def call(self, method: str, path: str, body: Any = None, status: int | None = None) -> Any:
        """Call the operators' API; returns the JSON."""
        reply = self.http.request(method, f"/api/v1{path}", json=body)
        if status is not None:
            assert reply.status_code == status, reply.text
        return reply.json()

    def import_order(self, envelope: str, status: int = 201) -> Any:
        reply = self.http.post(
            "/api/v1/orders", content=envelope, headers={"content-type": CONTENT_TYPE}
        )
        assert reply.status_code == status, reply.text
        return reply.json()

    def token(self, **body: Any) -> str:
        return str(self.call("POST", "/tokens", body, 201)["token"])

    def add(self, name: str, *serials: str, **more: Any) -> None:
        self.call("POST", "/devices", {"name": name, "serials": list(serials), **more}, 201)

    def device(self, serial: str) -> Device:
        """Enrol a device for a serial number that is listed."""
        made = self.bare(serial)
        made.enrol(self.token())
        return made

    def bare(self, serial: str, key: SigningKey | None = None) -> Device:
        """Return a device that has not enrolled."""
        made = Device(self, serial, key)
        self.devices.append(made)
        return made

    def pool(self) -> Any:
        return self.call("GET", "/pool", status=200)

    def unit(self, serial: str) -> Any:
        pool = self.pool()
        units = [u for d in pool["devices"] for u in d["units"]] + pool["leaving"]
        return next((u for u in units if u["serial"] == serial), None)

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self.close()

    def stop(self) -> int:
        """End it in the orderly way."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(timeout=60)
        self.close()
        return status

    def close(self) -> None:
        for client in self._clients:
            client.close()
        for device in self.devices:
            device.http.close()
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextlib.contextmanager
def running(site: Site, listen: str = "127.0.0.1:0") -> Iterator[Running]:
    made = Running(site, listen)
    try:
        yield made
    finally:
        if made.process.poll() is None:
            made.process.send_signal(signal.SIGKILL)
            made.process.wait()
        made.close()


class Refused(Exception):
    """The manager answered with a problem document."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"{status} {code}: {detail}")
        self.status = status
        self.code = code


class Device:
    """A device of a few lines: it signs, keeps contact values, and applies grants at once."""

    def __init__(self, manager: Running, serial: str, key: SigningKey | None = None) -> None:
        self.manager = manager
        self.serial = serial
        self.key = key or SigningKey.generate()
        self.value = ""
        self.remote = self.applied = 0
        self.in_use: dict[str, int] = {}
        self.maximum: dict[str, int] = {}
        self.restart_done = 0
        self.ahead = 0.0
        self.keys: tuple[PublicKey, ...] = ()
        self.last = ""
        self.http = httpx.Client(
            verify=ssl.create_default_context(cafile=str(manager.site.layout.ca)),
            timeout=60,
            trust_env=False,
        )

    def moved(self, manager: Running) -> None:
        """Speak to another process of the same manager."""
        self.manager = manager

    def post(self, path: str, envelope: str, content_type: str = CONTENT_TYPE) -> str:
        reply = self.http.post(
            self.manager.url + path, content=envelope, headers={"content-type": content_type}
        )
        if reply.status_code != 200:
            problem = reply.json()
            raise Refused(reply.status_code, problem["code"], problem["detail"])
        return reply.text

    def enrolment(self, token: str, **over: Any) -> str:
        request = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.serial)]))
            .sign(self.key.private, None)
        )
        secret, _ = split(token)
        values = {
            "url": self.manager.url + ENROL_PATH,
            "nonce": secrets.token_urlsafe(12),
            "token": secret,
            "serial": self.serial,
            "public_key": self.key.public.text,
            "request": request.public_bytes(Encoding.PEM).decode(),
            **over,
        }
        return sign(self.key, ENROL, EnrolRequest(**values))

    def enrol(self, token: str, **over: Any) -> EnrolReply:
        envelope = self.post(ENROL_PATH, self.enrolment(token, **over))
        claimed = read(unverified(envelope), EnrolReply)
        anchor = PublicKey.from_text(claimed.anchor)
        assert anchor.kid == split(token)[1]
        keys = read(verify(claimed.key_set, KEY_SET, trust(anchor)), KeySet)
        self.keys = tuple(PublicKey.from_text(k.public_key) for k in keys.keys)
        reply = read(verify(envelope, REPLY, trust(*self.keys)), EnrolReply)
        self.value = reply.contact
        self.anchor = anchor
        return reply

    def request(self, **over: Any) -> ContactRequest:
        values = {
            "url": self.manager.url + CONTACT_PATH,
            "nonce": secrets.token_urlsafe(12),
            "serial": self.serial,
            "contact": self.value,
            "time": time.time() + self.ahead,
            "reason": "poll",
            "remote_version": self.remote,
            "applied_version": self.applied,
            "remote_in_use": self.in_use,
            "in_use": self.in_use,
            "maximum": self.maximum,
            "restart_done": self.restart_done,
            **over,
        }
        return ContactRequest(**values)

    def send(self, request: ContactRequest) -> ContactReply:
        """Send one request; returns the verified reply, takes nothing of it."""
        self.last = self.post(CONTACT_PATH, sign(self.key, CONTACT, request))
        reply = read(verify(self.last, REPLY, trust(*self.keys)), ContactReply)
        assert (reply.nonce, reply.serial) == (request.nonce, self.serial)
        return reply

    def take(self, reply: ContactReply, *, apply: bool = True) -> ContactReply:
        self.value = reply.contact
        if reply.grant is not None:
            self.remote = reply.grant.version
            self.applied = reply.grant.version if apply else self.applied
        if reply.key_set:
            keys = read(verify(reply.key_set, KEY_SET, trust(self.anchor)), KeySet)
            self.keys = tuple(PublicKey.from_text(k.public_key) for k in keys.keys)
        return reply

    def contact(self, *, apply: bool = True, **over: Any) -> ContactReply:
        return self.take(self.send(self.request(**over)), apply=apply)

    def counts(self, reply: ContactReply) -> dict[str, int]:
        """Return what a reply's grant gives now."""
        assert reply.grant is not None
        return reply.grant.grant(self.serial).at(reply.time).to_dict()


def cli(code: str, *words: str, env: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Run a command as a person would; returns status, stdout, stderr."""
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        timeout=180,
        env={**os.environ, "COLUMNS": "200", **(env or {})},
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def load(text: str) -> Any:
    """Read JSON that a command printed."""
    return msgspec.json.decode(text)
