"""The License Key and Smart Licensing pages: server-rendered, read-only, no script.

There is no sign-in yet, so the pages listen on the loopback address unless told otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from typing import Final

import jinja2
from litestar import Litestar, MediaType, Request, Response, get
from litestar.datastructures import State
from litestar.response import Redirect

from callpool.device.alarms import span
from callpool.device.faces.metrics import metrics
from callpool.device.faces.reader import Reader
from callpool.device.faces.smart_page import view
from callpool.device.service import waits_for
from callpool.device.smart_status import rows
from callpool.device.status import Status
from callpool.host.syslog.sender import SyslogSender
from callpool.licensing.errors import CallpoolError

#: What every answer carries.
HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}


def day_and_time(seconds: float) -> str:
    """Return a time (seconds since 1970) for people, UTC."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def about(seconds: float) -> str:
    """Return a duration for people; below a minute no number."""
    return "less than a minute" if seconds < 60.0 else span(seconds)


def typed(text: str) -> str:
    """Return a sentence as HTML, what is to be typed (between backticks) marked as such."""
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", escape(text))


_PAGES: Final = jinja2.Environment(
    loader=jinja2.PackageLoader("callpool.device.faces", "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_PAGES.filters["when"] = day_and_time
_PAGES.filters["span"] = span
_PAGES.filters["about"] = about
_PAGES.filters["typed"] = typed
_PAGES.globals["smart_rows"] = rows
_PAGES.globals["waits_for"] = waits_for


def render(status: Status) -> str:
    """Return the License Key page."""
    return _PAGES.get_template("license_key.html.j2").render(now=status)


def render_smart(status: Status, log: Path) -> str:
    """Return the Smart Licensing page; `log` is sml.log."""
    smart = status.smart
    seen = None if smart is None else view(status, smart, log)
    return _PAGES.get_template("smart.html.j2").render(now=status, smart=smart, seen=seen)


@get("/", include_in_schema=False)
async def root() -> Redirect:
    """Lead to the License Key page."""
    return Redirect("/license-key")


@get("/license-key", media_type=MediaType.HTML, include_in_schema=False)
async def license_key(state: State) -> str:
    """Show the License Key page."""
    reader: Reader = state.reader
    return render(await reader.status())


@get("/smart", media_type=MediaType.HTML, include_in_schema=False)
async def smart_page(state: State) -> str:
    """Show the Smart Licensing page."""
    reader: Reader = state.reader
    return render_smart(await reader.status(), state.smart_log)


@get("/status.json")
async def status_json(state: State) -> Status:
    """Return the same as JSON."""
    reader: Reader = state.reader
    return await reader.status()


@get("/style.css", media_type=MediaType.CSS, include_in_schema=False)
async def style() -> str:
    """Return the style sheet."""
    return _PAGES.get_template("style.css.j2").render()


def _refused(request: Request[object, object, State], error: CallpoolError) -> Response[object]:
    if request.url.path == "/metrics":
        return Response(
            {"code": error.code, "detail": error.sentence},
            status_code=401,
            headers={"www-authenticate": 'Bearer realm="callpool metrics"'},
        )
    if request.url.path.endswith(".json"):
        return Response({"code": error.code, "detail": error.sentence}, status_code=503)
    page = _PAGES.get_template("away.html.j2").render(sentence=error.sentence)
    return Response(page, status_code=503, media_type=MediaType.HTML)


def make_app(
    reader: Reader,
    smart_log: Path,
    *,
    metrics_token: Path = Path("metrics.token"),
    senders: Mapping[str, SyslogSender] | None = None,
) -> Litestar:
    """Return the pages' application; `smart_log` is the device's sml.log.

    `metrics_token` is the file with the scrape token, `senders` the syslog targets, which the
    metrics tell of.
    """
    return Litestar(
        route_handlers=[root, license_key, smart_page, status_json, style, metrics],
        state=State(
            {
                "reader": reader,
                "smart_log": smart_log,
                "metrics_token": metrics_token,
                "senders": {} if senders is None else senders,
            }
        ),
        exception_handlers={CallpoolError: _refused},
        response_headers=HEADERS,
        openapi_config=None,
    )
