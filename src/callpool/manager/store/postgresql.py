"""PostgreSQL (15 or newer) by psycopg 3: several managers on one database.

One advisory lock orders writes (docs/adr/0013-postgresql.md): a change takes it alone, a contact
that changes its own device's rows only takes it shared and locks its device's row. Both last
until the commit is durable, so a transaction begins with all that those before it did. What
changed is told by NOTIFY.
"""

from __future__ import annotations

import contextlib
import random
import select
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import psycopg
import sqlalchemy as sa
from psycopg.adapt import Loader
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from callpool.licensing.errors import CallpoolError

if TYPE_CHECKING:
    from callpool.manager.store.tx import Tx

#: The lock's number, of this program and nobody else's in the same database.
LOCK: Final = 0x63616C6C
_MIGRATE_LOCK: Final = LOCK + 1
#: The channel that commits are told on: `hint` where a unit has something to pull.
CHANNEL: Final = "callpool"
#: By what name its connections are known at the server.
APPLICATION: Final = "callpool"
#: Connections of one manager process at most, for writing and again for reading.
CONNECTIONS: Final = 10
#: Seconds to wait for a connection.
CONNECT_SECONDS: Final = 5
#: Seconds after which a server, or for the server a manager's machine, that vanished without a
#: word is given up, and with it the lock that it may hold.
GONE_AFTER: Final = 15
#: Seconds after which the server ends a transaction of a manager that hangs in its midst.
HANGS: Final = 60
#: The database ended it for the sake of another transaction: serialization, deadlock.
_AGAIN: Final = frozenset(("40001", "40P01"))
#: Seconds after which a watcher looks whether it shall end, and before it connects again.
_WAKE: Final = 0.5

_TELL: Final = f"SELECT pg_notify('{CHANNEL}', 'contacts')"
_BESIDE: Final = f"SELECT pg_advisory_xact_lock_shared({LOCK})"
_DEVICE: Final = (
    "SELECT d.device_id FROM unit u JOIN device d ON d.device_id = u.device_id"
    " WHERE u.serial = :serial FOR NO KEY UPDATE"
)
_ALONE: Final = sa.text(f"SELECT pg_advisory_xact_lock({LOCK}), pg_notify('{CHANNEL}', 'change')")


def _session(**settings: str) -> dict[str, Any]:
    """Return libpq's settings of a connection, with `settings` of PostgreSQL.

    Both sides notice that the other has vanished.
    """
    idle, interval = max(1, GONE_AFTER // 3), max(1, GONE_AFTER // 5)
    server = {
        "tcp_keepalives_idle": idle,
        "tcp_keepalives_interval": interval,
        "tcp_keepalives_count": 3,
        "tcp_user_timeout": GONE_AFTER * 1000,
        "idle_in_transaction_session_timeout": HANGS * 1000,
        **settings,
    }
    return {
        "connect_timeout": CONNECT_SECONDS,
        "application_name": APPLICATION,
        "keepalives_idle": idle,
        "keepalives_interval": interval,
        "keepalives_count": 3,
        "tcp_user_timeout": GONE_AFTER * 1000,
        "options": " ".join(f"-c {name}={value}" for name, value in server.items()),
    }


class _Number(Loader):
    """Sums of integers are integers, as SQLite has them."""

    def load(self, data: Any) -> Any:
        text = bytes(data).decode()
        return float(text) if "." in text else int(text)


class Postgresql:
    """One database."""

    def __init__(self, url: str) -> None:
        """Use the database at `url`; raises CallpoolError `bad_database_url`."""
        self.url = checked(url)
        #: Without its password.
        self.name = self.url.render_as_string(hide_password=True)
        # To plan the statements of a contact anew would take as long as to run them.
        self.writer = self._engine("READ COMMITTED", plan_cache_mode="force_generic_plan")
        self.reader = self._engine("REPEATABLE READ")
        self.glancer = self.reader.execution_options(isolation_level="AUTOCOMMIT")
        #: Whether contacts were taken in that other processes have not been told of.
        self.committed_beside = False
        self._claims: dict[str, Claim] = {}

    def _engine(self, isolation: Any, **settings: str) -> sa.Engine:
        engine = sa.create_engine(
            self.url,
            isolation_level=isolation,
            connect_args=_session(**settings),
            pool_size=CONNECTIONS,
            max_overflow=0,
            pool_timeout=60,
            # The manager's own session settings: what is committed is on disk.
            query_cache_size=2000,
        )

        @event.listens_for(engine, "connect")
        def prepare(connection: psycopg.Connection[Any], _record: object) -> None:
            connection.adapters.register_loader("numeric", _Number)
            connection.prepare_threshold = 3
            connection.prepared_max = 500

        return engine

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Do nothing: the database's lock orders threads as well."""
        yield

    def lock(self, connection: sa.Connection) -> None:
        """Wait for the lock of all writes."""
        connection.execute(_ALONE)

    def lock_beside(self, tx: Tx, serial: str | None) -> None:
        """Wait for the same lock together with other contacts, and for a unit and its device.

        Before the first question is answered, that is.
        """
        tx.later(_BESIDE)
        if serial is not None:
            tx.later(_DEVICE, serial=serial)

    def again(self, error: DBAPIError, tries: int) -> bool:
        """Tell whether a transaction is to be tried again, after a wait.

        A connection that was found broken is replaced; one that breaks later is an error, since
        nobody knows whether the change is on disk.
        """
        state = getattr(error.orig, "sqlstate", None)
        if state in _AGAIN:
            time.sleep(random.uniform(0, 0.002 * 2**tries))  # noqa: S311  spreads tries
            return True
        stale = error.statement in (str(_ALONE), _BESIDE) or (
            error.statement is not None and error.statement.lstrip().startswith("SELECT")
        )
        return error.connection_invalidated and stale and tries == 1

    def said(self, error: DBAPIError) -> str:
        """Return the database's own words, in one line and without a password."""
        text = " ".join(str(error.orig).split()).rstrip(".")
        secret = self.url.password
        return text.replace(str(secret), "***") if secret else text

    def tell(self) -> None:
        """Tell others of contacts that were taken in."""
        if self.committed_beside:
            self.committed_beside = False
            with self.writer.begin() as connection:
                connection.exec_driver_sql(_TELL)

    def connect(self) -> psycopg.Connection[Any]:
        """Return a connection of its own, without transactions; raises psycopg.Error."""
        url = self.url.set(drivername="postgresql").render_as_string(hide_password=False)
        return psycopg.connect(url, autocommit=True, **_session())

    def claim(self, name: str) -> Claim:
        """Return this process's claim of what is named, the same each time."""
        return self._claims.setdefault(name, Claim(self, name))

    def close(self) -> None:
        """Give up all claims."""
        for claim in self._claims.values():
            claim.close()

    def watcher(self) -> PostgresqlWatcher:
        """Return a new watcher."""
        return PostgresqlWatcher(self)

    @contextmanager
    def migrating(self) -> Iterator[sa.Connection]:
        """Return a transaction that no other process migrates or writes beside."""
        with self.writer.begin() as connection:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATE_LOCK})")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
            yield connection

    def others(self) -> int:
        """Return how many connections of other managers this database has."""
        with self.reader.begin() as connection:
            found = connection.execute(
                sa.text(
                    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                    " AND application_name = :name AND pid <> pg_backend_pid()"
                ),
                {"name": APPLICATION},
            )
            return int(found.scalar_one())


