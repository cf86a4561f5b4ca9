"""The commands that change something, and those of the session itself."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec

from callpool.device.config import (
    DEFAULT_IDLE,
    LONGEST_IDLE,
    AddKey,
    Change,
    CreateUser,
    RemoveKeys,
    RemoveUser,
    SetGroup,
    SetIdle,
    SetPassword,
)
from callpool.device.drain import LONGEST_WAIT
from callpool.device.errors import DeviceError
from callpool.device.faces.shell.grammar import MAX_LINE, Arguments
from callpool.device.faces.shell.license_text import when
from callpool.device.faces.shell.show import config_of, number, status_of
from callpool.device.faces.shell.terminal import LONGEST_PAGE, Ended, Shell
from callpool.device.public_key import read_public_key
from callpool.device.reset import Outcome
from callpool.device.smart_status import SmartStatus
from callpool.device.users import Group, hash_password
from callpool.licensing.smart_timers import EVALUATION

#: Refusals that say that the device is off the authority's list already.
_GONE: Final = frozenset({"not_registered", "certificate_revoked", "certificate_expired"})

# -- configuration


async def create_user(shell: Shell, typed: Arguments) -> None:
    """`username NAME create`."""
    await _configure(shell, CreateUser(name=typed["NAME"]))


async def set_password(shell: Shell, typed: Arguments) -> None:
    """`username NAME password [SECRET]`: asked for, unechoed, where it is not given."""
    password = typed.get("SECRET", "")
    if not password:
        password = await shell.hidden("New password: ")
        if shell.terminal and await shell.hidden("The same again: ") != password:
            raise DeviceError("bad_password", "The two are not the same; nothing has changed.")
    hashed = await asyncio.to_thread(hash_password, password)
    await _configure(shell, SetPassword(name=typed["NAME"], hash=hashed))


async def set_group(shell: Shell, typed: Arguments) -> None:
    """`username NAME group GROUP`."""
    group = next(g for g in Group if g.value in typed)
    await _configure(shell, SetGroup(name=typed["NAME"], group=group))


async def add_key(shell: Shell, typed: Arguments) -> None:
    """`username NAME key PUBLIC-KEY`."""
    await _configure(shell, AddKey(name=typed["NAME"], key=read_public_key(typed["PUBLIC-KEY"])))


async def remove_keys(shell: Shell, typed: Arguments) -> None:
    """`no username NAME key`."""
    await _configure(shell, RemoveKeys(name=typed["NAME"]))


async def remove_user(shell: Shell, typed: Arguments) -> None:
    """`no username NAME`."""
    await _configure(shell, RemoveUser(name=typed["NAME"]))


async def set_idle(shell: Shell, typed: Arguments) -> None:
    """`idle-timeout MINUTES`."""
    minutes = number(typed["MINUTES"], 1, LONGEST_IDLE, "The idle timeout in minutes")
    await _configure(shell, SetIdle(minutes=minutes))


async def default_idle(shell: Shell, _: Arguments) -> None:
    """`no idle-timeout`."""
    await _configure(shell, SetIdle(minutes=DEFAULT_IDLE))


async def write(shell: Shell, _: Arguments) -> None:
    """`wr`, `write memory`."""
    await shell.ask("config", action="save")
    await shell.say("The running configuration is written; it is there after a restart.")


async def configure_terminal(shell: Shell, _: Arguments) -> None:
    """`configure terminal`: there is no such mode, and whoever types it should know."""
    await shell.say("There is no configuration mode: type configuration commands right here.")


async def _configure(shell: Shell, change: Change) -> None:
    await shell.ask("config", action="change", change=msgspec.to_builtins(change))


# -- licenses


async def smart_enable(shell: Shell, _: Arguments) -> None:
    """`license smart enable`."""
    await _smart(shell, "Smart licensing is on.", action="enable")


async def smart_disable(shell: Shell, _: Arguments) -> None:
    """`license smart disable`."""
    await _smart(shell, "Smart licensing is off.", leaving=True, action="disable")


async def smart_register(shell: Shell, typed: Arguments) -> None:
    """`license smart register idtoken TOKEN [force]`."""
    await shell.say("Registration is in progress; `show license status` shows how it stands.")
    told = await _ask_smart(shell, action="register", token=typed["TOKEN"], force="force" in typed)
    now = msgspec.convert(told["smart"], SmartStatus)
    await shell.say(f"Registration: {now.registration}. State: {now.state}.")


async def smart_deregister(shell: Shell, _: Arguments) -> None:
    """`license smart deregister`."""
    sentence = "Deregistered; the local data is cleared."
    await _smart(shell, sentence, leaving=True, action="deregister")


async def smart_renew(shell: Shell, typed: Arguments) -> None:
    """`license smart renew auth|id`."""
    what = "auth" if "auth" in typed else "id"
    sentence = "The authorization is renewed." if what == "auth" else "The ID is renewed."
    await _smart(shell, sentence, action=f"renew_{what}")


async def smart_count(shell: Shell, typed: Arguments) -> None:
    """`license smart count N`."""
    count = number(typed["N"], 0, 1_000_000, "A count")
    await _smart(shell, f"Configured: {count} calls/s.", action="count", count=count)


async def _ask_smart(shell: Shell, **fields: Any) -> dict[str, Any]:
    told: dict[str, Any] = await shell.ask("smart", **fields)
    return told


async def _smart(shell: Shell, sentence: str, *, leaving: bool = False, **fields: Any) -> None:
    told = await _ask_smart(shell, **fields)
    if told["code"]:
        await shell.say(f"{told['detail']} [{told['code']}]")
        if leaving and told["code"] in _GONE:
            await shell.say("The authority did not list this device any more.")
        elif leaving:
            await shell.say(
                "The authority could not be told: it still lists this device, and counts what it "
                "uses, until the device is removed there."
            )
    now = msgspec.convert(told["smart"], SmartStatus)
    await shell.say(f"{sentence} State: {now.state}.")
    if fields["action"] == "enable" and not now.count and now.eval_seconds_left >= EVALUATION:
        await shell.say("The evaluation begins with a count: `license smart count N`.")


async def key_install(shell: Shell, _: Arguments) -> None:
    """`license key install`: the key's one line comes from the terminal or standard input."""
    text = await shell.line("The local license key, one line: ")
    envelope = (text or "").strip()
    if not envelope or len(envelope) > MAX_LINE:
        raise DeviceError(
            "bad_envelope", "No license key was given: send the key file as standard input."
        )
    key = await shell.ask("key_install", envelope=envelope)
    await shell.say(f"Local key {key} is installed; it counts at once.")


