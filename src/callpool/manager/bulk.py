"""Bulk changes from a CSV or JSON file: every row is carried out, or nothing is.

A row names a device and what is to change of it: its count per license type, its tenant, how it
applies. A field that is empty or missing stays as it is. Rows that give back come before rows
that take, whatever their order in the file; `export` writes the same form.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from callpool.licensing.capacity import POOL_TYPES, check_count
from callpool.licensing.errors import LicenseError
from callpool.manager import requests
from callpool.manager.change import Change
from callpool.manager.inventory import change_device, check_apply, device_by_name, tenant_by_name
from callpool.manager.ledger import holdings, targets, units_of
from callpool.manager.pools import allocate
from callpool.manager.store.tx import Tx

#: The most rows of one file; a body of the API bounds its bytes as well.
MAX_ROWS: Final = 2_000
#: The fields of a row, in the order of an export.
FIELDS: Final = ("device", *POOL_TYPES, "tenant", "apply")
_MOST_DIGITS: Final = 15
_TEXTS: Final = ("device", "tenant", "apply")


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkRow:
    """One row."""

    #: The row's number, from 1; a CSV file's heading is not counted.
    number: int
    device: str
    #: What the device is to have, of the types that the row names.
    counts: Mapping[str, int] = field(default_factory=dict)
    tenant: str | None = None
    apply: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkDone:
    """What a bulk change did."""

    #: How many rows were carried out.
    rows: int
    #: Notes for people, such as what a device's maximum leaves unused.
    notes: list[str]
    #: Devices whose new share waits in the queue of requests.
    waiting: list[str]


def bad_row(number: int, device: object, sentence: str) -> LicenseError:
    """Return the refusal `bad_row` that names a row and its device."""
    named = f" ({device[:64]})" if isinstance(device, str) and device else ""
    return LicenseError("bad_row", f"Row {number}{named}: {sentence} Nothing was changed.")


def _bad_file(sentence: str) -> LicenseError:
    return LicenseError("bad_bulk_file", sentence)


def utf8(raw: bytes) -> str:
    """Return a file's text; raises LicenseError `bad_bulk_file`."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise _bad_file("The file is not UTF-8 text.") from error


