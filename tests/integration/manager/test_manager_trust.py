"""Law 4 at the manager's door: replayed, foreign, stale, wrong-URL and altered messages."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from managerkit import POOL, Device, Refused, Running, Site, cli, eventually, running

from callpool.manager.core import Manager
from callpool.wire.envelope import CONTACT, HINTS, REPLY, sign, trust, verify
from callpool.wire.keys import SigningKey
from callpool.wire.messages import CONTACT_PATH, ENROL_PATH, HINTS_PATH, HintsRequest


@pytest.fixture(scope="module")
def manager(tmp_path_factory: pytest.TempPathFactory, engine: str) -> Iterator[Running]:
    site = Site(tmp_path_factory.mktemp("trust") / "manager")
    with running(site) as made:
        made.import_order(site.order("PO-1", sbc_sessions=1000))
        yield made


@pytest.fixture
def serial(manager: Running) -> str:
    number = secrets.token_hex(6).upper()
    manager.add(f"d-{number}", number, apply="live")
    return number


@pytest.fixture
def device(manager: Running, serial: str) -> Device:
    return manager.device(serial)


def refused(device: Device, **over: object) -> Refused:
    with pytest.raises(Refused) as error:
        device.send(device.request(**over))
    return error.value


def test_a_lost_reply_is_repeated_byte_for_byte(device: Device) -> None:
    request = device.request()
    device.send(request)
    first = device.last
    device.send(request)
    assert device.last == first
    device.take(device.send(request))
    device.contact()


def test_a_copied_flash_locks_the_serial_until_an_operator_lets_one_go_on(
    manager: Running, device: Device
) -> None:
    clone = manager.bare(device.serial, device.key)
    clone.keys, clone.anchor, clone.value = device.keys, device.anchor, device.value
    device.contact()
    device.contact()
    with pytest.raises(Refused) as stale:
        clone.contact()
    assert (stale.value.status, stale.value.code) == (409, "stale_contact")
    assert refused(device).code == "unit_locked"
    assert manager.unit(device.serial)["locked"] == "stale_contact"
    token = manager.call("POST", f"/units/{device.serial}/unlock", status=200)["token"]
    assert refused(device).code == "unknown_signer"
    chosen = manager.bare(device.serial)
    chosen.enrol(token)
    chosen.contact()
    with pytest.raises(Refused) as void:
        clone.contact()
    assert void.value.code == "unknown_signer"


def test_messages_that_are_not_what_they_claim_are_refused_by_code(
    manager: Running, device: Device, serial: str
) -> None:
    other = f"https://localhost:1{CONTACT_PATH}"
    assert refused(device, url=other).code == "wrong_url"
    assert refused(device, serial="SOMEONE-ELSE").code == "wrong_serial"
    assert refused(device, version=2).code == "unknown_version"
    assert refused(device, time=time.time() - 3700).code == "clock_skew"
    good = sign(device.key, CONTACT, device.request())
    head, body, signature = good.split(".")
    cases = [
        ("bad_signature", f"{head}.{body[:-2]}AA.{signature}"),
        ("unknown_signer", sign(SigningKey.generate(), CONTACT, device.request())),
        ("bad_envelope", sign(device.key, HINTS, device.request())),
        ("bad_envelope", "not.an.envelope"),
        ("bad_envelope", ""),
        ("bad_message", sign(device.key, CONTACT, {"version": 1})),
    ]
    for code, envelope in cases:
        with pytest.raises(Refused) as error:
            device.post(CONTACT_PATH, envelope)
        assert error.value.code == code
    with pytest.raises(Refused) as kind:
        device.post(CONTACT_PATH, good, content_type="application/json")
    assert (kind.value.status, kind.value.code) == (415, "wrong_content_type")
    with pytest.raises(Refused) as large:
        device.post(CONTACT_PATH, "x" * (256 * 1024 + 1))
    assert (large.value.status, large.value.code) == (413, "body_too_large")
    device.contact()  # nothing of all that changed anything


def test_another_units_key_opens_nothing(manager: Running, device: Device) -> None:
    manager.add(f"e-{device.serial}", f"X{device.serial}")
    foreign = manager.device(f"X{device.serial}")
    foreign.serial = device.serial
    foreign.value = device.value
    with pytest.raises(Refused) as error:
        foreign.contact()
    assert error.value.code == "wrong_serial"


def test_each_way_a_token_can_be_wrong_has_its_code(manager: Running, serial: str) -> None:
    fresh = manager.bare(serial)

    def code(token: str, made: Device = fresh, **over: object) -> str:
        with pytest.raises(Refused) as error:
            made.enrol(token, **over)
        return error.value.code

    good = manager.token()
    assert code(f"callpool1.{'x' * 32}.{good.split('.')[2]}") == "unknown_token"
    revoked = manager.call("POST", "/tokens", {}, 201)
    manager.call("DELETE", f"/tokens/{revoked['id']}", status=200)
    assert code(revoked["token"]) == "token_revoked"
    brief = manager.call("POST", "/tokens", {"days": 0.01 / 86_400}, 201)
    eventually(
        lambda: (
            not next(
                t["usable"]
                for t in manager.call("GET", "/tokens")["tokens"]
                if t["id"] == brief["id"]
            )
        )
    )
    assert code(brief["token"]) == "token_expired"
    used = manager.token()
    manager.add(f"f-{serial}", f"F{serial}")
    manager.bare(f"F{serial}").enrol(used)
    assert code(used) == "token_used_up"
    assert code(good, manager.bare("NOBODY")) == "unknown_serial"
    assert code(good, url=f"https://localhost:1{ENROL_PATH}") == "wrong_url"
    assert code(good, serial="OTHER") == "bad_request"  # its certificate request says who it is
    fresh.enrol(good)
    assert code(manager.token(), manager.bare(serial)) == "already_enrolled"
    uses = {t["id"]: t["uses_left"] for t in manager.call("GET", "/tokens")["tokens"]}
    assert min(uses.values()) >= 0


def test_an_enrolment_whose_reply_was_lost_is_repeated_without_cost(
    manager: Running, serial: str
) -> None:
    token = manager.token()
    fresh = manager.bare(serial)
    first = fresh.enrol(token)
    again = fresh.enrol(token)
    assert (first.certificate, first.contact) == (again.certificate, again.contact)
    fresh.contact()
    with pytest.raises(Refused) as late:
        fresh.enrol(token)
    assert late.value.code in ("already_enrolled", "token_used_up")


def test_a_hint_comes_at_once_and_from_another_process_too(
    manager: Running, device: Device
) -> None:
    device.contact()
    request = HintsRequest(
        url=manager.url + HINTS_PATH, nonce="n", serial=device.serial, time=time.time()
    )
    name = f"d-{device.serial}"
    with (
        running(manager.site) as second,
        device.http.stream(
            "POST",
            manager.url + HINTS_PATH,
            content=sign(device.key, HINTS, request),
            headers={"content-type": "application/jose"},
        ) as stream,
    ):
        lines = stream.iter_lines()
        assert next(lines).startswith(":")
        for number, through in ((1, manager), (2, second), (3, manager)):
            through.call("PUT", f"/devices/{name}/allocation", {"sbc_sessions": number}, 200)
            assert next(line for line in lines if line.startswith("data")) == (
                'data: {"hint":"pull"}'
            )
            assert device.counts(device.contact()) == {"sbc_sessions": number}
        through.call("POST", f"/devices/{name}/restart", {"save": True}, 202)
        assert next(line for line in lines if line.startswith("data"))
        reply = device.contact()
        assert reply.restart is not None
        assert (reply.restart.number, reply.restart.save) == (1, True)
        device.restart_done = 1
        assert device.contact().restart is None


def test_a_hint_that_waits_is_given_when_the_stream_opens(manager: Running, device: Device) -> None:
    device.contact()
    manager.call("PUT", f"/devices/d-{device.serial}/allocation", {"sbc_sessions": 4}, 200)
    request = HintsRequest(
        url=manager.url + HINTS_PATH, nonce="n", serial=device.serial, time=time.time()
    )
    with device.http.stream(
        "POST",
        manager.url + HINTS_PATH,
        content=sign(device.key, HINTS, request),
        headers={"content-type": "application/jose"},
    ) as stream:
        assert next(line for line in stream.iter_lines() if line.startswith("data"))


def test_keys_are_rolled_without_a_device_meeting_one_it_does_not_know(
    manager: Running, device: Device
) -> None:
    device.contact()
    before = device.keys
    local = Manager(manager.site.layout)
    local.identity.roll(time.time(), 86_400.0)
    local.close()
    reply = device.send(device.request())  # still signed by the old key, brings the new set
    assert reply.key_set
    device.take(reply)
    assert len(device.keys) > len(before)
    device.contact()
    verify(device.last, REPLY, trust(device.keys[-1]))


def test_wrong_requests_at_the_operators_door_are_refused_in_one_sentence(
    manager: Running, serial: str
) -> None:
    name = f"d-{serial}"
    allocation = f"/api/v1/devices/{name}/allocation"
    json = {"content-type": "application/json"}
    cases = [
        (400, "bad_count", allocation, b'{"sbc_sessions": -1}', json),
        (400, "bad_count", allocation, b'{"sbc_sessions": 1.5}', json),
        (400, "bad_count", allocation, b'{"sbc_sessions": 99999999999999999999}', json),
        (400, "bad_count", allocation, b'{"sbc_sessions": "5"}', json),
        (400, "bad_count", allocation, b'{"sbc_sessions": true}', json),
        (400, "unknown_license_type", allocation, b'{"wishes": 5}', json),
        (400, "bad_json", allocation, b'{"sbc_sessions": 5', json),
        (400, "bad_json", allocation, b"\xff\xfe", json),
        (400, "bad_json", allocation, b'{"sbc_sessions": ' + b"[" * 100_000, json),
        (400, "bad_request", allocation, b"[1]", json),
        (400, "bad_request", allocation, b"{}", json),
        (415, "wrong_content_type", allocation, b"{}", {"content-type": "text/xml"}),
        (413, "body_too_large", allocation, b" " * (256 * 1024 + 1), json),
        (404, "unknown_device", "/api/v1/devices/nobody/allocation", b'{"sbc_sessions": 5}', json),
        (409, "pool_exceeded", allocation, b'{"sbc_sessions": 10000000}', json),
    ]
    for status, code, path, body, headers in cases:
        reply = manager.http.put(path, content=body, headers=headers)
        problem = reply.json()
        assert (reply.status_code, problem["code"]) == (status, code), reply.text
        assert reply.headers["content-type"] == "application/problem+json"
        assert problem["detail"].count("\n") == 0
    unknown = manager.call("POST", "/devices", {"name": "n", "serials": ["S"], "colour": "red"})
    assert unknown["code"] == "bad_request"
    twice = manager.call("POST", "/devices", {"name": "other", "serials": [serial]})
    assert (twice["status"], twice["code"]) == (409, "duplicate_serial")
    assert (
        manager.call("POST", "/devices", {"name": "n", "serials": ["S?"]})["code"] == "bad_serial"
    )
    assert manager.call("POST", "/devices", {"name": "n/", "serials": ["S"]})["code"] == "bad_name"
    assert manager.call("GET", "/nothing")["code"] == "not_found"
    assert manager.call("PATCH", "/orders")["code"] == "method_not_allowed"
    assert manager.call("POST", "/tokens", {"uses": 0})["code"] == "bad_request"
    assert manager.call("GET", "/journal?limit=x")["code"] == "bad_request"


def test_orders_that_are_not_for_this_manager_are_refused(manager: Running, tmp_path: Path) -> None:
    site = manager.site
    good = site.order("PO-twice", sbc_sessions=1)
    manager.import_order(good)
    assert manager.import_order(good, 409)["code"] == "order_already_imported"
    head, body, signature = site.order("PO-3", sbc_sessions=1).split(".")
    altered = f"{head}.{body[:-3]}AAA.{signature}"
    assert manager.import_order(altered, 403)["code"] == "bad_signature"
    mine, site.product_key = site.product_key, "CP-OTHER"
    foreign = site.order("PO-4", sbc_sessions=1)
    site.product_key = mine
    assert manager.import_order(foreign, 409)["code"] == "order_for_another_manager"
    own, site.vendor = site.vendor, SigningKey.generate()
    unsold = site.order("PO-5", sbc_sessions=1)
    site.vendor = own
    assert manager.import_order(unsold, 403)["code"] == "unknown_signer"
    late = site.order("PO-6", starts=1000, days=1, sbc_sessions=1)
    assert manager.import_order(late, 409)["code"] == "order_out_of_date"
    assert manager.import_order("hello", 400)["code"] == "bad_envelope"
    orders = {o["order_id"] for o in manager.call("GET", "/orders")["orders"]}
    assert {"PO-1", "PO-twice"} == orders


def test_nobody_gets_in_without_signing_in_and_guessing_is_limited(manager: Running) -> None:
    stranger = manager.client(signed_in=False)
    assert stranger.get("/api/v1/pool").json()["code"] == "not_signed_in"
    bad = stranger.get("/api/v1/pool", headers={"authorization": "Bearer x"})
    assert (bad.status_code, bad.json()["code"]) == (401, "session_expired")
    good = {"username": "admin", "password": manager.site.password}
    session = stranger.post("/api/v1/sessions", json=good).json()
    mine = {"authorization": f"Bearer {session['token']}"}
    assert stranger.get("/api/v1/pool", headers=mine).status_code == 200
    assert stranger.delete("/api/v1/sessions/current", headers=mine).status_code == 200
    assert stranger.get("/api/v1/pool", headers=mine).json()["code"] == "session_expired"
    codes = [
        stranger.get("/api/v1/pool", auth=("admin", f"guess-{n}")).json()["code"] for n in range(12)
    ]
    assert codes[0] == "bad_credentials"
    assert codes[-1] == "too_many_failures"
    causes = [line["cause"] for line in manager.call("GET", "/audit?limit=50")["lines"]]
    assert "sign_in_failed" in causes
    assert "sign_in_blocked" in causes
    stranger.close()


def test_the_command_line_says_one_sentence_and_its_code(manager: Running, serial: str) -> None:
    env = {
        "CALLPOOL_MANAGER": manager.url,
        "CALLPOOL_CA_FILE": str(manager.site.layout.ca),
        "CALLPOOL_PASSWORD": manager.site.password,
    }
    name = f"d-{serial}"
    assert cli(POOL, "allocate", name, "7", env=env)[0] == 0
    status, out, _ = cli(POOL, "show", "--json", env=env)
    assert status == 0
    found = next(d for d in msgspec.json.decode(out)["devices"] if d["name"] == name)
    assert found["allocation"]["sbc_sessions"] == 7
    assert serial in cli(POOL, "show", env={**env, "COLUMNS": "300"})[1]
    for words, code, expected in (
        (("allocate", name, "sbc_sessions=99999"), "pool_exceeded", 1),
        (("allocate", name, "sbc_sessions=-1"), "bad_count", 1),
        (("allocate", name, "1.5"), "bad_count", 1),
        (("allocate", "nobody", "1"), "unknown_device", 1),
        (("order", "/nonexistent"), "no_such_file", 1),
    ):
        status, out, error = cli(POOL, *words, env=env)
        assert status == expected, error
        assert error.strip().count("\n") == 0
        assert f"[{code}]" in error
    status, out, _ = cli(POOL, "allocate", name, "99999", "--json", env=env)
    assert (status, msgspec.json.decode(out)["code"]) == (1, "pool_exceeded")
    status, _, error = cli(POOL, "show", env={**env, "CALLPOOL_MANAGER": "https://localhost:1"})
    assert status == 1
    assert "[no_answer]" in error
    status, _, error = cli(POOL, "show", env={**env, "CALLPOOL_PASSWORD": ""})
    assert "[no_password]" in error
    assert cli(POOL, "nonsense", env=env)[0] == 2
