"""SQLite in WAL mode with `synchronous=FULL`: on disk at commit.

A write begins with BEGIN IMMEDIATE, so what it reads cannot change before it writes.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from callpool.host.files import locked

#: Milliseconds to wait for another process's write.
BUSY_MS: Final = 10_000


class Sqlite:
    """One file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.name = str(file)
        self._lock = threading.Lock()
        self.writer = _engine(file, "BEGIN IMMEDIATE")
        self.reader = _engine(file, "BEGIN")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let one thread of this process write: SQLite's own waiting sleeps in steps."""
        with self._lock:
            yield

    def lock(self, connection: sa.Connection) -> None:
        """Do nothing: BEGIN IMMEDIATE has locked."""

    def again(self, _error: DBAPIError, _tries: int) -> bool:
        """Tell whether a transaction is to be tried again: never here."""
        return False

    def others(self) -> int:
        """Return 0: who else has the file open is not known here."""
        return 0

    def said(self, error: DBAPIError) -> str:
        """Return the database's own words."""
        return str(error.orig)

    def watcher(self) -> SqliteWatcher:
        """Return a new watcher."""
        return SqliteWatcher(self.file)

    def claim(self, _name: str) -> SqliteClaim:
        """Return a claim that is always held."""
        return SqliteClaim()

    def close(self) -> None:
        """Do nothing: `Database.close` closes the connections."""

    @contextmanager
    def migrating(self) -> Iterator[sa.Connection]:
        """Return a transaction that no other process migrates beside."""
        with locked(self.file.parent / ".migrate.lock"), self.writer.begin() as connection:
            yield connection


class SqliteClaim:
    """Held by everyone: managers on one directory are kept apart by locks of its files."""

    def held(self) -> bool:
        """Tell that this process has it."""
        return True

    def close(self) -> None:
        """Do nothing."""


class SqliteWatcher:
    """A connection whose `PRAGMA data_version` tells of every other one's commits."""

    #: In WAL mode a read waits for nobody.
    instant = True

    def __init__(self, file: Path) -> None:
        self._connection = sqlite3.connect(file, check_same_thread=False, isolation_level=None)
        self._version = -1

    def changed(self) -> bool:
        """Tell whether anything was committed since the last look."""
        (version,) = self._connection.execute("PRAGMA data_version").fetchone()
        changed, self._version = version != self._version, version
        return bool(changed)

    def hints(self, seen: int, prefix: str) -> list[tuple[str, int]]:
        """Return whom hints after number `seen` are for."""
        return self._connection.execute(
            "SELECT serial, hint_seq FROM unit WHERE hint_seq > ?1 UNION ALL"
            " SELECT ?2 || instance_id, hint_seq FROM product_instance WHERE hint_seq > ?1",
            (seen, prefix),
        ).fetchall()

    def close(self) -> None:
        """Stop watching."""
        self._connection.close()


def _engine(file: Path, begin: str) -> sa.Engine:
    engine = sa.create_engine(
        f"sqlite:///{file}",
        connect_args={"timeout": BUSY_MS / 1000, "check_same_thread": False},
        pool_size=8,
        max_overflow=24,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _record: object) -> None:
        # The driver's own transactions are off: `begin` below says how one starts.
        connection.isolation_level = None
        # As PostgreSQL has it: bytes travel in JSON as hexadecimal text.
        connection.create_function("decode", 2, lambda text, _how: bytes.fromhex(text))
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            f"busy_timeout={BUSY_MS}",
        ):
            connection.execute(f"PRAGMA {pragma}")

    @event.listens_for(engine, "begin")
    def start(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    return engine
