"""The seed: what Kamailio reads before it opens its first socket.

htable and usrloc read these tables when their modules start, so no packet is judged before
the calls in progress are counted again. Written in one transaction beside the old file and
moved over it: Kamailio never sees half of one.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from callpool.device.gate.calls import Contact

#: htable's value types: 0 is a string, 1 an integer.
_STRING: Final = 0
_INT: Final = 1

_TABLES: Final = ("cp_calls", "cp_cnt", "cp_pol", "cp_users", "cp_ref", "cp_ha1")

#: usrloc's table, version 9 (Kamailio 5.6), times as integers (`expires_type` 1).
_LOCATION: Final = """
CREATE TABLE location (
  id INTEGER PRIMARY KEY NOT NULL, ruid VARCHAR(64) NOT NULL UNIQUE,
  username VARCHAR(64) NOT NULL, domain VARCHAR(64), contact VARCHAR(512) NOT NULL,
  received VARCHAR(128), path VARCHAR(512), expires BIGINT NOT NULL, q REAL NOT NULL,
  callid VARCHAR(255) NOT NULL, cseq INTEGER NOT NULL, last_modified BIGINT NOT NULL,
  flags INTEGER NOT NULL, cflags INTEGER NOT NULL, user_agent VARCHAR(255) NOT NULL,
  socket VARCHAR(64), methods INTEGER, instance VARCHAR(255), reg_id INTEGER NOT NULL,
  server_id INTEGER NOT NULL, connection_id INTEGER NOT NULL, keepalive INTEGER NOT NULL,
  partition INTEGER NOT NULL)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seed:
    """All that a new Kamailio starts from."""

    policy: str
    calls: Mapping[str, int] = field(default_factory=dict)
    users: Mapping[str, tuple[Contact, ...]] = field(default_factory=dict)
    #: HA1 by user name.
    secrets: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, int] = field(default_factory=dict)
    gen: int = 1
    seq: int = 0
    tick: int = 1
    admitted: int = 0
    #: Sessions counted as used that nobody can name, and the tick at which they are given up.
    uncertain: int = 0
    uncertain_until: int = 0
    #: Whether this unit of a pair has the service address.
    serving: bool = False

    def counters(self) -> dict[str, int]:
        """Return the rows of cp_cnt: the counters agree with the keys by construction."""
        emergency = sum(v & 1 for v in self.calls.values())
        seq = self.seq - (1 << 32) if self.seq >= 1 << 31 else self.seq
        return {
            "s": len(self.calls) - emergency + self.uncertain, "e": emergency,
            "u": len(self.users), "up": self.tick, "seq": seq, "gen": self.gen,
            "adm": self.admitted, "ph": self.uncertain, "phend": self.uncertain_until,
            "boot": self.tick, "act": int(self.serving),
        }  # fmt: skip


def write_seed(path: Path, seed: Seed) -> None:
    """Write the seed database in place of the old one. Raises OSError or sqlite3.Error."""
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    os.close(os.open(fresh, os.O_CREAT | os.O_WRONLY, 0o600))
    with closing(sqlite3.connect(fresh, isolation_level=None)) as db:
        # A crash while it is written leaves the old file in place: no journal is needed.
        db.execute("PRAGMA journal_mode=OFF")
        db.execute("PRAGMA synchronous=OFF")
        db.execute("BEGIN")
        db.execute("CREATE TABLE version (table_name VARCHAR(32), table_version INTEGER)")
        for table in _TABLES:
            db.execute(
                f"CREATE TABLE {table} (id INTEGER PRIMARY KEY NOT NULL, key_name VARCHAR(256),"
                " key_type INTEGER, value_type INTEGER, key_value VARCHAR(4096),"
                " expires INTEGER)"
            )
            db.execute("INSERT INTO version VALUES (?, 2)", (table,))
        _fill(db, "cp_calls", _INT, seed.calls.items())
        _fill(db, "cp_cnt", _INT, seed.counters().items())
        _fill(db, "cp_ref", _INT, seed.refused.items())
        _fill(db, "cp_users", _INT, ((aor, 1) for aor in seed.users))
        _fill(db, "cp_ha1", _STRING, seed.secrets.items())
        if seed.policy:
            _fill(db, "cp_pol", _STRING, [("p", seed.policy)])
        db.execute(_LOCATION)
        db.execute("INSERT INTO version VALUES ('location', 9)")
        for aor, contacts in seed.users.items():
            for contact in contacts:
                _contact(db, aor, contact)
        db.execute("COMMIT")
    fresh.replace(path)


def _fill(
    db: sqlite3.Connection, table: str, kind: int, rows: Iterable[tuple[str, str | int]]
) -> None:
    db.executemany(
        f"INSERT INTO {table} (key_name, key_type, value_type, key_value, expires)"  # noqa: S608
        # As bytes: what came off the wire need not be UTF-8.
        " VALUES (CAST(? AS TEXT), 0, ?, CAST(? AS TEXT), 0)",
        ((_bytes(key), kind, _bytes(str(value))) for key, value in rows),
    )


def _bytes(text: str) -> bytes:
    return text.encode(errors="surrogateescape")


def _contact(db: sqlite3.Connection, aor: str, c: Contact) -> None:
    user, _, domain = aor.partition("@")
    q = float(c.q) if c.q.replace(".", "", 1).isdigit() else -1.0
    db.execute(
        "INSERT OR REPLACE INTO location (ruid, username, domain, contact, received, path,"
        " expires, q, callid, cseq, last_modified, flags, cflags, user_agent, socket, methods,"
        " instance, reg_id, server_id, connection_id, keepalive, partition)"
        " VALUES (?,?,?,CAST(? AS TEXT),?,CAST(? AS TEXT),?,?,CAST(? AS TEXT),?,?,?,?,'n/a',?,?,"
        "NULL,0,0,-1,0,0)",
        (c.ruid, user, domain, _bytes(c.address), c.received or None,
         _bytes(c.path) if c.path else None, c.expires, q, _bytes(c.callid),
         c.cseq, 0, c.flags, c.cflags, c.socket or None,
         c.methods if 0 < c.methods < 1 << 31 else None),
    )  # fmt: skip
