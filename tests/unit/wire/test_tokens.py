from __future__ import annotations

import pytest

from callpool.licensing.errors import TrustError
from callpool.wire.tokens import hashed, join, new_secret, split


def test_a_token_carries_a_secret_and_the_anchors_fingerprint() -> None:
    secret = new_secret()
    assert split(f"  {join(secret, 'kid')}\n") == (secret, "kid")
    assert new_secret() != secret
    assert secret not in hashed(secret)


@pytest.mark.parametrize(
    "bad", ["", "x", "callpool1.a", "callpool2.a.b", "callpool1..b", "a.b.c.d"]
)
def test_what_is_no_token_is_refused(bad: str) -> None:
    with pytest.raises(TrustError) as caught:
        split(bad)
    assert caught.value.code == "bad_token"