def read_csv(text: str) -> list[BulkRow]:
    """Read CSV with a heading of FIELDS, in any order; `device` must be among them.

    Raises LicenseError `bad_bulk_file` or `bad_row`.
    """
    lines = csv.reader(io.StringIO(text.removeprefix("\ufeff")), strict=True)
    try:
        heading = [name.strip() for name in next(lines, [])]
        unknown = [name for name in heading if name not in FIELDS]
        if unknown or "device" not in heading or len(set(heading)) != len(heading):
            raise _bad_file(
                f"The first line names the columns: device, and any of {', '.join(FIELDS[1:])}."
            )
        found = [cells for cells in lines if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise _bad_file(f"The file is not well-formed CSV: {error}.") from error
    _check_length(len(found))
    rows = []
    for number, cells in enumerate(found, 1):
        if len(cells) != len(heading):
            raise bad_row(
                number, cells[0], f"It has {len(cells)} fields, the heading {len(heading)}."
            )
        given = {k: v.strip() for k, v in zip(heading, cells, strict=True) if v.strip()}
        fields: dict[str, object] = dict(given)
        for kind in POOL_TYPES:
            # Only plain digits are a count; anything else is refused as it stands.
            text = given.get(kind, "")
            if text.isascii() and text.isdecimal() and len(text) <= _MOST_DIGITS:
                fields[kind] = int(text)
        rows.append(_row(number, fields))
    return rows


def read_json(raw: bytes) -> list[BulkRow]:
    """Read a JSON list of rows, or an object with it as `devices`.

    Raises LicenseError `bad_bulk_file` or `bad_row`.
    """
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _bad_file("The file is not well-formed JSON.") from error
    if isinstance(value, dict) and set(value) == {"devices"}:
        value = value["devices"]
    if not isinstance(value, list):
        raise _bad_file("The file is a list of rows, or an object with it as devices.")
    _check_length(len(value))
    rows = []
    for number, fields in enumerate(value, 1):
        if not isinstance(fields, dict):
            raise bad_row(number, "", "It is not an object.")
        rows.append(_row(number, {k: v for k, v in fields.items() if v is not None}))
    return rows


def _check_length(rows: int) -> None:
    if not 1 <= rows <= MAX_ROWS:
        raise _bad_file(f"A file has 1 to {MAX_ROWS} rows, not {rows}.")


def _row(number: int, fields: Mapping[str, object]) -> BulkRow:
    device = fields.get("device")
    unknown = [name for name in fields if name not in FIELDS]
    if unknown:
        raise bad_row(
            number,
            device,
            f"{str(unknown[0])[:40]!r} is no field; use {', '.join(FIELDS)}.",
        )
    texts: dict[str, str] = {}
    for name in _TEXTS:
        text = fields.get(name)
        if isinstance(text, str) and text:
            texts[name] = text
        elif text is not None or name == "device":
            raise bad_row(number, device, f"{name} is a text that is not empty.")
    try:
        counts = {k: check_count(fields[k], k) for k in POOL_TYPES if k in fields}
    except LicenseError as error:
        raise bad_row(number, device, error.sentence) from error
    if not counts and len(texts) == 1:
        raise bad_row(number, device, "It names nothing that is to change.")
    return BulkRow(
        number=number,
        device=texts["device"],
        counts=counts,
        tenant=texts.get("tenant"),
        apply=texts.get("apply"),
    )


def carry_out(
    change: Change, rows: Sequence[BulkRow], *, wait: bool = False, within: str = ""
) -> BulkDone:
    """Carry out every row: what gives back first, then tenants and ways to apply, then growth.

    With `wait` what cannot be had at once is queued as a request, in the order of the rows;
    with `within` every device has to be one of that tenant.
    Raises LicenseError `bad_row` that names the row; the change is then to be undone whole.
    """
    seen: dict[int, int] = {}
    had: dict[int, Mapping[str, int]] = {}
    for row in rows:
        # Names are checked before anything is done: the first bad row is the one named.
        with _naming(row):
            device = device_by_name(change, row.device, within)
            if row.tenant is not None:
                tenant_by_name(change, row.tenant)
            if row.apply is not None:
                check_apply(row.apply)
        if device["device_id"] in seen:
            raise bad_row(
                row.number, row.device, f"Row {seen[device['device_id']]} names it already."
            )
        seen[device["device_id"]] = row.number
        had[row.number] = targets(change, device)
    notes: list[str] = []
    waiting: list[str] = []
    for row in rows:
        less = {k: n for k, n in row.counts.items() if n < had[row.number].get(k, 0)}
        if less:
            with _naming(row):
                notes += allocate(change, device_by_name(change, row.device), less)
    for row in rows:
        if row.tenant is not None or row.apply is not None:
            with _naming(row):
                change_device(change, row.device, tenant=row.tenant, apply=row.apply, mode=None)
    givers = _givers(change, rows, had)
    for row in rows:
        more = {k: n for k, n in row.counts.items() if n > had[row.number].get(k, 0)}
        if not more:
            continue
        with _naming(row, {name for kind in more for name in givers[kind]}):
            device = device_by_name(change, row.device)
            if wait:
                said, waits = requests.allocate_or_wait(change, device, more)
            else:
                said, waits = allocate(change, device, more), False
        notes += said
        if waits:
            waiting.append(row.device)
    change.journal("bulk_changed", rows=len(rows), waiting=waiting)
    return BulkDone(rows=len(rows), notes=notes, waiting=waiting)


def _givers(
    change: Change, rows: Sequence[BulkRow], had: Mapping[int, Mapping[str, int]]
) -> dict[str, set[str]]:
    """Return which devices give back, per license type, what they may still use (law 1)."""
    givers: dict[str, set[str]] = {kind: set() for kind in POOL_TYPES}
    for row in rows:
        less = [k for k, n in row.counts.items() if n < had[row.number].get(k, 0)]
        if not less:
            continue
        for unit in units_of(change, device_by_name(change, row.device)["device_id"]):
            mine = holdings(change, unit["serial"])
            for kind in less:
                if any(h.held > h.granted for h in mine[kind]):
                    givers[kind].add(row.device)
    return givers


@contextmanager
def _naming(row: BulkRow, givers: Collection[str] = ()) -> Iterator[None]:
    try:
        yield
    except LicenseError as error:
        sentence = error.sentence
        if givers and error.code in ("pool_exceeded", "tenant_exceeded", "requests_waiting"):
            few = sorted(givers)[:3] + ["others"] * (len(givers) > 3)
            sentence += (
                f" What this file takes back from {', '.join(few)} is free only once it is "
                "confirmed: lower first, or let the rows wait (--wait)."
            )
        raise bad_row(row.number, row.device, sentence) from error


def export(tx: Tx) -> list[dict[str, Any]]:
    """Return a row for each device as it stands: a template for a bulk change."""
    kept: dict[int, dict[str, int]] = {}
    for r in tx.rows("SELECT device_id, type, target FROM allocation"):
        kept.setdefault(r["device_id"], {})[r["type"]] = r["target"]
    return [
        {
            "device": r["name"],
            **{kind: kept.get(r["device_id"], {}).get(kind, 0) for kind in POOL_TYPES},
            "tenant": r["tenant"],
            "apply": r["apply"],
        }
        for r in tx.rows(
            "SELECT d.device_id, d.name, d.apply, t.name AS tenant FROM device d"
            " JOIN tenant t ON t.tenant_id = d.tenant_id WHERE d.removed_at IS NULL"
            " AND MINE(d.tenant_id) ORDER BY d.name"
        )
    ]


def write_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return an export as CSV."""
    out = io.StringIO()
    writer = csv.DictWriter(out, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()
