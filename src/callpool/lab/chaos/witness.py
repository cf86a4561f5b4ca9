"""Records that owe nothing to callpool's own word: caps in force, calls, acknowledged changes."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from callpool.licensing.errors import CallpoolError
from callpool.manager.client import Connection, ManagerClient

#: Seconds between two looks at a cap.
_LOOK: Final = 0.1
#: Seconds to wait for Kamailio, and for the manager.
_SOON: Final = 1.0
_ANSWER: Final = 6.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A cap as Kamailio itself had it, some time between `begin` and `end`."""

    begin: float
    end: float
    cap: int


class CapWitness(threading.Thread):
    """Reads out of Kamailio's own memory what one device's gate enforces."""

    def __init__(self, server: Path, client: Path) -> None:
        """Watch the Kamailio that answers at `server`; answers come to `client`."""
        super().__init__(daemon=True)
        self._server, self._client = server, client
        self._ended = threading.Event()
        self.seen: list[Seen] = []

    def run(self) -> None:
        """Look until told to end."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.bind(str(self._client))
            sock.settimeout(_SOON)
            number = 0
            while not self._ended.wait(_LOOK):
                number += 1
                begin = time.time()
                with contextlib.suppress(OSError, ValueError, KeyError):
                    policy = str(self._get(sock, "cp_pol", "p", 2 * number))
                    tick = int(self._get(sock, "cp_cnt", "up", 2 * number + 1))
                    cap = cap_in_force(policy, time.time(), tick)
                    self.seen.append(Seen(begin=begin, end=time.time(), cap=cap))

    def _get(self, sock: socket.socket, table: str, key: str, number: int) -> Any:
        request = {"jsonrpc": "2.0", "method": "htable.get", "params": [table, key], "id": number}
        sock.sendto(json.dumps(request).encode(), str(self._server))
        while True:
            answer = json.loads(sock.recv(65_536))
            if answer.get("id") == number:
                return answer["result"]["item"]["value"]

    def finish(self) -> list[Seen]:
        """End, and return what was seen."""
        self._ended.set()
        self.join()
        return self.seen


def cap_in_force(policy: str, now: float, tick: int) -> int:
    """Return the session cap of a gate's policy (docs/gate.md) at `now`, by its own two clocks.

    The first step that has not ended is in force; one that refuses all admits none.
    """
    for step in policy.split("/"):
        words = step.split(";")
        seconds, ms, end_tick = int(words[0]), int(words[1]), int(words[2])
        if seconds == 0 or (now < seconds + ms / 1000 and tick < end_tick):
            cap = int(words[4])
            return 0 if words[3] != "1" else cap if cap >= 0 else 1_000_000
    return 0


def never_above(seen: Sequence[Sequence[Seen]], most: int) -> tuple[int, float]:
    """Return the highest sum that several gates' caps are sure to have had at once, and when.

    Between two looks that agree a cap is taken as what both saw; where they differ, as the lower:
    so nothing is held against a device that may have been otherwise.
    """
    moves: list[tuple[float, int]] = []
    for looks in seen:
        for one, other in itertools.pairwise(looks):
            cap = min(one.cap, other.cap)
            # What may have been in force a moment only has no length.
            moves += [(one.end, cap), (other.begin, -cap)]
    now, highest, when = 0, 0, 0.0
    for at, change in sorted(moves, key=lambda m: (m[0], m[1])):
        now += change
        if now > highest:
            highest, when = now, at
    return highest, when if highest > most else 0.0


@dataclass(slots=True, kw_only=True)
class Call:
    """One call as its caller saw it."""

    call_id: str
    #: When the first INVITE was sent, when it was answered with 200, when its BYE was sent.
    begun: float
    established: float = 0.0
    bye: float = 0.0
    #: The final answer to the INVITE, and to the BYE; 0 for none.
    answer: int = 0
    bye_answer: int = 0
    #: Whether somebody else said BYE to the caller.
    cut: bool = False


def calls_of(lines: Iterable[str]) -> list[Call]:
    """Return the calls of a caller's SIPp, by its short message trace."""
    found: dict[str, Call] = {}
    for line in lines:
        fields = line.rstrip("\n").split("\t")
        if len(fields) < 7:
            continue
        at, way, call_id, cseq, what = (*(fields[n] for n in (2, 3, 4, 5, 6)),)
        if way == "S" and what.startswith("INVITE "):
            found.setdefault(call_id, Call(call_id=call_id, begun=float(at)))
        call = found.get(call_id)
        if call is None:
            continue
        if way == "S" and what.startswith("BYE ") and not call.bye:
            call.bye = float(at)
        elif way == "R" and what.startswith("BYE "):
            call.cut = True
        elif way == "R" and what.startswith("SIP/2.0 "):
            code = int(what.split()[1])
            if code < 200:
                continue
            if cseq.endswith("INVITE"):
                call.answer = call.answer or code
                if code == 200 and not call.established:
                    call.established = float(at)
            elif cseq.endswith("BYE"):
                call.bye_answer = call.bye_answer or code
    return list(found.values())


