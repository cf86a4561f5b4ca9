"""Two units' keys compared: what must be mended here, and whether this unit knows all of them.

Operations cross as datagrams, and one may be lost. So the units compare their keys again and
again. What differs once may only be under way; what differs in the same way twice is mended, by
each unit on its own Kamailio: a key that the other unit has and this one lacks is added, unless it
ended here; a key that ended there is ended here. A counter is never set.

No I/O, no clock: `now` is an argument, seconds that only rise.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

#: Ended calls are remembered for so many later ones.
MOST: Final = 100_000


class Tombs:
    """Keys that have ended here, and since when none is missing among them."""

    def __init__(self, now: float, most: int = MOST) -> None:
        """Remember from `now` on."""
        self._ended: OrderedDict[str, float] = OrderedDict()
        self._since = now
        self._most = most

    def ended(self, key: str, now: float) -> None:
        """Note that `key` has ended."""
        self._ended[key] = now
        self._ended.move_to_end(key)
        while len(self._ended) > self._most:
            _, self._since = self._ended.popitem(last=False)

    def admitted(self, key: str) -> None:
        """Note that `key` lives: again, if it had ended."""
        self._ended.pop(key, None)

    def among(self, keys: Iterable[str]) -> tuple[str, ...]:
        """Return which of `keys` have ended."""
        return tuple(k for k in keys if k in self._ended)

    def __contains__(self, key: str) -> bool:
        return key in self._ended

    def reach(self, now: float) -> float:
        """Return for how many seconds back every end is remembered."""
        return now - self._since


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """Every key of one unit at one moment."""

    #: Call key -> (1 for an emergency call, else 0; seconds since its admission).
    calls: dict[str, tuple[int, int]]
    #: Address of record -> contacts, as `Contact.line` writes them.
    users: dict[str, tuple[str, ...]]
    #: Which of the keys that the asker named have ended here (users as `u:AOR`).
    ended: tuple[str, ...] = ()
    #: For how many seconds back every end is remembered here.
    reach: float = 0.0
    #: Sessions that count as used because nobody can know.
    uncertain: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mending:
    """What a comparison found to be done here."""

    #: Key -> (kind, age): the other unit has it, and it never ended here.
    add: Mapping[str, tuple[int, int]]
    #: Keys that ended there.
    end: tuple[str, ...]
    #: Addresses of record to tell the other unit, and to drop here.
    tell: tuple[str, ...]
    drop: tuple[str, ...]

    @property
    def count(self) -> int:
        """Return how much there is to do."""
        return len(self.add) + len(self.end) + len(self.tell) + len(self.drop)


class Comparison:
    """Compares again and again; what differs in two passes is mended."""

    def __init__(self) -> None:
        """Know nothing of the other unit yet."""
        #: Keys that only the other one had at the last pass, and only this one.
        self._only_there: set[str] = set()
        self._only_here: set[str] = set()
        self._passes = 0
        #: Whether this unit is known to hold all that the other one holds, and nothing that has
        #: ended there.
        self.complete = False

    def forget(self) -> None:
        """Begin anew: either unit's Kamailio is another one than before, or the link was cut."""
        self._only_there, self._only_here = set(), set()
        self._passes = 0
        self.complete = False

    @property
    def suspects(self) -> tuple[str, ...]:
        """Return the keys to ask the other unit about: those that only this one has."""
        return tuple(self._only_here)

    @property
    def open(self) -> bool:
        """Tell whether the last pass found a difference."""
        return bool(self._only_there or self._only_here)

    def compare(
        self, calls: Iterable[str], users: Iterable[str], there: Listing, tombs: Tombs
    ) -> Mending:
        """Take one pass in: this unit's keys of now against a listing that was just made."""
        here = set(calls) | {f"u:{aor}" for aor in users}
        other = set(there.calls) | {f"u:{aor}" for aor in there.users}
        only_there, only_here = other - here, here - other
        twice_there = only_there & self._only_there
        ended = set(there.ended)
        twice_here = only_here & self._only_here
        mending = Mending(
            add={
                k: there.calls[k] for k in twice_there if not k.startswith("u:") and k not in tombs
            },
            end=tuple(k for k in twice_here if not k.startswith("u:") and k in ended),
            # Who holds a user that the other one lacks tells it; who knows it gone, not.
            tell=tuple(k[2:] for k in twice_here if k.startswith("u:") and k not in ended),
            drop=tuple(k[2:] for k in twice_here if k.startswith("u:") and k in ended),
        )
        self._only_there, self._only_here = only_there, only_here
        self._passes += 1
        # What is under way differs once and then no more; one pass after the start could not tell.
        missing = any(k not in tombs for k in twice_there)
        # A unit that counts what has ended there would refuse calls that the license has room for.
        spare = any(k in ended for k in twice_here)
        self.complete = self._passes >= 2 and not missing and not spare
        return mending


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """What a unit starts with: its own book, corrected by the other unit's word."""

    calls: Mapping[str, tuple[int, int]]
    #: Keys of its own book that are not up any more.
    drop: tuple[str, ...]
    users: Mapping[str, tuple[str, ...]]
    drop_users: tuple[str, ...]


def merged(calls: Iterable[str], users: Iterable[str], there: Listing, away: float) -> Merged:
    """Return what a unit that was `away` for so many seconds starts with.

    What the other unit has is up. What only this one's book has was up when it went away: the
    other one knows whether it ended, if it remembers that long; if not, its list is the truth.
    """
    ended = set(there.ended)
    trusted = there.reach > away

    def gone(key: str) -> bool:
        return key in ended or not trusted

    return Merged(
        calls=there.calls,
        drop=tuple(k for k in calls if k not in there.calls and gone(k)),
        users=there.users,
        drop_users=tuple(u for u in users if u not in there.users and gone(f"u:{u}")),
    )
