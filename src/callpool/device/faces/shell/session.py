"""Sessions: lines in, commands done, and an exit status that says how it went."""

from __future__ import annotations

import contextlib

from callpool.device.errors import DeviceError
from callpool.device.faces.shell.grammar import LineError
from callpool.device.faces.shell.history import LineKeys
from callpool.device.faces.shell.show import config_of
from callpool.device.faces.shell.table import GRAMMAR
from callpool.device.faces.shell.terminal import Ended, Shell, Stopped
from callpool.device.users import Group, SignIn
from callpool.licensing.errors import CallpoolError

#: Exit statuses: done; refused, with one sentence why; no command.
DONE, REFUSED, NO_COMMAND = 0, 1, 2


async def run_line(shell: Shell, line: str, sign_in: SignIn) -> int:
    """Carry out one line and return its exit status; raises Ended where the session is over."""
    if not line.strip():
        return DONE
    try:
        parsed = GRAMMAR.parse(line)
        # As the user is now: rights are taken away, and given, at once.
        user = await sign_in.user(shell.user.name)
        if user is None:
            shell.complain(f"There is no user {shell.user.name} any more.", "no_such_user")
            raise Ended(REFUSED)
        shell.user = user
        shell.check(parsed.command.group)
        shell.begin(parsed.include)
        await parsed.command.run(shell, parsed.arguments)
    except Stopped:
        return DONE
    except LineError as error:
        shell.complain(error.sentence, error.code)
        return NO_COMMAND
    except CallpoolError as error:
        shell.complain(error.sentence, error.code)
        return REFUSED
    except OSError as error:
        if shell.closing:
            raise Ended(REFUSED) from error
        shell.complain(f"The device's files cannot be read: {error.strerror}.", "system_error")
        return REFUSED
    return DONE


async def run(shell: Shell, command: str | None, sign_in: SignIn) -> Ended:
    """Serve one session to its end and return how it ended."""
    try:
        if command is not None:
            if command.startswith("scp "):
                shell.check(Group.FILES)
            return Ended(await run_line(shell, command, sign_in))
        if shell.terminal:
            return Ended(await _interact(shell, sign_in))
        return Ended(await _script(shell, sign_in))
    except Ended as ended:
        return ended
    except DeviceError as error:
        shell.complain(error.sentence, error.code)
        return Ended(REFUSED)


async def _script(shell: Shell, sign_in: SignIn) -> int:
    """Carry out the lines of standard input; the first failure is the exit status."""
    status = DONE
    while (line := await shell.line()) is not None:
        outcome = await run_line(shell, line, sign_in)
        status = status or outcome
    return status


async def _interact(shell: Shell, sign_in: SignIn) -> int:
    """Serve a person at a terminal."""
    shell.keys = keys = LineKeys(GRAMMAR, shell.write, lambda: shell.user.group)
    shell.take_keys()
    while True:
        keys.prompt = await prompt(shell)
        line = await shell.line(keys.prompt)
        keys.prompt = ""
        if line is None:
            shell.write("\n")
            return DONE
        keys.remember(line)
        await run_line(shell, line, sign_in)


async def prompt(shell: Shell) -> str:
    """Return the prompt: a star says that there is unsaved configuration, # that one may change
    things.
    """  # noqa: D205 - one sentence
    star = ""
    with contextlib.suppress(CallpoolError):
        star = "*" if (await config_of(shell)).unsaved else ""
    mark = "#" if shell.user.group is Group.ADMINISTRATOR else ">"
    return f"{shell.serial}{star}{mark} "
