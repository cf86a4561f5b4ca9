"""The License Key and Admin pages: server-rendered, for the users of the device's shell.

They work while the manager is away. Whoever is signed in reads them; administrators change things
by forms (`actions.py`). One script of our own keeps them up to date; without it they still work.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any, Final

import jinja2
from litestar import Litestar, MediaType, Request, Response, get, post
from litestar.datastructures import Cookie, MutableScopeHeaders, State
from litestar.exceptions import HTTPException
from litestar.response import Redirect, Stream
from litestar.types import Message, Scope

from callpool.device.alarms import span
from callpool.device.config_book import ConfigReport
from callpool.device.faces import actions
from callpool.device.faces.door import (
    AnyRequest,
    Door,
    NotSignedIn,
    Visitor,
    source_of,
    text,
)
from callpool.device.faces.live import Live
from callpool.device.faces.metrics import metrics
from callpool.device.faces.reader import Reader
from callpool.device.faces.smart_page import view
from callpool.device.service import waits_for
from callpool.device.smart_status import rows
from callpool.device.status import Status
from callpool.device.status_text import pair_lines
from callpool.host.syslog.sender import SyslogSender
from callpool.licensing.errors import CallpoolError

#: What every answer carries.
HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'self'; "
        "img-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "strict-transport-security": "max-age=31536000",
}
#: The longest body of a form, in bytes.
MAX_BODY: Final = 64 * 1024
#: What our own script sends when it fetches a page anew: nobody has looked.
LIVE: Final = "x-callpool-live"


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
_PAGES.globals["pair_rows"] = pair_lines
_PAGES.globals["waits_for"] = waits_for

_HTML: Final = MediaType.HTML


def _seen_by(visitor: Visitor | None, *, told: bool) -> dict[str, Any]:
    """Return what a template knows of who looks; `told` gives the notice, once."""
    if visitor is None:
        return {"visitor": None, "csrf": "", "notice": None, "may": False}
    return {
        "visitor": visitor.user,
        "csrf": visitor.session.csrf,
        "notice": visitor.session.take_notice() if told else None,
        "may": visitor.may_change,
    }


def render(
    status: Status,
    visitor: Visitor | None = None,
    config: ConfigReport | None = None,
    *,
    told: bool = True,
) -> str:
    """Return the License Key page as `visitor` sees it."""
    return _PAGES.get_template("license_key.html.j2").render(
        now=status, config=config, page="license-key", **_seen_by(visitor, told=told)
    )


def render_smart(
    status: Status,
    log: Path,
    visitor: Visitor | None = None,
    config: ConfigReport | None = None,
    *,
    told: bool = True,
) -> str:
    """Return the Admin page as `visitor` sees it; `log` is sml.log."""
    smart = status.smart
    return _PAGES.get_template("smart.html.j2").render(
        now=status,
        smart=smart,
        seen=None if smart is None else view(status, smart, log),
        config=config,
        page="smart",
        **_seen_by(visitor, told=told),
    )


class Pages:
    """What is shown outside of any session."""

    def __init__(self, serial: str) -> None:
        """Show the device with this serial number."""
        self.serial = serial

    def sign_in(self, *, sentence: str = "", name: str = "", to: str = "", status: int = 200) -> (
        Response[Any]
    ):  # fmt: skip
        """Return the way in."""
        page = _PAGES.get_template("sign_in.html.j2").render(
            serial=self.serial, sentence=sentence, name=name, to=to
        )
        return Response(page, media_type=_HTML, status_code=status)

    def reset(self, outcome: dict[str, Any]) -> Response[Any]:
        """Return what a factory reset leaves to be said."""
        page = _PAGES.get_template("reset.html.j2").render(serial=self.serial, outcome=outcome)
        return Response(page, media_type=_HTML)

    def away(self, sentence: str) -> Response[Any]:
        """Return the page of a device whose core does not answer."""
        page = _PAGES.get_template("away.html.j2").render(serial=self.serial, sentence=sentence)
        return Response(page, media_type=_HTML, status_code=503)


def _target(path: str) -> str:
    """Return where to go after signing in: one of our own pages."""
    return path if path in (actions.LICENSE_KEY, actions.ADMIN) else actions.LICENSE_KEY


async def _shown(request: AnyRequest, state: State) -> tuple[Visitor, Status, ConfigReport, bool]:
    door: Door = state.door
    reader: Reader = state.reader
    live = LIVE in request.headers
    visitor = await door.visitor(request, use=not live)
    return visitor, await reader.status(), await door.config(), not live


@get("/", include_in_schema=False)
async def root() -> Redirect:
    """Lead to the License Key page."""
    return Redirect(actions.LICENSE_KEY)


@get(actions.LICENSE_KEY, media_type=MediaType.HTML, include_in_schema=False)
async def license_key(request: AnyRequest, state: State) -> str:
    """Show the License Key page."""
    visitor, status, config, told = await _shown(request, state)
    return render(status, visitor, config, told=told)


@get(actions.ADMIN, media_type=MediaType.HTML, include_in_schema=False)
async def admin(request: AnyRequest, state: State) -> str:
    """Show the Admin page."""
    visitor, status, config, told = await _shown(request, state)
    return render_smart(status, state.smart_log, visitor, config, told=told)


@get("/events", include_in_schema=False)
async def events(request: AnyRequest, state: State) -> Stream:
    """Tell the page when there is something new."""
    door: Door = state.door
    await door.visitor(request, use=False)

    async def still() -> bool:
        try:
            await door.visitor(request, use=False)
        except NotSignedIn:
            return False
        return True

    return Stream(state.live.stream(still), media_type="text/event-stream")


@get("/status.json")
async def status_json(request: AnyRequest, state: State) -> Status:
    """Return the same as JSON: to a session, or to a user's HTTP Basic credentials."""
    door: Door = state.door
    reader: Reader = state.reader
    if "authorization" in request.headers:
        await door.by_basic(request)
    else:
        await door.visitor(request)
    return await reader.status()


