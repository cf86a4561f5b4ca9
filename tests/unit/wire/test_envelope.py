from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callpool.licensing.errors import LicenseError, TrustError
from callpool.wire.envelope import (
    CONTACT,
    MAX_ENVELOPE,
    REPLY,
    read,
    sign,
    trust,
    unverified,
    verify,
)
from callpool.wire.keys import PublicKey, SigningKey, thumbprint
from callpool.wire.messages import GrantMessage, HintsRequest, check_bound

KEY = SigningKey.generate()
BODY = HintsRequest(url="https://m/hints", nonce="n", serial="S1", time=1.0)
ENVELOPE = sign(KEY, REPLY, BODY)


def refused(envelope: str | bytes, typ: str = REPLY, key: SigningKey = KEY) -> str:
    with pytest.raises(TrustError) as caught:
        verify(envelope, typ, trust(key.public))
    return caught.value.code


def test_what_was_signed_is_read_back() -> None:
    assert read(verify(ENVELOPE, REPLY, trust(KEY.public)), HintsRequest) == BODY
    assert read(verify(ENVELOPE.encode() + b"\n", REPLY, trust(KEY.public)), HintsRequest) == BODY


def test_every_altered_character_is_refused() -> None:
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for place, letter in enumerate(ENVELOPE):
        if letter == ".":
            altered = ENVELOPE[:place] + ENVELOPE[place + 1 :]
        else:
            other = alphabet[(alphabet.index(letter) + 32) % 64]
            altered = ENVELOPE[:place] + other + ENVELOPE[place + 1 :]
        assert refused(altered) in ("bad_envelope", "bad_signature", "unknown_signer"), place


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_noise_is_refused_and_never_crashes(noise: bytes) -> None:
    assert refused(noise) in ("bad_envelope", "unknown_signer", "bad_signature")


def test_one_kind_is_never_taken_for_another() -> None:
    assert refused(ENVELOPE, CONTACT) == "bad_envelope"


def test_another_signer_is_refused() -> None:
    assert refused(ENVELOPE, key=SigningKey.generate()) == "unknown_signer"


def _with_header(header: dict[str, object]) -> str:
    def b64(raw: bytes) -> str:
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    _, payload, signature = ENVELOPE.split(".")
    return f"{b64(json.dumps(header).encode())}.{payload}.{signature}"


@pytest.mark.parametrize("alg", ["none", "HS256", "EdDSA", "RS256", "", 5])
def test_another_algorithm_is_refused(alg: object) -> None:
    code = refused(_with_header({"alg": alg, "typ": REPLY, "kid": KEY.public.kid}))
    assert code in ("bad_envelope", "bad_signature")


def test_an_endless_document_is_refused_unread() -> None:
    assert refused("A" * (MAX_ENVELOPE + 1)) == "bad_envelope"


def test_a_signed_body_of_another_form_is_refused() -> None:
    raw = verify(sign(KEY, REPLY, {"hello": 1}), REPLY, trust(KEY.public))
    with pytest.raises(TrustError) as caught:
        read(raw, HintsRequest)
    assert caught.value.code == "bad_message"


def test_unknown_fields_are_ignored_and_unknown_versions_refused() -> None:
    body = {"version": 2, "url": "u", "nonce": "n", "serial": "S", "time": 1.0, "more": True}
    message = read(json.dumps(body).encode(), HintsRequest)
    with pytest.raises(TrustError) as caught:
        message.checked()
    assert caught.value.code == "unknown_version"


def test_unverified_reads_without_trust() -> None:
    assert b"S1" in unverified(ENVELOPE)
    with pytest.raises(TrustError):
        unverified("nothing")


def test_a_request_signed_for_another_place_or_by_another_unit_is_refused() -> None:
    check_bound(url="a", sent_to="a", serial="S1", signer="S1")
    for bound, code in (
        ({"url": "a", "sent_to": "b"}, "wrong_url"),
        ({"url": "a", "sent_to": "a", "serial": "S1", "signer": "S2"}, "wrong_serial"),
    ):
        with pytest.raises(TrustError) as caught:
            check_bound(**bound)
        assert caught.value.code == code


def test_a_grant_with_counts_that_cannot_be_is_refused() -> None:
    part = {"order_id": "o", "since": 0, "until": 1, "counts": {"sbc_sessions": -1}}
    raw = json.dumps({"version": 1, "apply": "live", "slices": [part]}).encode()
    with pytest.raises(LicenseError):
        read(raw, GrantMessage).grant("S1")


def test_keys_are_kept_in_private_files_and_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    KEY.save(file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert SigningKey.load(file).public == KEY.public
    assert repr(KEY) == f"SigningKey({KEY.public.kid})"
    file.write_text("rubbish")
    with pytest.raises(TrustError) as caught:
        SigningKey.load(file)
    assert caught.value.code == "bad_key"


def test_a_thumbprint_is_that_of_rfc_8037() -> None:
    # RFC 8037, appendix A.3: the key of A.2 and its thumbprint.
    key = PublicKey.from_text("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")
    assert key.kid == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    assert thumbprint(key.raw) == key.kid
    for bad in ("", "AAAA", "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURoAAAA"):
        with pytest.raises(TrustError):
            PublicKey.from_text(bad)
