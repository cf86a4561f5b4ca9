"""How a line becomes a command: words, abbreviations, `?` and Tab, from rows that are data.

A row is written as people read it: `restart [save] [graceful SECONDS]`. A word in capitals stands
for what is typed there, `a|b` for one of them, brackets for what may be left out; `WORD...` takes
the rest of the line. Words may be shortened as long as they stay unambiguous.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Final

from callpool.device.users import Group
from callpool.licensing.errors import CallpoolError

if TYPE_CHECKING:
    from callpool.device.faces.shell.terminal import Shell

#: The longest line, in characters: a local key's envelope fits.
MAX_LINE: Final = 16_384
#: Words that stand for secrets: a line with one is kept nowhere.
SECRETS: Final = frozenset({"SECRET", "TOKEN"})

_TOKEN = re.compile(r"\[[^\]]*\]|\S+")
#: What comes before a secret, shortened or not, and something after it.
_SECRET = re.compile(r"\b(pa[a-z]*|id[a-z]*)\s+[^\s|]", re.IGNORECASE)
_WORD = re.compile(r'"([^"]*)"?|(\S+)')

#: What was typed for each word in capitals, and each word that could be left out.
Arguments = Mapping[str, str]


class LineError(CallpoolError):
    """The line is no command: `unknown_word`, `ambiguous`, `incomplete`, `bad_filter`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One row of the command table."""

    words: str
    #: What it does, one phrase.
    help: str
    run: Callable[[Shell, Arguments], Awaitable[None]]
    #: Who may.
    group: Group = Group.OPERATOR


@dataclass(frozen=True, slots=True)
class Parsed:
    """A command with what was typed for it."""

    command: Command
    arguments: Arguments
    #: Lines are shown only where they contain this, in any case; empty for all.
    include: str = ""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What may stand at one place of a line."""

    word: str
    help: str

    @property
    def literal(self) -> bool:
        """Whether it is typed as it stands."""
        return not self.word.isupper() and self.word != "<cr>"


@dataclass(frozen=True, slots=True)
class _Path:
    tokens: tuple[str, ...]
    command: Command


def expand(words: str) -> list[tuple[str, ...]]:
    """Return every way to type a row, each as its words."""
    choices: list[list[tuple[str, ...]]] = []
    for token in _TOKEN.findall(words):
        if token.startswith("["):
            choices.append([(), *expand(token[1:-1])])
        elif token.isupper():
            choices.append([(token,)])
        else:
            choices.append([(word,) for word in token.split("|")])
    return [tuple(word for part in way for word in part) for way in product(*choices)]


def split(line: str) -> list[str]:
    """Return the words of a line; spaces stand inside double quotes."""
    return [quoted or plain for quoted, plain in _WORD.findall(line)]


def split_filter(line: str) -> tuple[str, str]:
    """Return the command and the pattern of `| include PATTERN`; raises LineError `bad_filter`."""
    if " | " not in line:
        return line, ""
    line, _, rest = line.partition(" | ")
    verb, _, pattern = rest.strip().partition(" ")
    pattern = pattern.strip().strip('"')
    if not verb or not "include".startswith(verb.lower()) or not pattern:
        raise LineError("bad_filter", "After | stands: include PATTERN (plain text).")
    return line, pattern