@get("/sign-in", include_in_schema=False)
async def sign_in_page(request: AnyRequest, state: State) -> Response[Any]:
    """Show the way in."""
    pages: Pages = state.pages
    return pages.sign_in(to=_target(request.query_params.get("to", "")))


@post("/sign-in", include_in_schema=False)
async def sign_in(request: AnyRequest, state: State) -> Response[Any]:
    """Sign in."""
    door: Door = state.door
    pages: Pages = state.pages
    form = await request.form()
    name, to = text(form, "name").strip(), _target(text(form, "to"))
    try:
        cookie = await door.sign_in(name, text(form, "password"), source_of(request))
    except CallpoolError as error:
        if error.code not in ("too_many_failures", "sign_in_busy"):
            raise
        return pages.sign_in(sentence=error.sentence, name=name[:64], to=to, status=429)
    if cookie is None:
        wrong = "The user name or the password is wrong."
        return pages.sign_in(sentence=wrong, name=name[:64], to=to, status=401)
    answer = Redirect(to, status_code=303)
    answer.set_cookie(
        Cookie(
            key=door.cookie, value=cookie, path="/", secure=True, httponly=True, samesite="strict"
        )
    )
    return answer


@post("/sign-out", include_in_schema=False)
async def sign_out(request: AnyRequest, state: State) -> Redirect:
    """End the session."""
    door: Door = state.door
    door.sessions.close(request.cookies.get(door.cookie, ""))
    answer = Redirect("/sign-in", status_code=303)
    answer.delete_cookie(door.cookie)
    return answer


@get("/style.css", media_type=MediaType.CSS, include_in_schema=False)
async def style() -> str:
    """Return the style sheet."""
    return _PAGES.get_template("style.css.j2").render()


_SCRIPT: Final = resources.files("callpool.device.faces").joinpath("static/live.js").read_text()


@get("/live.js", media_type="text/javascript", include_in_schema=False)
async def script() -> str:
    """Return the one script."""
    return _SCRIPT


_ICON: Final = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">'
    '<rect width="16" height="16" rx="3" fill="#1a5276"/>'
    '<path d="M4 11V8m4 3V4m4 7V6" stroke="#fff" stroke-width="2.2"/></svg>'
)


@get("/icon.svg", media_type="image/svg+xml", include_in_schema=False)
async def icon() -> str:
    """Return the icon."""
    return _ICON


def _refused(request: Request[Any, Any, State], error: CallpoolError) -> Response[Any]:
    pages: Pages = request.app.state.pages
    path = request.url.path
    if path == "/metrics":
        return Response(
            {"code": error.code, "detail": error.sentence},
            status_code=401,
            headers={"www-authenticate": 'Bearer realm="callpool metrics"'},
        )
    if path.endswith(".json"):
        status = 401 if error.code in ("not_signed_in", "bad_credentials") else 503
        status = 429 if error.code in ("too_many_failures", "sign_in_busy") else status
        headers = {"www-authenticate": 'Basic realm="callpool device"'} if status == 401 else {}
        body = {"code": error.code, "detail": error.sentence}
        return Response(body, status_code=status, headers=headers)
    if isinstance(error, NotSignedIn) and path == "/events":
        return Response(error.sentence, status_code=401, media_type=MediaType.TEXT)
    if isinstance(error, NotSignedIn):
        return Redirect(f"/sign-in?to={_target(path)}", status_code=303)
    if error.code in ("stale_form", "not_permitted"):
        page = _PAGES.get_template("refused.html.j2").render(
            serial=pages.serial, sentence=error.sentence, code=error.code
        )
        return Response(page, media_type=_HTML, status_code=403)
    return pages.away(error.sentence)


def _plain(request: Request[Any, Any, State], error: HTTPException) -> Response[Any]:
    """Answer what is no page of ours, or no form: one sentence."""
    sentence = {
        404: "There is nothing at this address.",
        405: "This address does not take that method.",
        413: "What was sent is too long.",
    }.get(error.status_code, "The request cannot be understood.")
    return Response(sentence + "\n", status_code=error.status_code, media_type=MediaType.TEXT)


async def _guard(message: Message, _: Scope) -> None:
    """Put what every answer carries on an answer, whoever made it."""
    if message["type"] == "http.response.start":
        MutableScopeHeaders.from_message(message).update(HEADERS)


def make_app(
    reader: Reader,
    smart_log: Path,
    *,
    control: Path,
    serial: str,
    metrics_token: Path = Path("metrics.token"),
    senders: Mapping[str, SyslogSender] | None = None,
) -> Litestar:
    """Return the pages' application; `smart_log` is the device's sml.log.

    `metrics_token` is the file with the scrape token, `senders` the syslog targets, which the
    metrics tell of.
    """
    door = Door(control, serial)
    return Litestar(
        route_handlers=[
            root,
            license_key,
            admin,
            events,
            status_json,
            sign_in_page,
            sign_in,
            sign_out,
            style,
            script,
            icon,
            metrics,
            *actions.HANDLERS,
        ],
        state=State(
            {
                "reader": reader,
                "smart_log": smart_log,
                "door": door,
                "pages": Pages(serial),
                "live": Live(reader, door.config, smart_log),
                "metrics_token": metrics_token,
                "senders": {} if senders is None else senders,
            }
        ),
        exception_handlers={CallpoolError: _refused, HTTPException: _plain},
        before_send=[_guard],
        openapi_config=None,
        request_max_body_size=MAX_BODY,
    )
