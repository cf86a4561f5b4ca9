"""One transaction of the manager's database: named queries run through it.

Statements are written once for both databases: `dialect.py` says how.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any, Final

import psycopg
import sqlalchemy as sa
from psycopg.rows import dict_row
from sqlalchemy.exc import DataError, DBAPIError

from callpool.licensing.errors import LicenseError
from callpool.manager.store import dialect
from callpool.manager.store.scope import WHOLE, Scope

Row = Mapping[str, Any]

#: The tables of which a contact may change its own device's rows beside other contacts.
_OWN: Final = frozenset(
    (
        "unit", "usage_hour", "usage_day", "tenant_peak",
        "device_now", "device_count", "device_heard",
    )
)  # fmt: skip
_CHANGES: Final = re.compile(r"\s*(?:INSERT INTO|UPDATE|DELETE FROM)\s+([a-z_]+)")


class Alone(Exception):
    """A contact has more to change than its own device's rows: it is done again, alone."""


@lru_cache(maxsize=2048)
def _text(statement: str, scope: Scope, name: str) -> sa.TextClause:
    return sa.text(dialect.turned(scope.narrowed(statement), name))


@lru_cache(maxsize=2048)
def _compiled(text: sa.TextClause, for_dialect: sa.Dialect) -> str:
    """Return a statement with its parameters as the driver has them."""
    return str(text.compile(dialect=for_dialect))


@lru_cache(maxsize=2048)
def _changed(statement: str) -> str | None:
    """Return the table that a statement changes, None where it only reads."""
    found = _CHANGES.match(statement)
    return None if found is None else found[1]


#: Any operator's: the statement is the same, the name is bound.
_NARROW: Final = Scope("any")


@contextmanager
def _said() -> Iterator[None]:
    """Say in our own words that a value is none that a column can have."""
    try:
        yield
    except (OverflowError, DataError) as error:
        raise LicenseError(
            "bad_request", "A number or a text is none that anything here can be."
        ) from error


