"""Backups, restorations, and the move from SQLite to PostgreSQL.

A backup is one file, of either database and for either: gzipped JSON lines, a header, then each
table with its rows, last the count and the hash of each. It is read from one snapshot while the
manager runs. The signing keys (`identity/`) and the grant journal are not in it: keys are copied
once, and the journal must be newer than any backup, since it tells what was given after it
(docs/adr/0007-restored-manager.md).
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import io
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from callpool.host.files import locked, sync_directory, write_durably
from callpool.licensing.errors import CallpoolError
from callpool.manager.settings import Layout
from callpool.manager.store import transfer
from callpool.manager.store.database import Database, upgrade
from callpool.manager.store.transfer import Part, Progress, Sum

_FORMAT: Final = "callpool backup 1"


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """A backup's first line."""

    format: str
    #: The form of the tables.
    revision: str
    product_key: str
    #: Seconds since 1970.
    made_at: float


class _Table(msgspec.Struct, frozen=True, kw_only=True):
    table: str
    columns: tuple[str, ...]


class _End(msgspec.Struct, frozen=True, kw_only=True):
    #: Rows and hash of each table.
    end: dict[str, tuple[int, str]]


# -- one at a time


@contextmanager
def stopped(layout: Layout) -> Iterator[None]:
    """Keep managers of this directory from starting; raises CallpoolError `manager_runs`."""
    with _lock(layout, fcntl.LOCK_EX):
        yield


@contextmanager
def running(layout: Layout) -> Iterator[None]:
    """Tell `stopped` that a manager runs; raises CallpoolError `manager_runs`."""
    with _lock(layout, fcntl.LOCK_SH):
        yield


