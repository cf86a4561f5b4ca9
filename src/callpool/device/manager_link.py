"""The way to the manager: HTTPS with its own authority file and proxy, typed errors, hints.

The link moves signed envelopes and believes nothing: what they say is judged in `trust.py`
and by the agent. A refusal on the way (an HTTP error) is not signed, so it can delay the
device but never change what it holds.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Final

import httpx
import msgspec

from callpool import __version__
from callpool.device.errors import DeviceError, LinkError
from callpool.licensing.errors import TrustError
from callpool.wire.envelope import MAX_ENVELOPE
from callpool.wire.messages import CONTENT_TYPE

#: Seconds for one exchange: to connect, and to wait for each part of the answer.
EXCHANGE_TIMEOUT: Final = httpx.Timeout(20.0)
#: Seconds without a word on the hint stream (the manager sends comments) before it is dead.
HINTS_TIMEOUT: Final = httpx.Timeout(90.0, connect=8.0)
#: The longest wait that Retry-After can ask for, in seconds.
MAX_RETRY_AFTER: Final = 86400.0
#: What `hints` yields first, once the stream stands.
STREAM_OPEN: Final = "open"
#: Before the number of seconds over which devices are to spread the next opening of the stream.
SPREAD: Final = "spread "
#: The longest line on the hint stream, in characters.
_MAX_LINE: Final = 4096


class ManagerLink:
    """One device's connections to its manager."""

    def __init__(
        self,
        manager: str,
        *,
        ca_file: str = "",
        proxy: str = "",
        client: httpx.AsyncClient | None = None,
    ) -> None:
        """Prepare the link, or use `client`; raises DeviceError `bad_ca_file` or `bad_proxy`."""
        self._manager = manager.rstrip("/")
        self._ca_file, self._proxy = ca_file, proxy
        #: The authorities that are trusted in the file's place, PEM, as the manager told them.
        self._authorities: tuple[str, ...] = ()
        #: Clients that were replaced; a hint stream may stand on one.
        self._older: list[httpx.AsyncClient] = []
        if client is not None:
            self._client = client
            return
        try:
            context = ssl.create_default_context(cafile=ca_file or None)
        except (OSError, ssl.SSLError) as error:
            raise DeviceError(
                "bad_ca_file", f"{Path(ca_file)} cannot be read as a file of certificates: {error}."
            ) from error
        self._client = self._made(context, proxy)

    def _made(self, context: ssl.SSLContext, proxy: str) -> httpx.AsyncClient:
        try:
            # trust_env is off: what a device talks to is its settings' business alone.
            return httpx.AsyncClient(
                verify=context,
                proxy=proxy or None,
                trust_env=False,
                timeout=EXCHANGE_TIMEOUT,
                headers={"user-agent": f"callpool-device/{__version__}"},
            )
        except (ValueError, httpx.InvalidURL) as error:
            raise DeviceError("bad_proxy", f"The proxy's address is not one: {error}.") from error

    def trust(self, authorities: tuple[str, ...]) -> None:
        """Trust these authorities (PEM, from the signed key set) in the CA file's place.

        None brings the file back. Where there is no file the system's authorities stand, and
        nothing changes. Raises TrustError `bad_authorities`; what was trusted stands then.
        """
        if not self._ca_file or authorities == self._authorities:
            return
        try:
            # With data of its own the context loads nothing of the system's.
            context = ssl.create_default_context(
                cafile=None if authorities else self._ca_file,
                cadata="".join(authorities) if authorities else None,
            )
        except (OSError, ssl.SSLError, ValueError) as error:
            raise TrustError(
                "bad_authorities", f"The certificates of the key set cannot be read: {error}."
            ) from error
        self._older.append(self._client)
        self._client, self._authorities = self._made(context, self._proxy), authorities

    def url(self, path: str) -> str:
        """Return the full address of one of the manager's paths."""
        return self._manager + path

    async def exchange(self, path: str, envelope: str, *, refusals: bool = False) -> str:
        """Send one signed request and return the signed reply, unverified.

        With `refusals`, what comes signed with an HTTP error is returned as well.

        Raises LinkError: `manager_unreachable`, `manager_answer` (not an envelope), or the
        stable code of the manager's refusal.
        """
        try:
            async with self._client.stream(
                "POST",
                self.url(path),
                content=envelope.encode(),
                headers={"content-type": CONTENT_TYPE},
            ) as response:
                body = await _read(response)
        except httpx.HTTPError as error:
            raise _unreachable(error) from error
        if response.status_code != 200 and not (refusals and _is_signed(response)):
            raise _refusal(response, body)
        return body.decode("ascii", "replace")

    async def answer(self, path: str, envelope: str) -> str:
        """Send one signed request and return the signed answer, unverified.

        A refusal that is itself signed is an answer too. Raises LinkError as `exchange` does.
        """
        return await self.exchange(path, envelope, refusals=True)

    async def hints(self, path: str, envelope: str) -> AsyncIterator[str]:
        """Yield STREAM_OPEN once the stream stands, then the name of each hint.

        The stream's `retry` field comes as SPREAD and a number of seconds.

        Ends when the manager closes the stream; raises LinkError as `exchange` does.
        """
        try:
            async with self._client.stream(
                "POST",
                self.url(path),
                content=envelope.encode(),
                headers={"content-type": CONTENT_TYPE, "accept": "text/event-stream"},
                timeout=HINTS_TIMEOUT,
            ) as response:
                if response.status_code != 200:
                    raise _refusal(response, await _read(response))
                yield STREAM_OPEN
                async for hint in _events(response):
                    yield hint
        except httpx.HTTPError as error:
            raise _unreachable(error) from error

    async def close(self) -> None:
        """Let go of every connection."""
        for client in (self._client, *self._older):
            await client.aclose()


