"""`console_pool_page_ms`: the console's pool page of a manager with very many devices.

A real manager process over HTTPS on a generated database (100,000 devices of 1,000 tenants, each
with what it last reported); a signed-in browser's session asks for what people ask for: the first
page, a page deep inside, a name, a tenant, what is used most, what needs attention. Also told: the
largest answer in kB, the overview, its live part, and what the derived tables cost a report.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from callpool.manager.core import Manager
from callpool.manager.settings import Layout, Settings
from callpool.manager.store.database import Database
from callpool.manager.store.derived import settle
from callpool.manager.store.tx import Tx

TYPES = ("sbc_sessions", "far_end_users")
#: One in so many devices has something wrong.
WRONG = 200
_SEED = 7


def generate(file: Path, devices: int, tenants: int, now: float) -> None:
    """Fill a new manager's database."""
    chance = random.Random(_SEED)
    database = sqlite3.connect(file)
    database.execute("PRAGMA foreign_keys = OFF")
    database.execute("PRAGMA synchronous = OFF")
    database.execute("PRAGMA cache_size = -400000")
    for n in range(2, tenants + 2):
        database.execute("INSERT INTO tenant VALUES (?, ?)", (n, f"tenant-{n:04}"))
    shares = [(n, t, None) for n in range(2, tenants + 2) for t in TYPES]
    database.executemany(
        "INSERT INTO tenant_share (tenant_id, type, share) VALUES (?, ?, ?)", shares
    )
    database.execute(
        "INSERT INTO purchase_order VALUES ('PO', ?, ?, ?, ?, '')",
        (now - 1e6, now + 3e7, now - 1e6, now),
    )
    for kind in TYPES:
        database.execute(
            "INSERT INTO order_line (order_id, type, count) VALUES ('PO', ?, ?)",
            (kind, devices * 300),
        )
    # The order began when it was bought: its devices have been granted what it brought.
    database.execute("INSERT OR REPLACE INTO meta VALUES ('swept', ?)", (repr(now),))
    reply = "".join(chance.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(1_800))
    for n in range(1, devices + 1):
        _device(database, chance, n, 2 + n % tenants, now, reply)
    database.commit()
    database.execute("ANALYZE")
    database.commit()
    database.close()


