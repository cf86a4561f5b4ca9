"""How every page is made: its context, its live part, its refusals and what it says after."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs, parse_qsl, quote, urlencode

import jinja2
import msgspec
from litestar import MediaType, Request, Response
from litestar.datastructures import Cookie
from litestar.exceptions import HTTPException
from litestar.response import Redirect

from callpool.licensing.capacity import POOL_TYPES
from callpool.licensing.errors import CallpoolError, LicenseError
from callpool.manager.access import BROWSER, Principal
from callpool.manager.change import Change
from callpool.manager.codes import status_of
from callpool.manager.console import words
from callpool.manager.core import Manager
from callpool.manager.guard import principal_of
from callpool.manager.preview import preview
from callpool.manager.preview_words import sentences
from callpool.manager.store.tx import Tx
from callpool.manager.web import in_thread, read_body, refuse_bug

T = TypeVar("T")
AnyRequest = Request[Any, Any, Any]
Page = Response[Any]
Query = Callable[[Tx, float], dict[str, Any]]

FORM: Final = "application/x-www-form-urlencoded"
#: Carries what an action has to say to the page that comes after it.
_SAID: Final = "__Host-callpool-said"
#: What of an address starts a form, and does not outlive it.
_PREFILLED: Final = ("name", "serials", "tenant_is")
#: How a page asks for its live part alone; it says which one it has.
_LIVE: Final = "x-callpool-live"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """What was refused: shown beside the field that caused it, with what was typed."""

    #: Which form of the page.
    form: str
    code: str
    sentence: str
    #: The field that caused it, empty for the form as a whole.
    field: str = ""
    typed: Mapping[str, str] = dataclasses.field(default_factory=dict)


_PAGES: Final = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_PAGES.filters.update(
    when=words.when,
    stamp=words.stamp,
    span=words.span,
    n=words.number,
    counts=words.counts,
    label=words.label,
    cause=words.cause,
    detail=words.detail,
    severity_word=words.severity,
    part=lambda text: quote(text, safe=""),
)
_PAGES.globals.update(relative=words.relative, POOL_TYPES=POOL_TYPES)

#: The pages that the heading leads to: address, name, permission, first part of the address.
_SECTIONS: Final = (
    ("/", "Overview", "pool.read"),
    ("/pool", "License Pool", "pool.read"),
    ("/smart", "Smart inventory", "smart.read"),
    ("/alarms", "Alarms", "alarms.read"),
    ("/audit", "Audit", "audit.read"),
    ("/operators", "Operators", "operators.read"),
)


def install(assets: Mapping[str, Any]) -> None:
    """Let pages know the addresses of what they load."""
    _PAGES.globals["asset"] = {name: found.url for name, found in assets.items()}


async def show(
    request: AnyRequest,
    template: str,
    query: Query,
    *,
    refused: CallpoolError | None = None,
    form: str = "",
    fields: Mapping[str, str] | None = None,
    typed: Mapping[str, str] | None = None,
) -> Page:
    """Return a page, or its live part where that alone is asked for.

    `query` is given the asker's view of the database and the manager's time. With `refused` the
    page says so at `form`, beside the field that `fields` names for its code.
    """
    manager: Manager = request.app.state.manager
    who = principal_of(request)
    refusal = None
    if refused is not None:
        refusal = Refusal(
            form=form,
            code=refused.code,
            sentence=refused.sentence,
            field=(fields or {}).get(refused.code, (fields or {}).get("", "")),
            typed=typed or {},
        )
    held = request.headers.get(_LIVE)

    def run() -> tuple[str, str]:
        began = time.perf_counter()
        manager.sweep()
        now = manager.clock.now().wall
        found = manager.database.read(lambda tx: query(tx, now), who.scope)
        context = {**_context(request, who, now), "refused": refusal, **found}
        # Macros see what the page sees, in a live part too.
        context["m"] = _PAGES.get_template("macros.html.j2").make_module(context)
        page = _PAGES.get_template(template)
        if held is None:
            return page.render(context), ""
        if "live" not in page.blocks:
            return "", ""
        text = "".join(page.blocks["live"](page.new_context(context)))
        request.app.state.feed.took(time.perf_counter() - began)
        return text, hashlib.sha256(text.encode()).hexdigest()[:16]

    text, tag = await in_thread(run)
    if held is not None and tag in ("", held):
        return Response(content=b"", status_code=204, media_type=MediaType.HTML)
    headers = {_LIVE: tag} if tag else {}
    made: Page = Response(
        content=text,
        status_code=status_of(refused) if refused is not None else 200,
        media_type="text/html; charset=utf-8",
        headers=headers,
    )
    if not tag and request.cookies.get(_SAID):
        made.set_cookie(_said(""))
    return made


def _context(request: AnyRequest, who: Principal, now: float) -> dict[str, Any]:
    path = request.url.path
    return {
        "now": now,
        "who": who,
        "may": who.may,
        "csrf": who.csrf,
        "path": path,
        "query": dict(request.query_params),
        "here": path + (f"?{request.url.query}" if request.url.query else ""),
        # A refused form stands at an address that cannot be asked for anew.
        "still": request.method != "GET",
        "sections": [(link, name) for link, name, needs in _SECTIONS if who.may(needs)],
        "said": _read_said(request.cookies.get(_SAID, "")),
    }


def _said(text: str) -> Cookie:
    packed = base64.urlsafe_b64encode(text.encode()).decode()
    return Cookie(
        key=_SAID, value=packed, path="/", secure=True, httponly=True, samesite="strict",
        max_age=60 if text else 0,
    )  # fmt: skip


def _read_said(packed: str) -> str:
    try:
        return base64.urlsafe_b64decode(packed).decode()[:1000]
    except ValueError:  # not ours
        return ""


def back(to: str, said: str = "") -> Page:
    """Lead to a page that says what was done."""
    made = Redirect(to, status_code=303)
    if said:
        made.set_cookie(_said(said))
    return made


def asked_of(request: AnyRequest, kind: type[T]) -> T:
    """Return what a page is asked for by its address; what is unknown or empty counts as unsaid.

    Raises LicenseError `bad_request`.
    """
    return read_query(request.query_params, kind)


def read_query(given: Mapping[str, str], kind: type[T]) -> T:
    """Return a query as `kind`, a struct; raises LicenseError `bad_request`."""
    known = {k: v for k, v in given.items() if v and k in kind.__struct_fields__}  # type: ignore[attr-defined]
    try:
        return msgspec.convert(known, kind, strict=False)
    except msgspec.ValidationError as error:
        raise LicenseError("bad_request", f"The address is not in order: {error}.") from error


async def form_of(request: AnyRequest) -> dict[str, str]:
    """Return the fields of a form, each once; raises CallpoolError as `web.read_body`."""
    raw = await read_body(request, {FORM})
    found = parse_qs(raw.decode(errors="replace"), keep_blank_values=True, max_num_fields=100)
    # A box that is ticked comes after its hidden "no". A password and a file are what was given.
    return {
        name: values[-1] if "password" in name or name == "file" else values[-1].strip()
        for name, values in found.items()
        if name != "csrf"
    }


async def change(request: AnyRequest, work: Callable[[Change], T]) -> T:
    """Run a change for the operator who asks, as the API does."""
    manager: Manager = request.app.state.manager
    who = principal_of(request)

    def recorded(made: Change) -> T:
        before = made.lines
        result = work(made)
        if made.lines == before:
            made.journal("changed", method=request.method, path=request.url.path[:200])
        return result

    return await in_thread(
        lambda: manager.change(who.username, who.source, recorded, acting=who.acting)
    )


async def look(request: AnyRequest, work: Callable[[Change], Any]) -> dict[str, Any]:
    """Return what a change would do, by the API's own preview; nothing is changed."""
    manager: Manager = request.app.state.manager
    who = principal_of(request)
    return await in_thread(
        lambda: preview(manager, who.username, who.source, work, lambda made: made, who.acting)
    )


