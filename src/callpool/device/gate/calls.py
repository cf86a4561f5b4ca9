"""The core's call book: every live key and registration, learnt from Kamailio's datagrams.

Kamailio's tables are the truth while it lives; the book is what they are seeded from when it
starts again. Each event carries a number that Kamailio takes under the lock of the key, so the
order of numbers is the order of deeds, whatever order the datagrams arrive in. A gap in the
numbers is repaired by asking for every key (`sync`): the answer stands between two marks that
carry the number of their moment, which is enough to tell for each key which side is newer.

No I/O here: `receive` takes a datagram, `lines` are what the journal must hold.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from callpool.device.gate.refusals import Refusals

#: Ended calls are remembered for so many later ends, to know a late admission for what it is.
_TOMBS: Final = 20_000
_MASK: Final = 0xFFFFFFFF
#: A key holds its tick modulo this (194 days), so that the key's value stays in 31 bits.
TICKS: Final = 1 << 24


def after(a: int, b: int) -> int:
    """Return how far number `a` lies after `b` on a circle of 2^32 (negative: before)."""
    d = (a - b) & _MASK
    return d - (1 << 32) if d >= 1 << 31 else d


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """One contact of a registered user, as usrloc holds it."""

    ruid: str
    address: str
    received: str = ""
    path: str = ""
    #: Seconds since 1970 by Kamailio's clock; 0 never ends.
    expires: int = 0
    q: str = ""
    callid: str = ""
    cseq: int = 1
    flags: int = 0
    cflags: int = 0
    socket: str = ""
    methods: int = 0

    @classmethod
    def parse(cls, line: str) -> Contact:
        """Read the line that Kamailio sends. Raises ValueError or TypeError when it is none."""
        f = ["" if x == "<null>" else x for x in line.split("\t")]
        ruid, address, received, path, expires, q, callid, cseq, flags, cflags, sock, methods = f
        return cls(
            ruid=ruid, address=address, received=received, path=path, q=q, callid=callid,
            socket=sock, expires=int(expires or 0), cseq=int(cseq or 1), flags=int(flags or 0),
            cflags=int(cflags or 0), methods=int(methods or 0),
        )  # fmt: skip

    def line(self) -> str:
        """Return the line that `parse` reads."""
        return "\t".join(
            str(v)
            for v in (self.ruid, self.address, self.received, self.path, self.expires, self.q,
                      self.callid, self.cseq, self.flags, self.cflags, self.socket, self.methods)
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """One refusal, as Kamailio told it."""

    seq: int
    reason: str
    method: str
    caller: str
    callee: str
    call_id: str
    tick: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """One heartbeat: Kamailio's own counts."""

    seq: int = 0
    tick: int = 0
    sessions: int = 0
    emergency: int = 0
    users: int = 0
    uncertain: int = 0
    admitted: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Sync:
    """A dump of every key that is coming in."""

    number: str
    first: int = 0
    calls: dict[str, int] = field(default_factory=dict)
    users: dict[str, tuple[Contact, ...]] = field(default_factory=dict)
    begun: bool = False


class Watcher(Protocol):
    """Who wants to know of each key that comes or goes; a user's key is `u:AOR`."""

    def admitted(self, key: str) -> None:
        """Take note that a key is live."""
        ...

    def ended(self, key: str) -> None:
        """Take note that a key has ended, known or not."""
        ...