class Claim:
    """What one manager process of all does: a lock of its own connection, gone with it.

    A machine that vanishes without a word loses it once PostgreSQL's keepalives have failed
    (GONE_AFTER).
    """

    def __init__(self, store: Postgresql, name: str) -> None:
        self._store = store
        self._number = zlib.crc32(name.encode())
        self._connection: psycopg.Connection[Any] | None = None

    def held(self) -> bool:
        """Tell whether this process has it, taking it where nobody has; waits for no other."""
        try:
            if self._connection is None:
                self._connection = self._store.connect()
                self._mine = False
            if self._mine:
                self._connection.execute("SELECT 1")
            else:
                row = self._connection.execute(
                    "SELECT pg_try_advisory_lock(%s, %s)", (LOCK, self._number - 2**31)
                ).fetchone()
                self._mine = bool(row and row[0])
        except (DBAPIError, psycopg.Error, OSError):
            self.close()
            return False
        return self._mine

    def close(self) -> None:
        """Give it up."""
        if self._connection is not None:
            with contextlib.suppress(psycopg.Error):
                self._connection.close()
            self._connection = None
        self._mine = False


class PostgresqlWatcher:
    """A thread that listens; it connects again for as long as it must."""

    instant = False

    def __init__(self, store: Postgresql) -> None:
        self._store = store
        self._heard = True
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._listen, name="callpool-listen", daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while not self._ends.is_set():
            try:
                self._follow()
            except (DBAPIError, psycopg.Error, OSError):
                self._ends.wait(_WAKE)

    def _follow(self) -> None:
        connection = self._store.connect()
        try:
            connection.execute(f"LISTEN {CHANNEL}")
            # What was told while nobody listened is looked for.
            self._heard = True
            while not self._ends.is_set():
                select.select([connection.fileno()], [], [], _WAKE)
                for _ in connection.notifies(timeout=0):
                    self._heard = True
        finally:
            with contextlib.suppress(psycopg.Error):
                connection.close()

    def changed(self) -> bool:
        """Tell whether anything was committed since the last look."""
        heard, self._heard = self._heard, False
        return heard

    def hints(self, seen: int, prefix: str) -> list[tuple[str, int]]:
        """Return whom hints after number `seen` are for."""
        with self._store.reader.begin() as connection:
            found = connection.execute(
                sa.text(
                    "SELECT serial, hint_seq FROM unit WHERE hint_seq > :seen UNION ALL"
                    " SELECT CAST(:prefix AS text) || instance_id, hint_seq"
                    " FROM product_instance WHERE hint_seq > :seen"
                ),
                {"seen": seen, "prefix": prefix},
            )
            return [(r[0], r[1]) for r in found]

    def close(self) -> None:
        """Stop watching."""
        self._ends.set()
        self._thread.join()


def checked(url: str) -> sa.URL:
    """Return a database's URL; raises CallpoolError `bad_database_url`, which never repeats it."""
    try:
        found = sa.make_url(url.strip())
    except (sa.exc.ArgumentError, ValueError):
        found = None
    if found is None or found.drivername not in ("postgresql", "postgresql+psycopg"):
        raise CallpoolError(
            "bad_database_url",
            "A database's URL is postgresql+psycopg://USER:PASSWORD@HOST:PORT/DATABASE.",
        ) from None
    return found.set(drivername="postgresql+psycopg")
