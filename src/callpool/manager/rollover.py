"""How far a rollover of keys or of the certificate authority has reached the devices."""

from __future__ import annotations

from callpool.manager.identity import Identity
from callpool.manager.store.tx import Tx


def key_set_known(tx: Tx, identity: Identity) -> tuple[int, int]:
    """Return how many units and product instances do not know the key set of now, and do.

    One knows it once it has made a contact after the reply that brought it. A unit that is locked
    or not enrolled is told at its next enrolment.
    """
    serial = identity.key_book().serial
    row = tx.row(
        "SELECT coalesce(sum(CASE WHEN known < :serial THEN 1 ELSE 0 END), 0) AS behind,"
        " count(*) AS total FROM ("
        " SELECT keys_known AS known FROM unit WHERE state = 'active' AND kid IS NOT NULL"
        " AND locked IS NULL UNION ALL"
        " SELECT keys_known AS known FROM product_instance WHERE state = 'registered'"
        " AND locked IS NULL) AS told",
        serial=serial,
    )
    assert row is not None  # an aggregate has one row
    return int(row["behind"]), int(row["total"]) - int(row["behind"])
