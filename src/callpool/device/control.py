"""The core's Unix socket: one JSON object a line, mode 0600, bounded in every direction.

A flood or a client that never reads costs the core a bounded number of connections, bytes and
seconds; the agent's loop is asked through its queue and never waits for a client.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import msgspec

from callpool.device.errors import DeviceError
from callpool.licensing.errors import CallpoolError

#: Connections at once; one more is told `control_busy`.
MAX_CONNECTIONS: Final = 16
#: The longest line in bytes, in either direction.
MAX_LINE: Final = 256 * 1024
#: Seconds that a client may take to send a line or to read an answer.
IDLE: Final = 10.0
#: Seconds that a command may take.
COMMAND_TIMEOUT: Final = 120.0
#: Seconds between two requests of one connection.
PACE: Final = 0.02
#: Seconds for which a patient client asks again while there are too many.
BUSY_PATIENCE: Final = 3.0

#: A command: takes the request's fields, returns what can be written as JSON.
Command = Callable[[dict[str, Any]], Awaitable[Any]]


class Control:
    """The server in the core."""

    def __init__(self, socket_file: Path, commands: dict[str, Command]) -> None:
        """Serve `commands` (by name) at `socket_file` once started."""
        self._file, self._commands = socket_file, commands
        self._server: asyncio.Server | None = None
        self._clients: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen; an old socket file is replaced (the directory's lock is held by us)."""
        self._file.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with short_path(self._file) as path:
                # Between bind and chmod nobody can connect: it does not listen yet.
                listener.bind(path)
            os.chmod(self._file, 0o600)
            listener.setblocking(False)
            self._server = await asyncio.start_unix_server(
                self._accept, sock=listener, limit=MAX_LINE
            )
        except BaseException:
            listener.close()
            raise

    async def stop(self) -> None:
        """Stop listening, end every connection, remove the socket."""
        if self._server is not None:
            self._server.close()
        for task in list(self._clients):
            task.cancel()
        await asyncio.gather(*self._clients, return_exceptions=True)
        self._file.unlink(missing_ok=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._clients) >= MAX_CONNECTIONS:
            writer.write(_refusal("control_busy", "Too many clients at once; try again."))
            writer.close()
            return
        task = asyncio.current_task()
        if task is not None:
            self._clients.add(task)
        try:
            await self._serve(reader, writer)
        except (TimeoutError, OSError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            if task is not None:
                self._clients.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        loop, next_at = asyncio.get_running_loop(), 0.0
        while True:
            try:
                async with asyncio.timeout(IDLE):
                    line = await reader.readline()
            except ValueError:
                line = b"too long"
            if not line:
                return  # at once: a client that is done must not hold a place
            await asyncio.sleep(max(0.0, next_at - loop.time()))
            answer = await self._answer(line)
            async with asyncio.timeout(IDLE):
                writer.write(answer)
                await writer.drain()
            if not line.endswith(b"\n"):
                return
            next_at = loop.time() + PACE

    async def _answer(self, line: bytes) -> bytes:
        try:
            request = msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.DecodeError:
            return _refusal("bad_request", "A request is one JSON object on one line.")
        command = self._commands.get(str(request.get("do")))
        if command is None:
            return _refusal("unknown_command", "There is no such command.")
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT):
                result = await command(request)
        except CallpoolError as error:
            return _refusal(error.code, error.sentence)
        except TimeoutError:
            return _refusal("timeout", "The device did not finish in time; see its status.")
        return msgspec.json.encode({"ok": True, "result": result}) + b"\n"


def _refusal(code: str, sentence: str) -> bytes:
    return msgspec.json.encode({"ok": False, "code": code, "detail": sentence}) + b"\n"


@contextmanager
def short_path(file: Path) -> Iterator[str]:
    """Yield a name for `file` that fits in a socket address (108 bytes), however deep it lies."""
    if len(os.fsencode(file)) < 100:
        yield str(file)
        return
    directory = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{directory}/{file.name}"
    finally:
        os.close(directory)


def ask(socket_file: Path, do: str, *, timeout: float = COMMAND_TIMEOUT, **fields: Any) -> Any:
    """Send one command to a running core and return its result.

    Raises DeviceError `not_running`, `control_busy` or `control_timeout`, or CallpoolError with
    the core's own code.
    """
    request = msgspec.json.encode({"do": do, **fields}) + b"\n"
    answer = b""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(timeout)
        try:
            with short_path(socket_file) as path:
                client.connect(path)
            with contextlib.suppress(BrokenPipeError):
                client.sendall(request)
            while not answer.endswith(b"\n"):
                part = client.recv(65536)
                if not part:
                    break
                answer += part
        except ConnectionResetError as error:
            raise DeviceError(
                "control_busy", "The device has too many clients at once; try again."
            ) from error
        except (FileNotFoundError, ConnectionError) as error:
            raise DeviceError(
                "not_running",
                f"No device runs in {socket_file.parent}; start it with `callpool device run`.",
            ) from error
        except TimeoutError as error:
            raise DeviceError("control_timeout", "The device did not answer in time.") from error
    try:
        told = msgspec.json.decode(answer, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise DeviceError("not_running", "The device ended while it was asked.") from error
    if told.get("ok"):
        return told.get("result")
    raise CallpoolError(str(told.get("code")), str(told.get("detail")))


def ask_patiently(socket_file: Path, do: str, *, timeout: float, **fields: Any) -> Any:
    """Ask as `ask`, and again while the core has too many clients; raises as `ask`."""
    until = time.monotonic() + min(timeout, BUSY_PATIENCE)
    while True:
        try:
            return ask(socket_file, do, timeout=timeout, **fields)
        except CallpoolError as error:
            if error.code != "control_busy" or time.monotonic() >= until:
                raise
        time.sleep(PACE)
