"""`contacts_per_second`: signed contacts a manager takes in on PostgreSQL, against pgbench.

A private cluster with its default settings (fsync on) holds `--devices` devices, made by INSERT ...
SELECT. `--keys` of them, spread over all, have real key pairs and call: each call is a whole
contact with five minutes of use, signed beforehand, sent over HTTPS on 16 kept connections from a
process of its own; no device calls twice in a run. The answer leaves when the commit is on disk.
In the same run, on the same server, `pgbench -N -c 16` writes by turns.

Prints `contacts_per_second` (with `p99_ms` at 80 % of the maximum and the manager's memory),
`contact_cpu_us` (manager and PostgreSQL, a contact), and `contacts_growth` (the rate with all
devices over that with 1,000).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import re
import secrets
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from callpool.lab.postgres import Cluster, binary, cluster
from callpool.licensing.usage import MINUTE
from callpool.manager.core import Manager
from callpool.manager.settings import Layout, Settings
from callpool.manager.store.derived import keep_rules
from callpool.wire.envelope import CONTACT, REPLY, read, sign, trust, verify
from callpool.wire.keys import PublicKey, SigningKey
from callpool.wire.messages import (
    CONTACT_PATH,
    CONTENT_TYPE,
    AlarmsMessage,
    ContactReply,
    ContactRequest,
    UsageCount,
    UsageMinute,
)

CONNECTIONS = 16
TENANTS = 1_000
TICK = os.sysconf("SC_CLK_TCK")

FILL = """
INSERT INTO purchase_order VALUES ('PO', {now} - 10, {now} + 1e7, {now}, {now}, 'generated');
INSERT INTO meta VALUES ('swept', '{now}') ON CONFLICT (name) DO UPDATE SET value = excluded.value;
INSERT INTO order_line SELECT 'PO', t, 10 * {devices}, 5 * {devices}
  FROM unnest(ARRAY['sbc_sessions', 'far_end_users']) AS t;
INSERT INTO tenant SELECT 1000 + n, 'tenant-' || n FROM generate_series(0, {tenants} - 1) AS n;
INSERT INTO tenant_share (tenant_id, type, share, held)
  SELECT 1000 + n, t, NULL, 5 * ({devices} / {tenants} + (n < {devices} % {tenants})::int)
  FROM generate_series(0, {tenants} - 1) AS n, unnest(ARRAY['sbc_sessions', 'far_end_users']) AS t;
INSERT INTO device (device_id, name, tenant_id, apply, mode, added_at)
  SELECT 1000 + n, 'sbc-' || n, 1000 + n % {tenants}, 'live', 'fixed', {now} - 1000
  FROM generate_series(0, {devices} - 1) AS n;
INSERT INTO unit (serial, device_id, role, public_key, kid, enrolled_at, report, last_contact,
    leased, lease_end, lease_elapsed, grant_version, grant_content, sent_version, floor_version,
    contact_current, keys_sent, keys_known, alarm_log)
  SELECT 'SN' || n, 1000 + n, 0, 'key', 'kid-' || n, {now}, {report}, {now} - n % 300,
    TRUE, {now} - n % 300 + 604800, 6e5, 1, {grant}, 1, 1, 'first', 1, 1, 'log'
  FROM generate_series(0, {devices} - 1) AS n;
INSERT INTO grant_journal SELECT 'SN' || n, 1, {grant}, {now}
  FROM generate_series(0, {devices} - 1) AS n;
INSERT INTO allocation (device_id, type, target, since) SELECT 1000 + n, t, 5, {now}
  FROM generate_series(0, {devices} - 1) AS n, unnest(ARRAY['sbc_sessions', 'far_end_users']) AS t;
INSERT INTO holding (serial, type, order_id, since, tenant_id, granted, held)
  SELECT 'SN' || n, t, 'PO', 0, 1000 + n % {tenants}, 5, 5
  FROM generate_series(0, {devices} - 1) AS n, unnest(ARRAY['sbc_sessions', 'far_end_users']) AS t;
INSERT INTO tally VALUES ('units', 'enrolled', {devices}), ('devices', 'fixed', {devices});
INSERT INTO device_now SELECT 1000 + n, 1000 + n % {tenants}, 'sbc-' || n, 'fixed', 'SN' || n, '',
    '', floor(({now} - n % 300 + 604800) / 3600) * 3600 FROM generate_series(0, {devices} - 1) AS n;
