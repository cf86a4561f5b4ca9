"""One syslog target's queue: bounded, in order; a target that is down delays nobody.

A message leaves the queue when the receiver's machine has taken it: over TCP and TLS when its
kernel has acknowledged every byte, over UDP when no error came back at once. A connection that
breaks before that is made anew and what was on its way is sent again, so a message may arrive
twice then, never less than once. What a receiver's program does with it nobody tells us: syslog
has no acknowledgement of its own.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import structlog

from callpool.host.syslog.links import Link, open_link
from callpool.host.syslog.message import SyslogMessage, encode
from callpool.host.syslog.target import SyslogTarget
from callpool.licensing.errors import CallpoolError

#: Messages that wait at most, beside those on their way, unless told otherwise.
ROOM: Final = 1000
#: Shortest and longest wait in seconds before a target that failed is tried again.
RETRY: Final = (0.5, 30.0)

Done = Callable[[], None]


class SyslogSender:
    """One target and what waits for it."""

    def __init__(
        self,
        target: SyslogTarget,
        *,
        room: int = ROOM,
        retry: tuple[float, float] = RETRY,
    ) -> None:
        """Send to `target` once `run`; `room` messages wait at most, `retry` in seconds."""
        self.target = target
        self._room, self._retry = room, retry
        self._waiting: deque[tuple[SyslogMessage, Done | None]] = deque()
        #: How many at the head of the queue are on their way.
        self._flying = 0
        self._more = asyncio.Event()
        #: Messages that fell out of the full queue, since the start.
        self.dropped = 0
        #: Messages that the receiver's machine has taken, since the start.
        self.sent = 0
        #: Why the last try failed; empty while all is well.
        self.failure = ""
        self._log: Any = structlog.get_logger("callpool.syslog")

    @property
    def waiting(self) -> int:
        """How many messages wait or are on their way."""
        return len(self._waiting)

    def put(self, message: SyslogMessage, done: Done | None = None) -> None:
        """Queue a message; `done` is called once it is sent, never where it fell out.

        A full queue loses its oldest message that is not on its way.
        """
        if len(self._waiting) - self._flying >= self._room:
            del self._waiting[self._flying]
            self.dropped += 1
            if self.dropped == 1 or self.dropped % self._room == 0:
                self._log.warning(
                    "syslog_dropped", target=self.target.address, dropped=self.dropped
                )
        self._waiting.append((message, done))
        self._more.set()

    async def run(self) -> None:
        """Send what is queued, in order, until cancelled."""
        shortest, longest = self._retry
        backoff = shortest
        link: Link | None = None
        try:
            while True:
                while not self._waiting:
                    self._more.clear()
                    await self._more.wait()
                try:
                    if link is None:
                        link = await open_link(self.target)
                    await self._send(link)
                except (CallpoolError, OSError, TimeoutError) as error:
                    if link is not None:
                        link.close()
                        link = None
                    self._flying = 0
                    self._failed(error)
                    await asyncio.sleep(backoff)
                    backoff = min(backoff * 2, longest)
                else:
                    backoff = shortest
        finally:
            self._flying = 0
            if link is not None:
                link.close()

    async def _send(self, link: Link) -> None:
        count = min(link.batch, len(self._waiting))
        batch = [self._waiting[n] for n in range(count)]
        self._flying = count
        facility = self.target.facility_number
        await link.send([encode(message, facility, most=link.most) for message, _ in batch])
        self._flying = 0
        self.sent += count
        if self.failure:
            self.failure = ""
            self._log.info("syslog_up", target=self.target.address, waiting=self.waiting)
        for _, done in batch:
            self._waiting.popleft()
            if done is not None:
                done()

    def _failed(self, error: Exception) -> None:
        """Say why, once for each reason in a row."""
        code, sentence = explain(self.target, error)
        if sentence != self.failure:
            self.failure = sentence
            self._log.warning("syslog_down", target=self.target.address, code=code, text=sentence)


def explain(target: SyslogTarget, error: Exception) -> tuple[str, str]:
    """Return a stable code and one sentence on why a target did not take a message."""
    where = f"Syslog target {target.address}"
    if isinstance(error, CallpoolError):
        return error.code, error.sentence
    if isinstance(error, ssl.SSLCertVerificationError):
        why = error.verify_message
        return "syslog_certificate_refused", f"{where}: its certificate is refused: {why}."
    if isinstance(error, ssl.SSLError):
        why = (error.reason or "TLS failed").lower().replace("_", " ")
        return "syslog_tls_failed", f"{where}: {why}."
    if isinstance(error, TimeoutError):
        return "syslog_timeout", f"{where} does not answer."
    why = str(error)
    if isinstance(error, OSError) and error.strerror:
        number = error.errno or 0  # asyncio's own words lead nowhere
        why = os.strerror(number) if number > 0 else error.strerror
    return "syslog_unreachable", f"{where} cannot be reached: {why}."
