"""An authority that is hostile on purpose (the habit of Let's Encrypt's pebble).

It stands in front of the real one, on HTTPS with the same certificate, and spoils a share of
good requests by a seeded random: it refuses them under a valid signature, delays, loses,
repeats and reorders them, and answers with wrong versions, stale or altered signatures. What
it does not spoil it passes on, hints included. So an agent cannot be written for the happy
path: it has to end in the right state every time.

It signs with the real authority's keys, from the manager's directory: a real authority that
misbehaves, not a stranger. `foreign` is the stranger.
"""

from __future__ import annotations

import http.client
import random
import ssl
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from callpool.host.clock import clock_for
from callpool.licensing.errors import CallpoolError, TrustError
from callpool.manager.identity import Identity
from callpool.manager.settings import Layout, load
from callpool.wire.envelope import sign, unverified
from callpool.wire.keys import SigningKey
from callpool.wire.messages import CONTENT_TYPE
from callpool.wire.smart_messages import (
    SMART_HINTS_PATH,
    SMART_REFUSAL,
    SMART_REPLY,
    Refusal,
)

#: What it can do to a good request.
FAULTS: Final = {
    "refuse": "a signed refusal that counts; the authority never hears of the request",
    "drop": "the request is lost, the connection closed",
    "lose": "the request is carried out, its answer lost",
    "error": "an error page that nobody signed",
    "delay": "the answer comes late",
    "version": "the answer speaks another protocol version, or its authorization is not newer",
    "stale": "the answer to an earlier request, signed as it was",
    "alter": "one character of the answer is changed",
    "foreign": "the answer is signed by a stranger's key",
    "clock": "the answer is dated two hours off, under a valid signature",
    "repeat": "the request reaches the authority twice",
    "reorder": "an earlier request reaches the authority once more, after this one",
}
#: The code of its refusals.
REFUSED: Final = "hostile_refusal"
_SMART: Final = "/smart/v1/"
_LONGEST: Final = 512 * 1024
_KEPT: Final = 50
#: How far off an answer's time is, seconds: above the hour that is refused.
_OFF: Final = 7_200.0


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer as it came: status, content type, body."""

    status: int
    content_type: str
    body: bytes


@dataclass(slots=True)
class Hostile:
    """The rules: what is done to which request."""

    #: The manager's directory and its own address.
    directory: Path
    upstream: str
    #: The share of requests that are spoilt, 0 to 1, and how.
    share: float = 0.5
    faults: Sequence[str] = tuple(FAULTS)
    seed: int = 1
    #: The longest delay, in real seconds.
    delay: float = 1.0
    #: How often each fault was done.
    done: dict[str, int] = field(default_factory=dict)
    _dice: random.Random = field(default_factory=random.Random)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _requests: deque[tuple[str, bytes]] = field(default_factory=lambda: deque(maxlen=_KEPT))
    _answers: deque[Answered] = field(default_factory=lambda: deque(maxlen=_KEPT))

    def __post_init__(self) -> None:
        """Check the faults: CallpoolError `unknown_fault`, `bad_share`."""
        for name in self.faults:
            if name not in FAULTS:
                raise CallpoolError(
                    "unknown_fault", f"{name[:40]!r} is none of {', '.join(FAULTS)}."
                )
        if not 0.0 <= self.share <= 1.0:
            raise CallpoolError("bad_share", "The share of spoilt requests is 0 to 1.")
        self._dice = random.Random(self.seed)  # noqa: S311  to be repeated, not to be secret

    def choose(self) -> str:
        """Return what is done to the next request, '' for nothing."""
        with self._lock:
            spoilt = self._dice.random() < self.share and self.faults
            name = self._dice.choice(list(self.faults)) if spoilt else ""
            if name:
                self.done[name] = self.done.get(name, 0) + 1
            return name

    def _number(self, below: int) -> int:
        with self._lock:
            return self._dice.randrange(below)

    # -- the way to the real authority

    def connect(self, *, timeout: float | None = 30.0) -> http.client.HTTPSConnection:
        """Open a connection to the real authority."""
        where = urlsplit(self.upstream)
        context = ssl.create_default_context(cafile=str(Layout(self.directory).ca))
        return http.client.HTTPSConnection(
            where.hostname or "localhost", where.port, timeout=timeout, context=context
        )

    def forward(self, method: str, path: str, headers: dict[str, str], body: bytes) -> Answered:
        """Pass a request on; raises OSError, http.client.HTTPException."""
        connection = self.connect()
        try:
            connection.request(method, path, body=body or None, headers=headers)
            reply = connection.getresponse()
            return Answered(reply.status, reply.headers.get("Content-Type", ""), reply.read())
        finally:
            connection.close()

    # -- what is done

    def answer(self, path: str, headers: dict[str, str], body: bytes) -> Answered | None:
        """Return the answer to a smart request, spoilt or not; None to close the connection."""
        fault = self.choose()
        if fault:
            sys.stderr.write(f"{fault} {path}\n")
        if fault == "refuse":
            return self._refusal(body)
        if fault == "drop":
            return None
        if fault == "error":
            return Answered(502, "text/html", b"<h1>Bad gateway</h1>")
        found = self.forward("POST", path, headers, body)
        earlier = list(self._answers)
        self._answers.append(found)
        if fault == "repeat":
            found = self.forward("POST", path, headers, body)
        elif fault == "reorder" and self._requests:
            again, old = self._requests[self._number(len(self._requests))]
            self.forward("POST", again, headers, old)
        self._requests.append((path, body))
        if fault == "lose":
            return None
        if fault == "delay":
            time.sleep(self._number(1000) / 1000 * self.delay)
        elif fault == "stale" and earlier:
            return earlier[self._number(len(earlier))]
        elif fault == "alter":
            # Not the very last: base64 leaves bits of it without a meaning.
            place = self._number(max(1, len(found.body) - 1))
            other = b"A" if found.body[place : place + 1] != b"A" else b"B"
            changed = found.body[:place] + other + found.body[place + 1 :]
            return Answered(found.status, found.content_type, changed)
        elif fault in ("version", "foreign", "clock"):
            return self._signed_anew(found, fault, body)
        return found

    def _now(self) -> float:
        return clock_for(load(Layout(self.directory)).lab_clock).now().wall

    def _key(self) -> SigningKey:
        identity = Identity(Layout(self.directory))
        return identity.signer(identity.key_book().serial, self._now())

    def _refusal(self, body: bytes) -> Answered:
        asked = _read(body)
        identity = Identity(Layout(self.directory))
        refusal = Refusal(
            nonce=str(asked.get("nonce")),
            serial=str(asked.get("serial")),
            time=self._now(),
            code=REFUSED,
            detail="The hostile authority refuses; ask again.",
            counts=True,
            anchor=identity.anchor.public.text,
            key_set=identity.key_book().envelope,
        )
        signed = sign(self._key(), SMART_REFUSAL, refusal)
        return Answered(403, CONTENT_TYPE, signed.encode())

    def _signed_anew(self, found: Answered, fault: str, body: bytes) -> Answered:
        if found.status != 200:
            return found
        content = _read(found.body)
        key = SigningKey.generate() if fault == "foreign" else self._key()
        if fault == "clock":
            content["time"] += _OFF if self._number(2) else -_OFF
        elif fault == "version":
            authorization = content.get("authorization")
            if authorization is not None and self._number(2):
                authorization["version"] = _read(body).get("held_version", 0)
            else:
                content["version"] = 99
        return Answered(200, CONTENT_TYPE, sign(key, SMART_REPLY, content).encode())


def _read(envelope: bytes) -> dict[str, Any]:
    """Return an envelope's body, trusted or not; nothing of one that cannot be read."""
    try:
        return msgspec.json.decode(unverified(envelope), type=dict[str, Any])
    except (TrustError, msgspec.DecodeError):
        return {}