@dataclass(slots=True)
class Book:
    """What was asked of the manager, and what it acknowledged."""

    #: Allocations by device: (begin, end, count, acknowledged, refused).
    allocations: dict[str, list[tuple[float, float, int, bool, bool]]] = field(default_factory=dict)
    #: Names of tenants that the manager acknowledged.
    tenants: list[str] = field(default_factory=list)
    #: Refusals by code.
    refused: dict[str, int] = field(default_factory=dict)
    #: Changes that got no answer.
    unanswered: int = 0


class Operator(threading.Thread):
    """An operator who changes things all the time and writes down what was acknowledged."""

    def __init__(
        self, connection: Connection, devices: Sequence[str], seed: int, most: int
    ) -> None:
        """Prepare to allocate up to `most` sessions to each of `devices`."""
        super().__init__(daemon=True)
        self._connection, self._devices, self._most = connection, list(devices), most
        self._chance = random.Random(seed)  # noqa: S311  to play again, not to hide
        self._ended = threading.Event()
        self.book = Book(allocations={name: [] for name in devices})

    def run(self) -> None:
        """Change something, again and again, until told to end."""
        number = 0
        while not self._ended.wait(self._chance.uniform(0.1, 0.8)):
            number += 1
            if number % 10 == 0:
                name = f"tenant-{number}"
                if self._call("POST", "/tenants", {"name": name}):
                    self.book.tenants.append(name)
                continue
            name = self._chance.choice(self._devices)
            count = self._chance.randint(0, self._most)
            begin = time.time()
            done = self._call("PUT", f"/devices/{name}/allocation", {"sbc_sessions": count})
            refused = done is False
            self.book.allocations[name].append((begin, time.time(), count, bool(done), refused))

    def _call(self, method: str, path: str, body: object) -> bool | None:
        """Return whether it was acknowledged (True) or refused (False); None: nobody knows."""
        try:
            with ManagerClient(self._connection) as client:
                client.call(method, path, body, timeout=_ANSWER)
        except CallpoolError as error:
            self.book.refused[error.code] = self.book.refused.get(error.code, 0) + 1
            if error.code in ("no_answer", "internal_error", "database_unusable", "overloaded"):
                self.book.unanswered += 1
                return None
            return False
        return True

    def finish(self) -> Book:
        """End, and return the book."""
        self._ended.set()
        self.join()
        return self.book


def possible(book: Book, name: str) -> set[int]:
    """Return what a device's allocation can be at the end, by what the operator knows.

    The last that was acknowledged, or one that nobody answered and that can have come later: a
    manager that hung may carry out what its caller has given up.
    """
    found = {0}
    for _begin, end, count, acknowledged, refused in book.allocations[name]:
        if acknowledged:
            later = {
                c
                for b, _e, c, a, r in book.allocations[name]
                if not a and not r and b < end and _within(b, end)
            }
            found = {count} | later
        elif not refused:
            found.add(count)
    return found


def _within(begun: float, end: float) -> bool:
    # A manager that was stopped goes on within this time.
    return begun > end - 60.0


def tenants_missing(client: ManagerClient, book: Book) -> list[str]:
    """Return tenants that were acknowledged and are not there."""
    there = {t["name"] for t in client.whole("/tenants")["tenants"]}
    return [name for name in book.tenants if name not in there]


def steps(lines: Iterable[dict[str, Any]], kind: str) -> Iterator[tuple[float, int]]:
    """Yield (time, change) of what a device wrote down that it enforces, before it did."""
    was = 0
    for event in lines:
        if event.get("event") in ("enforced", "started"):
            now = int(event["actual"].get(kind, 0))
            yield float(event["at"]), now - was
            was = now
