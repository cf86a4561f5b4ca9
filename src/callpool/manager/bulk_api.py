"""The operators' door to bulk changes."""

from __future__ import annotations

from typing import Final

import msgspec
from litestar import Response, get, post

from callpool.licensing.errors import LicenseError
from callpool.manager import bulk
from callpool.manager.declare import api
from callpool.manager.doors import Answer, AnyRequest, do, flag_of, show
from callpool.manager.web import JSON, read_body

CSV: Final = "text/csv"


@get("/api/v1/bulk", opt=api("pool.read"))
async def export(request: AnyRequest) -> Answer:
    """Export the pool as a bulk file: `?format=json` (the default) or `csv`."""
    form = request.query_params.get("format", "json")
    if form not in ("json", "csv"):
        raise LicenseError("bad_request", "format is json or csv.")
    found = await show(request, lambda tx, now: {"devices": bulk.export(tx)})
    if form == "json":
        return found
    rows = msgspec.json.decode(found.content)["devices"]
    return Response(bulk.write_csv(rows).encode(), media_type="text/csv; charset=utf-8")


@post("/api/v1/bulk", status_code=200, opt=api("pool.change"))
async def carry_out(request: AnyRequest) -> Answer:
    """Carry out a bulk file, JSON or CSV, whole or not at all; `?wait=true`, `?preview=true`.

    With `?tenant=` every device has to be one of that tenant.
    """
    raw = await read_body(request, {JSON, CSV})
    wait, within = flag_of(request, "wait"), request.query_params.get("tenant", "")
    if request.headers["content-type"].partition(";")[0].strip().lower() == JSON:
        rows = bulk.read_json(raw)
    else:
        rows = bulk.read_csv(bulk.utf8(raw))
    return await do(
        request,
        lambda change: bulk.carry_out(change, rows, wait=wait, within=within),
        then=lambda done: {"rows": done.rows, "notes": done.notes, "waiting": done.waiting},
        previews=True,
    )


HANDLERS = (export, carry_out)