@dataclass(frozen=True, slots=True)
class Grammar:
    """All commands."""

    commands: Sequence[Command]
    #: The help of words that lead to more than one command, and of words in capitals.
    words: Mapping[str, str]
    _paths: tuple[_Path, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Expand the rows."""
        paths = tuple(_Path(way, c) for c in self.commands for way in expand(c.words))
        object.__setattr__(self, "_paths", paths)

    def parse(self, line: str) -> Parsed:
        """Return the command of a line that is not empty; raises LineError."""
        # What is a secret may hold a bar: only a line without one has a filter.
        include = ""
        if not self.secret(line):
            line, include = split_filter(line)
        typed = split(line)
        paths, arguments = self._walk(typed)
        whole = [p for p in paths if len(p.tokens) == len(typed) or _rest(p.tokens, len(typed))]
        if not whole:
            after = ", ".join(c.word for c in self._at(paths, len(typed))[:8])
            raise LineError("incomplete", f"The command goes on; next comes: {after}.")
        return Parsed(whole[0].command, arguments, include)

    def secret(self, line: str) -> bool:
        """Tell whether a line holds, or begins to hold, a secret: then it is kept nowhere."""
        if _SECRET.search(line):
            return True  # though the line may be no command: it may only be mistyped
        paths, typed = list(self._paths), split(line)
        for index, word in enumerate(typed):
            paths = _step(paths, index, word)[1]
            if any(p.tokens[index] in SECRETS for p in paths):
                return True
        return False

    def candidates(self, line: str, group: Group) -> list[Candidate]:
        """Return what may stand where the line ends: at its last word, or after its last space.

        Empty where the line is no beginning of a command.
        """
        typed = split(line)
        partial = typed.pop() if typed and not line[-1].isspace() else ""
        try:
            paths, _ = self._walk(typed)
        except LineError:
            return []
        open_to = [p for p in paths if group.may(p.command.group)]
        at = len(typed)
        if partial:
            open_to = _step(open_to, at, partial)[1]
            return [c for c in self._at(open_to, at) if c.word != "<cr>"]
        return self._at(open_to, at)

    def complete(self, line: str, group: Group) -> str:
        """Return the line with its last word made as long as it is certain."""
        typed = split(line)
        partial = typed[-1] if typed and not line[-1].isspace() else ""
        words = [c.word for c in self.candidates(line, group) if c.literal]
        if not words or any(not c.literal for c in self.candidates(line, group)):
            return line
        certain = words[0]
        for word in words[1:]:
            while not word.startswith(certain):
                certain = certain[:-1]
        if not certain.startswith(partial.lower()):
            return line
        return line[: len(line) - len(partial)] + certain + (" " if len(words) == 1 else "")

    def _walk(self, typed: Sequence[str]) -> tuple[list[_Path], dict[str, str]]:
        paths, arguments = list(self._paths), {}
        for index, word in enumerate(typed):
            if len(word) > MAX_LINE:
                raise LineError("unknown_word", "The line is too long.")
            words, paths = _step(paths, index, word)
            if not words:
                before = " ".join(typed[:index])
                if self.secret(before):
                    raise LineError(
                        "unknown_word",
                        "There is a word too many; a secret with spaces stands in double quotes.",
                    )
                where = f" after {before!r}" if before else ""
                raise LineError("unknown_word", f"There is no command word {word[:40]!r}{where}.")
            if len(words) > 1:
                raise LineError("ambiguous", f"{word!r} may be {_or(words)}.")
            if words[0].endswith("..."):
                arguments[words[0].removesuffix("...")] = " ".join(typed[index:])
                break
            arguments[words[0]] = word
        return paths, arguments

    def _at(self, paths: Sequence[_Path], index: int) -> list[Candidate]:
        found: dict[str, str] = {}
        for path in paths:
            if len(path.tokens) <= index:
                if len(path.tokens) == index:
                    found["<cr>"] = path.command.help
                continue
            token = path.tokens[index]
            last = len(path.tokens) == index + 1
            alone = sum(p.tokens[index : index + 1] == (token,) for p in paths) == 1
            help_ = path.command.help if last and alone else self.words.get(token, "")
            found.setdefault(token, help_ or path.command.help)
        return [Candidate(word, found[word]) for word in sorted(found)]


def _rest(tokens: Sequence[str], typed: int) -> bool:
    return bool(tokens) and tokens[-1].endswith("...") and typed >= len(tokens)


def _step(paths: Sequence[_Path], index: int, word: str) -> tuple[list[str], list[_Path]]:
    """Return which words `word` may be at this place, and the paths that go on through them."""
    here: dict[str, list[_Path]] = {}
    for path in paths:
        if len(path.tokens) > index:
            here.setdefault(path.tokens[index], []).append(path)
    low = word.lower()
    if low in here:
        return [low], here[low]
    literal = [w for w in here if not w.isupper() and w.startswith(low)]
    words = literal or [w for w in here if w.isupper()]
    return words, [path for w in words for path in here[w]]


def _or(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"
