"""The desk of steady contacts on a real database: what is one sender's fault costs only it."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import managerkit
import psycopg
import pytest
from managerkit import Device, Running, Site, running

from callpool.lab.postgres import Cluster
from callpool.licensing.errors import CallpoolError, LicenseError
from callpool.manager import steady
from callpool.manager.core import Manager
from callpool.manager.device_api import ContactDesk
from callpool.manager.store.scope import WHOLE
from callpool.wire.envelope import CONTACT, read, sign, unverified
from callpool.wire.messages import ContactReply


def known_as(envelope: str, kid: str) -> bytes:
    """Return an envelope whose unverified header names its key so."""
    head, _, rest = envelope.partition(".")
    header = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    raw = json.dumps({**header, "kid": kid}).encode()
    return f"{base64.urlsafe_b64encode(raw).decode().rstrip('=')}.{rest}".encode()


def two_of(manager: Running) -> list[Device]:
    """Return two devices that have what is allocated to them: their contacts are steady."""
    manager.import_order(manager.site.order("PO-1", sbc_sessions=100))
    made = []
    for name in ("a", "b"):
        manager.add(name, f"SN-{name}", apply="live")
        manager.call("PUT", f"/devices/{name}/allocation", {"sbc_sessions": 10})
        device = manager.device(f"SN-{name}")
        for _ in range(3):
            device.contact()
        made.append(device)
    return made


@pytest.mark.usefixtures("engine")
def test_what_one_sender_says_fails_for_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path / "manager", lab_clock="")
    with running(site) as manager:
        a, b = two_of(manager)
        own = Manager(site.layout)
        try:
            desk = ContactDesk(own, frozenset({manager.url}))
            sent = [sign(d.key, CONTACT, d.request()) for d in (a, b)]
            # What no key is called by spoils the question for nobody else.
            for kid in ("\0", "a\0b", "ü", "\n", ""):
                first, second = desk._open_and_take([known_as(sent[0], kid), sent[1].encode()])
                assert isinstance(first, Exception), kid
                assert not isinstance(second, Exception)
                asked, reply = second
                assert asked.request.serial == "SN-b"
                # The first of them was taken; the same again is no steady contact any more.
                assert bool(reply) is (kid == "\0")
                if reply:
                    b.take(read(unverified(reply), ContactReply))

            # Where the database takes the batch from nobody, each goes by itself.
            def refuses(*_: object) -> list[str]:
                raise LicenseError("bad_request", "Not this.")

            with monkeypatch.context() as patched:
                patched.setattr(steady, "take", refuses)
                (found,) = desk._open_and_take([sent[0].encode()])
                assert not isinstance(found, Exception)
                asked, reply = found
                assert reply == ""
            a.take(read(unverified(desk._alone(asked, "here")), ContactReply))
            for device in (a, b):
                assert device.contact().status == "managed"
        finally:
            own.close()


def test_a_batch_outlives_the_connections_that_it_finds_broken(tmp_path: Path, engine: str) -> None:
    site = Site(tmp_path / "manager", lab_clock="")
    with running(site) as manager:
        a, b = two_of(manager)
        own = Manager(site.layout)
        try:
            desk = ContactDesk(own, frozenset({manager.url}))
            for round_ in range(3):
                if engine == "postgresql":
                    several = [own.database._store.writer.connect() for _ in range(3)]
                    for opened in several:  # all of them are broken, not only the next
                        opened.exec_driver_sql("SELECT 1")
                        opened.close()
                    place = str(site.layout.database_place()).replace("+psycopg", "")
                    with psycopg.connect(place) as connection:
                        connection.execute(
                            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                        )
                sent = [sign(d.key, CONTACT, d.request()).encode() for d in (a, b)]
                for device, found in zip((a, b), desk._open_and_take(sent), strict=True):
                    assert not isinstance(found, Exception), round_
                    assert found[1], "it is steady"
                    device.take(read(unverified(found[1]), ContactReply))
        finally:
            own.close()


def test_a_commit_whose_answer_is_lost_is_not_sent_again(
    tmp_path: Path, postgres: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(managerkit, "new_database", postgres.database)
    site = Site(tmp_path / "manager", lab_clock="")
    own = Manager(site.layout)
    done = 0

    def work() -> None:
        nonlocal done
        done += 1
        with own.database._begin(own.database._store.writer, WHOLE) as tx:
            tx.later("SELECT 1")  # the first that goes with the commit only reads
            tx.set_meta("tried", str(done))

    real = psycopg.Connection.commit

    def lost(connection: psycopg.Connection[Any]) -> None:
        real(connection)
        if done:
            connection.close()
            raise psycopg.OperationalError("the connection is lost")

    try:
        own.change("tester", "here", lambda change: None)
        with monkeypatch.context() as patched:
            patched.setattr(psycopg.Connection, "commit", lost)
            with pytest.raises(CallpoolError) as refused:
                own.database._tried(work)
        assert refused.value.code == "database_unusable"
        assert done == 1
        assert own.database.read(lambda tx: tx.meta("tried")) == "1"
    finally:
        own.close()
