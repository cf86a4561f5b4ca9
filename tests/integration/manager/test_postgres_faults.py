"""PostgreSQL whose disk is full or ill, which is read-only, corrupt, or lost what it had synced.

What was answered stands, what cannot be written is not answered, and each case says what it is.
The disk's faults are the system's own: a small tmpfs, and fsync answered by EIO (strace).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import managerkit
import psycopg
import pytest
from faultkit import ill_disk, small_disk
from managerkit import Device, Refused, Running, Site, eventually, running

from callpool.lab.postgres import Cluster, cluster
from callpool.licensing.errors import CallpoolError


@pytest.fixture
def disk() -> Iterator[Path]:
    # Not below pytest's own directory: only root may enter that.
    parent = Path(tempfile.mkdtemp(prefix="callpool-disk-"))
    parent.chmod(0o755)
    try:
        with small_disk(parent / "disk", "160m") as made:
            made.chmod(0o755)
            yield made
    finally:
        shutil.rmtree(parent, ignore_errors=True)


@pytest.fixture
def server(disk: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster of its own on a small disk."""
    monkeypatch.setattr(tempfile, "tempdir", str(disk))
    # What is on disk is what is looked at: little is kept in memory.
    with cluster(shared_buffers="1MB", max_wal_size="32MB") as made:
        monkeypatch.undo()
        yield made