async def act(
    request: AnyRequest,
    work: Callable[[Change], T],
    *,
    to: str,
    said: Callable[[T], str] | str,
    page: Callable[..., Awaitable[Page]],
    form: str = "",
    typed: Mapping[str, str] | None = None,
    fields: Mapping[str, str] | None = None,
) -> Page:
    """Carry out a change and lead to `to`; where it is refused, show `page` with the sentence."""
    try:
        made = await change(request, work)
    except CallpoolError as error:
        return await page(refused=error, form=form, typed=typed, fields=fields)
    return back(to, said if isinstance(said, str) else said(made))


def looked(value: Mapping[str, Any]) -> list[str]:
    """Say a preview for people, with what its answer has to note."""
    found = value["answer"]
    notes = found.notes if hasattr(found, "notes") else []
    waits = [f"{name} would wait." for name in getattr(found, "waiting", ())]
    # An arrow that is read aloud as well as it is seen.
    said = [line.replace("->", "→") for line in sentences(dict(value))]
    return [*said, *notes, *waits]


def local(address: str, otherwise: str = "/") -> str:
    """Return an address of ours to go on to, `otherwise` for anything else."""
    good = address.startswith("/") and not address.startswith(("//", "/\\"))
    return address if good and address.isprintable() else otherwise


