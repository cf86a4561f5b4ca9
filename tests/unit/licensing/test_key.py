from __future__ import annotations

from typing import Any

import pytest

from callpool.licensing.capacity import Capacity
from callpool.licensing.errors import LicenseError
from callpool.licensing.key import LocalKey, check_installable, check_serial


def made(**changes: Any) -> LocalKey:
    values: dict[str, Any] = {
        "key_id": "LK-1",
        "sequence": 3,
        "serials": ("S1",),
        "counts": Capacity.of(sbc_sessions=5),
        "maximum": Capacity.of(sbc_sessions=100),
        "features": frozenset({"test_call"}),
        "issued_at": 1_800_000_000,
    }
    return LocalKey(**{**values, **changes})


def test_a_key_survives_its_document() -> None:
    for key in (made(), made(serials=("A-1", "B-2"), features=frozenset())):
        assert LocalKey.from_payload(key.to_payload()) == key


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("version", 2, "unknown_version"),
        ("version", None, "unknown_version"),
        ("sequence", -1, "bad_document"),
        ("sequence", 1.5, "bad_document"),
        ("sequence", True, "bad_document"),
        ("serials", "S1", "bad_document"),
        ("serials", [], "bad_document"),
        ("serials", ["A", "B", "C"], "bad_document"),
        ("serials", ["A", "A"], "bad_document"),
        ("serials", ["../x"], "bad_serial"),
        ("features", ["teleport"], "unknown_feature"),
        ("counts", {"sbc_sessions": -5}, "bad_count"),
        ("counts", {"sbc_sessions": 1.5}, "bad_count"),
        ("counts", {"unknown": 5}, "unknown_license_type"),
        ("counts", [5], "bad_document"),
        ("key_id", "", "bad_document"),
        ("key_id", "a\nb", "bad_document"),
    ],
)
def test_a_document_that_cannot_be_is_refused_by_name(field: str, value: object, code: str) -> None:
    with pytest.raises(LicenseError) as caught:
        LocalKey.from_payload({**made().to_payload(), field: value})
    assert caught.value.code == code


def test_a_key_is_installed_only_on_the_serials_it_is_bound_to() -> None:
    pair = made(serials=("S1", "S2"))
    assert check_installable(pair, "S2", None) is pair
    with pytest.raises(LicenseError) as caught:
        check_installable(pair, "S3", None)
    assert caught.value.code == "key_for_another_serial"


def test_an_older_key_is_refused_and_the_same_one_may_be_installed_again() -> None:
    installed = made(sequence=3)
    assert check_installable(made(sequence=3), "S1", installed)
    assert check_installable(made(sequence=4), "S1", installed)
    with pytest.raises(LicenseError) as caught:
        check_installable(made(sequence=2), "S1", installed)
    assert caught.value.code == "older_key"


@pytest.mark.parametrize("bad", ["", "-" * 33, "a b", "ä1", "../../etc", "A" * 33, "a\n", 5, None])
def test_what_cannot_be_a_serial_number_is_refused(bad: object) -> None:
    with pytest.raises(LicenseError) as caught:
        check_serial(bad)
    assert caught.value.code == "bad_serial"
