"""The operators' door to the audit log: read, export, verify."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec
from litestar import get, post
from litestar.response import Stream

from callpool.licensing.errors import CallpoolError
from callpool.manager import audit_verify, audit_views
from callpool.manager.audit_views import Filters
from callpool.manager.core import Manager
from callpool.manager.declare import api
from callpool.manager.doors import Answer, AnyRequest, Body, ask, body_of, query_of, show
from callpool.manager.shapes import access as forms
from callpool.manager.web import answer, in_thread

_PAGE: Final = 1_000
_VERIFYING: Final = threading.Lock()


class HeadsBody(Body, frozen=True, kw_only=True):
    """Signed heads that were kept elsewhere, as `GET /audit/head` gave them."""

    heads: tuple[str, ...] = ()


@get(
    "/api/v1/audit",
    opt=api(
        "audit.read", query=Filters, also=("text/csv", "application/jsonl"), answer=forms.AuditPage
    ),
)
async def show_audit(request: AnyRequest) -> Answer | Stream:
    """Show the audit log, the newest line first, by filters; as CSV or JSON lines all of it."""
    asked = query_of(request, Filters)
    if asked.format == "json":
        return await show(request, lambda tx, now: audit_views.page(tx, asked))
    kind = "text/csv" if asked.format == "csv" else "application/jsonl"
    return Stream(
        _export(request, asked),
        media_type=f"{kind}; charset=utf-8",
        headers={"Content-Disposition": f'attachment; filename="callpool-audit.{asked.format}"'},
    )


async def _export(request: AnyRequest, asked: Filters) -> AsyncIterator[str]:
    """Yield the log page by page: it only grows, at its other end."""
    lines = audit_views.csv_lines if asked.format == "csv" else audit_views.json_lines
    if asked.format == "csv":
        yield audit_views.csv_heading()
    before: int | None = None
    while True:

        def page(before: int | None = before) -> list[dict[str, Any]]:
            return ask(
                request,
                lambda tx, now: audit_views.lines(tx, asked, before=before, limit=_PAGE),
            )

        found = await in_thread(page)
        yield lines(found)
        if len(found) < _PAGE:
            return
        before = found[-1]["entry"]


@get("/api/v1/audit/head", opt=api("audit.read", answer=forms.SignedHead))
async def show_head(request: AnyRequest) -> Answer:
    """Show the log's signed head: kept elsewhere, it proves later that nothing was cut off."""
    manager: Manager = request.app.state.manager

    def run() -> Answer:
        manager.heads.keep(manager, at_once=True)
        head = manager.heads.kept()
        return answer({"head": head, "envelope": manager.heads.envelope()})

    return await in_thread(run)


@post(
    "/api/v1/audit/verify",
    status_code=200,
    opt=api("audit.read", body=HeadsBody, answer=forms.AuditVerdict, once=False),
)
async def verify(request: AnyRequest) -> Answer:
    """Verify the whole audit log, also against heads that were kept elsewhere."""
    manager: Manager = request.app.state.manager
    body = await body_of(request, HeadsBody)

    def run() -> Answer:
        if not _VERIFYING.acquire(blocking=False):
            raise CallpoolError("busy", "The audit log is being verified already; ask again.")
        try:
            return answer(msgspec.to_builtins(audit_verify.verify(manager, body.heads)))
        finally:
            _VERIFYING.release()

    return await in_thread(run)


HANDLERS = (show_audit, show_head, verify)