def return_to(typed: Mapping[str, str], otherwise: str) -> str:
    """Return the page that a form was on, without what was being changed in place."""
    path, _, query = local(typed.get("back", ""), otherwise).partition("?")
    kept = [(k, v) for k, v in parse_qsl(query) if k not in ("edit", *_PREFILLED)]
    return f"{path}?{urlencode(kept)}" if kept else path


def fragment(template: str, status: int = 200, **context: Any) -> Page:
    """Return a piece of a page."""
    return Response(
        content=_PAGES.get_template(template).render(context),
        status_code=status,
        media_type="text/html; charset=utf-8",
    )


def plain(request: AnyRequest, template: str, status: int = 200, **context: Any) -> Page:
    """Return a page for somebody who is not signed in."""
    return fragment(template, status, here=request.url.path, said="", **context)


def refuse_page(request: AnyRequest, error: CallpoolError) -> Page:
    """Show a refusal as a page; lead to the sign-in whoever is not signed in."""
    status = status_of(error)
    if status == 401 and request.method == "GET":
        if request.headers.get(_LIVE) is not None:
            return Response(content=b"", status_code=401, media_type=MediaType.HTML)
        here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        why = {"over": "1"} if error.code == "session_expired" else {}
        return Redirect(f"/sign-in?{urlencode({'next': here, **why})}", status_code=303)
    who = request.scope["state"].get("principal")
    known = isinstance(who, Principal) and who.via == BROWSER
    return plain(
        request, "refused.html.j2", status, code=error.code, sentence=error.sentence, known=known
    )


def refuse_page_http(request: AnyRequest, error: HTTPException) -> Page:
    """Show the framework's own errors as a page."""
    sentence = "There is nothing at this address." if error.status_code == 404 else "It cannot be."
    return plain(
        request, "refused.html.j2", error.status_code, code="", sentence=sentence, known=True
    )


def refuse_page_bug(request: AnyRequest, error: Exception) -> Page:
    """Show what nobody foresaw: the log has the trace."""
    refuse_bug(request, error)
    return plain(
        request,
        "refused.html.j2",
        500,
        code="internal_error",
        sentence="The manager failed; its log says why.",
        known=True,
    )


#: How the console's routes refuse.
REFUSALS: Final[dict[Any, Any]] = {
    CallpoolError: refuse_page,
    HTTPException: refuse_page_http,
    Exception: refuse_page_bug,
}
