"""Laws 1 and 5 with real processes: two managers at once, and kill -9 at any instant."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import httpx
import managerkit
import pytest
from managerkit import MAIN, Device, Running, Site, cli, running


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "manager")


def test_two_managers_allocating_at_once_never_exceed(site: Site) -> None:
    names = [f"d{n}" for n in range(6)]
    with running(site) as one, running(site) as two:
        one.import_order(site.order("PO-1", sbc_sessions=20, far_end_users=13))
        one.import_order(site.order("PO-2", sbc_sessions=11))
        for name in names:
            one.add(name, name.upper())
        refused: list[str] = []
        broken: list[object] = []

        def operate(number: int) -> None:
            dice = random.Random(number)
            with (one if number % 2 else two).client() as http:
                for _ in range(15):
                    body = {
                        "sbc_sessions": dice.randrange(0, 14),
                        "far_end_users": dice.randrange(0, 5),
                    }
                    reply = http.put(f"/api/v1/devices/{dice.choice(names)}/allocation", json=body)
                    if reply.status_code == 409:
                        refused.append(reply.json()["detail"])
                    elif reply.status_code != 200:
                        broken.append(reply.text)

        threads = [threading.Thread(target=operate, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            site.check_sums()
            time.sleep(0.01)
        for thread in threads:
            thread.join()
        assert not broken
        assert refused
        assert not any("database" in sentence for sentence in refused)
        site.check_sums()
        held = one.pool()["types"]["sbc_sessions"]["held"]
        targets = site.sql("SELECT sum(target) FROM allocation WHERE type = 'sbc_sessions'")[0][0]
        assert held == targets <= 31


def test_kill_9_at_random_points_loses_nothing_that_was_answered(site: Site) -> None:
    dice = random.Random(7)
    names = {"a": "A1", "b": "B1"}
    devices: dict[str, Device] = {}
    answered: dict[str, int] = {}
    pending: dict[str, object] = {}
    manager = Running(site)
    listen = f"127.0.0.1:{manager.port}"
    try:
        manager.import_order(site.order("PO-1", sbc_sessions=40))
        for name, serial in names.items():
            manager.add(name, serial, apply="live")
            devices[name] = manager.device(serial)
        for round_ in range(6):
            stop, begun = threading.Event(), threading.Event()

            def operate(
                running_: Running = manager,
                stop: threading.Event = stop,
                begun: threading.Event = begun,
            ) -> None:
                with running_.client() as http:
                    while not stop.is_set():
                        name, count = dice.choice(list(names)), dice.randrange(1, 21)
                        try:
                            reply = http.put(
                                f"/api/v1/devices/{name}/allocation", json={"sbc_sessions": count}
                            )
                        except httpx.HTTPError:
                            answered.pop(name, None)  # done or not: both are right
                            return
                        if reply.status_code == 200:
                            answered[name] = count
                        begun.set()

            def call(name: str, stop: threading.Event = stop) -> None:
                device = devices[name]
                while not stop.is_set():
                    request = pending.get(name) or device.request()
                    pending[name] = request
                    try:
                        device.take(device.send(request))  # type: ignore[arg-type]
                    except httpx.HTTPError:
                        return
                    del pending[name]

            threads = [threading.Thread(target=operate)]
            threads += [threading.Thread(target=call, args=(name,)) for name in names]
            for thread in threads:
                thread.start()
            assert begun.wait(60), "nothing was done that could be lost"
            time.sleep(dice.random() * 0.4)  # the instant of the power cut, not a wait
            stopping = round_ == 5
            if stopping:
                stop.set()
            manager.process.kill()
            manager.process.wait()
            for thread in threads:
                thread.join()
            manager.http.close()
            assert manager.process.stdout is not None
            manager.process.stdout.close()
            site.check_sums()
            before = manager.devices
            manager = Running(site, listen)
            manager.devices = before
            for device in devices.values():
                device.moved(manager)
        for name, device in devices.items():
            if name in pending:
                device.take(device.send(pending[name]))  # type: ignore[arg-type]
            device.contact()
            device.contact()
            assert manager.unit(device.serial)["locked"] is None
            if name in answered:
                target = manager.pool()["devices"][["a", "b"].index(name)]["allocation"]
                assert target["sbc_sessions"] == answered[name]
        site.check_sums()
        assert site.sql("SELECT 1 FROM grant_journal")
        for serial, version, sent in site.sql(
            "SELECT serial, grant_version, sent_version FROM unit"
        ):
            journalled = site.sql(
                f"SELECT max(version) FROM grant_journal WHERE serial = '{serial}'"  # noqa: S608
            )[0][0]
            assert sent == journalled
            assert (sent or 0) <= version
    finally:
        manager.kill()


def test_what_cannot_be_started_says_why_in_one_sentence(site: Site, tmp_path: Path) -> None:
    with running(site) as manager:
        taken = (
            "run",
            "--dir",
            str(site.layout.directory),
            "--listen",
            f"127.0.0.1:{manager.port}",
        )
        cases: list[tuple[tuple[str, ...], str]] = [(taken, "port_in_use")]
        broken = Site(tmp_path / "broken")
        if managerkit.new_database is None:
            broken.layout.database.write_bytes(b"not a database" * 100)
        else:
            broken.layout.database_url.write_text("postgresql+psycopg://a:hidden@127.0.0.1:1/b")
        damaged = Site(tmp_path / "damaged")
        damaged.layout.settings.write_text("{")
        cases += [
            (("run", "--dir", str(tmp_path / "nowhere")), "no_manager"),
            (("run", "--dir", str(broken.layout.directory)), "database_unusable"),
            (("run", "--dir", str(damaged.layout.directory)), "bad_settings"),
            (("run", "--dir", str(site.layout.directory), "--listen", "x"), "bad_listen"),
            (("init", "--dir", str(site.layout.directory)), "manager_exists"),
        ]
        for words, code in cases:
            status, _, error = cli(MAIN, *words)
            assert status == 1, error
            assert "hidden" not in error
            assert f"[{code}]" in error
            assert error.strip().count("\n") == 0


def test_init_makes_a_manager_and_prints_no_password(tmp_path: Path) -> None:
    directory = tmp_path / "fresh"
    status, out, error = cli(
        MAIN, "init", "--dir", str(directory), "--listen", "127.0.0.1:0", "--host", "sbc.example"
    )
    assert status == 0, error
    password = (directory / "admin.password").read_text().strip()
    assert password not in out
    assert (directory / "admin.password").stat().st_mode & 0o777 == 0o600
    for file in directory.glob("identity/*key*.pem"):
        assert file.stat().st_mode & 0o777 == 0o600
    product_key = cli(MAIN, "product-key", "--dir", str(directory))[1].strip()
    assert product_key in out
