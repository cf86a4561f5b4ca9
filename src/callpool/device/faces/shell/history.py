"""The keys of the command line: history, Tab and `?`.

The SSH library's line editor would remember every line; this history leaves out those that hold a
secret, and knows nothing of what is typed at other prompts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from callpool.device.faces.shell.grammar import SECRETS, Candidate, Grammar
from callpool.device.users import Group

#: Lines that are remembered.
KEEP: Final = 200

_UP: Final = ("\x10", "\x1b[A", "\x1bOA")
_DOWN: Final = ("\x0e", "\x1b[B", "\x1bOB")

#: What a key leaves: the line and the place in it, True to insert it, False for the bell.
_Left = tuple[str, int] | bool


class LineKeys:
    """The keys of one session's command line."""

    def __init__(
        self, grammar: Grammar, write: Callable[[str], None], group: Callable[[], Group]
    ) -> None:
        """Help by `grammar`, as far as the group goes."""
        self._grammar, self._write, self._group = grammar, write, group
        self._lines: list[str] = []
        self._at = 0
        #: The prompt at which the keys work; empty while something else is asked for.
        self.prompt = ""

    def register(self, channel: Any) -> None:
        """Take over the keys of a channel's line editor."""
        for key in _UP:
            channel.register_key(key, self._up)
        for key in _DOWN:
            channel.register_key(key, self._down)
        channel.register_key("\t", self._tab)
        channel.register_key("?", self._question)

    def remember(self, line: str) -> None:
        """Remember a line unless it holds a secret, or is empty, or the same again."""
        if line.strip() and not self._grammar.secret(line) and self._lines[-1:] != [line]:
            self._lines = [*self._lines, line][-KEEP:]
        self._at = len(self._lines)

    @property
    def lines(self) -> tuple[str, ...]:
        """What is remembered, the oldest first."""
        return tuple(self._lines)

    def _up(self, line: str, at: int) -> _Left:
        if not self.prompt or not self._at:
            return False
        self._at -= 1
        return self._lines[self._at], len(self._lines[self._at])

    def _down(self, line: str, at: int) -> _Left:
        if not self.prompt or self._at >= len(self._lines):
            return False
        self._at += 1
        text = self._lines[self._at] if self._at < len(self._lines) else ""
        return text, len(text)

    def _tab(self, line: str, at: int) -> _Left:
        if not self.prompt:
            return False
        before = line[:at]
        longer = self._grammar.complete(before, self._group())
        if longer != before:
            return longer + line[at:], len(longer)
        if not self._list(before, before):
            return False
        return line, at

    def _question(self, line: str, at: int) -> _Left:
        before = line[:at]
        inside = before.count('"') % 2 or " | " in before
        if not self.prompt or inside:
            return True
        found = self._grammar.candidates(before, self._group())
        if not before.endswith(" ") and any(c.word in SECRETS for c in found):
            return True  # a secret may hold a question mark
        if not self._list(before, before + "?"):
            self._write(f"{before}?\n% There is nothing that goes on like this.\n{self.prompt}")
        return line, at

    def _list(self, before: str, typed: str) -> bool:
        found = self._grammar.candidates(before, self._group())
        if found:
            self._write(f"{typed}\n{listed(found)}{self.prompt}")
        return bool(found)


def listed(found: list[Candidate]) -> str:
    """Return candidates with their help, one a line."""
    width = max(len(c.word) for c in found)
    return "".join(f"  {c.word:{width}}  {c.help}\n" for c in found)
