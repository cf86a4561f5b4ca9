"""One session of the shell: what is typed comes in, what is shown goes out, page by page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import asyncssh

from callpool.device.control import COMMAND_TIMEOUT, ask_patiently
from callpool.device.errors import DeviceError
from callpool.device.faces.shell.grammar import MAX_LINE
from callpool.device.faces.shell.history import LineKeys
from callpool.device.faces.shell.visit import Visit
from callpool.device.settings import Layout
from callpool.device.users import Group, User

#: Seconds that the core may take for what is only read.
READING: Final = 10.0
#: The least and the most lines of a page.
SHORTEST_PAGE, LONGEST_PAGE = 2, 512
_MORE: Final = " --More-- "
_RAW_LINES: Final = "\r\n"


def plain(text: str) -> str:
    """Return what may come from elsewhere (a manager, a log) so that it cannot move a cursor."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "?" for c in text.expandtabs())


class Stopped(Exception):
    """The rest of the output is not wanted."""


class Ended(Exception):
    """The session is over, with an exit status."""

    def __init__(
        self, status: int = 0, *, after: Callable[[], Awaitable[object]] | None = None
    ) -> None:
        """End with `status`; do `after` once the client knows: it ends this process, perhaps."""
        super().__init__(status)
        self.status, self.after = status, after


class Shell:
    """One session: the user at it, its way to the core, its terminal."""

    def __init__(
        self,
        process: asyncssh.SSHServerProcess[str],
        *,
        layout: Layout,
        serial: str,
        user: User,
        visit: Visit,
        asking: Executor,
    ) -> None:
        """Serve `process`; `visit` is its connection, `asking` what all sessions ask by."""
        self._asking = asking
        self._process, self.layout, self.user, self.visit = process, layout, user, visit
        self.serial = serial
        self.terminal = process.term_type is not None
        #: Lines of a page; 0 for no paging, None for the terminal's own height.
        self.length: int | None = None
        self._shown = 0
        self._include = ""
        self.keys: LineKeys | None = None

    # -- the core

    @property
    def who(self) -> str:
        """Who asks, for the journal."""
        return f"{self.user.name} (ssh from {self.visit.source})"

    async def ask(self, do: str, *, patience: float = COMMAND_TIMEOUT, **fields: Any) -> Any:
        """Ask the core, which has `patience` seconds; raises CallpoolError as it says,
        `not_running`, `control_timeout`.
        """  # noqa: D205 - one sentence
        self.visit.touch()
        asking = partial(
            ask_patiently, self.layout.control, do, timeout=patience, who=self.who, **fields
        )
        return await asyncio.get_running_loop().run_in_executor(self._asking, asking)

    async def read(self, do: str, **fields: Any) -> Any:
        """Ask the core for what it only has to tell; raises as `ask`."""
        return await self.ask(do, patience=READING, **fields)

    def check(self, group: Group) -> None:
        """Refuse what the user may not: DeviceError `not_permitted`."""
        if not self.user.group.may(group):
            raise DeviceError(
                "not_permitted",
                f"This is for the group {group}; {self.user.name} is in {self.user.group}.",
            )

    # -- output

    def begin(self, include: str = "") -> None:
        """Begin the output of a command, of which only lines with `include` are shown."""
        self._shown, self._include = 0, include.lower()

    async def show(self, lines: Iterable[str]) -> None:
        """Show lines; raises Stopped where the person has seen enough."""
        for line in lines:
            if self._include not in line.lower():
                continue
            await self._page()
            await self.say(line)
            self.visit.touch()

    async def show_live(self, line: str) -> None:
        """Show a line of what is still being written: filtered, without pages."""
        if self._include in line.lower():
            await self.say(line)

    async def say(self, line: str) -> None:
        """Show one line whatever the filter: it answers a change."""
        self._process.stdout.write(f"{plain(line)}\n")
        await self._process.stdout.drain()

    def complain(self, sentence: str, code: str) -> None:
        """Say why a command was refused."""
        # On a terminal both are one; only standard output keeps its place in the line.
        stream = self._process.stdout if self.terminal else self._process.stderr
        stream.write(f"% {plain(sentence)} [{code}]\n")

    def write(self, text: str) -> None:
        """Write as it is: prompts."""
        self._process.stdout.write(text)

    async def _page(self) -> None:
        """Wait for a key where the page is full; only a person at a prompt is shown pages."""
        length = self._process.term_size[1] if self.length is None else self.length
        if self.keys is None or not length:
            return
        if self._shown < max(length, SHORTEST_PAGE) - 1:
            self._shown += 1
            return
        self.write(_MORE)
        async with self.raw():
            key = await self.key()
        back = "\b" * len(_MORE)
        self.write(back + " " * len(_MORE) + back)
        if key in ("q", "Q", "\x03", ""):
            raise Stopped
        self._shown = self._shown if key in ("\r", "\n") else 1

    # -- input

    @asynccontextmanager
    async def raw(self) -> AsyncIterator[None]:
        """Read single keys, unechoed; without a terminal nothing changes."""
        if not self.terminal:
            yield
            return
        channel: Any = self._process.channel
        channel.set_line_mode(False)
        try:
            yield
        finally:
            channel.set_line_mode(True)

    async def key(self) -> str:
        """Return the next key, empty at the end of input."""
        while True:
            try:
                key = await self._process.stdin.read(1)
            except (asyncssh.TerminalSizeChanged, asyncssh.SignalReceived):
                continue
            except asyncssh.BreakReceived:
                return "\x03"
            self.visit.touch()
            return key

    async def line(self, prompt: str = "") -> str | None:
        """Return the next line, None at the end of input; Ctrl-C begins it anew."""
        self.write(prompt)
        while True:
            try:
                text = await self._process.stdin.readline()
            except asyncssh.TerminalSizeChanged:
                continue
            except (asyncssh.BreakReceived, asyncssh.SignalReceived):
                if self.terminal:
                    channel: Any = self._process.channel
                    channel.clear_input()
                self.write(f"^C\n{prompt}")
                continue
            self.visit.touch()
            if len(text) > MAX_LINE:
                raise Ended(1)
            return text.rstrip(_RAW_LINES) if text.endswith("\n") else text or None

    async def hidden(self, prompt: str) -> str:
        """Return a line that is not echoed: from the terminal, else the first line of input."""
        if not self.terminal:
            return await self.line() or ""
        channel: Any = self._process.channel
        channel.set_echo(False)
        try:
            text = await self.line(prompt)
        finally:
            channel.set_echo(True)
        return text or ""

    async def confirm(self, question: str) -> bool:
        """Return whether a person at the terminal says yes; without a terminal, no."""
        return self.terminal and (await self.line(f"{question} [yes/no] ") or "").lower() == "yes"

    def take_keys(self) -> None:
        """Have `keys` answer the terminal's keys."""
        if self.keys is not None:
            self.keys.register(self._process.channel)

    @property
    def closing(self) -> bool:
        """Whether nobody is there any more."""
        return bool(self._process.channel.is_closing())
