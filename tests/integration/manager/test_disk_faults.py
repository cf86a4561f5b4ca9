"""A manager whose disk is full, ill, read-only, torn or corrupt, and connections that say nothing.

What was answered stands, what cannot be written is not answered, and each case says what it is.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest
from faultkit import ill_disk, small_disk
from managerkit import MAIN, Device, Refused, Running, Site, eventually, running

from callpool.licensing.errors import CallpoolError
from callpool.manager.store.database import Database


def pool_of(manager: Running, serial: str = "SN-1") -> Device:
    """Return an enrolled device with 10 sessions, of an order for 100."""
    manager.import_order(manager.site.order("PO-1", sbc_sessions=100))
    manager.add("a", serial, apply="live")
    device = manager.device(serial)
    device.contact()
    manager.call("PUT", "/devices/a/allocation", {"sbc_sessions": 10}, 200)
    assert device.counts(device.contact()) == {"sbc_sessions": 10}
    return device


def again(manager: Running, device: Device) -> Device:
    """Return the same device before another process: the first one's connections are closed."""
    made = manager.bare(device.serial, device.key)
    made.value, made.keys, made.anchor = device.value, device.keys, device.anchor
    made.remote, made.applied = device.remote, device.applied
    return made


def refusal(device: Device) -> Refused:
    with pytest.raises(Refused) as caught:
        device.contact()
    return caught.value


def test_a_full_disk_refuses_by_name_gives_nothing_and_goes_on_when_there_is_room(
    tmp_path: Path,
) -> None:
    with small_disk(tmp_path / "disk", "24m") as disk:
        site = Site(disk / "manager", lab_clock="")
        with running(site) as manager:
            device = pool_of(manager)
            before = site.sql("SELECT serial, type, granted, held FROM holding")
            filler = disk / "filler"
            with contextlib.suppress(OSError), filler.open("wb") as out:
                while True:
                    out.write(b"\0" * 65536)
                    out.flush()
            # The log has room left for a while: SQLite writes over what a checkpoint freed.
            value, told = device.value, None
            for _ in range(300):
                try:
                    device.contact()
                    value = device.value
                except Refused as error:
                    told = error
                    break
            assert told is not None
            assert (told.status, told.code) == (503, "database_unusable")
            assert "full" in str(told)
            answer = manager.call("PUT", "/devices/a/allocation", {"sbc_sessions": 20})
            assert answer["code"] == "database_unusable"
            reply = device.http.post(manager.url + "/device/v1/contact", content=device.last)
            assert reply.status_code != 200
            # Reading goes on, and nothing has changed.
            assert site.sql("SELECT serial, type, granted, held FROM holding") == before
            assert manager.pool()["devices"]
            filler.unlink()
            device.value = value
            assert device.counts(device.contact()) == {"sbc_sessions": 10}
            manager.call("PUT", "/devices/a/allocation", {"sbc_sessions": 20}, 200)
            assert device.counts(device.contact()) == {"sbc_sessions": 20}
            site.check_sums()


@pytest.mark.parametrize("calls", [("fsync", "fdatasync"), ("pwrite64",)], ids=["sync", "write"])
def test_an_input_output_error_is_named_and_nothing_answered_is_lost(
    tmp_path: Path, calls: tuple[str, ...]
) -> None:
    site = Site(tmp_path / "manager", lab_clock="")
    with running(site) as manager:
        device = pool_of(manager)
        value = device.value
        with ill_disk(manager.process.pid, calls):
            told = refusal(device)
            assert (told.status, told.code) == (503, "database_unusable")
            assert "disk I/O error" in str(told)
            answer = manager.call("PUT", "/devices/a/allocation", {"sbc_sessions": 30})
            assert answer["code"] == "database_unusable"
            assert manager.pool()["devices"]
        # Not answered: done or not, but whole; what was answered before is there.
        (found,) = site.sql("SELECT target FROM allocation WHERE type = 'sbc_sessions'")
        assert found[0] in (10, 30)
        site.check_sums()
        device.value = value
        assert device.counts(eventually(lambda: device.contact())) == {"sbc_sessions": found[0]}
        manager.call("PUT", "/devices/a/allocation", {"sbc_sessions": 20}, 200)
        assert device.counts(device.contact()) == {"sbc_sessions": 20}
        # What it says it has written is there after a kill.
        manager.kill()
        assert site.sql("SELECT target FROM allocation WHERE type = 'sbc_sessions'") == [(20,)]