@contextmanager
def _lock(layout: Layout, how: int) -> Iterator[None]:
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(layout.directory / ".run.lock", how | fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise CallpoolError(
                "manager_runs",
                f"A manager of {layout.directory} runs, or is being moved or restored.",
            ) from error
        yield


def _nobody(database: Database) -> None:
    if database.others():
        raise CallpoolError("manager_runs", f"A manager uses {database.name}: stop it first.")


# -- backup


def backup(layout: Layout, target: Path, now: float, progress: Progress) -> tuple[Path, int]:
    """Write a backup to a file, or under a name of its own into a directory.

    Returns the file and how many rows it has. Raises CallpoolError `file_exists`,
    `database_unusable`, OSError.
    """
    database = Database(layout.database_place())
    try:
        with database.snapshot() as connection:
            header = _header(connection, now)
            if target.is_dir():
                day = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
                target = target / f"callpool-{header.product_key}-{day}.backup"
            if target.exists():
                raise CallpoolError("file_exists", f"{target} exists already.")
            sums = _write(target, header, transfer.parts(connection), progress)
    finally:
        database.close()
    return target, sum(s.rows for s in sums.values())


def _header(connection: sa.Connection, now: float) -> Header:
    revision = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar_one()
    key = connection.execute(
        sa.text("SELECT value FROM meta WHERE name = 'product_key'")
    ).scalar_one()
    return Header(format=_FORMAT, revision=revision, product_key=key, made_at=now)


def _write(
    file: Path, header: Header, stream: Iterator[Part], progress: Progress
) -> dict[str, Sum]:
    """Write a backup; the file is there once it is whole and on disk."""
    part_file = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    sums: dict[str, Sum] = {}
    encode = msgspec.json.encode
    try:
        handle = os.open(part_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "wb") as raw:
            with gzip.open(raw, "wb", compresslevel=3) as out:
                out.write(encode(header) + b"\n")
                for part in stream:
                    out.write(encode(_Table(table=part.table, columns=part.columns)) + b"\n")
                    rows = transfer.Summing(part.rows, part.table, progress)
                    for row in rows:
                        out.write(encode(row) + b"\n")
                    sums[part.table] = rows.sum
                end = {name: (s.rows, s.hash) for name, s in sums.items()}
                out.write(encode(_End(end=end)) + b"\n")
            raw.flush()
            os.fsync(raw.fileno())
        os.replace(part_file, file)
    except BaseException:
        part_file.unlink(missing_ok=True)
        raise
    sync_directory(file.parent)
    return sums


class Backup:
    """A backup file, read line by line."""

    def __init__(self, file: Path) -> None:
        """Read the header; raises CallpoolError `bad_backup`, OSError."""
        self._file = file
        self._lines = self._read()
        self.header: Header = self._decoded(next(self._lines, b""), Header)
        if self.header.format != _FORMAT:
            raise self._bad("it is of another format")
        self._end: _End | None = None
        self._next: bytes = b""

    def _bad(self, why: str) -> CallpoolError:
        return CallpoolError("bad_backup", f"{self._file} is no whole backup: {why}.")

    def _read(self) -> Iterator[bytes]:
        try:
            with gzip.open(self._file, "rb") as raw:
                yield from io.BufferedReader(raw, 1 << 20)
        except (EOFError, gzip.BadGzipFile, ValueError) as error:
            raise self._bad("it is cut off or altered") from error

    def _decoded(self, line: bytes, kind: type[Any]) -> Any:
        try:
            return msgspec.json.decode(line, type=kind)
        except msgspec.DecodeError as error:
            raise self._bad("a line does not have its form") from error

    def parts(self) -> Iterator[Part]:
        """Return the tables; the rows of one are to be read before the next is asked for."""
        self._next = next(self._lines, b"")
        while self._next.startswith(b'{"table"'):
            table = self._decoded(self._next, _Table)
            yield Part(table.table, table.columns, self._rows(len(table.columns)))
        self._end = self._decoded(self._next, _End)

    def _rows(self, columns: int) -> Iterator[list[Any]]:
        for line in self._lines:
            if not line.startswith(b"["):
                self._next = line
                return
            row = self._decoded(line, list)
            if len(row) != columns:
                raise self._bad("a row does not have its columns")
            yield row
        self._next = b""

    @property
    def sums(self) -> dict[str, Sum]:
        """Return the sums at its end, once all was read."""
        assert self._end is not None  # `parts` raises where there is none
        return {name: Sum(*found) for name, found in self._end.end.items()}


# -- restore


def restore(layout: Layout, file: Path, progress: Progress) -> Header:
    """Put a backup in the place of the manager's database, whole or not at all.

    The manager of the directory must not run. Its next start learns from the grant journal and
    from its devices before it gives anything. Raises CallpoolError `manager_runs`, `bad_backup`,
    `rows_differ`, `database_unusable`, OSError.
    """
    found = Backup(file)
    with stopped(layout):
        place = layout.database_place()
        if isinstance(place, str):
            database = Database(place)
            try:
                _nobody(database)
                with database.whole() as connection:
                    transfer.clear(connection)
                    _fill(connection, found, progress)
            finally:
                database.close()
        else:
            _restore_file(place, found, progress)
    return found.header


def _fill(connection: sa.Connection, found: Backup, progress: Progress) -> None:
    try:
        upgrade(connection, found.header.revision)
    except Exception as error:
        if "locate revision" not in str(error):
            raise
        raise CallpoolError(
            "bad_backup", "The backup was made by a newer release than this one."
        ) from error
    # A migration may put rows of its own into new tables.
    for table in reversed(transfer.tables(connection)):
        connection.exec_driver_sql(f'DELETE FROM "{table.name}"')  # noqa: S608  reflected names
    came = transfer.load(connection, found.parts(), progress)
    transfer.check(found.sums, came)
    progress("checking what was written")
    transfer.check(came, transfer.summed(connection, progress))
    upgrade(connection)


def _restore_file(place: Path, found: Backup, progress: Progress) -> None:
    new = place.with_name(f"{place.name}.restoring")
    _remove(new)
    database = Database(new)
    try:
        with database.whole() as connection:
            _fill(connection, found, progress)
    except BaseException:
        database.close()
        _remove(new)
        raise
    database.close()
    old = place.with_name(f"{place.name}.before-restore")
    _remove(old)
    if place.exists():
        os.link(place, old)
    # The log of what is being replaced must not be taken for the new file's: it goes along.
    for tail in ("-wal", "-shm"):
        if (log := place.with_name(place.name + tail)).exists():
            os.replace(log, old.with_name(old.name + tail))
    os.replace(new, place)
    _remove(new)
    sync_directory(place.parent)


def _remove(file: Path) -> None:
    for tail in ("", "-wal", "-shm"):
        file.with_name(file.name + tail).unlink(missing_ok=True)


# -- the move


def migrate_to(layout: Layout, url: str, progress: Progress) -> int:
    """Move a SQLite installation to an empty PostgreSQL database, whole or not at all.

    The switch is the last act: the file `database.url`. SQLite's file stays as it was. After an
    interruption it is started again. Returns how many rows were moved. Raises CallpoolError
    `manager_runs`, `not_sqlite`, `not_empty`, `bad_database_url`, `rows_differ`,
    `database_unusable`, OSError.
    """
    source_file = layout.database_place()
    if isinstance(source_file, str):
        raise CallpoolError("not_sqlite", "This manager is on PostgreSQL already.")
    if not source_file.exists():
        raise CallpoolError("no_manager", f"There is no database in {layout.directory}.")
    source, target = Database(source_file), Database(url)
    try:
        with stopped(layout):
            source.migrate()
            _nobody(target)
            # Held to the end: nothing is changed at the old place while it moves.
            with source.whole() as old, target.whole() as new:
                moved = _move(old, new, progress)
            write_durably(layout.database_url, f"{url.strip()}\n".encode())
    finally:
        source.close()
        target.close()
    return sum(s.rows for s in moved.values())


def _move(old: sa.Connection, new: sa.Connection, progress: Progress) -> dict[str, Sum]:
    if not transfer.is_empty(new):
        # Its last act may have been cut off: then all is there already.
        progress("the target is not empty: comparing")
        try:
            moved = transfer.summed(old, progress)
            transfer.check(moved, transfer.summed(new, progress))
        except CallpoolError as error:
            raise CallpoolError(
                "not_empty", "The target database is not empty: give an empty one."
            ) from error
        return moved
    upgrade(new)
    for table in reversed(transfer.tables(new)):
        new.exec_driver_sql(f'DELETE FROM "{table.name}"')  # noqa: S608  reflected names
    moved = transfer.load(new, transfer.parts(old), progress)
    progress("checking what was written")
    transfer.check(moved, transfer.summed(new, progress))
    return moved