class Tx:
    """One transaction: named queries run through it."""

    def __init__(
        self, connection: sa.Connection, scope: Scope = WHOLE, *, beside: bool = False
    ) -> None:
        self._connection = connection
        self._name = connection.dialect.name
        #: Whose things the asker sees: those that a statement's MINE(column) leaves.
        self.scope = scope
        #: Whether others write at the same time: a change of anything shared raises `Alone`.
        self.beside = beside
        #: The few values of `meta`, read once: nobody else changes them during a write.
        self._meta: dict[str, str] | None = None
        #: What has been touched, as it was asked for since the last change.
        self._touched: dict[str, Any] | None = None
        #: What goes to the server with the next question, or the commit: see `later`.
        self._waiting: list[tuple[sa.TextClause, dict[str, Any]]] = []

    def rows(self, statement: str, /, **values: Any) -> list[Row]:
        """Return all rows as mappings."""
        return self._execute(statement, values)[0]

    def _execute(self, statement: str, values: dict[str, Any]) -> tuple[list[Row], int]:
        """Return a statement's rows, and how many it changed."""
        text = self._prepared(statement)
        values = values | {"scope_operator": self.scope.operator}
        with _said():
            if self._waiting:
                return self._fly((text, values))
            result = self._connection.execute(text, values)
        rows: list[Any] = [r._mapping for r in result] if result.returns_rows else []
        return rows, result.rowcount

    def _prepared(self, statement: str) -> sa.TextClause:
        """Return a statement as it is sent; forget what it may change of what is known here."""
        changed = _changed(statement)
        if self.beside and changed is not None and changed not in _OWN:
            raise Alone
        if changed is not None:
            self._touched = None
        if changed == "meta":
            self._meta = None
        scope = WHOLE if self.scope.whole else _NARROW
        return _text(statement, scope, self._name)

    def row(self, statement: str, /, **values: Any) -> Row | None:
        """Return the first row, or None."""
        return next(iter(self.rows(statement, **values)), None)

    def value(self, statement: str, /, **values: Any) -> Any:
        """Return the first column of the first row, or None."""
        found = self.row(statement, **values)
        return None if found is None else next(iter(found.values()))

    def run(self, statement: str, /, **values: Any) -> int:
        """Change rows; returns how many."""
        return self._execute(statement, values)[1]

    def later(self, statement: str, /, **values: Any) -> None:
        """Run a statement whose result nobody asks for, before whatever is run after it.

        PostgreSQL is sent it together with the next question, or with the commit: a round trip
        less. What it does not like is raised there.
        """
        if self._name != dialect.POSTGRESQL:
            self.run(statement, **values)
        else:
            self._waiting.append(
                (self._prepared(statement), values | {"scope_operator": self.scope.operator})
            )

    def finish(self) -> None:
        """Run what waits, and then commit; to be called last."""
        if self._waiting:
            with _said():
                self._fly(None, commit=True)

    def _fly(
        self, asked: tuple[sa.TextClause, dict[str, Any]] | None, *, commit: bool = False
    ) -> tuple[list[Row], int]:
        """Send what waits, and what is `asked` or a commit, in one; return as `_execute` does."""
        flight, self._waiting = [*self._waiting, *([asked] if asked else [])], []
        raw = self._connection.connection.driver_connection
        assert isinstance(raw, psycopg.Connection)
        texts = [_compiled(text, self._connection.dialect) for text, _ in flight]
        cursor = raw.cursor(row_factory=dict_row)
        try:
            with raw.pipeline():
                for text, (_, values) in zip(texts, flight, strict=True):
                    cursor = raw.cursor(row_factory=dict_row)
                    cursor.execute(text.encode(), values)
                if commit:
                    raw.commit()
        except psycopg.Error as error:
            if raw.closed:  # SQLAlchemy finds that out, and lets go of all that are as old
                with suppress(DBAPIError):
                    self._connection.exec_driver_sql("SELECT 1")
            raise DBAPIError.instance(
                # Where the commit was sent nobody knows whether it is done: never sent again.
                "COMMIT" if commit else texts[0], None, error, psycopg.Error,
                dialect=self._connection.dialect,
                connection_invalidated=self._connection.invalidated,
            ) from error  # fmt: skip
        rows: list[Any] = cursor.fetchall() if cursor.description else []
        return rows, cursor.rowcount

    def run_many(self, statement: str, values: Sequence[Mapping[str, Any]], /) -> None:
        """Change rows by one statement, once for each of `values`."""
        if values:
            if self.beside and _changed(statement) not in _OWN:
                raise Alone
            if self._waiting:
                self._fly(None)
            self._touched = None
            self._connection.execute(_text(statement, WHOLE, self._name), [dict(v) for v in values])

    @property
    def marks_are_rows(self) -> bool:
        """Tell whether what was touched is noted in tables alone."""
        return self._name != dialect.POSTGRESQL

    def touched(self, what: str) -> list[str]:
        """Return what this transaction has touched: `device` (ids) or `unit` (serial numbers)."""
        column = "device_id" if what == "device" else "serial"
        if self.marks_are_rows:
            return [str(r[column]) for r in self.rows(f"SELECT {column} FROM {what}_touched")]  # noqa: S608  two words of ours
        if self._touched is None:  # both are asked for one after the other
            found = self.row(dialect.TOUCHED)
            assert found is not None  # a SELECT without FROM has one row
            self._touched = dict(found)
        return [it for it in str(self._touched[what]).split("\n") if it]

    def forget_touched(self, what: str) -> None:
        """Forget what this transaction has touched so far."""
        if self.marks_are_rows:
            self.run(f"DELETE FROM {what}_touched")  # noqa: S608
            return
        self.later("SELECT set_config(:name, '', TRUE)", name=f"callpool.touched_{what}")
        # Nearly always empty, and then no row is written.
        self.later(f"DELETE FROM {what}_touched")  # noqa: S608  two words of ours

    def meta(self, name: str) -> str:
        """Return a value of the manager itself ('' where it is not set)."""
        if ":" in name:  # one of many of its kind
            return str(self.value("SELECT value FROM meta WHERE name = :name", name=name) or "")
        if self._meta is None:
            rows = self.rows(
                "SELECT name, value FROM meta"
                " WHERE name < 'restart_window:' OR name > 'restart_window;'"
            )
            self._meta = {r["name"]: r["value"] for r in rows}
        return self._meta.get(name, "")

    def set_meta(self, name: str, value: str) -> None:
        """Keep a value of the manager itself."""
        known = self._meta
        self.later(
            "INSERT INTO meta (name, value) VALUES (:name, :value)"
            " ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            name=name,
            value=value,
        )
        if known is not None and ":" not in name:
            self._meta = {**known, name: value}
