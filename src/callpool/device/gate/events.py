"""The socket that Kamailio's datagrams come to: on loopback, never answered, never blocking."""

from __future__ import annotations

import contextlib
import hmac
import ipaddress
import socket
import struct
from collections.abc import Iterator
from typing import Final

from callpool.device.gate.render import core_host
from callpool.device.gate.settings import GateError, GateSettings, parse_listen
from callpool.host.ports import free_port

_SO_RCVBUFFORCE: Final = 33
_SO_MEMINFO: Final = 55
_DROPS: Final = 8
_BUFFER: Final = 8 << 20


class EventSocket:
    """Receives datagrams that come from Kamailio's address and carry the token."""

    def __init__(self, settings: GateSettings, port: int, token: str) -> None:
        """Bind the socket (`port` 0: any free one).

        Raises GateError `event_port_in_use`.
        """
        host = core_host(settings)
        # Not one of the kernel's choice: a driver that was killed must find its port again, and
        # the kernel would give it to the next outgoing connection.
        port = port or free_port(host)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._token = token.encode()
        self._sources = {parse_listen(a)[1] for a in settings.listen} | {host}
        if settings.pair is not None:
            self._sources.add(settings.pair.address)
        # A wildcard address may send from any address that this machine has.
        self._any = any(ipaddress.ip_address(a).is_unspecified for a in self._sources)
        self.socket = socket.socket(family, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        for option in (_SO_RCVBUFFORCE, socket.SO_RCVBUF):
            with contextlib.suppress(OSError):
                self.socket.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
                break
        try:
            self.socket.bind((host, port))
        except OSError as exc:
            self.socket.close()
            raise GateError(
                "event_port_in_use", f"The gate's event port {port} is taken: {exc.strerror}."
            ) from exc
        self.port: int = self.socket.getsockname()[1]
        #: Datagrams that came from elsewhere or without the token.
        self.refused = 0

    def read(self, most: int) -> Iterator[str]:
        """Yield the bodies of at most `most` datagrams that wait."""
        for _ in range(most):
            try:
                data, source = self.socket.recvfrom(65536)
            except (BlockingIOError, InterruptedError):
                return
            token, _, body = data.partition(b" ")
            known = self._any or source[0] in self._sources
            if not known or not hmac.compare_digest(token, self._token):
                self.refused += 1
                continue
            yield body.decode("utf-8", "surrogateescape")

    def dropped(self) -> int:
        """Return how many datagrams the kernel threw away for want of room."""
        info = self.socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 64)
        values = struct.unpack(f"{len(info) // 4}I", info)
        return values[_DROPS] if len(values) > _DROPS else 0

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()