class _Handler(BaseHTTPRequestHandler):
    """One request: spoilt where it is a smart device's, passed on where it is any other."""

    protocol_version = "HTTP/1.1"
    hostile: Hostile

    def do_POST(self) -> None:
        self._do("POST")

    def do_GET(self) -> None:
        self._do("GET")

    def do_PUT(self) -> None:
        self._do("PUT")

    def do_PATCH(self) -> None:
        self._do("PATCH")

    def do_DELETE(self) -> None:
        self._do("DELETE")

    def _do(self, method: str) -> None:
        try:
            length = int(self.headers.get("Content-Length") or 0)
        except ValueError:
            length = _LONGEST + 1
        if not 0 <= length <= _LONGEST:
            self.close_connection = True
            self._send(Answered(413, "text/plain", b"too long"))
            return
        body = self.rfile.read(length)
        headers = {
            name: value
            for name in ("Content-Type", "Authorization")
            if (value := self.headers.get(name))
        }
        try:
            if self.path == SMART_HINTS_PATH or self.path.endswith("/hints"):
                self._stream(headers, body)
            elif method == "POST" and self.path.startswith(_SMART):
                found = self.hostile.answer(self.path, headers, body)
                if found is None:
                    self.close_connection = True
                else:
                    self._send(found)
            else:
                self._send(self.hostile.forward(method, self.path, headers, body))
        except (OSError, http.client.HTTPException):
            self.close_connection = True

    def _send(self, found: Answered) -> None:
        self.send_response(found.status)
        self.send_header("Content-Type", found.content_type)
        self.send_header("Content-Length", str(len(found.body)))
        self.end_headers()
        self.wfile.write(found.body)

    def _stream(self, headers: dict[str, str], body: bytes) -> None:
        """Pass a stream of hints on, as it comes, until either side ends it."""
        self.close_connection = True
        connection = self.hostile.connect(timeout=None)
        try:
            connection.request("POST", self.path, body=body, headers=headers)
            reply = connection.getresponse()
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.headers.get("Content-Type", ""))
            self.send_header("Connection", "close")
            self.end_headers()
            while part := reply.read1():
                self.wfile.write(part)
                self.wfile.flush()
        finally:
            connection.close()

    def log_message(self, *_: object) -> None:
        """Say nothing: what was done to a request is said by `Hostile.answer`."""


class HostileServer(ThreadingHTTPServer):
    """Serves HTTPS with the real manager's certificate, on loopback."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, hostile: Hostile, address: str, port: int) -> None:
        """Listen; raises CallpoolError `cannot_listen`."""
        handler = type("_BoundHandler", (_Handler,), {"hostile": hostile})
        try:
            super().__init__((address, port), handler)
        except OSError as error:
            raise CallpoolError(
                "cannot_listen", f"Cannot listen on {address} port {port}: {error.strerror}."
            ) from error
        layout = Layout(hostile.directory)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(layout.certificate, layout.certificate_key)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """Shake hands in the request's own thread: one that hangs holds nobody up."""
        request.settimeout(60.0)
        try:
            with self._context.wrap_socket(request, server_side=True) as secured:
                super().finish_request(secured, client_address)
        except (OSError, ssl.SSLError):
            return

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that went away is none of our business."""
