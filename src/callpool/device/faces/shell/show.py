"""The commands that only show."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec

from callpool.device.alarm_book import AlarmReport
from callpool.device.config_book import ConfigReport
from callpool.device.errors import DeviceError
from callpool.device.faces.shell import license_text as text
from callpool.device.faces.shell.alarm_text import active, history
from callpool.device.faces.shell.grammar import Arguments
from callpool.device.faces.shell.logs import follow, tail
from callpool.device.faces.shell.support import bundle
from callpool.device.faces.shell.terminal import Shell
from callpool.device.status import Status
from callpool.device.status_text import pair_lines

#: Lines of a log that are shown where no number is given, and the most that can be.
TAIL, LONGEST_TAIL = 50, 5000


async def status_of(shell: Shell) -> Status:
    """Return the device now; raises CallpoolError."""
    return msgspec.convert(await shell.read("status"), Status)


async def config_of(shell: Shell) -> ConfigReport:
    """Return both configurations; raises CallpoolError."""
    return msgspec.convert(await shell.read("config"), ConfigReport)


def number(text_: str, least: int, most: int, what: str) -> int:
    """Return a whole number that was typed; raises DeviceError `bad_number`."""
    if not text_.isascii() or not text_.isdecimal() or not least <= int(text_[:9]) <= most:
        raise DeviceError("bad_number", f"{what} is a whole number from {least} to {most}.")
    return int(text_)


async def license_all(shell: Shell, _: Arguments) -> None:
    """`show license all`."""
    await shell.show(text.whole(await status_of(shell)))


async def license_status(shell: Shell, _: Arguments) -> None:
    """`show license status`."""
    await shell.show(text.standing(await status_of(shell)))


async def license_summary(shell: Shell, _: Arguments) -> None:
    """`show license summary`."""
    await shell.show(text.summary(await status_of(shell)))


async def license_usage(shell: Shell, _: Arguments) -> None:
    """`show license usage`."""
    await shell.show(text.usage(await status_of(shell)))


async def license_udi(shell: Shell, _: Arguments) -> None:
    """`show license udi`."""
    await shell.show(text.udi(await status_of(shell)))


async def license_pool(shell: Shell, _: Arguments) -> None:
    """`show license pool`."""
    await shell.show(text.pool(await status_of(shell)))


async def tech_support(shell: Shell, _: Arguments) -> None:
    """`show tech-support`."""
    await shell.show(await bundle(shell.read, shell.layout.root))


async def alarms_active(shell: Shell, _: Arguments) -> None:
    """`show alarms active`."""
    await shell.show(active(msgspec.convert(await shell.read("alarms"), AlarmReport)))


async def alarms_history(shell: Shell, _: Arguments) -> None:
    """`show alarms history`."""
    await shell.show(history(msgspec.convert(await shell.read("alarms", after=0), AlarmReport)))


async def high_availability(shell: Shell, _: Arguments) -> None:
    """`show high-availability status`."""
    pair = (await status_of(shell)).pair
    if pair is None:
        await shell.show(["This device is no unit of an HA pair."])
        return
    await shell.show([f"{label:26} {value}" for label, value in pair_lines(pair)])


async def calls(shell: Shell, _: Arguments) -> None:
    """`show calls`."""
    told = await shell.read("calls")
    lines = []
    for name, value in told.items():
        if isinstance(value, dict):
            lines.append(f"{name:26} {'' if value else 'none'}".rstrip())
            lines += [f"  {key:24} {count}" for key, count in sorted(value.items())]
        else:
            lines.append(f"{name:26} {value}")
    await shell.show(lines)


async def running_config(shell: Shell, _: Arguments) -> None:
    """`show running-config`."""
    await shell.show((await config_of(shell)).running)


async def startup_config(shell: Shell, _: Arguments) -> None:
    """`show startup-config`."""
    await shell.show((await config_of(shell)).startup)


async def version(shell: Shell, _: Arguments) -> None:
    """`show version`."""
    status = await status_of(shell)
    await shell.show([f"Software: {status.software}", f"Serial Number: {status.serial}"])


async def log(shell: Shell, typed: Arguments) -> None:
    """`show log sml [tail N]`."""
    wanted = number(typed.get("N", str(TAIL)), 1, LONGEST_TAIL, "The number of lines")
    lines = await asyncio.to_thread(tail, shell.layout.root, wanted)
    await shell.show(lines or ["The log is empty: smart licensing was never used."])


async def log_follow(shell: Shell, _: Arguments) -> None:
    """`show log sml follow`: until a key is pressed, or nobody is there any more."""
    lines = follow(shell.layout.root)
    if not shell.terminal:
        await _pass_on(shell, lines)
        return
    async with shell.raw():
        key = asyncio.ensure_future(shell.key())
        shown = asyncio.ensure_future(_pass_on(shell, lines))
        try:
            await asyncio.wait({key, shown}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (key, shown):
                task.cancel()
            await asyncio.gather(key, shown, return_exceptions=True)


async def _pass_on(shell: Shell, lines: AsyncIterator[str]) -> None:
    async for line in lines:
        if shell.closing:
            return
        shell.visit.touch()
        if line:
            await shell.show_live(line)
