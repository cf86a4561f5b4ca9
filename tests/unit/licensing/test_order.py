from __future__ import annotations

from typing import Any

import pytest

from callpool.licensing.capacity import Capacity
from callpool.licensing.errors import LicenseError
from callpool.licensing.order import PurchaseOrder, check_for

ORDER = PurchaseOrder(
    order_id="PO-1",
    product_key="CP-1",
    counts=Capacity.of(sbc_sessions=60, far_end_users=20),
    starts=1000,
    ends=2000,
    issued_at=900,
)


def test_an_order_comes_back_from_its_document_as_it_was() -> None:
    assert PurchaseOrder.from_payload(ORDER.to_payload()) == ORDER


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"version": 2}, "unknown_version"),
        ({"role": "authority"}, "bad_document"),
        ({"order_id": ""}, "bad_document"),
        ({"order_id": "x" * 65}, "bad_document"),
        ({"order_id": "a\nb"}, "bad_document"),
        ({"product_key": None}, "bad_document"),
        ({"counts": {}}, "bad_document"),
        ({"counts": [1]}, "bad_document"),
        ({"counts": {"sbc_sessions": -1}}, "bad_count"),
        ({"counts": {"sbc_sessions": 1.5}}, "bad_count"),
        ({"counts": {"sbc_sessions": True}}, "bad_count"),
        ({"counts": {"sbc_sessions": 10**12}}, "bad_count"),
        ({"counts": {"wishes": 3}}, "unknown_license_type"),
        ({"counts": {"cps": 3}}, "unknown_license_type"),
        ({"ends": 1000}, "bad_document"),
        ({"starts": "soon"}, "bad_document"),
        ({"issued_at": -1}, "bad_document"),
    ],
)
def test_a_document_that_cannot_be_is_refused_by_code(change: dict[str, Any], code: str) -> None:
    with pytest.raises(LicenseError) as refused:
        PurchaseOrder.from_payload(ORDER.to_payload() | change)
    assert refused.value.code == code


def test_an_order_is_for_one_manager_and_not_after_its_end() -> None:
    assert check_for(ORDER, "CP-1", 1999.0) is ORDER
    with pytest.raises(LicenseError, match="CP-2") as refused:
        check_for(ORDER, "CP-2", 1500.0)
    assert refused.value.code == "order_for_another_manager"
    with pytest.raises(LicenseError) as late:
        check_for(ORDER, "CP-1", 2000.0)
    assert late.value.code == "order_out_of_date"
