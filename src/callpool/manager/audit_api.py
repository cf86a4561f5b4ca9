"""The operators' door to the audit log."""

from __future__ import annotations

from litestar import get

from callpool.manager import audit_views
from callpool.manager.declare import api
from callpool.manager.doors import Answer, AnyRequest, query_of, show


@get("/api/v1/audit", opt=api("audit.read", query=audit_views.Filters))
async def show_audit(request: AnyRequest) -> Answer:
    """Show the audit log, the newest line first, by filters."""
    asked = query_of(request, audit_views.Filters)
    return await show(request, lambda tx, now: {"lines": audit_views.lines(tx, asked)})


HANDLERS = (show_audit,)