class CallBook:
    """Live keys and registrations of one Kamailio."""

    def __init__(self, repeat_seconds: int = 30) -> None:
        """Make an empty book of no Kamailio: `gen` 0."""
        #: Who was turned away, true refusals told apart from repeats.
        self.turned_away = Refusals(repeat_seconds)
        #: The most sessions and users at once since `take_high`.
        self._high = (0, 0)
        #: Call key to its value (tick * 64 + forks * 4 + waiting * 2 + emergency; the tick modulo
        #: TICKS). A key is `Call-ID;tag`, the tag being the caller's.
        self.calls: dict[str, int] = {}
        self.users: dict[str, tuple[Contact, ...]] = {}
        #: Which start of Kamailio the numbers belong to.
        self.gen = 0
        #: Every event up to this number has been received.
        self.done = 0
        #: The highest event number seen or told of by a heartbeat.
        self.seen = 0
        #: Sessions that count as used because nobody can know, and the tick of their end.
        self.uncertain = 0
        self.uncertain_until = 0
        self.beat = Beat()
        self.peak_sessions = 0
        self.peak_users = 0
        #: Set when a sync has been applied whole, to its number.
        self.synced = ""
        #: What the last sync found wrong in the book: (keys missing, keys too many).
        self.repaired = (0, 0)
        #: Told of keys that come and go; None for nobody.
        self.watcher: Watcher | None = None
        self._changed: dict[str, int] = {}
        self._tombs: OrderedDict[str, int] = OrderedDict()
        self._ahead: set[int] = set()
        self._sync: _Sync | None = None
        self._lines: list[str] = []
        self.refusals: list[Refused] = []
        #: Calls admitted and refusals per reason, in all.
        self.admitted = 0
        self.refused: dict[str, int] = {}

    # ---------------------------------------------------------------- reading

    @property
    def sessions(self) -> int:
        """Return how many sessions the book holds, the uncertain ones included."""
        return sum(1 for v in self.calls.values() if not v & 1) + self.uncertain

    @property
    def emergency(self) -> int:
        """Return how many emergency calls the book holds."""
        return sum(v & 1 for v in self.calls.values())

    @property
    def gap(self) -> bool:
        """Tell whether some event up to the highest known number has not been received."""
        return after(self.seen, self.done) > 0

    def take_high(self) -> tuple[int, int]:
        """Return the most sessions and users at once since this was last asked."""
        now = (self.sessions, len(self.users))
        high, self._high = self._high, now
        return max(high[0], now[0]), max(high[1], now[1])

    def _reached(self, sessions: int, users: int) -> None:
        self.peak_sessions = max(self.peak_sessions, sessions)
        self.peak_users = max(self.peak_users, users)
        self._high = max(self._high[0], sessions), max(self._high[1], users)

    def keys_of(self, call_id: str) -> list[str]:
        """Return the keys of a Call-ID: one, save where callers share it."""
        return [k for k in self.calls if k == call_id or k.rpartition(";")[0] == call_id]

    def lines(self) -> list[str]:
        """Return the journal lines since the last call."""
        out, self._lines = self._lines, []
        return out

    def snapshot(self) -> list[str]:
        """Return lines that say all that the book holds."""
        out = [f"G {self.gen} {self.done}", self._uncertain_line()]
        out += [f"A {v} {k}" for k, v in self.calls.items()]
        out += [_user_line(aor, contacts) for aor, contacts in self.users.items()]
        return out

    def replay(self, line: str) -> None:
        """Take one journal line in; a line that is none (torn at a crash) is passed over."""
        kind, _, rest = line.partition(" ")
        try:
            match kind:
                case "A":
                    value, _, key = rest.partition(" ")
                    self.calls[key] = int(value)
                case "E":
                    self.calls.pop(rest, None)
                case "U":
                    aor, *contacts = rest.split("\x1e")
                    self._set_user(aor, tuple(Contact.parse(c) for c in contacts))
                case "N":
                    count, _, until = rest.partition(" ")
                    self.uncertain, self.uncertain_until = int(count), int(until or 0)
                case "G":
                    gen, done = rest.split()
                    self.gen, self.done = int(gen), int(done)
                    self.seen = self.done
                case "C":
                    self.calls.clear()
                    self.users.clear()
        except (ValueError, TypeError):
            return

    # ---------------------------------------------------------------- a new Kamailio

    def begin(self, gen: int, uncertain: int, until: int = 0, tick: int = 0) -> None:
        """Start a new Kamailio's numbering; it goes on from `done`. Keys stay as they are.

        `uncertain` sessions count as used up to the tick `until`; `tick` is its first one.
        """
        self.gen = gen
        self.seen = self.done
        self.uncertain, self.uncertain_until = uncertain, until
        self.beat = Beat(seq=self.done, tick=max(tick, self.beat.tick))
        self._ahead.clear()
        self._sync = None
        self._lines += [f"G {gen} {self.done}", self._uncertain_line()]

    def adopt(self, gen: int) -> None:
        """Take on a living Kamailio whose events were missed: a sync must follow."""
        self.gen = gen
        self._ahead.clear()
        self._sync = None

    # ---------------------------------------------------------------- datagrams

    def receive(self, body: str) -> bool:
        """Take one datagram in, without its token: `gen seq kind ...`.

        Returns False when it belongs to another start of Kamailio or cannot be read.
        """
        head, *rest = body.split("\n")
        try:
            gen, seq_text, kind, *words = head.split(" ")
            if int(gen) != self.gen:
                return False
            seq = int(seq_text) & _MASK
            self._take(kind, seq, words, rest)
        except (ValueError, TypeError, IndexError):
            return False
        return True

    def _take(self, kind: str, seq: int, w: list[str], rest: list[str]) -> None:
        match kind:
            case "A" | "a":  # a: admitted by the other unit of a pair
                self._numbered(seq)
                call_id = _rest(w[3:], rest)
                self.admitted += kind == "A" and after(seq, self.beat.seq) > 0
                if w[0] == "0":
                    self._reached(int(w[1]), 0)
                self._admitted(call_id, int(w[2]) % TICKS * 64 + int(w[0]), seq)
            case "E":
                self._numbered(seq)
                self._ended(_rest(w[2:], rest), seq)
            case "P":
                self._numbered(seq)
                self.uncertain = max(0, self.uncertain - int(w[0]))
                self._lines.append(self._uncertain_line())
            case "R":
                self._numbered(seq)
                if after(seq, self.beat.seq) > 0:
                    self.refused[w[0]] = self.refused.get(w[0], 0) + 1
                    self.turned_away.told(
                        w[0], register=w[1] == "REGISTER", who=(w[3], w[4]), tick=int(w[2])
                    )
                self.refusals.append(
                    Refused(seq=seq, reason=w[0], method=w[1], tick=int(w[2]), caller=w[3],
                            callee=w[4], call_id=" ".join(w[5:]))
                )  # fmt: skip
            case "U":
                self._numbered(seq)
                aor = " ".join(w[2:])
                self._reached(0, int(w[1]))
                if after(seq, self._changed.get("u:" + aor, seq - 1)) > 0:
                    self._changed["u:" + aor] = seq
                    self._set_user(aor, tuple(Contact.parse(c) for c in rest))
                    self._lines.append(_user_line(aor, self.users.get(aor, ())))
                    self._tell("u:" + aor, live=aor in self.users)
            case "H":
                self._heard(seq, w)
            case "B" | "K" | "V" | "Z":
                self._synchronise(kind, seq, w, rest)

    def _numbered(self, seq: int) -> None:
        if after(seq, self.seen) > 0:
            self.seen = seq
        if after(seq, self.done) > 0:
            self._ahead.add(seq)
            self._close_up()

    def _close_up(self) -> None:
        while (following := (self.done + 1) & _MASK) in self._ahead:
            self._ahead.discard(following)
            self.done = following

    def _admitted(self, call_id: str, value: int, seq: int) -> None:
        tomb = self._tombs.get(call_id)
        if tomb is not None and after(tomb, seq) > 0:
            return  # its end came first
        if after(self._changed.get(call_id, seq), seq) > 0:
            return  # a later call of the same Call-ID came first
        self.calls[call_id] = value
        self._changed[call_id] = seq
        self._lines.append(f"A {value} {call_id}")
        self._tell(call_id, live=True)

    def _ended(self, call_id: str, seq: int) -> None:
        changed = self._changed.get(call_id)
        if changed is not None and after(changed, seq) > 0:
            return  # the same Call-ID was admitted again since
        tomb = self._tombs.get(call_id, seq)
        self._tombs[call_id] = tomb if after(tomb, seq) > 0 else seq
        self._tombs.move_to_end(call_id)
        if len(self._tombs) > _TOMBS:
            self._tombs.popitem(last=False)
        self._changed.pop(call_id, None)
        if self.calls.pop(call_id, None) is not None:
            self._lines.append(f"E {call_id}")
        self._tell(call_id, live=False)

    def _tell(self, key: str, *, live: bool) -> None:
        if self.watcher is not None:
            (self.watcher.admitted if live else self.watcher.ended)(key)

    def _set_user(self, aor: str, contacts: tuple[Contact, ...]) -> None:
        if contacts:
            self.users[aor] = contacts
        else:
            self.users.pop(aor, None)

    def _heard(self, seq: int, w: list[str]) -> None:
        tick, s, e, u, ph, adm = (int(x) for x in w[:6])
        refused = {k: int(v) for k, _, v in (x.partition("=") for x in w[6:] if x)}
        self.beat = Beat(seq=seq, tick=tick, sessions=s, emergency=e, users=u, uncertain=ph,
                         admitted=adm, refused=refused)  # fmt: skip
        # What came since the last heartbeat was counted one by one, save what was lost.
        self.admitted = max(self.admitted, adm)
        for reason, count in refused.items():
            untold = count - self.refused.get(reason, 0)
            if untold > 0:
                self.turned_away.untold(reason, untold)
                self.refused[reason] = count
        self._reached(s, u)
        if after(seq, self.seen) > 0:
            self.seen = seq

    # ---------------------------------------------------------------- sync

    def _synchronise(self, kind: str, seq: int, w: list[str], rest: list[str]) -> None:
        number = w[0]
        if kind == "B":
            self._sync = _Sync(number=number, first=seq, begun=True)
            self.beat = replace(self.beat, tick=int(w[1]))
            return
        sync = self._sync
        if sync is None or sync.number != number:
            return
        if kind == "K":
            key = ""
            for line in rest:
                value, _, more = line.partition(" ")
                if value:
                    key = more
                else:  # a folded header: the key goes on
                    value = str(sync.calls.pop(key))
                    key += "\r" + line
                sync.calls[key] = int(value)
        elif kind == "V":
            sync.users[" ".join(w[1:])] = tuple(Contact.parse(c) for c in rest)
        elif (len(sync.calls), len(sync.users)) == (int(w[1]), int(w[2])):
            self._apply(sync, uncertain=int(w[4]), until=int(w[5]))

    def _apply(self, sync: _Sync, *, uncertain: int, until: int) -> None:
        """Make the book what Kamailio holds, save where an event is newer than the dump."""

        def new(key: str) -> bool:
            return after(self._changed.get(key, sync.first), sync.first) > 0

        lost = [k for k in self.calls if k not in sync.calls and not new(k)]
        for key in lost:
            self.calls.pop(key)
            self._changed.pop(key, None)
            self._tell(key, live=False)
        found = 0
        for key, value in sync.calls.items():
            tomb = self._tombs.get(key)
            if tomb is not None and after(tomb, sync.first) > 0:
                continue
            found += key not in self.calls
            self.calls[key] = value
            self._changed.setdefault(key, sync.first)
        for aor in [a for a in self.users if a not in sync.users and not new("u:" + a)]:
            self.users.pop(aor)
        for aor, contacts in sync.users.items():
            if not new("u:" + aor):
                self._set_user(aor, contacts)
        self.uncertain, self.uncertain_until = uncertain, until
        self.repaired = (found, len(lost))
        self.done = sync.first
        self._ahead = {a for a in self._ahead if after(a, self.done) > 0}
        self._close_up()
        if after(self.done, self.seen) > 0:
            self.seen = self.done
        self._sync = None
        self.synced = sync.number
        self._lines = ["C", *self.snapshot()]

    def _uncertain_line(self) -> str:
        return f"N {self.uncertain} {self.uncertain_until}"

    def without_forks(self) -> dict[str, int]:
        """Return the keys as a new Kamailio must hold them.

        Forks and waits for credentials died with the transactions: each key is one call.
        """
        return {k: v // 64 * 64 + (v & 1) for k, v in self.calls.items()}

    def merge(
        self,
        calls: Mapping[str, int],
        drop: Iterable[str],
        users: Mapping[str, tuple[Contact, ...]],
        drop_users: Iterable[str],
    ) -> None:
        """Take the other unit's word before a start: what is up there, what is up no more.

        Values of `calls` are in this Kamailio's ticks; a key that is known keeps its own.
        """
        for key in drop:
            if self.calls.pop(key, None) is not None:
                self._lines.append(f"E {key}")
        for key, value in calls.items():
            if key not in self.calls:
                self.calls[key] = value
                self._lines.append(f"A {value} {key}")
        for aor in drop_users:
            self._set_user(aor, ())
            self._lines.append(_user_line(aor, ()))
        for aor, contacts in users.items():
            self._set_user(aor, contacts)
            self._lines.append(_user_line(aor, contacts))

    def forget_expired(self, now: float) -> None:
        """Drop contacts whose time is over at `now` (Kamailio's wall seconds since 1970)."""
        for aor, contacts in list(self.users.items()):
            alive = tuple(c for c in contacts if c.expires == 0 or c.expires > now)
            if alive != contacts:
                self._set_user(aor, alive)
                self._lines.append(_user_line(aor, alive))


def _rest(words: list[str], lines: list[str]) -> str:
    """Return the key at the end of a datagram, on one line.

    Kamailio admits only printable ones; what slips through must not become another's line.
    """
    return "\r".join([" ".join(words), *lines])


def _user_line(aor: str, contacts: tuple[Contact, ...]) -> str:
    return "U " + "\x1e".join([aor, *(c.line() for c in contacts)])
