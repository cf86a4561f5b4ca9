"""Previews and refused bulk files leave nothing behind, whatever was asked."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from poolmodel import DAY, START, Model

from callpool.licensing.errors import LicenseError
from callpool.manager import bulk, inventory, pools
from callpool.manager.bulk import BulkRow
from callpool.manager.change import Change
from callpool.manager.preview import preview
from callpool.manager.store.tx import Tx

S, U = "sbc_sessions", "far_end_users"
NAMES = ("a", "b", "h", "e")


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    """20 of each, `a` and `h` full; `e` is alone in a tenant with a share of 5 sessions."""
    made = Model()
    made.order(starts=START - DAY, ends=START + 400 * DAY, sbc_sessions=20, far_end_users=20)
    made.tenant("east", sbc_sessions=5)
    made.add("a", "A1")
    made.add("b", "B1", apply="restart")
    made.add("h", "H1", "H2")
    made.add("e", "E1", tenant="east")
    made.allocate("a", sbc_sessions=6, far_end_users=10)
    made.allocate("h", sbc_sessions=4)
    for serial in ("A1", "H1", "H2"):
        made.poll(serial)
    yield made
    made.close()


def state(model: Model) -> dict[str, Any]:
    """Return every row of every table, and the bytes of the grant journal."""

    def dump(tx: Tx) -> dict[str, Any]:
        tables = tx.rows("SELECT name FROM sqlite_master WHERE type = 'table'")
        return {
            r["name"]: [dict(row) for row in tx.rows(f"SELECT * FROM {r['name']}")]  # noqa: S608
            for r in tables
        }

    model.manager.sweep()
    rows = model.manager.database.read(dump)
    return {"rows": rows, "grants": model.manager.layout.grants.read_bytes()}


counts = st.dictionaries(st.sampled_from((S, U)), st.integers(0, 14), min_size=1)


@st.composite
def files(draw: st.DrawFn) -> list[BulkRow]:
    names = draw(st.lists(st.sampled_from((*NAMES, "nobody")), min_size=1, max_size=5))
    return [
        BulkRow(
            number=number,
            device=name,
            counts=draw(counts),
            tenant=draw(st.sampled_from((None, None, "east", "default"))),
        )
        for number, name in enumerate(names, 1)
    ]


def refusal(model: Model, rows: list[BulkRow]) -> LicenseError | None:
    """Preview a file; returns why it would be refused, or None."""
    try:
        preview(model.manager, "t", "here", lambda c: bulk.carry_out(c, rows))
    except LicenseError as error:
        return error
    return None


@given(rows=files())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_preview_changes_no_byte_and_tells_what_would_be_refused(
    model: Model, rows: list[BulkRow]
) -> None:
    hints: list[int] = []
    model.manager.on_hint = lambda: hints.append(1)
    before = state(model)
    refused = refusal(model, rows)
    assert state(model) == before
    assert hints == []
    if refused is not None:
        # Refused for real as well, by the same sentence, and nothing of it stays.
        with pytest.raises(LicenseError) as error:
            model.change(lambda c: bulk.carry_out(c, rows))
        assert error.value.code == refused.code == "bad_row"
        assert error.value.sentence == refused.sentence
        assert state(model) == before
        return

    def do_and_look(change: Change) -> None:
        bulk.carry_out(change, rows)
        targets = {r["device"]: r for r in bulk.export(change.tx)}
        for row in rows:
            assert {k: targets[row.device][k] for k in row.counts} == row.counts
            assert row.tenant in (None, targets[row.device]["tenant"])
        raise _Looked

    with pytest.raises(_Looked):
        model.change(do_and_look)
    assert state(model) == before


class _Looked(Exception):
    """Undoes a change once it was looked at: the examples share one manager."""


def test_an_increase_that_waits_for_what_the_file_takes_back_says_so(model: Model) -> None:
    rows = [
        BulkRow(number=1, device="b", counts={S: 12}),
        BulkRow(number=2, device="a", counts={S: 0}),
        BulkRow(number=3, device="h", counts={S: 0}),
    ]
    before = state(model)
    with pytest.raises(LicenseError) as error:
        model.change(lambda c: bulk.carry_out(c, rows))
    assert error.value.code == "bad_row"
    assert error.value.sentence.startswith("Row 1 (b): 12 SBC Sessions cannot be allocated: ")
    assert "What this file takes back from a, h is free only once it is confirmed" in (
        error.value.sentence
    )
    assert state(model) == before


def test_a_file_and_an_allocation_can_be_kept_within_one_tenant(model: Model) -> None:
    def refused(work: Any) -> LicenseError:
        with pytest.raises(LicenseError) as error:
            model.change(work)
        return error.value

    rows = [BulkRow(number=1, device="e", counts={S: 5}), BulkRow(number=2, device="a", counts={})]
    error = refused(lambda c: bulk.carry_out(c, rows, within="east"))
    assert (error.code, error.sentence) == (
        "bad_row",
        "Row 2 (a): Tenant east has no device named 'a'. Nothing was changed.",
    )
    # Nothing tells a stranger's device from one that there is not.
    for name in ("a", "nobody"):
        error = refused(lambda c, name=name: inventory.device_by_name(c, name, "east"))
        assert (error.code, error.sentence) == (
            "unknown_device",
            f"Tenant east has no device named {name!r}.",
        )
    assert refused(lambda c: inventory.device_by_name(c, "a", "west")).code == "unknown_tenant"
    done = preview(
        model.manager,
        "t",
        "here",
        lambda c: pools.allocate(c, inventory.device_by_name(c, "e", "east"), {S: 5}),
    )
    assert done["devices"][0]["types"][S]["granted"] == {"before": 0, "after": 5}
