from __future__ import annotations

import json
from pathlib import Path

import pytest

from callpool.licensing.capacity import Capacity
from callpool.licensing.errors import CallpoolError
from callpool.licensing.key import LocalKey
from callpool.licensing.order import POOL_ORDER, SMART_ORDER, PurchaseOrder
from callpool.vendor.office import Office
from callpool.wire.envelope import LOCAL_KEY, ORDER, trust, verify
from callpool.wire.keys import SigningKey


def code_of(action: object, *args: object, **kwargs: object) -> str:
    assert callable(action)
    with pytest.raises(CallpoolError) as caught:
        action(*args, **kwargs)
    return caught.value.code


def test_an_order_is_signed_by_the_vendor_and_reads_back_whole(tmp_path: Path) -> None:
    office = Office.create(tmp_path)
    order, envelope = office.order(
        product_key="PK1", counts=Capacity.of(sbc_sessions=60), starts=100, ends=200, now=99
    )

    body = json.loads(verify(envelope, ORDER, trust(office.public_key)))
    assert PurchaseOrder.from_payload(body) == order
    other = SigningKey.generate().public
    assert code_of(verify, envelope, ORDER, trust(other)) == "unknown_signer"
    assert code_of(verify, envelope, LOCAL_KEY, trust(office.public_key)) == "bad_envelope"


def test_no_number_is_given_twice_even_when_the_vendor_is_opened_anew(tmp_path: Path) -> None:
    Office.create(tmp_path)
    numbers = {
        Office(tmp_path)
        .order(product_key="PK1", counts=Capacity.of(sbc_sessions=1), starts=1, ends=2, now=1)[0]
        .order_id
        for _ in range(5)
    }
    assert len(numbers) == 5


def test_each_new_local_key_has_a_higher_sequence(tmp_path: Path) -> None:
    office = Office.create(tmp_path)

    def key(counts: int) -> LocalKey:
        return office.key(
            serials=["A1"],
            counts=Capacity.of(sbc_sessions=counts),
            maximum=Capacity.of(sbc_sessions=10),
            features=frozenset({"test_call"}),
            now=1,
        )[0]

    assert key(1).sequence < key(2).sequence
    assert code_of(key, 11) == "above_maximum"


@pytest.mark.parametrize(
    ("counts", "starts", "ends", "code"),
    [
        ({"cps": 5}, 1, 2, "unknown_license_type"),
        ({}, 1, 2, "bad_document"),
        ({"sbc_sessions": 5}, 2, 2, "bad_document"),
    ],
)
def test_an_order_that_cannot_be_is_not_signed(
    tmp_path: Path, counts: dict[str, int], starts: int, ends: int, code: str
) -> None:
    office = Office.create(tmp_path)
    assert code == code_of(
        office.order,
        product_key="PK1",
        counts=Capacity.of(counts),
        starts=starts,
        ends=ends,
        now=1,
    )


def test_a_second_vendor_does_not_replace_the_first(tmp_path: Path) -> None:
    Office.create(tmp_path)
    assert code_of(Office.create, tmp_path) == "vendor_exists"
    assert code_of(Office, tmp_path / "elsewhere") == "no_vendor"


def test_a_smart_order_is_for_the_authority_and_a_pool_order_for_the_pool(tmp_path: Path) -> None:
    office = Office.create(tmp_path)

    def body(role: str, **counts: int) -> dict[str, object]:
        _, envelope = office.order(
            product_key="PK1",
            counts=Capacity.of(counts),
            starts=100,
            ends=200,
            now=99,
            role=role,
        )
        return dict(json.loads(verify(envelope, ORDER, trust(office.public_key))))

    smart, pool = body(SMART_ORDER, cps=100), body(POOL_ORDER, sbc_sessions=5)
    assert PurchaseOrder.from_payload(smart, SMART_ORDER).counts == Capacity.of(cps=100)
    assert PurchaseOrder.from_payload(pool, POOL_ORDER).counts == Capacity.of(sbc_sessions=5)
    assert code_of(PurchaseOrder.from_payload, smart, POOL_ORDER) == "bad_document"
    assert code_of(PurchaseOrder.from_payload, pool, SMART_ORDER) == "bad_document"
    assert code_of(body, SMART_ORDER, sbc_sessions=5) == "unknown_license_type"
    assert code_of(body, POOL_ORDER, cps=5) == "unknown_license_type"
    assert code_of(body, "both", cps=5) == "bad_document"


def test_a_local_key_may_end_and_one_that_never_counts_is_not_signed(tmp_path: Path) -> None:
    office = Office.create(tmp_path)
    given = {"serials": ["S1"], "counts": Capacity(), "maximum": Capacity(), "now": 1000}
    assert code_of(office.key, features=frozenset(), ends=1000, **given) == "bad_document"
    key, envelope = office.key(features=frozenset(), ends=1001, **given)  # type: ignore[arg-type]
    assert (key.sequence, key.ends) == (1, 1001), "the refused one has used no number"
    body = json.loads(verify(envelope, LOCAL_KEY, trust(office.public_key)))
    assert LocalKey.from_payload(body) == key
