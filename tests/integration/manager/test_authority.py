"""The authority as a smart device and an operator meet it, over HTTPS, with a real process."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
from authoritykit import Denied, SmartDevice, buy, smart_order, smart_token
from managerkit import Running, Site, eventually, running

from callpool.wire.keys import SigningKey
from callpool.wire.smart_messages import AuthorizeReply, DeregisterReply

DAY = 86_400.0
Device = Callable[..., SmartDevice]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Running]:
    with running(Site(tmp_path / "manager")) as made:
        made.call("POST", "/smart/accounts", {"name": "acme"}, 201)
        yield made


@pytest.fixture
def device(manager: Running) -> Device:
    def registered(serial: str = "", va: str = "default") -> SmartDevice:
        made = SmartDevice(manager, serial or f"SP-{secrets.token_hex(4).upper()}")
        made.register(smart_token(manager, va))
        return made

    return registered


def denied(action: Callable[[], object]) -> Denied:
    with pytest.raises(Denied) as caught:
        action()
    assert caught.value.refusal.detail.count(".") >= 1
    return caught.value


def license_of(manager: Running, va: str = "default") -> tuple[int, int, int, str]:
    found = manager.call("GET", f"/smart/entitlements?virtual_account={va}", status=200)
    (row,) = found["entitlements"]
    return row["purchased"], row["in_use"], row["balance"], row["status"]


def instance(manager: Running, made: SmartDevice) -> dict[str, object]:
    rows = manager.call("GET", "/smart/instances?all=1", status=200)["instances"]
    return dict(next(r for r in rows if r["instance_id"] == made.instance_id))


def alerts(manager: Running) -> list[str]:
    return [a["kind"] for a in manager.call("GET", "/smart/alerts", status=200)["alerts"]]


def test_a_registration_gives_a_certificate_with_absolute_dates(manager: Running) -> None:
    made = SmartDevice(manager, "SP-1")
    reply = made.register(smart_token(manager, description="first", export_allowed=True))
    assert (reply.account, reply.virtual_account) == ("acme", "default")
    assert reply.export_allowed
    assert reply.certificate.not_after - reply.certificate.renew_at == 185 * DAY
    assert 0 <= reply.time - (reply.certificate.renew_at - 180 * DAY) < 60
    assert instance(manager, made)["status"] == "registered"


def test_an_authorization_is_renewed_at_30_days_and_expires_at_90_by_absolute_times(
    manager: Running, device: Device
) -> None:
    buy(manager, "PO-1", 100)
    made = device()
    first = made.authorize(60).authorization
    assert first.status == "in_compliance"
    assert first.renew_at - first.issued_at == 30 * DAY
    assert first.expires_at - first.issued_at == 90 * DAY
    assert (first.purchased, first.in_use) == (100, 60)
    second = made.authorize(60).authorization
    assert second.version > first.version
    assert made.authorize(60, held_version=500).authorization.version == 501


def test_two_proxies_at_60_of_100_are_both_out_of_compliance_and_at_90_both_authorized(
    manager: Running, device: Device
) -> None:
    buy(manager, "PO-1", 100)
    one, two = device(), device()
    assert one.status(60) == "in_compliance"
    reply = two.authorize(60).authorization
    assert reply.status == "out_of_compliance"
    assert reply.renew_at - reply.issued_at == 12 * 3600
    assert reply.out_of_compliance_since > 0
    assert one.status(60) == "out_of_compliance"
    assert license_of(manager) == (100, 120, -20, "out_of_compliance")
    assert "insufficient_licenses" in alerts(manager)
    assert two.status(30) == "in_compliance"
    assert one.status(60) == "in_compliance"
    assert license_of(manager) == (100, 90, 10, "in_compliance")
    assert "insufficient_licenses" not in alerts(manager)


def test_out_of_compliance_ends_by_a_purchase_and_by_removing_another_instance(
    manager: Running, device: Device
) -> None:
    buy(manager, "PO-1", 100)
    one, two = device(), device()
    one.authorize(60)
    assert two.status(60) == "out_of_compliance"
    buy(manager, "PO-2", 20)
    assert (one.status(60), two.status(60)) == ("in_compliance", "in_compliance")
    assert one.status(65) == "out_of_compliance"
    manager.call("DELETE", f"/smart/instances/{two.instance_id}", status=200)
    assert one.status(65) == "in_compliance"
    gone = denied(lambda: two.authorize(60))
    assert (gone.code, gone.refusal.counts) == ("not_registered", True)


def test_an_affected_instance_is_told_by_a_hint_and_no_other(
    manager: Running, device: Device
) -> None:
    buy(manager, "PO-1", 100)
    one, two = device(), device()
    one.authorize(60)
    lines: list[str] = []
    opened = threading.Event()

    def listen() -> None:
        for line in one.hints():
            lines.append(line)
            opened.set()
            if line.startswith("data:"):
                return

    thread = threading.Thread(target=listen, daemon=True)
    thread.start()
    assert opened.wait(10)
    two.authorize(40)
    assert two.status(60) == "out_of_compliance"
    thread.join(10)
    assert lines[-1] == 'data: {"hint":"pull"}'
    assert instance(manager, one)["hint_waiting"]
    assert not instance(manager, two)["hint_waiting"]
    one.authorize(60)
    assert not instance(manager, one)["hint_waiting"]


def test_licenses_that_move_between_virtual_accounts_change_both(
    manager: Running, device: Device
) -> None:
    manager.call("POST", "/smart/virtual-accounts", {"name": "lab"}, 201)
    buy(manager, "PO-1", 100)
    one, two = device(va="default"), device(va="lab")
    one.authorize(60)
    assert two.status(30) == "out_of_compliance"
    body = {"tag": "cps", "count": 30, "source": "default", "target": "lab"}
    manager.call("POST", "/smart/transfers", body, 201)
    assert two.status(30) == "in_compliance"
    manager.call("POST", "/smart/transfers", body, 201)
    assert one.status(60) == "out_of_compliance"
    more = manager.call("POST", "/smart/transfers", {**body, "count": 41}, 409)
    assert more["code"] == "not_enough_licenses"
    assert license_of(manager) == (40, 60, -20, "out_of_compliance")
    assert license_of(manager, "lab") == (60, 30, 30, "in_compliance")


def test_an_order_that_ends_leaves_everyone_out_of_compliance_with_notice_before(
    manager: Running, device: Device
) -> None:
    buy(manager, "PO-1", 100, days=40)
    assert alerts(manager) == ["licenses_expiring"]
    made = device()
    made.authorize(60)
    made.clock.advance(39.5 * DAY)
    (alert,) = (
        a
        for a in manager.call("GET", "/smart/alerts", status=200)["alerts"]
        if a["kind"] == "licenses_expiring"
    )
    assert "within 1 day." in alert["message"]
    assert alert["severity"] == "major"
    made.clock.advance(DAY)
    assert set(alerts(manager)) == {
        "licenses_expired",
        "insufficient_licenses",
        "failed_to_connect",
    }
    assert made.status(60) == "out_of_compliance"
    assert license_of(manager) == (0, 60, -60, "out_of_compliance")


def test_silence_past_90_days_frees_the_counts_until_the_device_calls_again(
    manager: Running, device: Device
) -> None:
    buy(manager, "PO-1", 100, days=800)
    quiet, other = device(), device()
    quiet.authorize(60)
    assert other.status(60) == "out_of_compliance"
    quiet.clock.advance(45 * DAY)
    assert other.status(60) == "out_of_compliance"
    assert "failed_to_connect" in alerts(manager)
    quiet.clock.advance(45 * DAY)
    assert license_of(manager)[:2] == (100, 60)
    assert other.status(60) == "in_compliance"
    assert instance(manager, quiet)["status"] == "silent"
    assert "failed_to_renew" in alerts(manager)
    assert quiet.status(60) == "out_of_compliance"
    assert instance(manager, quiet)["status"] == "registered"
    assert "failed_to_renew" not in alerts(manager)


def test_an_id_certificate_is_renewed_and_one_that_ends_removes_the_instance(
    manager: Running, device: Device
) -> None:
    buy(manager, "PO-1", 100, days=800)
    renewing, forgetful = device(), device()
    forgetful.authorize(40)
    for _ in range(6):
        renewing.clock.advance(60 * DAY)
        forgetful.authorize(40)
    reply = renewing.renew_id()
    assert reply.certificate.not_after > reply.time + 364 * DAY
    renewing.clock.advance(6 * DAY)
    gone = denied(lambda: forgetful.authorize(40))
    assert gone.code == "certificate_expired"
    assert license_of(manager)[1] == 0
    assert renewing.status(40) == "in_compliance"
    assert "failed_to_renew" in alerts(manager)


def test_a_revoked_certificate_is_good_for_nothing(manager: Running, device: Device) -> None:
    buy(manager, "PO-1", 100)
    made = device()
    made.authorize(60)
    manager.call("POST", f"/smart/instances/{made.serial}/revoke", status=200)
    assert license_of(manager)[1] == 0
    for action in (lambda: made.authorize(60), made.renew_id, made.deregister):
        refusal = denied(action)
        assert (refusal.code, refusal.status) == ("certificate_revoked", 403)


def test_deregistering_frees_the_count_and_a_second_time_is_refused(
    manager: Running, device: Device
) -> None:
    buy(manager, "PO-1", 100)
    made = device()
    made.authorize(60)
    request = made.deregistration()

    made.send(DeregisterReply, request)
    first = made.last
    made.send(DeregisterReply, request)  # the reply was lost: the same again
    assert made.last == first
    assert license_of(manager)[1] == 0
    assert denied(made.deregister).code == "not_registered"


def test_a_lost_reply_costs_nothing_and_a_clone_is_locked(manager: Running, device: Device) -> None:

    buy(manager, "PO-1", 100)
    made = device()
    request = made.authorization(60)
    made.send(AuthorizeReply, request)
    first = made.last
    answer = made.send(AuthorizeReply, request)
    assert made.last == first
    made.take(answer)
    clone = SmartDevice(manager, made.serial, made.key)
    clone.instance_id, clone.value, clone.keys = made.instance_id, made.value, made.keys
    made.authorize(60)
    made.authorize(60)
    assert denied(lambda: clone.authorize(60)).code == "stale_contact"
    assert denied(lambda: made.authorize(60)).code == "instance_locked"
    assert "duplicate_identity" in alerts(manager)
    manager.call("DELETE", f"/smart/instances/{made.serial}", status=200)
    made.register(smart_token(manager))
    assert made.version > 0
    made.version = 0
    assert made.status(60) == "in_compliance"


def test_registering_twice_is_refused_unless_forced_and_a_lost_reply_is_no_second_time(
    manager: Running, device: Device
) -> None:
    buy(manager, "PO-1", 100)
    made = SmartDevice(manager, "SP-1")
    token = smart_token(manager)
    request = made.registration(token)
    kid = manager.site.anchor_kid
    first = made.send_registration(request, kid)
    assert made.send_registration(request, kid) == first
    again = made.register(token)  # another nonce, the token not used a second time
    assert again.instance_id == first.instance_id
    made.authorize(60)
    assert denied(lambda: made.register(smart_token(manager))).code == "already_registered"
    assert made.status(60) == "in_compliance"
    burnt = SmartDevice(manager, "SP-1")
    assert denied(lambda: burnt.register(smart_token(manager))).code == "already_registered"
    new = burnt.register(smart_token(manager), force=True)
    assert new.instance_id != first.instance_id
    assert license_of(manager)[1] == 0
    assert denied(lambda: made.authorize(60)).code == "not_registered"
    assert "duplicate_identity" in alerts(manager)
    manager.call("POST", "/smart/accounts", {"name": "other"}, 201)
    elsewhere = smart_token(manager, account="other")
    refusal = denied(lambda: made.register(elsewhere, force=True))
    assert refusal.code == "registered_elsewhere"


@pytest.mark.parametrize("case", ["unknown", "revoked", "expired", "used_up"])
def test_a_token_that_is_not_good_is_refused_by_name_and_changes_nothing(
    manager: Running, case: str
) -> None:
    made = SmartDevice(manager, "SP-1")
    body = manager.call("POST", "/smart/tokens", {"days": 1}, 201)
    token = body["token"]
    if case == "unknown":
        token = f"callpool1.{secrets.token_urlsafe(24)}.{manager.site.anchor_kid}"
    elif case == "revoked":
        manager.call("DELETE", f"/smart/tokens/{body['id']}", status=200)
    elif case == "expired":
        made.clock.advance(2 * DAY)
    else:
        SmartDevice(manager, "SP-2").register(token)
    refusal = denied(lambda: made.register(token))
    assert refusal.code == ("unknown_token" if case == "unknown" else f"token_{case}")
    assert not refusal.refusal.counts
    serials = [r["serial"] for r in manager.call("GET", "/smart/instances")["instances"]]
    assert "SP-1" not in serials


@pytest.mark.parametrize(
    ("count", "maximum", "code"),
    [(7, 1000, "bad_count"), (-5, 1000, "bad_count"), (105, 100, "above_maximum")],
)
def test_a_count_that_cannot_be_changes_nothing(
    manager: Running, device: Device, count: int, maximum: int, code: str
) -> None:
    buy(manager, "PO-1", 100)
    made = device()
    made.authorize(60)
    refusal = denied(lambda: made.authorize(count, maximum=maximum))
    assert (refusal.code, refusal.refusal.counts) == (code, False)
    assert license_of(manager)[1] == 60
    assert made.status(60) == "in_compliance"  # the contact value was not used up


def test_a_clock_an_hour_off_is_refused_by_name(manager: Running, device: Device) -> None:
    made = device()
    made.ahead = -3700.0
    for action in (lambda: made.authorize(5), made.deregister, made.renew_id):
        refusal = denied(action)
        assert (refusal.code, refusal.refusal.counts) == ("clock_skew", False)
    made.ahead = 0.0
    assert made.status(5) == "out_of_compliance"
    new = SmartDevice(manager, "SP-9")
    new.ahead = 3700.0
    assert denied(lambda: new.register(smart_token(manager))).code == "clock_skew"


def test_a_request_that_is_altered_foreign_or_for_another_address_is_refused(
    manager: Running, device: Device
) -> None:
    made, other = device(), device()
    made.serial, real = other.serial, made.serial
    assert denied(lambda: made.authorize(5)).code == "wrong_serial"
    made.serial = real
    assert denied(lambda: made.authorize(5, url="https://elsewhere/")).code == "wrong_url"
    assert denied(lambda: made.authorize(5, instance_id="PI-9")).code == "not_registered"
    assert denied(lambda: made.authorize(5, tag="sbc_sessions")).code == "unknown_entitlement"
    assert denied(lambda: made.renew_id(request=made.csr("SP-X"))).code == "bad_request"
    made.key = SigningKey.generate()
    with pytest.raises(AssertionError, match="unknown_signer"):
        made.authorize(5)


def test_without_an_account_there_is_no_token(tmp_path: Path) -> None:
    with running(Site(tmp_path / "bare")) as bare:
        problem = bare.call("POST", "/smart/tokens", {}, 409)
        assert problem["code"] == "no_account"
        assert "callpool smart account" in problem["detail"]


def test_an_order_of_one_role_is_never_taken_by_the_other(manager: Running) -> None:

    envelope = smart_order(manager.site, "PO-1", 100)
    assert manager.import_order(envelope, 400)["code"] == "bad_document"
    pool = manager.site.order("PO-2", sbc_sessions=5)
    reply = manager.http.post(
        "/api/v1/smart/orders", content=pool, headers={"content-type": "application/jose"}
    )
    assert (reply.status_code, reply.json()["code"]) == (400, "bad_document")
    buy(manager, "PO-1", 100)
    reply = manager.http.post(
        "/api/v1/smart/orders", content=envelope, headers={"content-type": "application/jose"}
    )
    assert reply.json()["code"] == "order_already_imported"


def test_the_event_log_tells_who_what_and_when_and_is_filtered(
    manager: Running, device: Device
) -> None:
    buy(manager, "PO-1", 100)
    made = device()
    made.authorize(60)
    events = manager.call("GET", "/smart/events", status=200)["events"]
    kinds = [e["kind"] for e in events]
    for kind in ("account_added", "token_made", "licenses_added", "instance_registered"):
        assert kind in kinds
    path = f"/smart/events?instance={made.instance_id}&kind=count_set"
    (only,) = manager.call("GET", path, status=200)["events"]
    assert (only["who"], only["tag"]) == (made.serial, "cps")
    assert manager.call("GET", "/smart/events?colour=red", None, 400)["code"] == "bad_request"


def test_kill_9_between_write_and_reply_loses_nothing(tmp_path: Path) -> None:

    site = Site(tmp_path / "manager")
    manager = Running(site)
    listen = f"127.0.0.1:{manager.port}"
    try:
        manager.call("POST", "/smart/accounts", {"name": "acme"}, 201)
        buy(manager, "PO-1", 1000)
        made = SmartDevice(manager, "SP-1")
        made.register(smart_token(manager))
        for count in (5, 10, 15):
            request = made.authorization(count)
            lost = threading.Thread(target=lambda r=request: _try(made, r))
            lost.start()
            written = f"SELECT 1 FROM smart_authorization WHERE count = {count}"  # noqa: S608
            eventually(partial(site.sql, written))
            manager.process.kill()
            manager.process.wait()
            lost.join()
            kept = manager.devices
            assert manager.process.stdout is not None
            manager.process.stdout.close()
            manager.http.close()
            manager = Running(site, listen)
            manager.devices = kept
            made.manager = manager
            versions = site.sql("SELECT version FROM smart_authorization")
            made.take(made.send(AuthorizeReply, request))
            assert site.sql("SELECT version FROM smart_authorization") == versions
        assert instance(manager, made)["status"] == "registered"
        assert license_of(manager) == (1000, 15, 985, "in_compliance")
    finally:
        manager.kill()


def _try(made: SmartDevice, request: object) -> None:

    # The process is killed meanwhile: any answer, or none, is right.
    with contextlib.suppress(httpx.HTTPError):
        made.send(AuthorizeReply, request)
