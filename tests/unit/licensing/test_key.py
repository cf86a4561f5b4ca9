from __future__ import annotations

from typing import Any

import pytest

from callpool.licensing.capacity import Capacity
from callpool.licensing.errors import LicenseError
from callpool.licensing.key import LocalKey, check_installable, check_serial

NOW = 1_800_000_000.0


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
    pair = made(serials=("A-1", "B-2"), features=frozenset())
    for key in (made(), pair, made(ends=1_800_000_001)):
        assert LocalKey.from_payload(key.to_payload()) == key


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("version", 3, "unknown_version"),
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
    assert check_installable(pair, "S2", None, time=NOW) is pair
    with pytest.raises(LicenseError) as caught:
        check_installable(pair, "S3", None, time=NOW)
    assert caught.value.code == "key_for_another_serial"


def test_an_older_key_is_refused_and_the_same_one_may_be_installed_again() -> None:
    installed = made(sequence=3)
    assert check_installable(made(sequence=3), "S1", installed, time=NOW)
    assert check_installable(made(sequence=4), "S1", installed, time=NOW)
    with pytest.raises(LicenseError) as caught:
        check_installable(made(sequence=2), "S1", installed, time=NOW)
    assert caught.value.code == "older_key"


def test_a_key_counts_up_to_its_end_and_cannot_be_installed_after_it() -> None:
    key = made(ends=1_800_000_100)
    assert check_installable(key, "S1", None, time=NOW + 99)
    assert (key.in_date(NOW + 99), key.in_date(NOW + 100)) == (True, False)
    assert key.features_at(NOW + 99) == {"test_call"}
    assert not key.features_at(NOW + 100)
    with pytest.raises(LicenseError) as caught:
        check_installable(key, "S1", None, time=NOW + 100)
    assert caught.value.code == "key_expired"


@pytest.mark.parametrize("ends", [None, "soon", -1, 1_800_000_000])
def test_a_key_that_ends_is_of_a_version_that_a_release_without_ends_refuses(ends: object) -> None:
    assert made().to_payload()["version"] == 1
    ending = made(ends=1_800_000_001).to_payload()
    assert ending["version"] == 2
    with pytest.raises(LicenseError) as caught:
        LocalKey.from_payload({**ending, "ends": ends})
    assert caught.value.code == "bad_document"


@pytest.mark.parametrize("bad", ["", "-" * 33, "a b", "ä1", "../../etc", "A" * 33, "a\n", 5, None])
def test_what_cannot_be_a_serial_number_is_refused(bad: object) -> None:
    with pytest.raises(LicenseError) as caught:
        check_serial(bad)
    assert caught.value.code == "bad_serial"
