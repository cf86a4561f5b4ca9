"""The SSH server: who may come in, by what, and what they get."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import traceback
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

import asyncssh
import msgspec
import structlog

from callpool.device.config_book import ConfigReport
from callpool.device.control import ask_patiently
from callpool.device.faces.shell.doors import Doors
from callpool.device.faces.shell.files import Files
from callpool.device.faces.shell.grammar import MAX_LINE
from callpool.device.faces.shell.session import REFUSED, run
from callpool.device.faces.shell.support import bundle
from callpool.device.faces.shell.terminal import READING, Ended, Shell
from callpool.device.faces.shell.visit import Visit
from callpool.device.settings import Layout
from callpool.device.ssh_settings import host_key
from callpool.device.users import Group, SignIn, User
from callpool.host.addresses import address
from callpool.licensing.errors import CallpoolError

#: Seconds within which a connection has to sign in.
LOGIN_GRACE: Final = 60
#: Seconds that a failed sign-in is held up.
FAILURE_DELAY: Final = 2.0
#: Passwords, and public keys, that one connection may try.
MAX_PASSWORDS, MAX_KEYS = 3, 12
#: Sessions that one connection may have open.
MAX_CHANNELS: Final = 8
#: Commands of the core that all sessions together ask at once; it serves 16 clients in all.
MAX_ASKING: Final = 8
#: Seconds between two looks at who is idle, and between two at the configuration.
WATCH_EVERY, LOOK_EVERY = 1.0, 5.0
#: Seconds between two signs of life asked for of a client, and how many may go unanswered.
KEEPALIVE, KEEPALIVES = 30, 3

#: Seconds that a client has to take the end of a session in.
CLOSING: Final = 2.0

#: Only what has no known weakness; `ssh-audit` finds no failure (tests hold it to that).
KEX: Final = ("mlkem768x25519-sha256", "curve25519-sha256", "curve25519-sha256@libssh.org")
CIPHERS: Final = (
    "aes256-gcm@openssh.com",
    "chacha20-poly1305@openssh.com",
    "aes128-gcm@openssh.com",
)
MACS: Final = ("hmac-sha2-256-etm@openssh.com", "hmac-sha2-512-etm@openssh.com")
SIGNATURES: Final = (
    "ssh-ed25519",
    "sk-ssh-ed25519@openssh.com",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ecdsa-sha2-nistp256@openssh.com",
    "rsa-sha2-256",
    "rsa-sha2-512",
)

_log: Final = structlog.get_logger("callpool.shell")


class ShellServer:
    """The shell of one device."""

    def __init__(self, layout: Layout) -> None:
        """Serve the device in `layout`; raises CallpoolError, OSError."""
        self.layout = layout
        self.serial = layout.load().serial
        self.sign_in = SignIn(layout.control, "ssh")
        self.doors = Doors()
        self.asking = ThreadPoolExecutor(MAX_ASKING, "asking")
        self._tasks: set[asyncio.Task[None]] = set()
        self._options: asyncssh.SSHServerConnectionOptions | None = None
        self._idle_seconds = 600.0

    async def serve(self, listen: str) -> None:
        """Serve at `listen` until cancelled; raises OSError where it cannot listen."""
        key = asyncssh.import_private_key(host_key(self.layout.ssh_host_key))
        self._options = asyncssh.SSHServerConnectionOptions(
            server_host_keys=[key],
            server_version="callpool",
            kex_algs=list(KEX),
            encryption_algs=list(CIPHERS),
            mac_algs=list(MACS),
            compression_algs=["none"],
            signature_algs=list(SIGNATURES),
            host_based_auth=False,
            kbdint_auth=False,
            gss_host=None,
            login_timeout=LOGIN_GRACE,
            keepalive_interval=KEEPALIVE,
            keepalive_count_max=KEEPALIVES,
            x11_forwarding=False,
            agent_forwarding=False,
            line_history=0,
            max_line_length=MAX_LINE,
            errors="replace",
        )
        host, port = address(listen)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=64)
        listener.setblocking(False)
        watch = asyncio.create_task(self._watch())
        try:
            await self._accept(listener)
        finally:
            listener.close()
            watch.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(watch, *self._tasks, return_exceptions=True)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connected, peer = await loop.sock_accept(listener)
            except OSError as error:  # out of descriptors: what is there goes on
                _log.warning("shell_accept_failed", error=str(error))
                await asyncio.sleep(0.2)
                continue
            task = asyncio.create_task(self._serve(connected, str(peer[0])))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _serve(self, connected: socket.socket, source: str) -> None:
        """Serve one connection to its end."""
        task = asyncio.current_task()
        assert task is not None
        visit: Visit | None = None
        connection: asyncssh.SSHServerConnection | None = None
        try:
            visit = await self.doors.enter(source, lambda _: _cancel(task))
            if visit is None:
                return
            guest = partial(_Guest, self, visit)
            connection = await asyncssh.run_server(
                connected, options=self._options, server_factory=guest
            )
            await connection.wait_closed()
        except (asyncssh.Error, OSError, ValueError, EOFError):
            pass  # strangers end in every way there is
        finally:
            if visit is not None:
                self.doors.leave(visit)
            if connection is not None:
                connection.abort()
            with contextlib.suppress(OSError):
                connected.close()

    async def _watch(self) -> None:
        """Close who is idle, and who is no user any more."""
        loop, looked = asyncio.get_running_loop(), 0.0
        while True:
            await asyncio.sleep(WATCH_EVERY)
            known = [v for v in self.doors.visits if v.name]
            if known and loop.time() - looked > LOOK_EVERY:
                looked = loop.time()
                with contextlib.suppress(CallpoolError):
                    report = msgspec.convert(await self._read("config"), ConfigReport)
                    self._idle_seconds = report.idle_minutes * 60.0
                    gone = [v for v in known if await self.sign_in.user(v.name) is None]
                    for visit in gone:
                        visit.close("This user has been removed.")
            for visit in known:
                if visit.idle() > self._idle_seconds:
                    visit.close("Nothing was done for too long.")

    async def _read(self, do: str, **fields: Any) -> Any:
        asking = partial(ask_patiently, self.layout.control, do, timeout=READING, **fields)
        return await asyncio.get_running_loop().run_in_executor(self.asking, asking)

    # -- what a connection gets

    def session(self, visit: Visit, user: User) -> asyncssh.SSHServerSession[str]:
        """Return a session for `user`, who may fetch files as the group says."""
        files = partial(self._files, visit) if user.group.may(Group.FILES) else None
        return _Session(visit, partial(self._run, visit, user), files)

    def _files(self, visit: Visit, channel: Any) -> Files:
        async def permitted() -> bool:
            user = await self.sign_in.user(visit.name)
            return user is not None and user.group.may(Group.FILES)

        async def support() -> bytes:
            lines = await bundle(self._read, self.layout.root)
            return ("\n".join(lines) + "\n").encode()

        return Files(
            channel, root=self.layout.root, visit=visit, permitted=permitted, bundle=support
        )

    async def _run(self, visit: Visit, user: User, process: asyncssh.SSHServerProcess[str]) -> None:
        shell = Shell(
            process,
            layout=self.layout,
            serial=self.serial,
            user=user,
            visit=visit,
            asking=self.asking,
        )
        ended = Ended(REFUSED)
        try:
            ended = await run(shell, process.command, self.sign_in)
        except (asyncssh.Error, OSError, EOFError):
            pass  # nobody is there any more
        except Exception as error:
            # By kind and place alone: the words of an error, and what stood in its variables, may
            # hold a secret.
            at = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(at.filename).name}:{at.lineno}"
            _log.error("shell_session_failed", error=type(error).__name__, at=place)
            shell.complain("That went wrong inside the shell; see its log.", "internal_error")
        finally:
            process.exit(ended.status)
        if ended.after is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSING):
                    await process.wait_closed()
            with contextlib.suppress(CallpoolError):
                await ended.after()


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()


class _Session(asyncssh.SSHServerProcess[str]):
    """A session that says why files are not for this user."""

    def __init__(self, visit: Visit, run: Any, files: Any) -> None:
        super().__init__(run, files, 3, files is not None)
        self._visit = visit
        visit.channels += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self._visit.channels -= 1
        super().connection_lost(exc)

    def subsystem_requested(self, subsystem: str) -> bool:
        return subsystem == "sftp"

    def session_started(self) -> None:
        channel: Any = self._chan
        if channel.get_subsystem() == "sftp" and not self._sftp_factory:
            sentence = (
                "% Files are for the groups pfs-privusers and administrator. [not_permitted]\n"
            )
            channel.write(sentence, asyncssh.EXTENDED_DATA_STDERR)
            channel.exit(REFUSED)
            return
        super().session_started()


class _Guest(asyncssh.SSHServer):
    """One connection: a stranger, until signed in."""

    def __init__(self, shell: ShellServer, visit: Visit) -> None:
        self._shell, self._visit = shell, visit
        self._connection: asyncssh.SSHServerConnection | None = None
        self._passwords = self._keys = 0
        self._by_password = False

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn
        self._visit.close = self._close

    def _close(self, sentence: str) -> None:
        """End the connection; a stranger gets no word, for nobody may be reading."""
        if self._connection is None:
            return
        if self._visit.name:
            self._connection.disconnect(asyncssh.DISC_BY_APPLICATION, sentence)
        else:
            self._connection.abort()

    def begin_auth(self, username: str) -> bool:
        self._visit.named = True
        return True

    def password_auth_supported(self) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    async def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        self._keys += 1
        if self._keys > MAX_KEYS:
            self._enough()
            return False
        with contextlib.suppress(CallpoolError):
            user = await self._shell.sign_in.user(username[:64])
            return user is not None and any(
                base64.b64decode(line.split()[1]) == key.public_data for line in user.keys
            )
        return False

    async def validate_password(self, username: str, password: str) -> bool:
        self._passwords += 1
        user: User | None = None
        with contextlib.suppress(CallpoolError):
            user = await self._shell.sign_in.verify(username[:64], password, self._visit.source)
        if user is None:
            await asyncio.sleep(FAILURE_DELAY)
            if self._passwords >= MAX_PASSWORDS:
                self._enough()
        self._by_password = user is not None
        return user is not None

    def _enough(self) -> None:
        if self._connection is not None:
            self._connection.disconnect(
                asyncssh.DISC_NO_MORE_AUTH_METHODS_AVAILABLE, "Too many tries."
            )

    async def auth_completed(self) -> None:
        connection = self._connection
        assert connection is not None
        name = connection.get_extra_info("username")
        if not self._shell.doors.sign_in(self._visit, name):
            connection.disconnect(
                asyncssh.DISC_TOO_MANY_CONNECTIONS, "Too many are signed in; try again later."
            )
            return
        self._visit.touch()
        if not self._by_password:
            with contextlib.suppress(CallpoolError):
                await self._shell.sign_in.by_key(name, self._visit.source)

    async def session_requested(self) -> Any:
        if not self._visit.name or self._visit.channels >= MAX_CHANNELS:
            return False
        try:
            user = await self._shell.sign_in.user(self._visit.name)
        except CallpoolError:
            return False
        if user is None:
            return False
        return self._shell.session(self._visit, user)