async def pool_refresh(shell: Shell, _: Arguments) -> None:
    """`license pool refresh`."""
    await shell.ask("pull")
    await shell.say("The license server is being asked; `show license pool` shows the outcome.")


# -- restarts


async def restart(shell: Shell, typed: Arguments) -> None:
    """`restart [save] [graceful SECONDS]`: of the SIP service."""
    save = "save" in typed
    if "SECONDS" in typed:
        seconds = number(typed["SECONDS"], 1, LONGEST_WAIT, "The time to wait in seconds")
        told = await shell.ask("drain", seconds=seconds, save=save)
        await shell.say(
            f"New calls are refused from now on. The SIP service restarts when the calls in "
            f"progress ({told['calls']}) have ended, {when(told['until'])} at the latest; "
            "`restart cancel` admits calls again."
        )
        return
    await shell.ask("restart", save=save)
    applied = "; what the pool has sent is applied" if save else ""
    await shell.say(f"The SIP service has restarted{applied}; calls that were up are up.")
    if (await config_of(shell)).unsaved:
        await shell.say("Unsaved configuration still counts: only `reload` restarts the device.")


async def restart_cancel(shell: Shell, _: Arguments) -> None:
    """`restart cancel`."""
    if not await shell.ask("drain", cancel=True):
        raise DeviceError("no_restart", "No restart waits for calls to end.")
    await shell.say("The restart is given up; calls are admitted again.")


async def reload(shell: Shell, typed: Arguments) -> None:
    """`reload [save|discard]`: restart of the device."""
    if "save" in typed:
        await write(shell, typed)
    elif "discard" not in typed and (await config_of(shell)).unsaved:
        if not shell.terminal:
            raise DeviceError(
                "unsaved_configuration",
                "There are unsaved changes: type `reload save` or `reload discard`.",
            )
        if await shell.confirm("There are unsaved changes. Save them?"):
            await write(shell, typed)
        elif not await shell.confirm("Restart without them?"):
            await shell.say("Nothing is restarted.")
            return
    await shell.say("The device restarts; calls that are up survive it.")
    raise Ended(after=lambda: shell.ask("reload"))


async def factory_reset(shell: Shell, typed: Arguments) -> None:
    """`factory-reset [SERIAL]`."""
    serial = typed.get("SERIAL", "")
    if not serial:
        expected = (await status_of(shell)).serial
        if not shell.terminal:
            raise DeviceError(
                "wrong_serial",
                f"Confirm with this device's serial number: factory-reset {expected}.",
            )
        serial = await shell.line("Type this device's serial number to confirm: ") or ""
    outcome = msgspec.convert(await shell.ask("factory_reset", serial=serial), Outcome)
    await shell.say("The device is reset: pool, smart licensing, identity and users are gone.")
    if outcome.told:
        await shell.say("The license server knows it.")
    elif outcome.code:
        await shell.say(f"The license server was not told: {outcome.sentence}")
        if outcome.lease_end is not None:
            until = when(outcome.lease_end)
            await shell.say(f"It holds this device's share until the lease ends, {until}.")
    await shell.say("To sign in again, add a user on the host: callpool device user add.")
    raise Ended


# -- the session


async def terminal_length(shell: Shell, typed: Arguments) -> None:
    """`terminal length N`."""
    shell.length = number(typed["N"], 0, LONGEST_PAGE, "The length of a page")


async def show_history(shell: Shell, _: Arguments) -> None:
    """`show history`."""
    await shell.show(shell.keys.lines if shell.keys else ())


async def leave(shell: Shell, _: Arguments) -> None:
    """`exit`, `quit`, `logout`."""
    raise Ended


async def end(shell: Shell, _: Arguments) -> None:
    """`end`: there is no mode to leave."""
