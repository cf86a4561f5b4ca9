"""JSON-RPC to Kamailio over its Unix datagram socket: about 50 microseconds a call."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
from pathlib import Path
from typing import Any

import msgspec

from callpool.device.gate.settings import GateError


class Rpc:
    """One client of one Kamailio. Calls are made one after another.

    The socket is named at each call: a restarted Kamailio makes it anew.
    """

    def __init__(self, server: Path, client: Path) -> None:
        """Name the socket that Kamailio makes and the one that answers come to."""
        self._server = server
        self._client = client
        self._socket: socket.socket | None = None
        self._lock = asyncio.Lock()
        self._ids = itertools.count(1)

    def open(self) -> None:
        """Make our own socket, in place of one that a killed process left."""
        self.close()
        with contextlib.suppress(FileNotFoundError):
            self._client.unlink()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.bind(str(self._client))
        os.chmod(self._client, 0o600)
        self._socket = sock

    def close(self) -> None:
        """Close our socket; a later call fails with `kamailio_unreachable`."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            with contextlib.suppress(FileNotFoundError):
                self._client.unlink()

    async def call(  # the limit is the transport's, and part of the error
        self,
        method: str,
        *params: str | int,
        timeout: float = 2.0,  # noqa: ASYNC109
    ) -> Any:
        """Return the result of one RPC; waits at most `timeout` seconds for it.

        Raises GateError `kamailio_unreachable` when there is no answer and `kamailio_refused`
        when the answer is an error; the command may then have been carried out or not.
        """
        async with self._lock:
            if self._socket is None:
                raise GateError("kamailio_unreachable", "The gate is not started.")
            number = next(self._ids)
            request = {"jsonrpc": "2.0", "method": method, "params": params, "id": number}
            try:
                async with asyncio.timeout(timeout):
                    self._socket.sendto(msgspec.json.encode(request), str(self._server))
                    answer = await self._answer(self._socket, number)
            except (OSError, TimeoutError) as exc:
                raise GateError(
                    "kamailio_unreachable",
                    f"Kamailio does not answer at {self._server}; see kamailio.log beside it.",
                ) from exc
        if "error" in answer:
            text = str(answer["error"].get("message", ""))[:200]
            raise GateError("kamailio_refused", f"Kamailio refused {method}: {text}")
        return answer.get("result")

    async def _answer(self, sock: socket.socket, number: int) -> dict[str, Any]:
        loop = asyncio.get_running_loop()
        while True:
            data = await loop.sock_recv(sock, 65536)
            answer: dict[str, Any] = msgspec.json.decode(data)
            if answer.get("id") == number:  # anything else answers a call that timed out
                return answer

    async def get(self, table: str, key: str) -> str | int | None:
        """Return one value of an htable, None when the key is absent.

        Raises GateError `kamailio_unreachable`.
        """
        try:
            result = await self.call("htable.get", table, key)
        except GateError as exc:
            if exc.code == "kamailio_refused":
                return None
            raise
        value: str | int = result["item"]["value"]
        return value
