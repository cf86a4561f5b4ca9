"""All rows of a database, out of one snapshot and into another, checked row by row.

Backups, restorations and moves from SQLite to PostgreSQL are the same thing: a stream of tables,
each with its rows in order of its key, and how many they were with a hash over all of them. What
is loaded is read again before it is committed, and its hashes must be the same.
"""

from __future__ import annotations

import base64
import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from callpool.licensing.errors import CallpoolError
from callpool.manager.store import dialect

#: Rows that are read and written at a time.
BATCH: Final = 2_000
#: Rows between two words on how far it is.
EVERY: Final = 100_000
#: What is of the database itself and no row of ours.
_LEFT_OUT: Final = frozenset(("alembic_version",))

Row = list[Any]
Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Sum:
    """A table as it was read or written."""

    rows: int
    #: SHA-256 over all rows in order.
    hash: str


@dataclass(frozen=True, slots=True)
class Part:
    """A table's rows; each is a list of JSON values, bytes in base64."""

    table: str
    columns: tuple[str, ...]
    rows: Iterable[Row]


class Summing:
    """Passes rows on and sums them up."""

    def __init__(self, rows: Iterable[Row], table: str, progress: Progress) -> None:
        self._rows, self._table, self._progress = rows, table, progress
        self._hash, self._count = hashlib.sha256(), 0

    def __iter__(self) -> Iterator[Row]:
        for row in self._rows:
            self._hash.update(msgspec.json.encode(row) + b"\n")
            self._count += 1
            if self._count % EVERY == 0:
                self._progress(f"{self._table}: {self._count} rows")
            yield row

    @property
    def sum(self) -> Sum:
        """Return the sum, once all rows have passed."""
        return Sum(self._count, self._hash.hexdigest())


def tables(connection: sa.Connection) -> list[sa.Table]:
    """Return the tables that hold rows of ours, each after those that it refers to."""
    metadata = sa.MetaData()
    with warnings.catch_warnings():
        # Indexes of expressions are not reflected, and are not wanted here.
        warnings.simplefilter("ignore", sa.exc.SAWarning)
        metadata.reflect(connection)
    return [t for t in metadata.sorted_tables if t.name not in _LEFT_OUT]


def _columns(table: sa.Table) -> list[Any]:
    """Return the columns that hold what was written: not those that the database reckons."""
    return sorted((c for c in table.columns if c.computed is None), key=lambda c: c.name)


def parts(connection: sa.Connection) -> Iterator[Part]:
    """Return every table; the rows of one are to be read before the next is asked for."""
    for table in tables(connection):
        columns = _columns(table)
        names = tuple(str(c.name) for c in columns)
        yield Part(str(table.name), names, _rows(connection, table, columns))


def _rows(connection: sa.Connection, table: sa.Table, columns: list[Any]) -> Iterator[Row]:
    key = sorted(table.primary_key.columns, key=lambda c: c.name)
    statement = sa.select(*(sa.type_coerce(c, sa.types.NullType()) for c in columns))
    kinds = [_kind(c.type) for c in columns]
    with connection.execution_options(stream_results=True, yield_per=BATCH).execute(
        statement.order_by(*key)
    ) as found:
        for row in found:
            yield [v if v is None else kind(v) for v, kind in zip(row, kinds, strict=True)]


def _kind(type_: Any) -> Callable[[Any], Any]:
    """Return how a value of a column stands in a stream: the same from both databases."""
    if isinstance(type_, sa.Boolean):
        return bool
    if isinstance(type_, sa.LargeBinary):
        return lambda value: base64.b64encode(bytes(value)).decode()
    if isinstance(type_, sa.Integer):
        return int
    if isinstance(type_, sa.Float | sa.Numeric):
        return float
    return str


def load(connection: sa.Connection, stream: Iterable[Part], progress: Progress) -> dict[str, Sum]:
    """Fill the empty tables of a database; its triggers stand still meanwhile.

    Returns the sums of what came. Raises CallpoolError `bad_backup` where a table or a column is
    not known here.
    """
    known = {t.name: t for t in tables(connection)}
    sums: dict[str, Sum] = {}
    with _no_triggers(connection):
        for part in stream:
            table = known.get(part.table)
            if table is None or {c.name for c in _columns(table)} != set(part.columns):
                raise CallpoolError("bad_backup", f"Table {part.table!r} is not as it is here.")
            summing = Summing(part.rows, part.table, progress)
            _insert(connection, table, part.columns, summing)
            sums[part.table] = summing.sum
            progress(f"{part.table}: {sums[part.table].rows} rows written")
    if connection.dialect.name == dialect.POSTGRESQL:
        _continue_numbers(connection, known)
        connection.exec_driver_sql("ANALYZE")
    return sums


