"""A private PostgreSQL cluster for tests and benchmarks: made, started and ended by itself.

PostgreSQL refuses root: under root the cluster belongs to the user `postgres`. It listens on a
free port of loopback, and its fsync is on, as in real life.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import psycopg

from callpool.licensing.errors import CallpoolError

#: Seconds to wait until it answers, and until it has ended.
_WITHIN: Final = 60.0
_BINARIES: Final = Path("/usr/lib/postgresql")
_USER: Final = "callpool"


def binary(name: str) -> str:
    """Return a program of the newest PostgreSQL; raises CallpoolError `no_postgresql`."""
    found = sorted(_BINARIES.glob(f"*/bin/{name}"), key=lambda f: int(f.parts[-3]))
    if not found:
        raise CallpoolError("no_postgresql", "PostgreSQL is missing: apt install postgresql.")
    return str(found[-1])


def _as_user() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    owner = pwd.getpwnam("postgres")
    return {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": ()}


class Cluster:
    """One cluster; `database` makes an empty database in it."""

    def __init__(self, **settings: str) -> None:
        """Make and start a cluster in a temporary folder, with `settings` of postgresql.conf."""
        self.directory = Path(tempfile.mkdtemp(prefix="callpool-pg-"))
        self._settings = settings
        self.password = secrets.token_urlsafe(12)
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(self.directory, owner.pw_uid, owner.pw_gid)
        secret = self.directory / "password"
        secret.write_text(f"{self.password}\n")
        subprocess.run(
            [
                binary("initdb"), "-D", str(self.data), "-U", _USER, "-A", "scram-sha-256",
                "--pwfile", str(secret), "-E", "UTF8", "--locale=C.UTF-8",
            ],
            check=True, stdout=subprocess.DEVNULL, cwd=self.directory, **_as_user(),
        )  # fmt: skip
        self.start()

    @property
    def data(self) -> Path:
        """Return the data directory."""
        return self.directory / "data"

    def start(self) -> None:
        """Start the server and wait until it answers; raises CallpoolError."""
        if not self.port:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.port = free.getsockname()[1]
        words = [binary("postgres"), "-D", str(self.data), "-p", str(self.port)]
        for name, value in {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.directory),
            "max_connections": "200",
            **self._settings,
        }.items():
            words += ["-c", f"{name}={value}"]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                words, stdout=log, stderr=log, cwd=self.directory, **_as_user()
            )
        end = time.monotonic() + _WITHIN
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=5).close()
                return
            except psycopg.OperationalError as error:
                if time.monotonic() > end or self.process.poll() is not None:
                    raise CallpoolError(
                        "no_postgresql", f"PostgreSQL did not start: {error}"
                    ) from error
            time.sleep(0.05)

    def url(self, database: str) -> str:
        """Return libpq's URL of a database."""
        return f"postgresql://{_USER}:{self.password}@127.0.0.1:{self.port}/{database}"

    def database(self) -> str:
        """Make an empty database; returns the URL for a manager."""
        name = f"callpool_{secrets.token_hex(6)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{name}"')
        return self.url(name).replace("postgresql://", "postgresql+psycopg://")

    def stop(self, how: int = signal.SIGINT) -> None:
        """End the server: SIGINT in order, SIGKILL of all its processes as a crash would."""
        if self.process is None:
            return
        self.thaw()  # a frozen server ends only by SIGKILL
        if how == signal.SIGKILL:
            # Without its parent no child accepts or commits; they end by themselves.
            self.process.kill()
        else:
            self.process.send_signal(how)
        self.process.wait(_WITHIN)
        self.process = None

    def freeze(self) -> None:
        """Stop every process of the server in its tracks; `thaw` lets them go on."""
        self._all(signal.SIGSTOP)

    def thaw(self) -> None:
        """Let the server go on after `freeze`."""
        self._all(signal.SIGCONT)

    def _all(self, number: int) -> None:
        if self.process is None:
            return
        main = self.process.pid
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        for pid in (main, *map(int, children)):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def close(self) -> None:
        """End the server and remove what it kept."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)


@contextlib.contextmanager
def cluster(**settings: str) -> Iterator[Cluster]:
    """Run a cluster for as long as the block lasts."""
    made = Cluster(**settings)
    try:
        yield made
    finally:
        made.close()
