"""What a smart device and the authority say to each other: register, authorize, renew, leave.

Every body travels in a signed envelope (`wire.envelope`) of a type of its own. A registration
is signed by the key it wants certified, every later request by that same ID key; every answer
is signed by a key of the manager's key set. An answer is either the reply that the request
asked for or a `Refusal`; both are bound to the request's nonce and serial number, so neither
can be replayed, and only a signed refusal is the authority's word. What is not signed (a proxy's
error page, a problem document for a request that could not be read) is a failed connection.

Which key signs what an unregistered device gets: the answer to a registration, reply or
refusal, carries the anchor and the key set; the token's second part is the anchor's thumbprint.

Seed `000` and `facts/smart-licensing.md` 3.5: a nonce that the reply must match, both sides
sign, an ID certificate, a version in entitlement replies. Times are absolute, seconds since
1970 by the authority's clock (3.4: the authority sets them, the agent stores them as given).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from callpool.licensing.errors import TrustError
from callpool.wire.envelope import read, verify
from callpool.wire.keys import PublicKey
from callpool.wire.messages import Message

#: Envelope types.
SMART_REGISTER: Final = "callpool-smart-register"
SMART_AUTHORIZE: Final = "callpool-smart-authorize"
SMART_RENEW_ID: Final = "callpool-smart-renew-id"
SMART_DEREGISTER: Final = "callpool-smart-deregister"
SMART_HINTS: Final = "callpool-smart-hints"
SMART_REPLY: Final = "callpool-smart-reply"
SMART_REFUSAL: Final = "callpool-smart-refusal"

#: Paths below the authority's URL; requests and answers are `wire.messages.CONTENT_TYPE`.
REGISTER_PATH: Final = "/smart/v1/register"
AUTHORIZE_PATH: Final = "/smart/v1/authorize"
RENEW_ID_PATH: Final = "/smart/v1/renew-id"
DEREGISTER_PATH: Final = "/smart/v1/deregister"
SMART_HINTS_PATH: Final = "/smart/v1/hints"

#: An authorization's status.
IN_COMPLIANCE: Final = "in_compliance"
OUT_OF_COMPLIANCE: Final = "out_of_compliance"

#: The entitlement tag of calls per second (the tag is the license type's name).
CPS_TAG: Final = "cps"

Reply = TypeVar("Reply", bound="SmartReply")


class SmartRequest(Message, frozen=True, kw_only=True):
    """Base of every request: what it is bound to."""

    #: The URL it is sent to.
    url: str
    #: Random; binds the answer, and names the request when it is repeated.
    nonce: str
    #: The device's serial number.
    serial: str
    #: The device's wall time: skew above an hour is refused (`clock_skew`).
    time: float


class RegisterRequest(SmartRequest, frozen=True, kw_only=True):
    """Registers a product instance, signed by the key that it wants certified."""

    #: The registration token's secret part (`wire.tokens.split`).
    token: str
    #: The device's public key, base64url.
    public_key: str
    #: PKCS#10 request, PEM, common name = serial number.
    request: str
    #: Take the place of an instance that is registered under this serial number already.
    force: bool = False
    #: What people call the device.
    name: str = ""
    #: The device's software.
    software: str = ""


class InstanceRequest(SmartRequest, frozen=True, kw_only=True):
    """Base of every request of a registered instance, signed by its ID key."""

    #: As given at registration.
    instance_id: str
    #: The contact value handed out by the last good answer.
    contact: str


class AuthorizeRequest(InstanceRequest, frozen=True, kw_only=True):
    """Asks for an authorization of what is configured."""

    #: The entitlement's tag.
    tag: str
    #: The configured count, in calls a second: a multiple of 5, 0 where none is asked for.
    count: int
    #: The most calls a second that the device can carry.
    maximum: int
    #: The version of the authorization that the device holds, 0 for none.
    held_version: int
    #: Why it calls: first, renew, recheck, retry, count, hint, operator.
    reason: str = ""
    #: The agent's state, for people.
    state: str = ""
    #: The device's software.
    software: str = ""


class RenewIdRequest(InstanceRequest, frozen=True, kw_only=True):
    """Asks for a new ID certificate for the same key."""

    #: PKCS#10 request, PEM, common name = serial number.
    request: str


class DeregisterRequest(InstanceRequest, frozen=True, kw_only=True):
    """Takes the instance off the authority's list; its count returns to the account."""


