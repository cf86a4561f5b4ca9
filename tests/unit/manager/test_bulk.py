"""Bulk changes: every row, or nothing; a bad row is named."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from poolmodel import DAY, START, Model

from callpool.licensing.errors import LicenseError
from callpool.manager import bulk
from callpool.manager.bulk import BulkDone, BulkRow
from callpool.manager.preview import preview

S, U = "sbc_sessions", "far_end_users"


@pytest.fixture
def model() -> Iterator[Model]:
    made = Model()
    made.order(starts=START - DAY, ends=START + 400 * DAY, sbc_sessions=20, far_end_users=20)
    made.tenant("east")
    for name in ("a", "b", "c"):
        made.add(name, f"{name.upper()}1")
    yield made
    made.check()
    made.close()


def carry(model: Model, *rows: BulkRow, wait: bool = False) -> BulkDone:
    return model.change(lambda c: bulk.carry_out(c, rows, wait=wait))


def row(number: int, device: str, **counts: int) -> BulkRow:
    return BulkRow(number=number, device=device, counts=counts)


def targets(model: Model) -> dict[str, int]:
    return {r["device"]: r[S] for r in model.manager.database.read(bulk.export)}


def refused(read: object, *given: object) -> LicenseError:
    assert callable(read)
    with pytest.raises(LicenseError) as error:
        read(*given)
    return error.value


def test_what_gives_back_comes_first_whatever_the_order_of_rows(model: Model) -> None:
    model.allocate("a", sbc_sessions=20)  # never sent: free at once when it is lowered
    carry(model, row(1, "b", sbc_sessions=12), row(2, "c", sbc_sessions=4), row(3, "a", **{S: 4}))
    assert targets(model) == {"a": 4, "b": 12, "c": 4}


def test_one_row_that_cannot_be_had_is_named_and_nothing_changes(model: Model) -> None:
    model.allocate("a", sbc_sessions=20)
    error = refused(carry, model, row(1, "a", sbc_sessions=15), row(2, "b", sbc_sessions=6))
    assert error.code == "bad_row"
    assert error.sentence.startswith("Row 2 (b): 6 SBC Sessions cannot be allocated")
    assert targets(model) == {"a": 20, "b": 0, "c": 0}
    assert model.held("A1") == 20


def test_with_wait_what_cannot_be_had_yet_is_queued(model: Model) -> None:
    model.allocate("a", sbc_sessions=20)
    model.poll("A1")
    error = refused(carry, model, row(1, "a", sbc_sessions=15), row(2, "b", sbc_sessions=5))
    assert error.code == "bad_row"  # what a device may still use is not free yet
    done = carry(model, row(1, "a", sbc_sessions=15), row(2, "b", sbc_sessions=5), wait=True)
    assert done.waiting == ["b"]
    assert targets(model) == {"a": 15, "b": 0, "c": 0}
    for _ in range(2):
        model.poll("A1")
    assert targets(model) == {"a": 15, "b": 5, "c": 0}


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([row(1, "a", sbc_sessions=1), row(2, "nobody", sbc_sessions=1)], "Row 2 (nobody): There"),
        ([row(1, "a", sbc_sessions=1), row(2, "a", sbc_sessions=2)], "Row 2 (a): Row 1 names it"),
        ([BulkRow(number=1, device="a", tenant="west")], "Row 1 (a): There is no tenant"),
        ([BulkRow(number=1, device="a", apply="soon")], "Row 1 (a): A device applies by"),
    ],
)
def test_a_bad_row_is_named(model: Model, rows: list[BulkRow], said: str) -> None:
    error = refused(carry, model, *rows)
    assert error.code == "bad_row"
    assert error.sentence.startswith(said)
    assert targets(model) == {"a": 0, "b": 0, "c": 0}


def test_a_row_moves_a_device_and_changes_how_it_applies(model: Model) -> None:
    carry(model, BulkRow(number=1, device="a", counts={S: 3}, tenant="east", apply="restart"))
    first = model.manager.database.read(bulk.export)[0]
    assert first == {"device": "a", S: 3, U: 0, "tenant": "east", "apply": "restart"}


def test_an_export_carried_out_as_it_is_changes_nothing(model: Model) -> None:
    model.allocate("a", sbc_sessions=20, far_end_users=3)
    model.poll("A1")
    carry(model, row(1, "b", sbc_sessions=2), wait=True)
    exported = model.manager.database.read(bulk.export)
    rows = bulk.read_csv(bulk.write_csv(exported))
    assert rows == bulk.read_json(msgspec.json.encode(exported))
    seen = preview(model.manager, "tester", "here", lambda c: bulk.carry_out(c, rows))
    assert (seen["devices"], seen["tenants"], seen["types"]) == ([], [], {})


def test_a_csv_file_may_leave_out_columns_and_cells() -> None:
    text = "\ufefffar_end_users, device\r\n5,a\r\n\r\n,b\r\n"
    error = refused(bulk.read_csv, text)
    assert error.sentence == "Row 2 (b): It names nothing that is to change. Nothing was changed."
    (only,) = bulk.read_csv(text.replace(",b\r\n", ""))
    assert (only.number, only.device, only.counts) == (1, "a", {U: 5})


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "bad_bulk_file"),
        ("device,sbc_sessions\n", "bad_bulk_file"),
        ("sbc_sessions\n5\n", "bad_bulk_file"),
        ("device,cps\na,5\n", "bad_bulk_file"),
        ("device,device\na,a\n", "bad_bulk_file"),
        ('device,sbc_sessions\n"a,5\n', "bad_bulk_file"),
        ("device,sbc_sessions\na\n", "bad_row"),
        ("device,sbc_sessions\na,-1\n", "bad_row"),
        ("device,sbc_sessions\na,1.5\n", "bad_row"),
        ("device,sbc_sessions\na,99999999999999999999\n", "bad_row"),
        ("device,sbc_sessions\na,10000001\n", "bad_row"),
        ("device,sbc_sessions\n,5\n", "bad_row"),
        ("device,sbc_sessions\n" + "a,5\n" * (bulk.MAX_ROWS + 1), "bad_bulk_file"),
    ],
)
def test_csv_that_cannot_be_is_refused(text: str, code: str) -> None:
    assert refused(bulk.read_csv, text).code == code


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "bad_bulk_file"),
        (b"[]", "bad_bulk_file"),
        (b"{}", "bad_bulk_file"),
        (b"[" * 100_000, "bad_bulk_file"),
        (b"[5]", "bad_row"),
        (b'[{"device": 5}]', "bad_row"),
        (b'[{"sbc_sessions": 5}]', "bad_row"),
        (b'[{"device": "a", "sbc_sessions": true}]', "bad_row"),
        (b'[{"device": "a", "sbc_sessions": "5"}]', "bad_row"),
        (b'[{"device": "a", "cps": 5}]', "bad_row"),
        (b'{"devices": [{"device": "a", "tenant": ""}]}', "bad_row"),
    ],
)
def test_json_that_cannot_be_is_refused(raw: bytes, code: str) -> None:
    assert refused(bulk.read_json, raw).code == code
