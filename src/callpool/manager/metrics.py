"""The manager's metrics.

Two kinds: what this process has done since it started (contacts, writes), counted as it happens;
and what the database says now, read at each scrape from tables that are small however many
devices there are: orders, shares, and the tallies that triggers keep (`m0006_tally`).

Every series is bounded: none is ever one of a device, an account or an operator. Tenants are told
of by name up to MOST_TENANTS, those that were made first, all others together as OTHERS; orders
up to MOST_ORDERS, those that end next.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from litestar import Request, Response, get
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector
from prometheus_client.metrics_core import Metric

from callpool import __version__
from callpool.host.metrics import Once, answer, gauge, info, one
from callpool.licensing.capacity import POOL_TYPES
from callpool.licensing.errors import CallpoolError
from callpool.manager import restored
from callpool.manager.core import Manager
from callpool.manager.declare import api
from callpool.manager.device_views import SILENT
from callpool.manager.hints import Hub
from callpool.manager.store.tx import Tx
from callpool.manager.web import in_thread

P: Final = "callpool_manager_"
#: Tenants that are told of by name; a name cannot have a parenthesis.
MOST_TENANTS: Final = 50
OTHERS: Final = "(others)"
#: Orders that are told of.
MOST_ORDERS: Final = 50
#: The states of a unit, of a product instance, of a device's mode: told of at 0 too.
_STATES: Final[Mapping[str, tuple[str, ...]]] = {
    "units": ("new", "enrolled", "locked", "released", "reset"),
    "instances": ("registered", "silent", "locked"),
    "devices": ("fixed", "none"),
}
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
#: The outcome of a contact that was answered as it should.
GOOD: Final = "ok"


class Metrics:
    """What one manager process counts."""

    def __init__(self, manager: Manager) -> None:
        """Count for `manager` from now on."""
        self.registry = CollectorRegistry()
        self._contacts = Counter(
            f"{P}contacts",
            "Requests of devices, by door and outcome: ok or the refusal's code.",
            ["door", "outcome"],
            registry=self.registry,
        )
        self._durations = Histogram(
            f"{P}contact_duration_seconds",
            "From a device's request to its answer.",
            ["door"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._writes = Histogram(
            f"{P}database_write_duration_seconds",
            "One durable transaction, its wait for the one before included.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        ProcessCollector(registry=self.registry)
        manager.database.on_write = self._writes.observe

    @contextlib.contextmanager
    def contact(self, door: str) -> Iterator[Outcome]:
        """Count and time one request of a device; what is raised is its outcome."""
        began = time.perf_counter()
        outcome = Outcome()
        try:
            yield outcome
        except CallpoolError as error:
            outcome.code = error.code
            raise
        except BaseException:
            outcome.code = "internal_error"
            raise
        finally:
            self._contacts.labels(door, outcome.code).inc()
            self._durations.labels(door).observe(time.perf_counter() - began)


class Outcome:
    """How a contact ended."""

    def __init__(self) -> None:
        """Take it as good."""
        self.code = GOOD


def families(tx: Tx, now: float) -> list[Metric]:
    """Return what the database says at `now` (manager's time)."""
    return [
        *_pool(tx, now),
        *_tenants(tx),
        *_orders(tx, now),
        *_states(tx, now),
        *_smart(tx),
        one(
            f"{P}restored", "1 while a manager restored from a backup learns what devices hold.",
            restored.restored(tx) is not None,
        ),
    ]  # fmt: skip


def _pool(tx: Tx, now: float) -> Iterator[Metric]:
    found = {
        r["type"]: r
        for r in tx.rows(
            "SELECT l.type, sum(l.count) AS purchased, sum(l.held) AS held FROM order_line l"
            " JOIN purchase_order o ON o.order_id = l.order_id"
            " WHERE o.starts <= :now AND o.ends > :now GROUP BY l.type",
            now=now,
        )
    }
    purchased = {k: found[k]["purchased"] if k in found else 0 for k in POOL_TYPES}
    held = {k: found[k]["held"] if k in found else 0 for k in POOL_TYPES}
    back = {
        r["type"]: r["n"]
        for r in tx.rows(
            "SELECT type, sum(held - granted) AS n FROM holding"
            " WHERE held > granted AND since = 0 GROUP BY type"
        )
    }
    used = {
        r["type"]: r["n"]
        for r in tx.rows("SELECT type, sum(in_use) AS n FROM device_count GROUP BY type")
    }

    def each(name: str, text: str, counts: Mapping[str, float]) -> Metric:
        return gauge(
            f"{P}licenses_{name}", text, [([k], counts.get(k, 0)) for k in POOL_TYPES], ["type"]
        )

    yield each("purchased", "Purchased and in date.", purchased)
    yield each("held", "Held by units, those being taken back included.", held)
    yield each("free", "Purchased, and held by none.", {k: purchased[k] - held[k] for k in held})
    yield each("reclaiming", "Being taken back.", back)
    yield each("in_use", "In use by calls and registrations, as devices last reported.", used)
    yield gauge(
        f"{P}licenses_held_ratio", "Held of what is purchased, 0 to 1; absent where it is none.",
        [([k], held[k] / purchased[k]) for k in POOL_TYPES if purchased[k]], ["type"],
    )  # fmt: skip


def _tally(tx: Tx, name: str) -> dict[str, int]:
    rows = tx.rows("SELECT label, count FROM tally WHERE name = :name", name=name)
    return {r["label"]: r["count"] for r in rows}


def _tenants(tx: Tx) -> Iterator[Metric]:
    rows = tx.rows(
        "SELECT CASE WHEN t.tenant_id <= coalesce((SELECT tenant_id FROM tenant"
        "   ORDER BY tenant_id LIMIT 1 OFFSET :last), 9e18) THEN t.name ELSE :others END AS name,"
        " s.type, sum(s.held) AS held,"
        " CASE WHEN count(s.share) = count(*) THEN sum(s.share) END AS share"
        " FROM tenant t JOIN tenant_share s ON s.tenant_id = t.tenant_id"
        " GROUP BY 1, s.type",
        last=MOST_TENANTS - 1,
        others=OTHERS,
    )
    labels = ["tenant", "type"]
    yield gauge(
        f"{P}tenant_held", "Held by a tenant's units.",
        [((r["name"], r["type"]), r["held"]) for r in rows], labels,
    )  # fmt: skip
    yield gauge(
        f"{P}tenant_share", "A tenant's share; absent where the pool alone bounds it.",
        [((r["name"], r["type"]), r["share"]) for r in rows if r["share"] is not None], labels,
    )  # fmt: skip
    yield one(f"{P}tenants", "Tenants.", tx.value("SELECT count(*) FROM tenant"))


def _orders(tx: Tx, now: float) -> Iterator[Metric]:
    samples = [
        ([r["order_id"], r["role"]], r["ends"])
        for r in tx.rows(
            "SELECT * FROM (SELECT order_id, 'pool' AS role, ends FROM purchase_order"
            " WHERE ends > :now UNION ALL SELECT order_id, 'smart', ends FROM smart_order"
            " WHERE ends > :now) AS orders ORDER BY ends LIMIT :most",
            now=now,
            most=MOST_ORDERS,
        )
    ]
    yield gauge(
        f"{P}order_end_timestamp_seconds", "When an order ends, by the manager's clock.",
        samples, ["order", "role"],
    )  # fmt: skip
    yield one(f"{P}time_seconds", "The manager's clock, seconds since 1970.", now)


def _states(tx: Tx, now: float) -> Iterator[Metric]:
    texts = {
        "units": "Units (an HA pair has two), by state.",
        "instances": "Product instances of smart licensing, by state.",
        "devices": "Devices, by whether the pool manages them (fixed) or not (none).",
    }
    for name, states in _STATES.items():
        found = dict.fromkeys(states, 0) | _tally(tx, name)
        label = "mode" if name == "devices" else "state"
        yield gauge(f"{P}{name}", texts[name], [([k], n) for k, n in found.items()], [label])
    yield one(
        f"{P}units_silent", "Units that have missed their poll.",
        tx.value(
            "SELECT count(*) FROM device_heard h CROSS JOIN unit u"
            " WHERE h.last_contact < :since AND u.device_id = h.device_id"
            " AND u.state = 'active' AND u.last_contact < :since",
            since=now - SILENT,
        ),
    )  # fmt: skip
    waiting = {r["state"]: r["n"] for r in tx.rows(
        "SELECT state, count(*) AS n FROM request GROUP BY state"
    )}  # fmt: skip
    yield gauge(
        f"{P}requests_waiting", "Requests that wait, and those that units move for already.",
        [([k], waiting.get(k, 0)) for k in ("waiting", "moving")], ["state"],
    )  # fmt: skip


def _smart(tx: Tx) -> Iterator[Metric]:
    rows = tx.rows(
        "SELECT tag, sum(purchased) AS purchased, sum(in_use) AS in_use,"
        " sum(CASE WHEN out_since > 0 THEN 1 ELSE 0 END) AS out FROM smart_compliance GROUP BY tag"
    )
    for name, text in (
        ("purchased", "Purchased and in date, in all virtual accounts."),
        ("in_use", "Configured on all instances."),
    ):
        yield gauge(
            f"{P}smart_{name}", text, [([r["tag"]], r[name]) for r in rows], ["entitlement"]
        )
    yield gauge(
        f"{P}smart_accounts_out_of_compliance", "Virtual accounts that are out of compliance.",
        [([r["tag"]], r["out"]) for r in rows], ["entitlement"],
    )  # fmt: skip


def certificates(manager: Manager) -> Metric:
    """Return when the manager's own certificates end; real time. Raises OSError, ValueError."""
    files: dict[str, Path] = {"tls": manager.layout.certificate, "ca": manager.layout.ca}
    ends = {
        name: x509.load_pem_x509_certificate(file.read_bytes()).not_valid_after_utc.timestamp()
        for name, file in files.items()
    }
    return gauge(
        f"{P}certificate_end_timestamp_seconds", "When a certificate of the manager ends.",
        [([name], end) for name, end in ends.items()], ["certificate"],
    )  # fmt: skip


@get("/metrics", opt=api("metrics.read", also=("text/plain",)))
async def metrics(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Answer a scrape, by an API token of scope `metrics` best."""
    manager: Manager = request.app.state.manager
    counted: Metrics = request.app.state.metrics
    hub: Hub = request.app.state.hub
    accept, streams = request.headers.get("accept", ""), hub.streams

    def work() -> tuple[bytes, str]:
        now = manager.clock.now().wall
        found = manager.database.read(lambda tx: families(tx, now))
        found += [
            info(f"{P}info", "Which software this is.", {"version": __version__}),
            certificates(manager),
            one(f"{P}hint_streams", "Streams of hints that are open.", streams),
        ]
        return answer(accept, Once(found), counted.registry)

    body, content_type = await in_thread(work)
    return Response(body, headers={"content-type": content_type})


HANDLERS = (metrics,)
