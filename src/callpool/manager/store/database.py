"""One database, many processes: durable writes in one order, reads beside them.

SQLite in the manager's directory (`sqlite.py`) or PostgreSQL by URL (`postgresql.py`). What `write`
has done is on disk when it returns, and what it reads cannot change before it writes: one write
at a time. A contact that changes nothing but its own device's rows (`contact`) runs beside other
such contacts on PostgreSQL (docs/adr/0013-postgresql.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from callpool.licensing.errors import CallpoolError
from callpool.manager.store.derived import settle
from callpool.manager.store.postgresql import Postgresql
from callpool.manager.store.scope import WHOLE, Scope
from callpool.manager.store.sqlite import Sqlite
from callpool.manager.store.tx import Alone, Tx

T = TypeVar("T")

_MIGRATIONS: Final = Path(__file__).parent / "migrations"
#: How often a write is done again that the database ended for the sake of another one.
_TRIES: Final = 10


class Watcher(Protocol):
    """Tells of what other processes changed; used by one event loop."""

    #: Whether `hints` waits for nobody, so that it may run on the event loop itself.
    instant: bool

    def changed(self) -> bool:
        """Tell whether anything was committed since the last look; waits for nothing."""

    def hints(self, seen: int, prefix: str) -> list[tuple[str, int]]:
        """Return whom hints after number `seen` are for, instances with `prefix`."""

    def close(self) -> None:
        """Stop watching."""


class Claim(Protocol):
    """What one manager process of all on a database does."""

    def held(self) -> bool:
        """Tell whether this process has it, taking it where nobody has; waits for no other."""

    def close(self) -> None:
        """Give it up."""


def upgrade(connection: sa.Connection, revision: str = "head") -> None:
    """Bring the tables to a revision's form."""
    # Taken in where it is needed: it would cost each start a quarter of a second.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    command.upgrade(config, revision)


def _is_newest(connection: sa.Connection) -> bool:
    """Tell whether the tables have this release's form."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return False
    newest = max(f.name[1:5] for f in (_MIGRATIONS / "versions").glob("m[0-9]*.py"))
    found = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalars()
    return found.all() == [newest]


class Database:
    """The manager's database; safe to use from many threads and processes."""

    def __init__(self, where: Path | str) -> None:
        """Use a SQLite file, or the database at a `postgresql+psycopg://` URL.

        Raises CallpoolError `bad_database_url`.
        """
        self._store = Sqlite(where) if isinstance(where, Path) else Postgresql(where)
        #: What it is called in messages: a file, or a URL without its password.
        self.name = self._store.name
        #: Told the seconds that each write took.
        self.on_write: Callable[[float], None] = lambda seconds: None

    @property
    def file(self) -> Path:
        """Return SQLite's file."""
        assert isinstance(self._store, Sqlite), "PostgreSQL has no file of ours"
        return self._store.file

    @property
    def is_sqlite(self) -> bool:
        """Tell whether this is SQLite's."""
        return isinstance(self._store, Sqlite)

    def write(self, change: Callable[[Tx], T], scope: Scope = WHOLE) -> T:
        """Run `change` in one durable transaction: all of it is on disk, or none.

        No other write runs at the same time, of any process. `change` may be called more than
        once: whatever it did before is undone then. Raises what `change` raises, and
        CallpoolError `database_unusable`.
        """
        began = time.perf_counter()
        try:
            return self._tried(lambda: self._write(change, scope))
        finally:
            self.on_write(time.perf_counter() - began)

    def _write(self, change: Callable[[Tx], T], scope: Scope) -> T:
        with self._store.alone(), self._begin(self._store.writer, scope) as tx:
            self._store.lock(tx._connection)
            done = change(tx)
            settle(tx)
            return done

    def contact(self, serial: str | None, change: Callable[[Tx], T]) -> T:
        """Run `change` as `write` does, beside other contacts where the database can.

        It is for one device, that of unit `serial`, or for several whose units it locks itself.
        If it changes anything but those devices' own rows it is undone and called again, alone.
        """
        if not isinstance(self._store, Postgresql):
            return self.write(change)
        began = time.perf_counter()
        try:
            return self._tried(lambda: self._contact(serial, change))
        except Alone:
            return self.write(change)
        finally:
            self.on_write(time.perf_counter() - began)

    def _contact(self, serial: str | None, change: Callable[[Tx], T]) -> T:
        assert isinstance(self._store, Postgresql)
        with self._begin(self._store.writer, WHOLE, beside=True) as tx:
            self._store.lock_beside(tx, serial)
            done = change(tx)
            settle(tx)
        self._store.committed_beside = True
        return done

    def _tried(self, work: Callable[[], T]) -> T:
        tries = 0
        while True:
            tries += 1
            try:
                return work()
            except DBAPIError as error:
                if isinstance(error, sa.exc.IntegrityError):
                    raise
                if tries < _TRIES and self._store.again(error, tries):
                    continue
                raise self._unusable(error) from error

    def read(self, query: Callable[[Tx], T], scope: Scope = WHOLE) -> T:
        """Run `query` on one consistent view; raises CallpoolError `database_unusable`."""

        def work() -> T:
            with self._begin(self._store.reader, scope) as tx:
                return query(tx)

        return self._tried(work)

    def glance(self, query: Callable[[Tx], T]) -> T:
        """Run `query`, of one statement only, without a transaction's round trips.

        Raises CallpoolError `database_unusable`.
        """
        if not isinstance(self._store, Postgresql):
            return self.read(query)
        engine = self._store.glancer

        def work() -> T:
            with engine.connect() as connection:
                return query(Tx(connection))

        return self._tried(work)

    @contextmanager
    def _begin(self, engine: sa.Engine, scope: Scope, *, beside: bool = False) -> Iterator[Tx]:
        with engine.begin() as connection:
            tx = Tx(connection, scope, beside=beside)
            yield tx
            tx.finish()

    def _unusable(self, error: DBAPIError) -> CallpoolError:
        return CallpoolError(
            "database_unusable",
            f"The database {self.name} cannot be used: {self._store.said(error)}.",
        )

    def watcher(self) -> Watcher:
        """Return a new watcher of what other processes commit."""
        return self._store.watcher()

    def claim(self, name: str) -> Claim:
        """Return the claim of what is named, such as `alarms`."""
        return self._store.claim(name)

    def tell(self) -> None:
        """Tell other processes of contacts that this one took in since it last did so."""
        if isinstance(self._store, Postgresql):
            self._tried(self._store.tell)

    def migrate(self) -> None:
        """Bring the tables to this release's form; raises CallpoolError `database_unusable`."""
        # Two managers may start on one database at once.
        with self.whole() as connection:
            if not _is_newest(connection):
                upgrade(connection)

    @contextmanager
    def whole(self) -> Iterator[sa.Connection]:
        """Return a transaction for what concerns all tables; nobody else writes meanwhile.

        Raises CallpoolError `database_unusable`.
        """
        try:
            with self._store.migrating() as connection:
                yield connection
        except DBAPIError as error:
            raise self._unusable(error) from error

    @contextmanager
    def snapshot(self) -> Iterator[sa.Connection]:
        """Return one consistent view of all tables; raises CallpoolError `database_unusable`."""
        try:
            with self._store.reader.begin() as connection:
                yield connection
        except DBAPIError as error:
            raise self._unusable(error) from error

    def others(self) -> int:
        """Return how many connections of other managers a PostgreSQL database has."""
        return self._store.others()

    def close(self) -> None:
        """Close every connection."""
        self._store.close()
        self._store.writer.dispose()
        self._store.reader.dispose()
