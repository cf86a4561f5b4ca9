"""One device's page: what it is, what it used, what happened to it, and what can be done."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec
from litestar import get
from litestar.params import FromPath

from callpool.licensing.capacity import LICENSE_TYPES
from callpool.licensing.errors import CallpoolError, LicenseError
from callpool.licensing.usage import DAY, HOUR
from callpool.manager import alarm_views, usage_views
from callpool.manager.alarm_views import ActiveQuery
from callpool.manager.console import attention, devices, queries
from callpool.manager.console.page import REFUSALS, AnyRequest, Page, asked_of, show
from callpool.manager.console.queries import WORST
from callpool.manager.core import Manager
from callpool.manager.declare import api
from callpool.manager.guard import principal_of
from callpool.manager.hitless_store import last_run
from callpool.manager.pair_views import run_shown
from callpool.manager.store.tx import Row, Tx
from callpool.manager.usage_views import Query as UsageQuery

#: The courses that are shown: seconds back, step, words.
SPANS: Final = {
    "hours": (3 * HOUR, "minute", "3 hours by minute"),
    "week": (7 * DAY, "hour", "7 days by hour"),
    "months": (90 * DAY, "day", "90 days by day"),
}
#: Lines of a device's life on its page.
LIFE: Final = 40

_LINE: Final = (
    "SELECT j.entry, j.at, j.cause, j.detail, j.outcome,"
    " CASE WHEN j.elsewhere AND :narrow THEN 'elsewhere' ELSE j.who END AS who,"
    " CASE WHEN j.elsewhere AND :narrow THEN '' ELSE j.source END AS source"
    " FROM journal j WHERE {which} AND j.entry < :before AND MINE(j.tenant_id)"
    " ORDER BY j.entry DESC LIMIT :limit"
)


#: What the indexes on the journal's details hold.
_VALID: Final = "json_valid(j.detail) AND"


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What of a device is looked at."""

    span: Literal["hours", "week", "months"] = "week"
    #: Its life before this line of the journal.
    before: int = 2**62


def life(tx: Tx, name: str, serials: list[str], before: int, limit: int) -> list[dict[str, Any]]:
    """Return what happened to a device, the newest first: three walks along an index each."""
    found: dict[int, Row] = {}
    asked: list[tuple[str, str]] = [(f"{_VALID} json_extract(j.detail, '$.device') = :it", name)]
    asked += [(f"{_VALID} json_extract(j.detail, '$.serial') = :it", serial) for serial in serials]
    asked += [("j.who = :it", serial) for serial in serials]
    for which, it in asked:
        for row in tx.rows(
            _LINE.format(which=which), it=it, before=before, limit=limit,
            narrow=not tx.scope.whole,
        ):  # fmt: skip
            found[row["entry"]] = row
    lines = [found[entry] for entry in sorted(found, reverse=True)][:limit]
    return [{**r, "detail": msgspec.json.decode(r["detail"])} for r in lines]


def courses(tx: Tx, now: float, name: str, span: str) -> list[dict[str, Any]]:
    """Return the use of each license type that the device has or used, for a chart and a table."""
    back, by, _ = SPANS[span]
    asked = UsageQuery(start=now - back, end=now, device=name, by=by)
    return [
        {
            "type": series["type"],
            "label": LICENSE_TYPES[series["type"]].label,
            "points": series["points"],
            "peak": max(p["peak"] for p in series["points"]),
            "refused": sum(p["refused"] for p in series["points"]),
            "repeated": sum(p["repeated"] for p in series["points"]),
            "step": usage_views.STEPS[by],
            "begin": now - back,
            "end": now,
            "data": msgspec.json.encode(
                [
                    [p[key] for p in series["points"]]
                    for key in ("at", "peak", "mean", "cap", "refused")
                ]
            ).decode(),
        }
        for series in sorted(
            usage_views.course(tx, asked)["series"],
            key=lambda s: list(LICENSE_TYPES).index(s["type"]),
        )
        if series["points"]
    ]


async def device_page(
    request: AnyRequest,
    name: str,
    *,
    made: Mapping[str, Any] | None = None,
    refused: CallpoolError | None = None,
    form: str = "",
    fields: Mapping[str, str] | None = None,
    typed: Mapping[str, str] | None = None,
) -> Page:
    """Show a device; `made` is a token that was just made for it."""
    manager: Manager = request.app.state.manager
    asked = asked_of(request, View)

    seen = principal_of(request).may("alarms.read")

    def ask(tx: Tx, now: float) -> dict[str, Any]:
        row = tx.row(
            f"SELECT n.device_id, n.name, {WORST} AS worst FROM device_now n WHERE n.name = :name"  # noqa: S608  a constant
            " AND MINE(n.tenant_id)",
            name=name,
            **queries.clock(now, manager.settings),
        )
        if row is None:
            raise LicenseError("unknown_device", f"There is no device named {name[:64]!r}.")
        found = devices.shown(tx, now, [dict(row)])[0]
        serials = [u["serial"] for u in found["units"]]
        lines = life(tx, name, serials, asked.before, LIFE + 1)
        instances = tx.rows(
            "SELECT instance_id, serial FROM product_instance WHERE state = 'registered'"
            " AND serial IN TEXTS(:serials)",
            serials=msgspec.json.encode(serials).decode(),
        )
        last = last_run(tx, row["device_id"])
        return {
            "device": found,
            "run": None if last is None else run_shown(last),
            "asked": asked,
            "spans": SPANS,
            "courses": courses(tx, now, name, asked.span),
            "life": lines[:LIFE],
            "older": lines[LIFE - 1]["entry"] if len(lines) > LIFE else None,
            "instances": instances,
            "alarm_list": [
                {
                    "code": code,
                    "title": attention.alarm_title(code),
                    "severity": attention.grave(code),
                    "next_step": attention.next_step(code),
                }
                for code in found["alarms"]
            ],
            "active": alarm_views.active(tx, ActiveQuery(device=name))["alarms"] if seen else [],
            "made": made,
            "serial_options": [(serial, serial) for serial in serials],
            "here": f"/devices/{name}",
        }

    return await show(
        request, "device.html.j2", ask, refused=refused, form=form, fields=fields, typed=typed
    )


@get("/devices/{name:str}", opt=api("pool.read"), exception_handlers=REFUSALS)
async def device(request: AnyRequest, name: FromPath[str]) -> Page:
    """Show one device."""
    return await device_page(request, name)


HANDLERS = (device,)
