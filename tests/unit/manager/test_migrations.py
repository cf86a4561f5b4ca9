"""The tables come up from every release before, with what is in them, and go down again."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from callpool.manager.audit import line_hash
from callpool.manager.store import database
from callpool.manager.store.database import Database


def to(made: Database, revision: str, *, down: bool = False) -> None:
    config = Config()
    folder = Path(database.__file__).parent / "migrations"
    config.set_main_option("script_location", str(folder))
    with made._store.writer.begin() as connection:
        config.attributes["connection"] = connection
        (command.downgrade if down else command.upgrade)(config, revision)


def tables(file: Path) -> set[str]:
    with contextlib.closing(sqlite3.connect(file)) as found:
        rows = found.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
        return {name for (name,) in rows}


def test_a_pool_of_the_release_before_keeps_its_rows_and_gains_the_authority(
    tmp_path: Path,
) -> None:
    made = Database(tmp_path / "manager.db")
    to(made, "0001")
    with contextlib.closing(sqlite3.connect(made.file)) as found:
        found.execute("INSERT INTO tenant (name) VALUES ('kept')")
        found.commit()
    before = tables(made.file)
    made.migrate()
    made.migrate()  # a second time changes nothing
    assert made.read(lambda tx: tx.value("SELECT name FROM tenant")) == "kept"
    gained = tables(made.file) - before
    assert {"smart_account", "product_instance", "entitlement", "smart_event"} <= gained
    to(made, "0001", down=True)
    assert tables(made.file) == before
    assert made.read(lambda tx: tx.value("SELECT name FROM tenant")) == "kept"
    made.close()


def test_a_start_that_finds_its_tables_in_order_runs_no_migration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Database(tmp_path / "manager.db")
    asked: list[str] = []
    real = database.upgrade

    def upgrade(connection: sa.Connection) -> None:
        asked.append("upgrade")
        real(connection)

    monkeypatch.setattr(database, "upgrade", upgrade)
    made.migrate()
    made.migrate()
    assert asked == ["upgrade"]
    to(made, "0012", down=True)
    made.migrate()
    assert asked == ["upgrade", "upgrade"]
    made.close()


def test_operators_and_the_journal_of_the_release_before_are_taken_over(tmp_path: Path) -> None:
    made = Database(tmp_path / "manager.db")
    to(made, "0005")
    with contextlib.closing(sqlite3.connect(made.file)) as found:
        found.execute("INSERT INTO operator VALUES ('admin', 'hash')")
        for entry in range(1, 4):
            found.execute(
                "INSERT INTO journal VALUES (?, ?, 'admin', '::1', 'allocated', ?)",
                (entry, 1.5 * entry, '{"device":"é"}'),
            )
        found.commit()
    made.migrate()
    assert made.read(lambda tx: tx.value("SELECT role FROM operator")) == "administrator"
    before = ""
    for line in made.read(lambda tx: tx.rows("SELECT * FROM journal ORDER BY entry")):
        before = line_hash(before, line)
        assert line["hash"] == before
    to(made, "0005", down=True)
    assert made.read(lambda tx: tx.value("SELECT count(*) FROM journal")) == 3
    made.close()


def test_the_authority_and_the_pool_share_no_table_of_orders(tmp_path: Path) -> None:
    made = Database(tmp_path / "manager.db")
    made.migrate()
    with contextlib.closing(sqlite3.connect(made.file)) as found:
        for table in ("entitlement", "smart_authorization", "product_instance", "smart_token"):
            targets = {row[2] for row in found.execute(f"PRAGMA foreign_key_list({table})")}
            assert not targets & {"purchase_order", "order_line", "unit", "device", "tenant"}
    made.close()
