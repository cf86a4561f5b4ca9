"""`device_bytes`: what one device costs a manager: bytes on disk, memory, statements a contact.

Real device cores without SIP enrol at a real manager on SQLite, hold licenses and keep their hint
streams open. Bytes on disk are the growth of the vacuumed database from half of the devices to all;
memory is the growth of the manager's resident set by their streams (TLS included). Statements are
counted inside one contact of one unit in this process. `docs/scale.md` reckons with these figures.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import sqlalchemy as sa
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from callpool.lab.simulated_fleet import SimulatedFleet
from callpool.licensing.capacity import Capacity
from callpool.licensing.order import PurchaseOrder
from callpool.manager import inventory
from callpool.manager.change import HERE, Change
from callpool.manager.client import Connection, ManagerClient
from callpool.manager.contacts import Answer, contact
from callpool.manager.core import Manager
from callpool.manager.enrolments import enrol
from callpool.manager.pools import allocate, import_order
from callpool.manager.settings import Layout, Settings
from callpool.wire.envelope import read, unverified
from callpool.wire.keys import SigningKey
from callpool.wire.messages import ContactReply, ContactRequest, EnrolReply, EnrolRequest


def order(product_key: str) -> PurchaseOrder:
    now = int(time.time())
    return PurchaseOrder(
        order_id="PO-1", product_key=product_key, counts=Capacity.of({"sbc_sessions": 1_000_000}),
        starts=now - 10, ends=now + 86_400, issued_at=now,
    )  # fmt: skip


def statements(layout: Layout) -> tuple[int, int]:
    """Return the statements of one contact in all, and those that write."""
    manager, key, serial = Manager(layout), SigningKey.generate(), "SN-COUNTED"

    def work(change: Change) -> str:
        inventory.add_device(change, "counted", [serial], inventory.DEFAULT_TENANT, "live")
        _, secret = inventory.make_token(change, uses=1, seconds=3600.0)
        request = x509.CertificateSigningRequestBuilder().subject_name(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, serial)])
        )
        pem = request.sign(key.private, None).public_bytes(Encoding.PEM).decode()
        asked = EnrolRequest(
            url="", nonce="n", token=secret, serial=serial, public_key=key.public.text, request=pem
        )
        return enrol(change, asked, key.public, manager.identity)

    value = read(unverified(manager.change("bench", HERE, work)), EnrolReply).contact
    manager.change(
        "bench",
        HERE,
        lambda c: allocate(c, inventory.device_by_name(c, "counted"), {"sbc_sessions": 10}),
    )
    counts: list[tuple[int, int]] = []
    seen: list[str] = []
    sa.event.listen(
        sa.Engine, "before_cursor_execute",
        lambda _c, _cursor, statement, *_: seen.append(statement),
    )  # fmt: skip
    applied = 0
    for _ in range(5):
        seen.clear()
        asked = ContactRequest(
            url="", nonce=secrets.token_urlsafe(8), serial=serial, contact=value, time=time.time(),
            reason="usage", remote_version=applied, applied_version=applied, remote_in_use={},
            in_use={}, maximum={},
        )  # fmt: skip

        def take(change: Change, asked: ContactRequest = asked) -> Answer:
            return contact(change, asked, key.public.kid, manager.identity, manager.settings)

        given = manager.change(serial, "", take)
        reply = read(unverified(given.reply), ContactReply)
        value, applied = reply.contact, reply.grant.version if reply.grant else 0
        writes = sum(s.split()[0] in ("INSERT", "UPDATE", "DELETE") for s in seen)
        counts.append((len(seen), writes))
    manager.close()
    return counts[-1]


def size(layout: Layout) -> int:
    with sqlite3.connect(layout.database, timeout=60) as database:
        (pages,) = database.execute("PRAGMA page_count").fetchone()
        (free,) = database.execute("PRAGMA freelist_count").fetchone()
    return int(pages - free) * 4096


def resident(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) * 1024
    return 0


async def fleet_of(
    layout: Layout, url: str, root: Path, devices: int, pid: int
) -> dict[str, float]:
    connection = Connection(
        url=url, ca_file=str(layout.ca), username="admin",
        password=layout.password.read_text().strip(),
    )  # fmt: skip
    sizes, begun = [], 0.0
    for count in (devices // 2, devices):
        fleet = SimulatedFleet(root, connection, devices=count)
        await asyncio.to_thread(fleet.make, lambda _: None)
        with ManagerClient(connection) as client:
            for number in range(count):
                client.call(
                    "PUT", f"/devices/{fleet.serial(number).lower()}/allocation",
                    {"sbc_sessions": 10},
                )  # fmt: skip
        fleet.compose()
        await fleet.enrol(lambda _: None)
        for _ in range(2):
            await fleet.all_at_once()
            await asyncio.sleep(3.0)
        sizes.append(size(layout))
        await fleet.close()
    await asyncio.sleep(6.0)
    begun = resident(pid)
    fleet = SimulatedFleet(root, connection, devices=devices, hints=True)
    fleet.compose()
    await fleet.enrol(lambda _: None)
    while fleet.figures.hints < devices:  # noqa: ASYNC110  it tells nobody
        await asyncio.sleep(0.1)
    await asyncio.sleep(6.0)
    ended = resident(pid)
    flash = sum(f.stat().st_size for f in (root / fleet.serial(0) / "flash").iterdir())
    await fleet.close()
    half = devices - devices // 2
    return {
        "disk": (sizes[1] - sizes[0]) / half,
        "stream": (ended - begun) / devices,
        "flash": flash,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=300)
    parser.add_argument("--dir", default=None, help="where files lie; /dev/shm spares the disk")
    said = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=said.dir) as directory:
        layout = Layout(Path(directory) / "manager")
        manager = Manager.create(layout, Settings(listen="127.0.0.1:0", usage_seconds=3600.0))
        bought = order(manager.product_key())
        manager.change("bench", HERE, lambda c: import_order(c, bought, "bench"))
        manager.close()
        process = subprocess.Popen(
            [sys.executable, "-m", "callpool", "manager", "run", "--dir", str(layout.directory)],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            root = Path(directory) / "fleet"
            told = asyncio.run(fleet_of(layout, url, root, said.devices, process.pid))
        finally:
            process.terminate()
            process.wait()
        total, writes = statements(layout)
    figure = {
        "name": "device_bytes",
        "ours": round(told["disk"]),
        "peer": None,
        "ratio": None,
        "interval": None,
        "unit": "bytes",
        "how": f"of the database a device, {said.devices} of them; manager memory an open hint "
        f"stream {told['stream'] / 1024:.0f} KiB; {total} statements in one contact, {writes} of "
        f"them write; flash of one device {told['flash']:.0f} bytes",
    }
    print(json.dumps(figure))


if __name__ == "__main__":
    main()