def _insert(
    connection: sa.Connection, table: sa.Table, columns: tuple[str, ...], rows: Iterable[Row]
) -> None:
    binary = [isinstance(table.columns[name].type, sa.LargeBinary) for name in columns]

    def real(row: Row) -> Row:
        return [
            base64.b64decode(v) if is_binary and v is not None else v
            for v, is_binary in zip(row, binary, strict=True)
        ]

    names = ", ".join(f'"{name}"' for name in columns)
    if connection.dialect.name == dialect.POSTGRESQL:
        raw: Any = connection.connection.driver_connection
        with (
            raw.cursor() as cursor,
            cursor.copy(f'COPY "{table.name}" ({names}) FROM STDIN') as copy,
        ):
            for row in rows:
                copy.write_row(real(row))
        return
    marks = ", ".join("?" for _ in columns)
    statement = f'INSERT INTO "{table.name}" ({names}) VALUES ({marks})'  # noqa: S608  reflected names
    batches = iter(rows)
    while batch := [tuple(real(row)) for row in islice(batches, BATCH)]:
        connection.exec_driver_sql(statement, batch)


class _no_triggers:
    """Lets rows in without what they set off: sums, marks and tallies come as rows themselves."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection
        self._kept: list[str] = []

    def __enter__(self) -> None:
        if self._connection.dialect.name == dialect.POSTGRESQL:
            self._all("DISABLE")
            return
        found = self._connection.exec_driver_sql(
            "SELECT name, sql FROM sqlite_master WHERE type = 'trigger'"
        ).all()
        for name, _ in found:
            self._connection.exec_driver_sql(f"DROP TRIGGER {name}")
        self._kept = [str(sql) for _, sql in found]

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            return  # all of it is undone
        if self._connection.dialect.name == dialect.POSTGRESQL:
            self._all("ENABLE")
        for sql in self._kept:
            self._connection.exec_driver_sql(sql)

    def _all(self, word: str) -> None:
        for table in tables(self._connection):
            self._connection.exec_driver_sql(f'ALTER TABLE "{table.name}" {word} TRIGGER USER')


def _continue_numbers(connection: sa.Connection, known: Mapping[str, sa.Table]) -> None:
    """Let what PostgreSQL numbers by itself go on after the highest number that is there."""
    for table in known.values():
        for column in table.primary_key.columns:
            connection.execute(
                sa.text(
                    "SELECT setval(s.name, (SELECT max(t.number) FROM"  # noqa: S608  reflected names
                    f' (SELECT "{column.name}" AS number FROM "{table.name}") AS t))'
                    " FROM (SELECT pg_get_serial_sequence(:table, :column) AS name) AS s"
                    f' WHERE s.name IS NOT NULL AND EXISTS (SELECT 1 FROM "{table.name}")'
                )
                if isinstance(column.type, sa.Integer)
                else sa.text("SELECT CAST(:table AS text), CAST(:column AS text)"),
                {"table": table.name, "column": column.name},
            )


def summed(connection: sa.Connection, progress: Progress) -> dict[str, Sum]:
    """Return the sums of all tables as they are."""
    sums: dict[str, Sum] = {}
    for part in parts(connection):
        summing = Summing(part.rows, part.table, progress)
        for _ in summing:
            pass
        sums[part.table] = summing.sum
    return sums


def check(expected: Mapping[str, Sum], found: Mapping[str, Sum]) -> None:
    """Compare sums; raises CallpoolError `rows_differ`, which names the tables."""
    wrong = sorted(
        name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
    )
    if wrong:
        raise CallpoolError(
            "rows_differ", f"What was written is not what was read, in {', '.join(wrong)}."
        )


def is_empty(connection: sa.Connection) -> bool:
    """Tell whether a database has no table at all."""
    return not sa.inspect(connection).get_table_names()


def clear(connection: sa.Connection) -> None:
    """Drop all that is in a PostgreSQL database of a manager, for a restoration."""
    names = sa.inspect(connection)
    for view in names.get_view_names():
        connection.exec_driver_sql(f'DROP VIEW "{view}" CASCADE')
    for table in names.get_table_names():
        connection.exec_driver_sql(f'DROP TABLE "{table}" CASCADE')
