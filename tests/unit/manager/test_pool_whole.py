"""The pool as a whole stays an answer of bounded size, whatever the number of devices."""

from __future__ import annotations

from pathlib import Path

from callpool.manager import views
from callpool.manager.paging import MOST
from callpool.manager.store.database import Database
from callpool.manager.store.tx import Tx


def test_of_very_many_devices_the_first_are_shown_and_all_are_counted(tmp_path: Path) -> None:
    made = Database(tmp_path / "manager.db")
    made.migrate()

    def fill(tx: Tx) -> None:
        tx.run("INSERT INTO tenant (tenant_id, name) VALUES (1, 'one')")
        for n in range(MOST + 5):
            tx.run(
                "INSERT INTO device (device_id, name, tenant_id, apply, mode, added_at)"
                " VALUES (:n, :name, 1, 'live', 'fixed', 0)",
                n=n, name=f"sbc-{n:05}",
            )  # fmt: skip
            tx.run("INSERT INTO unit (serial, device_id, role) VALUES (:s, :n, 0)", s=f"S{n}", n=n)

    made.write(fill)
    shown = made.read(lambda tx: views.whole_pool(tx, 0.0))
    assert shown["devices_total"] == MOST + 5
    assert [d["name"] for d in shown["devices"]] == [f"sbc-{n:05}" for n in range(MOST)]
    made.close()
