"""The operators' door to bulk changes."""

from __future__ import annotations

from typing import Final, Literal

import msgspec
from litestar import Response, get, post

from callpool.manager import bulk
from callpool.manager.declare import api
from callpool.manager.doors import Answer, AnyRequest, do, flag_of, query_of, show
from callpool.manager.operator_api import WaitQuery
from callpool.manager.shapes import pool
from callpool.manager.web import JSON, read_body

CSV: Final = "text/csv"


class ExportQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """In which form."""

    format: Literal["json", "csv"] = "json"


#: A list of rows, or an object with it as `devices`.
BulkBody = list[pool.BulkRow] | pool.BulkFile


@get("/api/v1/bulk", opt=api("pool.read", answer=pool.BulkFile, query=ExportQuery, also=(CSV,)))
async def export(request: AnyRequest) -> Answer:
    """Export the pool as a bulk file: `?format=json` (the default) or `csv`."""
    form = query_of(request, ExportQuery).format
    found = await show(request, lambda tx, now: {"devices": bulk.export(tx)})
    if form == "json":
        return found
    rows = msgspec.json.decode(found.content)["devices"]
    return Response(bulk.write_csv(rows).encode(), media_type="text/csv; charset=utf-8")


@post(
    "/api/v1/bulk",
    status_code=200,
    opt=api(
        "pool.change",
        answer=pool.BulkDone,
        body=BulkBody,
        files=(CSV,),
        query=WaitQuery,
        previews=True,
    ),
)
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