class SmartHintsRequest(SmartRequest, frozen=True, kw_only=True):
    """Opens the stream of hints (server-sent events): each one wishes for an authorization."""

    instance_id: str


class SmartReply(Message, frozen=True, kw_only=True):
    """Base of every reply: what it is bound to."""

    nonce: str
    serial: str
    #: The authority's time.
    time: float
    instance_id: str
    #: The next contact value; empty after deregistration.
    contact: str
    #: The key set in its own envelope, where the device may hold an older one.
    key_set: str = ""


class IdCertificate(msgspec.Struct, frozen=True, kw_only=True):
    """An ID certificate and its absolute dates."""

    #: The certificate, PEM.
    pem: str
    #: Good from, renewed from, no longer good from.
    not_before: float
    renew_at: float
    not_after: float


class RegisterReply(SmartReply, frozen=True, kw_only=True):
    """The instance is registered; authorization is still to be asked for."""

    certificate: IdCertificate
    #: The anchor's public key, base64url: its thumbprint is part of the token.
    anchor: str
    #: The manager's product key.
    product_key: str
    account: str
    virtual_account: str
    #: Whether the token allows export-controlled functionality.
    export_allowed: bool


class Authorization(msgspec.Struct, frozen=True, kw_only=True):
    """The authority's word on one entitlement of one instance; all times absolute."""

    #: Only rises, as long as the instance is registered.
    version: int
    tag: str
    #: The count that was judged (that of the request).
    count: int
    #: IN_COMPLIANCE or OUT_OF_COMPLIANCE.
    status: str
    issued_at: float
    #: The device asks again from this time on: 30 days, or 12 hours when out of compliance.
    renew_at: float
    #: The authorization has expired from this time on: 90 days.
    expires_at: float
    #: Since when the virtual account is out of compliance, 0.0 where it is not.
    out_of_compliance_since: float = 0.0
    #: In the virtual account: purchased and in date, and the sum of configured counts.
    purchased: int = 0
    in_use: int = 0


class AuthorizeReply(SmartReply, frozen=True, kw_only=True):
    """An authorization, in compliance or not."""

    authorization: Authorization
    account: str
    virtual_account: str


class RenewIdReply(SmartReply, frozen=True, kw_only=True):
    """A new ID certificate."""

    certificate: IdCertificate


class DeregisterReply(SmartReply, frozen=True, kw_only=True):
    """The instance is off the list; `contact` is empty."""


class Refusal(Message, frozen=True, kw_only=True):
    """The authority's signed no. It changes nothing there, and uses no contact value up."""

    nonce: str
    serial: str
    #: The authority's time.
    time: float
    #: Stable code, and a sentence for people.
    code: str
    detail: str
    #: Whether it refuses the entitlement: three such in a row exceed the re-entitlement limit.
    #: Where it does not, mending a clock or waiting helps, and nothing is counted.
    counts: bool
    #: Seconds to wait before the next try, 0.0 for the device's own rhythm.
    retry_after: float = 0.0
    #: In the answer to a registration: the anchor's public key and the key set's envelope.
    anchor: str = ""
    key_set: str = ""


def open_answer(
    envelope: str | bytes,
    kind: type[Reply],
    key_for: Callable[[str], PublicKey | None],
    *,
    nonce: str,
    serial: str,
) -> Reply | Refusal:
    """Return the verified answer to the request with `nonce` of `serial`.

    Raises TrustError as `wire.envelope.verify` and `read` do, and `unknown_version`,
    `wrong_nonce`, `wrong_serial`: then it is no answer at all, and changes nothing.
    """
    answer: Reply | Refusal
    try:
        answer = read(verify(envelope, SMART_REPLY, key_for), kind)
    except TrustError as error:
        if error.code != "bad_envelope":
            raise
        answer = read(verify(envelope, SMART_REFUSAL, key_for), Refusal)
    answer.checked()
    if answer.nonce != nonce:
        raise TrustError("wrong_nonce", "The answer belongs to another request.")
    if answer.serial != serial:
        raise TrustError("wrong_serial", "The answer is for another serial number.")
    return answer