INSERT INTO device_heard SELECT 1000 + n, {now} - n % 300 FROM generate_series(0, {devices} - 1) n;
INSERT INTO device_count (device_id, type, tenant_id, target, granted, local, actual, in_use,
    pool_in_use) SELECT 1000 + n, t, 1000 + n % {tenants}, 5, 5, 0, 5, 2, 2
  FROM generate_series(0, {devices} - 1) AS n, unnest(ARRAY['sbc_sessions', 'far_end_users']) AS t
"""


@dataclass
class Site:
    """A manager's directory, its database, and who calls."""

    layout: Layout
    database: str
    #: The number and the key of each device that calls, in the order in which they call.
    callers: list[tuple[int, SigningKey]]


def contact(serial: str, url: str, now: float) -> ContactRequest:
    counts = {"sbc_sessions": 2, "far_end_users": 2}
    base = int(now) // MINUTE * MINUTE - 6 * MINUTE
    use = {name: UsageCount(3, 2.0, 5, 7, 0, 0) for name in counts}
    return ContactRequest(
        url=url, nonce=secrets.token_urlsafe(16), serial=serial, contact="first", time=now,
        reason="usage", software="callpool bench", mode="fixed", remote_version=1,
        applied_version=1, local=dict.fromkeys(counts, 0), actual=dict.fromkeys(counts, 5),
        maximum=dict.fromkeys(counts, 250), in_use=counts, remote_in_use=counts,
        usage=tuple(UsageMinute(at=base + n * MINUTE, types=use) for n in range(5)),
        alarm_log=AlarmsMessage(log="log", sequence=0),
    )  # fmt: skip


