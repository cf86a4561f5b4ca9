"""Moving a manager to PostgreSQL, backups, and putting them back: whole or not at all."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import managerkit
import psycopg
import pytest
from managerkit import MAIN, Running, Site, cli, running
from sqlalchemy import text

from callpool.lab.postgres import Cluster
from callpool.licensing.errors import CallpoolError
from callpool.manager import moves
from callpool.manager.settings import Layout
from callpool.manager.store import transfer
from callpool.manager.store.database import Database


def quiet(_text: str) -> None:
    pass


@pytest.fixture(scope="module")
def filled(module_path: Path) -> Site:
    """A SQLite installation, stopped, with something in most of its tables."""
    site = Site(module_path / "manager")
    with running(site) as manager:
        manager.import_order(site.order("PO-1", sbc_sessions=50, far_end_users=20))
        manager.call("POST", "/tenants", {"name": "east", "shares": {"sbc_sessions": 20}}, 201)
        for number in range(4):
            manager.add(f"device-{number}", f"S-{number}", apply="live")
            manager.call("PUT", f"/devices/device-{number}/allocation", {"sbc_sessions": 5}, 200)
        for number in range(3):
            manager.device(f"S-{number}").contact()
        manager.devices[0].contact()
        assert manager.stop() == 0
    return site


@pytest.fixture
def site(filled: Site, tmp_path: Path) -> Site:
    """A copy of it: an installation of its own."""
    shutil.copytree(filled.layout.directory, tmp_path / "manager")
    made = Site.__new__(Site)
    made.__dict__.update(filled.__dict__)
    made.layout = Layout(tmp_path / "manager")
    return made


def move(site: Site, url: str, code: str = "") -> str:
    file = site.layout.directory.parent / "target.url"
    file.write_text(url)
    status, out, error = cli(
        MAIN, "migrate-to", "--url-file", str(file), "--dir", str(site.layout.directory)
    )
    assert (status == 0) is not bool(code), error
    assert url.split(":")[2].split("@")[0] not in out + error
    return out + error


def everything(place: Path | str) -> dict[str, transfer.Sum]:
    database = Database(place)
    try:
        with database.snapshot() as connection:
            return transfer.summed(connection, quiet)
    finally:
        database.close()


def test_a_moved_manager_goes_on_where_it_was(site: Site, postgres: Cluster) -> None:
    before = everything(site.layout.database)
    assert before["unit"].rows == 4
    assert before["journal"].rows > 10
    said = move(site, postgres.database())
    assert "unit: 4 rows written" in said
    place = site.layout.database_place()
    assert isinstance(place, str)
    assert everything(place) == before == everything(site.layout.database)
    assert site.layout.database_url.stat().st_mode & 0o777 == 0o600
    with running(site) as manager:
        pool = manager.pool()
        assert pool["restored"] is None
        assert len(pool["devices"]) == 4
        # What PostgreSQL numbers by itself goes on after what came.
        manager.add("later", "S-9")
        manager.token()
        # The database itself still refuses to oversell.
        with (
            psycopg.connect(place.replace("+psycopg", "")) as raw,
            pytest.raises(psycopg.errors.CheckViolation, match="order_never_oversold"),
        ):
            raw.execute("UPDATE holding SET held = held + 1000 WHERE serial = 'S-0'")
        site.check_sums()


def test_a_move_is_refused_while_the_manager_runs_or_where_something_is(
    site: Site, postgres: Cluster
) -> None:
    with running(site):
        assert "runs" in move(site, postgres.database(), "manager_runs")
    taken = postgres.database()
    with psycopg.connect(taken.replace("+psycopg", "")) as raw:
        raw.execute("CREATE TABLE somebody_elses (n integer)")
    assert "not empty" in move(site, taken, "not_empty")
    assert not site.layout.database_url.exists()
    status, _, error = cli(
        MAIN, "migrate-to", "postgresql://u:seen@h/d", "--dir", str(site.layout.directory)
    )
    assert status == 1
    assert "password on the command line" in error
    assert "seen@" not in error


def test_a_move_that_ends_at_any_point_leaves_the_old_place_in_force_and_can_be_done_again(
    site: Site, postgres: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = postgres.database()
    before = everything(site.layout.database)

    class Cut(Exception):
        pass

    for table in ("purchase_order", "unit", "journal"):

        def cut(said: str, table: str = table) -> None:
            if said.startswith(f"{table}:"):
                raise Cut

        with pytest.raises(Cut):
            moves.migrate_to(site.layout, url, cut)
        target = Database(url)
        with target.snapshot() as connection:
            assert transfer.is_empty(connection)
        target.close()
        assert not site.layout.database_url.exists()

    def no_switch(*_: object) -> None:
        raise Cut

    with monkeypatch.context() as patched:
        patched.setattr(moves, "write_durably", no_switch)
        with pytest.raises(Cut):
            moves.migrate_to(site.layout, url, quiet)
    # All is there, but nothing points to it: the next run compares, and switches.
    moves.migrate_to(site.layout, url, quiet)
    assert everything(url) == before


def test_a_row_that_came_out_otherwise_stops_the_move(
    site: Site, postgres: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, real = postgres.database(), transfer.load

    def altering(connection: object, stream: object, progress: object) -> object:
        sums = real(connection, stream, progress)  # type: ignore[arg-type]
        connection.execute(text("UPDATE unit SET role = 7 WHERE serial = 'S-3'"))  # type: ignore[attr-defined]
        return sums

    monkeypatch.setattr(transfer, "load", altering)
    with pytest.raises(CallpoolError) as refused:
        moves.migrate_to(site.layout, url, quiet)
    assert refused.value.code == "rows_differ"
    assert "unit" in refused.value.sentence
    assert not site.layout.database_url.exists()


def test_a_backup_of_either_database_can_be_put_back_into_either(
    site: Site, postgres: Cluster, tmp_path: Path
) -> None:
    before = everything(site.layout.database)
    first, _ = moves.backup(site.layout, tmp_path, 0.0, quiet)
    assert first.stat().st_mode & 0o777 == 0o600
    site.layout.database_url.write_text(postgres.database())
    place = site.layout.database_place()
    moves.restore(site.layout, first, quiet)
    assert everything(place) == before
    # Over what is there, too.
    with psycopg.connect(str(place).replace("+psycopg", "")) as raw:
        raw.execute("DELETE FROM journal WHERE entry > 3")
    second, rows = moves.backup(site.layout, tmp_path / "second", 0.0, quiet)
    assert rows < sum(s.rows for s in before.values())
    moves.restore(site.layout, first, quiet)
    assert everything(place) == before
    site.layout.database_url.unlink()
    moves.restore(site.layout, second, quiet)
    assert everything(site.layout.database)["journal"].rows == 3
    kept = Layout(tmp_path / "other")
    kept.directory.mkdir()
    shutil.copy(f"{site.layout.database}.before-restore", kept.database)
    assert everything(kept.database) == before


def test_a_damaged_backup_changes_nothing(site: Site, tmp_path: Path) -> None:
    before = everything(site.layout.database)
    good, _ = moves.backup(site.layout, tmp_path / "good", 0.0, quiet)
    lines = gzip.decompress(good.read_bytes()).splitlines(keepends=True)
    unit = next(n for n, line in enumerate(lines) if b'"S-1"' in line)
    altered = [*lines[:unit], lines[unit].replace(b'"S-1"', b'"S-7"'), *lines[unit + 1 :]]
    cases = {
        "cut": good.read_bytes()[:-200],
        "short": gzip.compress(b"".join(lines[:-1])),
        "missing": gzip.compress(b"".join([*lines[:unit], *lines[unit + 1 :]])),
        "altered": gzip.compress(b"".join(altered)),
        "newer": gzip.compress(
            lines[0].replace(b'"revision":"', b'"revision":"9') + b"".join(lines[1:])
        ),
        "other": b"not a backup",
    }
    for name, content in cases.items():
        file = tmp_path / name
        file.write_bytes(content)
        with pytest.raises(CallpoolError) as refused:
            moves.restore(site.layout, file, quiet)
        assert refused.value.code in ("bad_backup", "rows_differ"), name
        assert everything(site.layout.database) == before, name
    assert not list(site.layout.directory.glob("*.restoring*"))


def test_a_manager_that_runs_is_backed_up_but_not_restored_over(site: Site, tmp_path: Path) -> None:
    assert managerkit.new_database is None
    directory = str(site.layout.directory)
    with running(site) as manager:
        assert isinstance(manager, Running)
        file = tmp_path / "online.backup"
        status, out, error = cli(MAIN, "backup", str(file), "--dir", directory)
        assert status == 0, error
        assert "keys" in out
        status, _, error = cli(MAIN, "restore", str(file), "--dir", directory)
        assert status == 1
        assert "runs" in error
        assert manager.stop() == 0
    status, _, error = cli(MAIN, "restore", str(file), "--dir", directory)
    assert status == 0, error