def _device(
    database: sqlite3.Connection, chance: random.Random, n: int, tenant: int, now: float, reply: str
) -> None:
    serial, counts = f"SN-{n:07}", {TYPES[0]: chance.randint(10, 250), TYPES[1]: 20 * (n % 3)}
    database.execute(
        "INSERT INTO device VALUES (?, ?, ?, 'restart', 'fixed', ?, NULL)",
        (n, f"sbc-{n:06}", tenant, now - 1e6),
    )
    for kind, count in counts.items():
        database.execute(
            "INSERT INTO allocation (device_id, type, target, since) VALUES (?, ?, ?, ?)",
            (n, kind, count, now - 1e6),
        )
        database.execute(
            "INSERT INTO holding VALUES (?, ?, 'PO', 0, ?, ?, ?)",
            (serial, kind, tenant, count, count),
        )
    use = {kind: chance.randint(0, count) for kind, count in counts.items()}
    wrong = n % WRONG == 0
    report = {
        "url": "https://manager.example.net/device/v1/contact", "serial": serial, "time": now,
        "reason": "usage", "version": 1, "remote_version": 3, "applied_version": 2 if wrong else 3,
        "remote_in_use": use, "in_use": use, "peak": use, "refused": {"session_limit": n % 50},
        "local": {}, "maximum": {"sbc_sessions": 250, "far_end_users": 100}, "actual": counts,
        "restart_done": 0, "alarms": ["restart_pending"] if wrong else [],
        "software": "callpool 0.1.0", "mode": "fixed",
    }  # fmt: skip
    grant = [{"order_id": "PO", "since": 0.0, "until": now + 3e7, "counts": counts}]
    database.execute(
        "INSERT INTO unit (serial, device_id, role, public_key, kid, last_reply, last_contact,"
        " lease_end, leased, grant_version, grant_content, report) VALUES"
        " (?, ?, 0, ?, ?, ?, ?, ?, 1, 3, ?, ?)",
        (
            serial, n, f"key-{n}", f"kid-{n}", reply, now - chance.random() * 300,
            now + 600_000, json.dumps(grant), json.dumps(report),
        ),
    )  # fmt: skip
    hour = int(now // 3600) * 3600
    for back in (1, 2):
        database.execute(
            "INSERT INTO usage_hour (serial, at, type, minutes, peak, total, cap, admitted,"
            " refused, repeated, worst, taken) VALUES (?, ?, ?, 60, ?, 600, 250, 100, 0, 0, 0, 0)",
            (serial, hour - back * 3600, TYPES[0], use[TYPES[0]]),
        )


def report_cost(file: Path, reports: int = 2_000) -> float:
    """Return what deriving a device anew adds to the writing of its report, microseconds."""
    database = Database(file)

    def update(tx: Tx, n: int) -> None:
        tx.run(
            "UPDATE unit SET report = json_set(report, '$.in_use.sbc_sessions', :n)"
            " WHERE serial = :serial",
            n=n % 10, serial=f"SN-{n:07}",
        )  # fmt: skip

    def work(tx: Tx) -> float:
        spent = 0.0
        for n in range(1, reports + 1):
            update(tx, n)
            begin = time.perf_counter()
            settle(tx)
            spent += time.perf_counter() - begin
        return spent

    try:
        return database.write(work) / reports * 1e6
    finally:
        database.close()


def timed(client: httpx.Client, address: str, headers: dict[str, str] | None = None) -> Any:
    """Return an answer and the milliseconds that it took."""
    begin = time.perf_counter()
    reply = client.get(address, headers=headers)
    took = (time.perf_counter() - begin) * 1000
    assert reply.status_code == 200, reply.text
    return reply, took


def measure(url: str, password: str, rounds: int) -> dict[str, Any]:
    """Ask as a browser does; returns milliseconds by what was asked, and kilobytes."""
    with httpx.Client(base_url=url, verify=False, trust_env=False, timeout=60) as client:  # noqa: S501  loopback
        client.headers["Origin"] = url
        signed = client.post("/sign-in", data={"username": "admin", "password": password})
        assert signed.status_code == 303, signed.text
        addresses = {
            "first page": "/pool",
            "a name": "/pool?q=bc-0420",
            "a tenant": "/pool?tenant=tenant-0500",
            "used most": "/pool?sort=in_use&type=sbc_sessions&down=1",
            "needs attention": "/pool?show=attention&sort=worst&down=1",
        }
        deep = client.get("/pool?q=sbc&sort=name&down=1").text
        following = re.search(r'href="([^"]*cursor=[^"]*)">Next page', deep)
        assert following is not None
        addresses["a page deep inside"] = following[1].replace("&amp;", "&")
        times: dict[str, list[float]] = {name: [] for name in addresses}
        size = 0
        overview, live = [], []
        for _ in range(rounds):
            for name, address in addresses.items():
                reply, took = timed(client, address)
                times[name].append(took)
                size = max(size, len(reply.content))
            overview.append(timed(client, "/")[1])
            live.append(timed(client, "/", {"x-callpool-live": "none"})[1])
    return {
        "medians": {name: round(statistics.median(found), 1) for name, found in times.items()},
        "all": sorted(took for found in times.values() for took in found),
        "kilobytes": round(size / 1000, 1),
        "overview": round(statistics.median(overview), 1),
        "live": round(statistics.median(live), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=100_000)
    parser.add_argument("--tenants", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=15)
    asked = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="cp-"))
    layout = Layout(root / "manager")
    try:
        Manager.create(layout, Settings(listen="127.0.0.1:0")).close()
        generate(layout.database, asked.devices, asked.tenants, time.time())
        process = subprocess.Popen(
            [sys.executable, "-m", "callpool", "manager", "run", "--dir", str(layout.directory)],
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            found = measure(url, layout.password.read_text().strip(), asked.rounds)
        finally:
            process.kill()
            process.wait()
        cost = report_cost(layout.database)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    times = found["all"]
    said = ", ".join(f"{name} {took}" for name, took in found["medians"].items())
    figure = {
        "name": "console_pool_page_ms",
        "ours": round(statistics.median(times), 1),
        "peer": None,
        "ratio": None,
        "interval": {
            "p5": round(times[len(times) // 20], 1),
            "p95": round(times[-len(times) // 20], 1),
        },
        "unit": "ms, median",
        "kilobytes": found["kilobytes"],
        "how": f"{asked.devices} devices, {asked.tenants} tenants, HTTPS, {asked.rounds} rounds: "
        f"{said}; the largest answer has {found['kilobytes']} kB; overview {found['overview']}, "
        f"its live part {found['live']}; the derived tables add {cost:.0f} us to a report",
    }  # fmt: skip
    print(json.dumps(figure), flush=True)


if __name__ == "__main__":
    main()