def _is_signed(response: httpx.Response) -> bool:
    return bool(response.headers.get("content-type", "").split(";")[0] == CONTENT_TYPE)


async def _events(response: httpx.Response) -> AsyncIterator[str]:
    """Yield the event name of each server-sent event (`message` where it names none)."""
    name, data = "", False
    async for line in response.aiter_lines():
        if len(line) > _MAX_LINE:
            raise LinkError("manager_answer", "The hint stream carries a line beyond reason.")
        field, _, value = line.partition(":")
        if not line:
            if name or data:
                yield name or "message"
            name, data = "", False
        elif field == "retry" and value.strip().isdecimal():
            yield f"{SPREAD}{int(value.strip()[:9]) / 1000:.3f}"
        elif field == "event":
            name = value.strip()
        elif field == "data":
            data = True


async def _read(response: httpx.Response) -> bytes:
    body = b""
    async for part in response.aiter_bytes():
        body += part
        if len(body) > MAX_ENVELOPE:
            raise LinkError("manager_answer", "The manager's answer is longer than allowed.")
    return body


def _unreachable(error: httpx.HTTPError) -> LinkError:
    why = str(error) or type(error).__name__
    return LinkError("manager_unreachable", f"The manager cannot be reached: {why}.")


def _refusal(response: httpx.Response, body: bytes) -> LinkError:
    """Turn an HTTP error into a LinkError with the manager's own code where it has one."""
    try:
        told: Any = msgspec.json.decode(body)
    except msgspec.DecodeError:
        told = None
    told = told if isinstance(told, dict) else {}
    code, detail = told.get("code"), told.get("detail")
    plain = isinstance(code, str) and code.replace("_", "").isalnum() and len(code) < 64
    status = response.status_code
    return LinkError(
        str(code) if plain else f"http_{status}",
        str(detail)[:300] if isinstance(detail, str) else f"The manager answered HTTP {status}.",
        retry_after=_retry_after(response.headers.get("retry-after", "")),
        final=400 <= status < 500 and status not in (408, 425, 429),
    )


def _retry_after(value: str) -> float | None:
    """Return Retry-After in seconds, from a number or (against Date) a date."""
    if value.isdecimal():
        return min(float(value), MAX_RETRY_AFTER)
    try:
        at = parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return None
    seconds = at.timestamp() - time.time()  # HTTP dates are real time, in a lab too
    return min(max(seconds, 0.0), MAX_RETRY_AFTER)
