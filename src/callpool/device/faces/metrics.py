"""The device's metrics: what `status` says, as numbers in base units.

Every series is bounded: by license types, reasons, alarm codes, states and syslog targets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

from litestar import Request, Response, get
from litestar.datastructures import State
from prometheus_client import ProcessCollector
from prometheus_client.metrics_core import Metric

from callpool.device.faces.reader import Reader
from callpool.device.smart_status import SmartStatus
from callpool.device.status import Status
from callpool.device.vitals import Vitals
from callpool.host.metrics import Once, answer, check_token, counter, gauge, info, one
from callpool.host.syslog.sender import SyslogSender
from callpool.licensing.alarm_table import DEFINITIONS, Severity
from callpool.licensing.capacity import CPS
from callpool.licensing.errors import CallpoolError
from callpool.licensing.smart import State as AgentState

P: Final = "callpool_device_"

#: A column of the capacity table -> what it means.
_COLUMNS: Final[Mapping[str, str]] = {
    "remote": "Licenses received from the pool.",
    "local": "Licenses of the local license key.",
    "actual": "Licenses in force: what the gate is confirmed to enforce.",
    "pending": "What is in force after a restart with save.",
    "in_use": "Licenses in use now.",
    "peak": "The most in use at once since the gate's driver started.",
}


def families(status: Status, vitals: Vitals) -> Iterator[Metric]:
    """Yield what is told while the core answers."""
    yield info(
        f"{P}info", "Which device this is.",
        {"serial": status.serial, "software": status.software, "mode": status.mode,
         "managed": status.managed},
    )  # fmt: skip
    yield from _licenses(status)
    yield counter(
        f"{P}calls_admitted", "Calls admitted, emergency calls included.", [((), vitals.admitted)]
    )
    yield counter(f"{P}calls_ended", "Calls ended, of those admitted.", [((), vitals.ended)])
    yield counter(
        f"{P}refused", "Calls and registrations refused, by reason.",
        [([reason], n) for reason, n in status.refused.items()], ["reason"],
    )  # fmt: skip
    yield one(f"{P}emergency_calls", "Emergency calls in progress.", status.emergency)
    yield one(f"{P}uncertain_calls", "Calls counted without being certain.", status.uncertain)
    yield one(f"{P}in_service", "1 while new calls are admitted.", status.in_service)
    yield from _contact(status, vitals)
    yield from _alarms(status)
    yield one(f"{P}flash_generation", "Writes of the flash.", status.flash_generation)
    yield one(f"{P}gate_up", "1 while Kamailio is heard of.", vitals.gate_alive)
    yield one(f"{P}gate_in_sync", "1 while the core's book agrees.", vitals.gate_in_sync)
    yield one(
        f"{P}policy_confirmed", "1 while the gate has confirmed the last policy.",
        vitals.policy_confirmed,
    )  # fmt: skip
    yield counter(
        f"{P}gate_restarts", "Times that Kamailio died and was started again.",
        [((), vitals.gate_restarts)],
    )  # fmt: skip
    yield counter(
        f"{P}faces_starts", "Times that the faces were started.", [((), vitals.faces_starts)]
    )
    if status.smart is not None:
        yield from _smart(status.smart, status.time)


def _licenses(status: Status) -> Iterator[Metric]:
    rows = status.capacity
    for column, text in _COLUMNS.items():
        yield gauge(
            f"{P}licenses_{column}", text,
            [([row.type], getattr(row, column)) for row in rows], ["type"],
        )  # fmt: skip
    yield gauge(
        f"{P}licenses_maximum", "What the device supports at most.",
        [([row.type], row.maximum) for row in rows if row.maximum is not None], ["type"],
    )  # fmt: skip
    yield gauge(
        f"{P}licenses_used_ratio", "In use of what is in force, 0 to 1; absent where it is none.",
        [([row.type], row.in_use / row.actual) for row in rows if row.actual], ["type"],
    )  # fmt: skip


def _contact(status: Status, vitals: Vitals) -> Iterator[Metric]:
    yield one(f"{P}enrolled", "1 once enrolled with a manager.", status.enrolled)
    yield one(f"{P}contact_good", "1 while the last contact was good.", status.connected)
    yield one(f"{P}hint_stream_open", "1 while the manager can hint.", status.hints)
    yield one(
        f"{P}contact_next_seconds", "Seconds until the next contact.", status.next_contact_seconds
    )
    if status.last_contact is not None:
        yield one(
            f"{P}contact_age_seconds", "Seconds since the last good contact.",
            max(0.0, status.time - status.last_contact),
        )  # fmt: skip
    if status.lease_seconds is not None:
        yield one(f"{P}lease_remaining_seconds", "Seconds left of the lease.", status.lease_seconds)
    yield one(
        f"{P}grant_received_version", "The version of the grant received.", status.remote_version
    )
    yield one(
        f"{P}grant_confirmed_version", "The version that the gate is confirmed to enforce.",
        status.applied_version,
    )  # fmt: skip
    yield one(
        f"{P}restart_pending", "1 while a change waits for a restart with save.", status.pending
    )
    yield one(f"{P}clock_skew_seconds", "The wall clock less trusted time.", vitals.clock_skew)
    yield one(f"{P}trusted_time_seconds", "Trusted time, seconds since 1970.", status.time)


def _alarms(status: Status) -> Iterator[Metric]:
    active = {a.code for a in status.alarms}
    grave = Counter(a.severity for a in status.alarms)
    yield gauge(
        f"{P}alarms_active", "Active conditions, by severity.",
        [([s.name.lower()], grave[s.name.lower()]) for s in Severity if s >= Severity.WARNING],
        ["severity"],
    )  # fmt: skip
    yield gauge(
        f"{P}alarm_active", "1 while a condition is active; every condition that there is.",
        [([code, d.severity.name.lower()], code in active) for code, d in DEFINITIONS.items()],
        ["code", "severity"],
    )  # fmt: skip


def _smart(smart: SmartStatus, now: float) -> Iterator[Metric]:
    yield gauge(
        f"{P}smart_state", "1 for the Smart Agent's state.",
        [([s.value], s.value == smart.state) for s in AgentState], ["state"],
    )  # fmt: skip
    yield info(
        f"{P}smart_info", "How smart licensing stands.",
        {"enforcement": smart.enforcement_mode, "registration": smart.registration,
         "calls": smart.calls, "call_policy": smart.call_policy},
    )  # fmt: skip
    counts = {"configured": smart.count, "limit": smart.limit, "maximum": smart.maximum}
    yield gauge(
        f"{P}smart_rate", "Calls a second: configured, in force, and the most that can be.",
        [([kind, CPS], n) for kind, n in counts.items()], ["kind", "type"],
    )  # fmt: skip
    yield one(
        f"{P}smart_evaluation_remaining_seconds", "Seconds of evaluation left.",
        smart.eval_seconds_left,
    )  # fmt: skip
    ends = {
        "authorization": smart.authorization_end,
        "certificate": smart.certificate_end,
    }
    yield gauge(
        f"{P}smart_remaining_seconds", "Seconds until the authorization, the ID certificate end.",
        [([what], end - now) for what, end in ends.items() if end is not None], ["what"],
    )  # fmt: skip


def syslog_families(senders: Mapping[str, SyslogSender]) -> Iterator[Metric]:
    """Yield what became of messages to each syslog target since the faces started."""
    label = ["target"]
    yield counter(
        f"{P}syslog_sent", "Messages that the target took.",
        [([n], s.sent) for n, s in senders.items()], label,
    )  # fmt: skip
    yield counter(
        f"{P}syslog_dropped", "Messages that fell out of the queue.",
        [([n], s.dropped) for n, s in senders.items()], label,
    )  # fmt: skip
    yield gauge(
        f"{P}syslog_waiting", "Messages that wait.",
        [([n], s.waiting) for n, s in senders.items()], label,
    )  # fmt: skip
    yield gauge(
        f"{P}syslog_up", "1 while the last try succeeded.",
        [([n], not s.failure) for n, s in senders.items()], label,
    )  # fmt: skip


@get("/metrics", include_in_schema=False)
async def metrics(request: Request[object, object, State], state: State) -> Response[bytes]:
    """Answer a scrape; the core's answer is part of it, so that its absence can be alerted on."""
    check_token(state.metrics_token, request.headers.get("authorization", ""))
    reader: Reader = state.reader
    pid = 0
    try:
        status, vitals = await reader.status(), await reader.vitals()
        pid = vitals.pid
        found = [*families(status, vitals)]
    except CallpoolError:
        found = []
    found.append(one(f"{P}core_up", "1 while the core answers.", bool(pid)))
    if state.senders:
        found += syslog_families(state.senders)
    collectors = [Once(found), ProcessCollector(registry=None)]
    if pid:
        collectors.append(
            ProcessCollector(namespace="callpool_device_core", pid=lambda: pid, registry=None)
        )
    body, content_type = answer(request.headers.get("accept", ""), *collectors)
    return Response(body, headers={"content-type": content_type})