def start_fails(site: Site, *prefix: str) -> str:
    done = subprocess.run(
        [*prefix, sys.executable, "-c", MAIN, "run", "--dir", str(site.layout.directory)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_read_only_disk_is_named_at_the_start(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "24m") as disk:
        site = Site(disk / "manager", lab_clock="")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        assert "ead-only" in start_fails(site)
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        with running(site) as manager:
            assert manager.pool()["devices"] == []


def noise(file: Path, at: int, length: int, seed: int) -> None:
    with file.open("r+b") as handle:
        handle.seek(at)
        handle.write(random.Random(seed).randbytes(length))


def test_a_corrupt_database_is_named_and_grants_nothing(tmp_path: Path) -> None:
    site = Site(tmp_path / "manager", lab_clock="")
    with running(site) as manager:
        device = pool_of(manager)
        assert manager.stop() == 0
    kept = tmp_path / "kept.db"
    shutil.copy(site.layout.database, kept)
    noise(site.layout.database, 0, 100, 1)
    assert "not a database" in start_fails(site)

    noise(site.layout.database, page(site_with(site, kept), "unit") * 4096, 4096, 2)
    assert "malformed" in start_fails(site)

    noise(site.layout.database, page(site_with(site, kept), "holding") * 4096, 4096, 3)
    with running(site) as manager:
        device = again(manager, device)
        told = refusal(device)
        assert (told.status, told.code) == (503, "database_unusable")
        assert "malformed" in str(told)
    # The copy is whole: with it the same device goes on.
    site_with(site, kept)
    with running(site) as manager:
        device = again(manager, device)
        assert device.counts(device.contact()) == {"sbc_sessions": 10}


def page(site: Site, table: str) -> int:
    """Return the number of a table's first page, counted from 0."""
    found = dict(site.sql("SELECT name, rootpage FROM sqlite_master WHERE type = 'table'"))
    return int(found[table]) - 1


def site_with(site: Site, kept: Path) -> Site:
    for suffix in ("-wal", "-shm"):
        site.layout.database.with_name(f"manager.db{suffix}").unlink(missing_ok=True)
    shutil.copy(kept, site.layout.database)
    return site


def test_a_log_torn_at_any_byte_reads_as_it_was_after_some_whole_change(tmp_path: Path) -> None:
    site = Site(tmp_path / "manager", lab_clock="")
    states: list[list[tuple[int, int]]] = []
    query = "SELECT granted, held FROM holding"
    with running(site) as manager:
        device = pool_of(manager)
        states = [[], [(10, 10)]]
        for count in (25, 5, 60, 1):
            manager.call("PUT", "/devices/a/allocation", {"sbc_sessions": count}, 200)
            states.append([tuple(row) for row in site.sql(query)])
            device.contact()
            states.append([tuple(row) for row in site.sql(query)])
            device.contact()
            states.append([tuple(row) for row in site.sql(query)])
        manager.kill()
    log = site.layout.database.with_name("manager.db-wal")
    raw = log.read_bytes()
    assert len(raw) > 50_000
    chance = random.Random(7)
    seen: set[str] = set()
    for number in range(40):
        torn = tmp_path / f"torn-{number}"
        torn.mkdir()
        shutil.copy(site.layout.database, torn / "manager.db")
        cut = chance.randrange(len(raw))
        # Half of them: what follows is on disk as well, but not what was written.
        rest = chance.randbytes(min(8192, len(raw) - cut)) if number % 2 else b""
        (torn / "manager.db-wal").write_bytes(raw[:cut] + rest)
        database = Database(torn / "manager.db")
        try:
            rows = database.read(lambda tx: [tuple(r.values()) for r in tx.rows(query)])
            whole = database.read(lambda tx: tx.value("PRAGMA integrity_check"))
        except CallpoolError as error:
            # Torn so early that the tables are not there yet.
            rows, whole = [], error.sentence
        finally:
            database.close()
        assert whole == "ok" or "no such table" in whole
        assert rows in states
        seen.add(str(rows))
    assert len(seen) > 2


def test_connections_that_say_nothing_keep_no_device_and_no_operator_waiting(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path / "manager", lab_clock="")
    with running(site) as manager:
        device = pool_of(manager)
        context = ssl.create_default_context(cafile=str(site.layout.ca))
        silent: list[socket.socket] = []
        try:
            for number in range(300):
                made = socket.create_connection(("127.0.0.1", manager.port), timeout=30)
                if number % 3:  # a third does not even begin with TLS
                    made = context.wrap_socket(made, server_hostname="localhost")
                if number % 3 == 2:  # and a third sends half a request
                    made.sendall(
                        b"POST /device/v1/contact HTTP/1.1\r\nHost: localhost\r\n"
                        b"Content-Type: application/jose\r\nContent-Length: 5000\r\n\r\nhalf"
                    )
                silent.append(made)
            began = time.monotonic()
            for _ in range(5):
                assert device.counts(device.contact()) == {"sbc_sessions": 10}
                assert manager.pool()["devices"]
            assert time.monotonic() - began < 20.0
        finally:
            for connection in silent:
                connection.close()
        # Nothing of theirs is left.
        process = Path(f"/proc/{manager.process.pid}/fd")
        eventually(lambda: len(list(process.iterdir())) < 100)


def test_every_change_is_on_disk_before_it_is_answered(tmp_path: Path) -> None:
    """SQLite's own promise against power cuts, held by its settings on the writer."""
    database = Database(tmp_path / "manager.db")
    database.migrate()
    told = database.write(
        lambda tx: (tx.value("PRAGMA synchronous"), tx.value("PRAGMA journal_mode"))
    )
    assert told == (2, "wal")  # 2 is FULL
    database.close()
    assert sqlite3.sqlite_version_info >= (3, 40)
