"""What the pages' forms do: each sends the core one command and leads back to its page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from litestar import Response, post
from litestar.datastructures import State, UploadFile
from litestar.params import FromPath
from litestar.response import Redirect

from callpool.device.errors import DeviceError
from callpool.device.faces.door import AnyRequest, Door, Visitor, done, refused, text
from callpool.host.console import count_from
from callpool.licensing.errors import CallpoolError
from callpool.wire.tokens import split

#: Seconds that a restart, or a contact with manager or authority, may take.
PATIENCE: Final = 100.0
#: The longest license key that is read, in bytes.
MAX_KEY: Final = 16 * 1024

LICENSE_KEY: Final = "/license-key"
ADMIN: Final = "/smart"

Answer = Response[Any]


async def _carry_out(
    request: AnyRequest,
    state: State,
    *,
    form: str,
    back: str,
    work: Callable[[Door, Visitor, Any], Awaitable[str]],
    keep: tuple[str, ...] = (),
) -> Answer:
    """Do `work`; what it returns, or why it was refused, is told beside the form `form`.

    `keep` names the fields that are shown again after a refusal.
    """
    door: Door = state.door
    said = await request.form()
    visitor = await door.changer(request, said)
    try:
        done(visitor, form, await work(door, visitor, said))
        state.reader.forget()
    except CallpoolError as error:
        refused(visitor, form, error, **{name: text(said, name)[:200] for name in keep})
    return Redirect(f"{back}#{form}", status_code=303)


@post("/license-key/restart")
async def restart(request: AnyRequest, state: State) -> Answer:
    """Restart the SIP service, with save or without, at once or when calls have ended."""

    async def work(door: Door, visitor: Visitor, said: Any) -> str:
        save, wait = bool(text(said, "save")), text(said, "graceful").strip()
        who = visitor.session.who
        applied = " What was pending is applied." if save else ""
        if text(said, "cancel"):
            await door.tell("drain", cancel=True, who=who)
            return "The restart that waited is called off; new calls are admitted again."
        if wait:
            seconds = count_from(wait, "A time to wait")
            told = await door.tell("drain", seconds=seconds, save=save, who=who)
            return (
                f"{told['calls']} calls are in progress; the SIP service restarts when they have "
                f"ended, in {seconds} seconds at the latest. New calls are refused until then."
            )
        await door.tell("restart", patience=PATIENCE, save=save, who=who)
        return f"The SIP service has restarted; calls that were up go on.{applied}"

    return await _carry_out(
        request, state, form="restart", back=LICENSE_KEY, work=work, keep=("graceful",)
    )


@post("/license-key/contact")
async def contact(request: AnyRequest, state: State) -> Answer:
    """Contact the license server now."""

    async def work(door: Door, visitor: Visitor, _: Any) -> str:
        await door.tell("pull", who=visitor.session.who)
        return "The license server is being contacted; License Server Status says what comes of it."

    return await _carry_out(request, state, form="contact", back=LICENSE_KEY, work=work)


@post("/license-key/install")
async def install(request: AnyRequest, state: State) -> Answer:
    """Install a local license key from a file."""

    async def work(door: Door, visitor: Visitor, said: Any) -> str:
        file = said.get("key")
        raw = await file.read(MAX_KEY + 1) if isinstance(file, UploadFile) else b""
        if not raw.strip():
            raise DeviceError("no_key", "Choose the file of a license key.")
        if len(raw) > MAX_KEY:
            raise DeviceError("bad_envelope", "This file is no license key: it is too long.")
        envelope = raw.decode(errors="replace").strip()
        key = await door.tell(
            "key_install", patience=PATIENCE, envelope=envelope, who=visitor.session.who
        )
        return f"License key {key} is installed and counts from now on."

    return await _carry_out(request, state, form="install", back=LICENSE_KEY, work=work)


@post("/license-key/factory-reset")
async def factory_reset(request: AnyRequest, state: State) -> Answer:
    """Reset to factory defaults; the serial number, typed, confirms it."""
    door: Door = state.door
    said = await request.form()
    visitor = await door.changer(request, said)
    serial = text(said, "serial").strip()
    try:
        told = await door.tell(
            "factory_reset", patience=PATIENCE, serial=serial, who=visitor.session.who
        )
    except CallpoolError as error:
        refused(visitor, "factory-reset", error, serial=serial[:100])
        return Redirect(f"{LICENSE_KEY}#factory-reset", status_code=303)
    door.sessions.close(visitor.cookie)
    answer: Answer = state.pages.reset(told)
    return answer


@post("/configuration/write")
async def write(request: AnyRequest, state: State) -> Answer:
    """Write the running configuration, as `wr` does in the shell."""

    async def work(door: Door, visitor: Visitor, _: Any) -> str:
        await door.tell("config", action="save", who=visitor.session.who)
        return "The configuration is written: a restart of the device keeps it."

    return await _carry_out(request, state, form="configuration", back=LICENSE_KEY, work=work)


#: What a smart action says once it is done.
_SMART: Final = {
    "enable": "Smart licensing is on.",
    "disable": "Smart licensing is off.",
    "register": "The device is registered.",
    "deregister": "The device has left its authority; the local data is cleared.",
    "renew_auth": "The authorization is renewed.",
    "renew_id": "The ID certificate is renewed.",
    "count": "The count is configured.",
}


@post("/smart/{action:str}")
async def smart(request: AnyRequest, state: State, action: FromPath[str]) -> Answer:
    """Carry out an action of smart licensing."""
    action = action.replace("-", "_")

    async def work(door: Door, visitor: Visitor, said: Any) -> str:
        if action not in _SMART:
            raise DeviceError("unknown_command", "There is no such action.")
        fields: dict[str, Any] = {}
        if action == "count":
            fields["count"] = count_from(text(said, "count").strip(), "A count")
        if action == "register":
            token = text(said, "token").strip()
            if not token:
                raise DeviceError("bad_token", "Paste the registration token.")
            split(token)
            fields |= {"token": token, "force": bool(text(said, "force"))}
        told = await door.tell(
            "smart", patience=PATIENCE, action=action, who=visitor.session.who, **fields
        )
        if told["code"]:
            return f"{_SMART[action]} But: {told['detail']}"
        return _SMART[action]

    form = action.replace("_", "-") if action in _SMART else "count"
    return await _carry_out(request, state, form=form, back=ADMIN, work=work, keep=("count",))


HANDLERS: Final = (restart, contact, install, factory_reset, write, smart)
