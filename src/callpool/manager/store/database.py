"""One database, many processes: durable writes one at a time, reads beside them.

SQLite in WAL mode with `synchronous=FULL`: a transaction is on disk when `write` returns. A
write begins with BEGIN IMMEDIATE, so what it reads cannot change before it writes.
"""

from __future__ import annotations

import fcntl
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, TypeVar

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy import event
from sqlalchemy.exc import DatabaseError

from callpool.licensing.errors import CallpoolError, LicenseError
from callpool.manager.store.scope import WHOLE, Scope

T = TypeVar("T")
Row = Mapping[str, Any]

#: Milliseconds to wait for another process's write.
BUSY_MS: Final = 10_000
_MIGRATIONS: Final = Path(__file__).parent / "migrations"


@lru_cache(maxsize=1024)
def _text(statement: str, scope: Scope) -> sa.TextClause:
    return sa.text(scope.narrowed(statement))


#: Any operator's: the statement is the same, the name is bound.
_NARROW: Final = Scope("any")


class Tx:
    """One transaction: named queries run through it."""

    def __init__(self, connection: sa.Connection, scope: Scope = WHOLE) -> None:
        self._connection = connection
        #: Whose things the asker sees: those that a statement's MINE(column) leaves.
        self.scope = scope

    def rows(self, statement: str, /, **values: Any) -> list[Row]:
        """Return all rows as mappings."""
        return [r._mapping for r in self._execute(statement, values)]  # type: ignore[misc]

    def _execute(self, statement: str, values: dict[str, Any]) -> sa.CursorResult[Any]:
        scope = WHOLE if self.scope.whole else _NARROW
        try:
            return self._connection.execute(
                _text(statement, scope), values | {"scope_operator": self.scope.operator}
            )
        except OverflowError as error:
            raise LicenseError(
                "bad_request", "A number is larger than anything here can be."
            ) from error

    def row(self, statement: str, /, **values: Any) -> Row | None:
        """Return the first row, or None."""
        found = self._execute(statement, values).first()
        return None if found is None else found._mapping  # type: ignore[return-value]

    def value(self, statement: str, /, **values: Any) -> Any:
        """Return the first column of the first row, or None."""
        return self._execute(statement, values).scalar()

    def run(self, statement: str, /, **values: Any) -> int:
        """Change rows; returns how many."""
        return int(self._execute(statement, values).rowcount)

    def meta(self, name: str) -> str:
        """Return a value of the manager itself ('' where it is not set)."""
        return str(self.value("SELECT value FROM meta WHERE name = :name", name=name) or "")

    def set_meta(self, name: str, value: str) -> None:
        """Keep a value of the manager itself."""
        self.run(
            "INSERT INTO meta (name, value) VALUES (:name, :value)"
            " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            name=name,
            value=value,
        )


class Database:
    """The manager's database file; safe to use from many threads and processes."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lock = threading.Lock()
        self._writer = _engine(file, "BEGIN IMMEDIATE")
        self._reader = _engine(file, "BEGIN")
        #: Told the seconds that each write took.
        self.on_write: Callable[[float], None] = lambda seconds: None

    def write(self, change: Callable[[Tx], T], scope: Scope = WHOLE) -> T:
        """Run `change` in one durable transaction: all of it is on disk, or none.

        Raises what `change` raises, and CallpoolError `database_unusable`.
        """
        began = time.perf_counter()
        try:
            # Threads of one process queue here: SQLite's own waiting sleeps in steps.
            with self._lock, self._begin(self._writer, scope) as tx:
                return change(tx)
        finally:
            self.on_write(time.perf_counter() - began)

    def read(self, query: Callable[[Tx], T], scope: Scope = WHOLE) -> T:
        """Run `query` on one consistent view; raises CallpoolError `database_unusable`."""
        with self._begin(self._reader, scope) as tx:
            return query(tx)

    @contextmanager
    def _begin(self, engine: sa.Engine, scope: Scope) -> Iterator[Tx]:
        try:
            with engine.begin() as connection:
                yield Tx(connection, scope)
        except sa.exc.IntegrityError:
            raise
        except DatabaseError as error:
            raise CallpoolError(
                "database_unusable", f"The database {self.file} cannot be used: {error.orig}."
            ) from error

    def watcher(self) -> sqlite3.Connection:
        """Open a connection whose `PRAGMA data_version` tells of every other one's commits."""
        return sqlite3.connect(self.file, check_same_thread=False, isolation_level=None)

    def migrate(self) -> None:
        """Bring the tables to this release's form; raises CallpoolError `database_unusable`."""
        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        # Two managers may start on one directory at once.
        with (self.file.parent / ".migrate.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                with self._writer.begin() as connection:
                    config.attributes["connection"] = connection
                    command.upgrade(config, "head")
            except DatabaseError as error:
                raise CallpoolError(
                    "database_unusable", f"The database {self.file} cannot be used: {error.orig}."
                ) from error

    def close(self) -> None:
        """Close every connection."""
        self._writer.dispose()
        self._reader.dispose()


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