@pytest.fixture
def site(server: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(managerkit, "new_database", server.database)
    return Site(tmp_path / "manager", lab_clock="")


def pool_of(manager: Running) -> Device:
    """Return an enrolled device with 10 sessions, of an order for 100."""
    manager.import_order(manager.site.order("PO-1", sbc_sessions=100))
    manager.add("a", "SN-1", apply="live")
    device = manager.device("SN-1")
    device.contact()
    allocate(manager, 10)
    assert device.counts(device.contact()) == {"sbc_sessions": 10}
    return device


def allocate(manager: Running, count: int) -> str:
    """Ask for sessions; return the code of a refusal, "" for none."""
    answer = manager.call("PUT", "/devices/a/allocation", {"sbc_sessions": count})
    return str(answer.get("code", ""))


def target(site: Site) -> int:
    return int(site.sql("SELECT target FROM allocation WHERE type = 'sbc_sessions'")[0][0])


def refused(device: Device) -> str:
    """Return the code by which a contact is refused; the device repeats itself later."""
    value = device.value
    try:
        device.contact()
    except Refused as error:
        device.value = value
        return error.code if error.status == 503 else f"{error.status} {error.code}"
    return ""


def alive(server: Cluster) -> bool:
    return server.process is not None and server.process.poll() is None


def back(server: Cluster) -> None:
    """Bring the server back, as its service manager would; it may be on its way by itself."""

    def answers() -> bool:
        try:
            if not alive(server):
                server.process = None
                server.start()
            psycopg.connect(server.url("postgres"), connect_timeout=5).close()
        except (psycopg.OperationalError, CallpoolError):
            return False
        return True

    eventually(answers)


def mended(server: Cluster, manager: Running, device: Device) -> None:
    """Bring the server back, and see that all goes on."""
    back(server)
    eventually(lambda: allocate(manager, 20) == "")
    eventually(lambda: refused(device) == "")
    assert device.counts(device.contact()) == {"sbc_sessions": 20}
    manager.site.check_sums()


def test_a_full_disk_under_postgresql_refuses_by_name_and_goes_on_when_there_is_room(
    server: Cluster, site: Site, disk: Path
) -> None:
    with running(site) as manager:
        device = pool_of(manager)
        filler = disk / "filler"
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as out:
            while True:
                out.write(b"\0" * 65536)
        # Its log has segments laid by: somebody else's writes use them up.
        with contextlib.suppress(psycopg.Error), psycopg.connect(server.url("postgres")) as other:
            for _ in range(200):
                other.execute("SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000000))")
        last = 10
        for count in range(11, 60):
            code = allocate(manager, count)
            if code:
                break
            last = count
        assert code == "database_unusable"
        assert refused(device) == "database_unusable"
        filler.unlink()
        back(server)
        # What was answered is there, and nothing of what was not.
        assert target(site) == last
        mended(server, manager, device)


def test_a_disk_that_fails_to_sync_under_postgresql_is_named_and_nothing_answered_is_lost(
    server: Cluster, site: Site
) -> None:
    assert server.process is not None
    with running(site) as manager:
        device = pool_of(manager)
        with ill_disk(server.process.pid):
            # PostgreSQL ends itself rather than go on by a log that may not be on disk.
            assert eventually(lambda: allocate(manager, 30)) == "database_unusable"
            assert refused(device) == "database_unusable"
        eventually(lambda: not alive(server) or refused(device) == "")
        back(server)
        # Not answered: done or not, but whole.
        assert target(site) in (10, 30)
        site.check_sums()
        mended(server, manager, device)


def test_a_postgresql_that_only_reads_is_named_and_reading_goes_on(
    server: Cluster, site: Site
) -> None:
    def only_reads(on: bool) -> None:
        with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
            admin.execute(f"ALTER SYSTEM SET default_transaction_read_only = {on}")
            admin.execute("SELECT pg_reload_conf()")

    with running(site) as manager:
        device = pool_of(manager)
        only_reads(True)
        try:
            given = [10]

            def asked() -> str:
                code = allocate(manager, 30)
                if not code:  # a connection that has not read its new configuration yet
                    given.append(30)
                return code

            assert eventually(asked) == "database_unusable"
            assert eventually(lambda: refused(device)) == "database_unusable"
            assert manager.pool()["devices"]
            assert target(site) == given[-1]
        finally:
            only_reads(False)
        mended(server, manager, device)


def test_a_corrupt_page_under_postgresql_is_named_and_grants_nothing(
    server: Cluster, site: Site
) -> None:
    with running(site) as manager:
        device = pool_of(manager)
        assert manager.stop() == 0
    file = server.data / site.sql("SELECT pg_relation_filepath('holding')")[0][0]
    server.stop()
    whole = file.read_bytes()
    file.write_bytes(os.urandom(8192) + whole[8192:])
    server.start()
    with running(site) as manager:
        again = manager.bare(device.serial, device.key)
        again.value, again.keys, again.anchor = device.value, device.keys, device.anchor
        again.remote, again.applied = device.remote, device.applied
        assert refused(again) == "database_unusable"
        assert allocate(manager, 20) == "database_unusable"
        server.stop(signal.SIGQUIT)
        file.write_bytes(whole)
        server.start()
        mended(server, manager, again)


def test_a_log_of_postgresql_that_lost_its_end_reads_as_after_some_whole_change(
    server: Cluster, site: Site
) -> None:
    states = [10]
    with running(site) as manager:
        pool_of(manager)
        with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
            admin.execute("CHECKPOINT")
            name, begin = admin.execute(
                "SELECT pg_walfile_name(l), CAST(l - '0/0' AS bigint) FROM pg_current_wal_lsn() l"
            ).fetchone() or ("", 0)
        for count in (25, 5, 60, 1, 33, 44):
            assert allocate(manager, count) == ""
            states.append(count)
        with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
            (end,) = admin.execute(
                "SELECT CAST(pg_current_wal_lsn() - '0/0' AS bigint)"
            ).fetchone() or (0,)
        manager.kill()
    server.stop(signal.SIGKILL)
    kept = server.directory / "kept"
    eventually(lambda: gone(server))
    subprocess.run(["cp", "-a", str(server.data), str(kept)], check=True)
    segment = 16 << 20
    seen = set()
    for part in (0.15, 0.5, 0.8, 1.0):
        subprocess.run(["rm", "-rf", str(server.data)], check=True)
        subprocess.run(["cp", "-a", str(kept), str(server.data)], check=True)
        at = int(begin + (end - begin) * part)
        assert begin // segment == end // segment
        with (server.data / "pg_wal" / name).open("r+b") as log:
            log.seek(at % segment)
            log.write(os.urandom(min(4096, segment - at % segment)))
        server.start()
        seen.add(target(site))
        site.check_sums()
        server.stop(signal.SIGKILL)
        eventually(lambda: gone(server))
    assert seen <= set(states)
    assert 44 in seen
    assert len(seen) > 1
    server.start()


def gone(server: Cluster) -> bool:
    """Tell whether every process of the server has ended."""
    for pid in [p for p in Path("/proc").iterdir() if p.name.isdigit()]:
        with contextlib.suppress(OSError):
            if os.readlink(pid / "cwd") == str(server.data):
                return False
    return True
