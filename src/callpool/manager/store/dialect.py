"""The one place where SQLite and PostgreSQL differ in what a statement says.

A named query or a migration is written once. What to write, so that it runs on both:

| instead of | write |
| --- | --- |
| `IN (SELECT value FROM json_each(:list))` | `IN TEXTS(:list)`, `IN NUMBERS(:list)`: JSON |
| `a IS b`, `a IS NOT :b` | `a IS NOT DISTINCT FROM b`, `a IS DISTINCT FROM :b` |
| `DO UPDATE SET n = n + excluded.n` | the table's name before the old value: `t.n + excluded.n` |
| `INSERT OR IGNORE`, `OR REPLACE` | `ON CONFLICT ... DO NOTHING`, `DO UPDATE` |
| `FROM (SELECT ...)` | with a name: `FROM (SELECT ...) AS s` |
| `SELECT a, max(b) ... GROUP BY c` | every column that is no sum stands in `GROUP BY` |
| `CREATE TRIGGER` | `dialect.trigger(...)`, whose body is written once |
| `VALUES (...), (...)` of many rows | `FROM ROWS(:rows; serial text, at integer)`: JSON, as `r` |
| `FOR UPDATE` | `LOCKED(u)` at a query's end: the rows of `u` until the transaction ends |
| `LIMIT -1`, `rowid`, `sqlite_master`, `:flag = 1` of a boolean | not at all |

These may be written as SQLite has them, and are turned here or are functions that the first
migration makes on PostgreSQL (`FUNCTIONS`): `LIKE` without regard to case, `CAST(x AS REAL)`,
`json_group_object(a, b)`, `instr`, `json_extract(text, '$.name')` of a text, `json_valid`, and
`max(a, b)`, `min(a, b)` of two values (where one is NULL, PostgreSQL takes the other: use
`coalesce`). Texts sort by their bytes on both (`COLLATE "C"`), so NULL is the one thing that
sorts otherwise: first on SQLite, last on PostgreSQL; `ORDER BY x IS NOT NULL, x` is the same.
A parameter whose type nothing tells (`:x IS NULL`) is written `CAST(:x AS TEXT) IS NULL`.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import CreateColumn

#: The name of PostgreSQL's dialect.
POSTGRESQL: Final = "postgresql"

_LISTS: Final = re.compile(r"\b(NOT )?IN (TEXTS|NUMBERS)\((:[a-z_]+)\)")
_ON_SQLITE: Final = r"\1IN (SELECT value FROM json_each(\3))"
_ON_POSTGRESQL: Final = {
    "TEXTS": "(ARRAY(SELECT jsonb_array_elements_text(CAST({} AS jsonb))))",
    "NUMBERS": "(ARRAY(SELECT CAST(jsonb_array_elements_text(CAST({} AS jsonb)) AS bigint)))",
}
_ROWS: Final = re.compile(r"\bROWS\((:[a-z_]+); ([a-z_, ]+)\)")
_LOCKED: Final = re.compile(r" LOCKED\(([a-z]+)\)")
_KINDS: Final = {"integer": "bigint", "real": "double precision", "text": "text"}
_TURNED: Final = (
    # Marks of what a transaction has touched are no rows there (`touch` below).
    (
        re.compile(
            r"INSERT INTO (device|unit)_touched \((?:device_id|serial)\) VALUES \(([A-Za-z_.]+)\)"
            r" ON CONFLICT \((?:device_id|serial)\) DO NOTHING"
        ),
        r"PERFORM touch('\1', CAST(\2 AS text))",
    ),
    (
        re.compile(
            r"INSERT INTO device_touched \(device_id\) SELECT device_id( FROM unit"
            r" WHERE serial = [A-Za-z_.]+) ON CONFLICT \(device_id\) DO NOTHING"
        ),
        r"PERFORM touch('device', CAST(device_id AS text))\1",
    ),
    (re.compile(r"\bLIKE\b"), "ILIKE"),
    (re.compile(r"\bAS REAL\)"), "AS DOUBLE PRECISION)"),
    (
        re.compile(r"\bjson_group_object\(([^()]*)\)"),
        r"CAST(json_object_agg(\1) AS TEXT)",
    ),
    (
        re.compile(r"\bdevice_touched x\b"),
        "unnest(CAST(:touched AS bigint[])) AS x (device_id)",
    ),
)

_COLUMN: Final = (
    (re.compile(r" TEXT\b"), ' TEXT COLLATE "C"'),
    (re.compile(r" INTEGER\b"), " BIGINT"),
    (re.compile(r" SERIAL\b"), " BIGSERIAL"),
)

#: What PostgreSQL lacks, as functions in the manager's own schema.
FUNCTIONS: Final = (
    """
    CREATE OR REPLACE FUNCTION max(anycompatible, anycompatible) RETURNS anycompatible
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT GREATEST($1, $2)'
    """,
    """
    CREATE OR REPLACE FUNCTION min(anycompatible, anycompatible) RETURNS anycompatible
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT LEAST($1, $2)'
    """,
    """
    CREATE OR REPLACE FUNCTION instr(text, text) RETURNS integer
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT strpos($1, $2)'
    """,
    """
    CREATE OR REPLACE FUNCTION json_extract(document text, path text) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS 'SELECT CAST($1 AS json) ->> substr($2, 3)'
    """,
    """
    CREATE OR REPLACE FUNCTION json_valid(document text) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
    BEGIN
      PERFORM CAST(document AS json);
      RETURN document IS NOT NULL;
    EXCEPTION WHEN data_exception THEN
      RETURN FALSE;
    END $$
    """,
    # What a transaction touches is noted in a setting that ends with it: a table of marks would
    # be written and emptied by every contact. Only what is too much for it goes into the table.
    """
    CREATE OR REPLACE FUNCTION touch(what text, it text) RETURNS void LANGUAGE plpgsql AS $$
    DECLARE
      setting text := 'callpool.touched_' || what;
      noted text := coalesce(current_setting(setting, TRUE), '');
    BEGIN
      IF noted = '' THEN
        PERFORM set_config(setting, E'\n' || it || E'\n', TRUE);
      ELSIF strpos(noted, E'\n' || it || E'\n') > 0 THEN
        RETURN;
      ELSIF length(noted) < 2000 THEN
        PERFORM set_config(setting, noted || it || E'\n', TRUE);
      ELSIF what = 'device' THEN
        INSERT INTO device_touched (device_id) VALUES (CAST(it AS bigint))
          ON CONFLICT (device_id) DO NOTHING;
      ELSE
        INSERT INTO unit_touched (serial) VALUES (it) ON CONFLICT (serial) DO NOTHING;
      END IF;
    END $$
    """,
)


@lru_cache(maxsize=1024)
def turned(statement: str, dialect: str) -> str:
    """Return a statement as `dialect` (`sqlite` or `postgresql`) takes it."""
    if dialect != POSTGRESQL:
        statement = _LISTS.sub(_ON_SQLITE, statement)
        return _LOCKED.sub("", _ROWS.sub(_rows_on_sqlite, statement))
    statement = _LISTS.sub(_list, statement)
    statement = _LOCKED.sub(r" FOR NO KEY UPDATE OF \1", _ROWS.sub(_rows, statement))
    for pattern, instead in _TURNED:
        statement = pattern.sub(instead, statement)
    return statement


def _list(found: re.Match[str]) -> str:
    return ("<> ALL " if found[1] else "= ANY ") + _ON_POSTGRESQL[found[2]].format(found[3])


def _rows(found: re.Match[str]) -> str:
    columns = (column.split() for column in found[2].split(", "))
    kinds = ", ".join(f"{name} {_KINDS[kind]}" for name, kind in columns)
    return f"json_to_recordset(CAST({found[1]} AS json)) AS r ({kinds})"


def _rows_on_sqlite(found: re.Match[str]) -> str:
    names = (column.split()[0] for column in found[2].split(", "))
    values = ", ".join(f"json_extract(value, '$.{name}') AS {name}" for name in names)
    return f"(SELECT {values} FROM json_each({found[1]})) AS r"  # noqa: S608  words of ours


def trigger(
    connection: sa.Connection, name: str, when: str, body: str, *, condition: str = ""
) -> None:
    """Make a trigger for each row: `when` such as `AFTER INSERT ON unit`, `body` its statements.

    `body` and `condition` speak of OLD and NEW.
    """
    only = f" WHEN ({condition})" if condition else ""
    if connection.dialect.name != POSTGRESQL:
        connection.exec_driver_sql(f"CREATE TRIGGER {name} {when}{only} BEGIN {body} END")
        return
    body = turned(body, POSTGRESQL)
    connection.exec_driver_sql(
        f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN {body} RETURN NULL; END $$"
    )
    connection.exec_driver_sql(
        f"CREATE TRIGGER {name} {when} FOR EACH ROW{only} EXECUTE FUNCTION {name}()"
    )


def drop_trigger(connection: sa.Connection, name: str, table: str) -> None:
    """Drop what `trigger` made on `table`."""
    if connection.dialect.name != POSTGRESQL:
        connection.exec_driver_sql(f"DROP TRIGGER {name}")
    else:
        connection.exec_driver_sql(f"DROP TRIGGER {name} ON {table}")
        connection.exec_driver_sql(f"DROP FUNCTION {name}()")


@compiles(CreateColumn, POSTGRESQL)
def _column(element: CreateColumn, compiler: Any, **more: Any) -> str:
    """Let a new table's texts sort by their bytes and its numbers be as long as SQLite's."""
    text = str(compiler.visit_create_column(element, **more))
    for pattern, instead in _COLUMN:
        text = pattern.sub(instead, text, count=1)
    return text


#: What a transaction has touched so far, a line each: of the settings and of the tables.
TOUCHED: Final = "SELECT " + ", ".join(  # noqa: S608  words of ours
    f"coalesce(current_setting('callpool.touched_{what}', TRUE), '') ||"  # noqa: S608
    f" coalesce((SELECT string_agg(CAST({column} AS text), E'\\n') FROM {what}_touched), '')"
    f" AS {what}"
    for what, column in (("device", "device_id"), ("unit", "serial"))
)