def made(made_cluster: Cluster, directory: Path, devices: int, keys: int) -> Site:
    """Make a manager and fill its database."""
    layout = Layout(directory)
    directory.mkdir(mode=0o700)
    database = made_cluster.database()
    layout.database_url.write_text(database)
    # Most of the devices never call here: none shall become silent, and be alarmed, by that.
    settings = Settings(listen="127.0.0.1:0", poll_seconds=7200.0, usage_seconds=7200.0)
    manager = Manager.create(layout, settings)
    # What is filled in is derived already: the first start has nothing to derive anew.
    manager.database.write(keep_rules)
    manager.close()
    now = time.time()
    grant = json.dumps(
        [
            {
                "order_id": "PO", "since": 0, "until": now + 1e7,
                "counts": {"sbc_sessions": 5, "far_end_users": 5},
            }
        ]
    )  # fmt: skip
    report = contact("SN0", "", now - 300)
    values = {
        "now": repr(now), "devices": devices, "tenants": min(TENANTS, devices),
        "grant": f"'{grant}'", "report": f"'{_text(report)}'",
    }  # fmt: skip
    chosen = random.Random(7).sample(range(devices), min(keys, devices))
    callers = [(n, SigningKey.generate()) for n in chosen]
    with psycopg.connect(database.replace("+psycopg", "")) as connection:
        tables = re.findall(r"INSERT INTO ([a-z_]+)", FILL)
        for table in dict.fromkeys(tables):
            connection.execute(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        for statement in FILL.format(**values).split(";\n"):
            connection.execute(statement)
        connection.execute("CREATE TEMP TABLE caller (serial text, public_key text, kid text)")
        with connection.cursor().copy("COPY caller FROM STDIN") as copy:
            for n, key in callers:
                copy.write_row((f"SN{n}", key.public.text, key.public.kid))
        connection.execute(
            "UPDATE unit SET public_key = c.public_key, kid = c.kid FROM caller c"
            " WHERE unit.serial = c.serial"
        )
        # Eleven of twelve reports are not the first of their hour.
        for table, length, more in (("hour", 3600, ", taken"), ("day", 86_400, "")):
            connection.execute(
                f"INSERT INTO usage_{table} (serial, at, type, minutes, peak, total, cap, admitted,"  # noqa: S608
                f" refused, repeated, worst{more}) SELECT serial, at, t, 0, 3, 0, 5, 0, 0, 0, 0"
                f"{', 0' if more else ''} FROM caller, unnest(ARRAY['sbc_sessions',"
                " 'far_end_users']) AS t,"
                " unnest(CAST(%s AS bigint[])) AS at",
                (sorted({int(now + s) // length * length for s in (-1800, -420, 0, 1800, 3600)}),),
            )
        for table in dict.fromkeys(tables):
            connection.execute(f"ALTER TABLE {table} ENABLE TRIGGER USER")
    with psycopg.connect(database.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")
    return Site(layout, database, callers)


def _text(request: ContactRequest) -> str:
    import msgspec

    kept = msgspec.structs.replace(request, contact="", nonce="", usage=(), alarm_log=None)
    return msgspec.json.encode(kept).decode()


# -- the load, in a process of its own


def load(port: int, ca: str, requests: list[bytes], rate: float, out: Any) -> None:
    """Send `requests` on kept connections, as fast as they are answered or at `rate` a second."""
    context = ssl.create_default_context(cafile=ca)
    lock, taken = threading.Lock(), iter(enumerate(requests))
    waited: list[float] = []
    refused: list[str] = []
    replies: list[tuple[int, str]] = []
    ready = threading.Barrier(CONNECTIONS + 1)
    begin = [0.0]

    def work() -> None:
        raw = socket.create_connection(("127.0.0.1", port))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(raw, server_hostname="127.0.0.1") as link:
            reader = link.makefile("rb")
            ready.wait()
            ready.wait()
            while True:
                with lock:
                    number, body = next(taken, (-1, b""))
                if number < 0:
                    return
                due = begin[0] + number / rate if rate else time.perf_counter()
                if (early := due - time.perf_counter()) > 0:
                    time.sleep(early)
                link.sendall(body)
                status = reader.readline()
                length = 0
                while (line := reader.readline()) != b"\r\n":
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                answer = reader.read(length)
                waited.append(time.perf_counter() - due)
                if b" 200 " not in status:
                    refused.append(answer.decode())
                elif number % 50 == 0:
                    replies.append((number, answer.decode()))

    threads = [threading.Thread(target=work) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    ready.wait()
    out.send("ready")
    out.recv()
    begin[0] = time.perf_counter()
    ready.wait()
    for thread in threads:
        thread.join()
    out.send((time.perf_counter() - begin[0], waited, refused, replies))


class Running:
    """A manager process."""

    def __init__(self, site: Site) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "callpool", "manager", "run", "--dir",
             str(site.layout.directory)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline().rpartition(":")[2])
        self.site = site
        self._next = 0

    def run(self, count: int, rate: float = 0.0) -> tuple[float, list[float]]:
        """Send `count` contacts of devices that have not called; return rate and waits."""
        url = f"https://127.0.0.1:{self.port}{CONTACT_PATH}"
        callers = self.site.callers[self._next : self._next + count]
        assert len(callers) == count, "more --keys are needed"
        self._next += count
        now, requests = time.time(), []
        for number, key in callers:
            body = sign(key, CONTACT, contact(f"SN{number}", url, now))
            requests.append(
                f"POST {CONTACT_PATH} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
                f"Content-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\n\r\n"
                f"{body}".encode()
            )
        here, there = multiprocessing.Pipe()
        arguments = (self.port, str(self.site.layout.ca), requests, rate, there)
        process = multiprocessing.get_context("fork").Process(target=load, args=arguments)
        process.start()
        here.recv()
        here.send("go")
        took, waited, refused, replies = here.recv()
        process.join()
        assert not refused, refused[0]
        book = json.loads((self.site.layout.identity / "keys.json").read_text())
        keys = trust(*(PublicKey.from_text(k["public_key"]) for k in book["keys"]))
        for number, envelope in replies:
            reply = read(verify(envelope, REPLY, keys), ContactReply)
            assert reply.serial == f"SN{callers[number][0]}"
            assert reply.lease_end > now
        return count / took, waited

    def memory_mb(self) -> float:
        """Return the most memory that it has had, MiB."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(text.split("VmHWM:")[1].split()[0]) / 1024

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait()


@contextlib.contextmanager
def running(site: Site) -> Iterator[Running]:
    made_manager = Running(site)
    try:
        yield made_manager
    finally:
        made_manager.close()


def cpu(*roots: int) -> float:
    """Return the CPU seconds of processes and their children so far."""
    total = 0.0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            head, _, tail = stat.read_text().rpartition(")")
            fields = tail.split()
            if int(fields[1]) in roots or int(head.split()[0]) in roots:
                # Its own, and what children that have ended had.
                total += sum(int(fields[n]) for n in (11, 12, 13, 14)) / TICK
    return total


def pgbench(made_cluster: Cluster, seconds: int, *, fill: bool = False) -> float:
    name = "pgbench"
    environment = {**os.environ, "PGPASSWORD": made_cluster.password}
    where = ["-h", "127.0.0.1", "-p", str(made_cluster.port), "-U", "callpool"]
    if fill:
        with psycopg.connect(made_cluster.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        subprocess.run(
            [binary("pgbench"), "-q", "-i", "-s", "20", *where, name],
            check=True, env=environment, capture_output=True,
        )  # fmt: skip
        return 0.0
    done = subprocess.run(
        [binary("pgbench"), "-N", "-n", "-c", "16", "-j", "2", "-T", str(seconds), *where, name],
        check=True, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    return float(re.findall(r"tps = ([0-9.]+)", done.stdout)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=1_000_000)
    parser.add_argument("--keys", type=int, default=40_000)
    parser.add_argument("--contacts", type=int, default=4_000, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=8, help="of each pgbench")
    asked = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="callpool-bench-"))
    try:
        with cluster() as server:
            measure(server, root, asked)
    finally:
        shutil.rmtree(root, ignore_errors=True)


def measure(server: Cluster, root: Path, asked: argparse.Namespace) -> None:
    began = time.time()
    many = made(server, root / "many", asked.devices, asked.keys)
    few = made(server, root / "few", 1_000, 1_000)
    pgbench(server, 0, fill=True)
    filled = time.time() - began
    count, small = asked.contacts, min(asked.contacts, 300)
    assert server.process is not None
    rates, peers, costs, growth = [], [], [], []
    with running(many) as manager, running(few) as little:
        manager.run(500)  # statements are prepared, caches are warm
        little.run(50)
        for _ in range(asked.rounds):
            peers.append(pgbench(server, asked.seconds))
            roots = (manager.process.pid, server.process.pid)
            before = cpu(*roots)
            rate, _ = manager.run(count)
            costs.append((cpu(*roots) - before) / count * 1e6)
            rates.append(rate)
            again, _ = manager.run(small)
            growth.append(again / little.run(small)[0])
        paced = 0.8 * max(rates)
        _, waited = manager.run(count, rate=paced)
        p99 = sorted(waited)[int(len(waited) * 0.99)] * 1000
        memory = manager.memory_mb()
    middle = sorted(rates)[len(rates) // 2]
    peer = sorted(peers)[len(peers) // 2]
    load_now = os.getloadavg()[0]
    how = (
        f"{asked.devices} devices (filled in {filled:.0f} s), {len(many.callers)} with keys;"
        f" {asked.rounds} rounds of {count} contacts over {CONNECTIONS} kept HTTPS connections by"
        f" turns with pgbench -N -c 16; {os.cpu_count()} cores, load {load_now:.1f}"
    )
    for line in (
        {
            "name": "contacts_per_second", "ours": round(middle, 1), "peer": round(peer, 1),
            "ratio": round(middle / peer, 3),
            "interval": [round(min(rates), 1), round(max(rates), 1)], "unit": "1/s",
            "p99_ms": round(p99, 1), "paced": round(paced, 1), "memory_mb": round(memory, 1),
            "how": how,
        },
        {
            "name": "contact_cpu_us", "ours": round(sorted(costs)[len(costs) // 2], 1),
            "peer": None, "ratio": None, "interval": [round(min(costs)), round(max(costs))],
            "unit": "us", "how": "CPU of the manager and of all PostgreSQL's processes, a contact",
        },
        {
            "name": "contacts_growth", "ours": round(sorted(growth)[len(growth) // 2], 3),
            "peer": 1.0, "ratio": round(sorted(growth)[len(growth) // 2], 3),
            "interval": [round(min(growth), 3), round(max(growth), 3)], "unit": "ratio",
            "how": f"rate with {asked.devices} devices over that with 1000, by turns",
        },
    ):  # fmt: skip
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
