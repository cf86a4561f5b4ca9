"""Smart licensing on a whole device, in virtual time: commands, bad input, crashes, the gate."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from device_world import DAY, VENDOR, FakeUsage, World
from smart_authority import Authority, SmartWorld
from typer.testing import CliRunner

from callpool.device import smart_commands
from callpool.device.errors import DeviceError, FlashError
from callpool.device.record import open_record
from callpool.device.smart_commands import smart_app
from callpool.device.smart_status import rows
from callpool.device.window import CallWindow, windowed
from callpool.licensing.admission import AdmissionPolicy, Step
from callpool.licensing.capacity import Capacity
from callpool.licensing.errors import CallpoolError
from callpool.licensing.key import LocalKey
from callpool.wire.envelope import LOCAL_KEY, sign
from callpool.wire.keys import SigningKey
from callpool.wire.smart_messages import AUTHORIZE_PATH, REGISTER_PATH


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SmartWorld]:
    made = SmartWorld(tmp_path / "device")
    await made.start()
    yield made
    await made.agent.smart.close()
    await made.crash()


async def refused(world: SmartWorld, action: str, **fields: Any) -> str:
    """Return the code of a command that must be refused and change no state."""
    before = world.state, world.agent.smart.agent.certificate
    with pytest.raises(CallpoolError) as caught:
        await world.tell(action, **fields)
    assert (world.state, world.agent.smart.agent.certificate) == before
    assert caught.value.sentence.endswith(".")
    return caught.value.code


def local_key(sequence: int, *, cps: int = 0, maximum_cps: int = 0) -> str:
    key = LocalKey(
        key_id=f"LK-{sequence}",
        sequence=sequence,
        serials=("S1",),
        counts=Capacity.of(cps=cps),
        maximum=Capacity.of(sbc_sessions=10, cps=maximum_cps),
        features=frozenset(),
        issued_at=1,
    )
    return sign(VENDOR, LOCAL_KEY, key.to_payload())


def step(world: World) -> Step:
    return world.gate.policy.at(world.clock.now().wall)


async def test_a_smart_device_refuses_until_enabled_and_is_licensed_by_its_count(
    world: SmartWorld,
) -> None:
    assert (step(world).admit, step(world).reason) == (False, "unconfigured")
    await world.tell("enable")
    await world.tell("count", count=50)
    assert world.state == "Unidentified"
    assert (step(world).admit, dict(step(world).caps)) == (True, {"cps": 50})
    told = await world.tell("register", token=world.authority.token)
    assert (world.state, told["code"]) == ("Authorized", "")
    status = world.agent.status()
    assert (status.managed, status.mode) == ("smart", "Smart Licensing")
    assert status.smart is not None
    assert (status.smart.account, status.smart.count) == ("acme", 50)
    assert not world.layout.smart_token.exists(), "the token is gone once it is used"


async def test_the_life_of_a_device_follows_the_timers(world: SmartWorld) -> None:
    await world.authorized()
    world.link.down = True
    await world.go(31 * DAY)
    assert world.agent.smart_status().listening
    assert "smart_renewal_failed" in world.alarms()
    assert step(world).admit
    await world.go(60 * DAY)
    assert world.state == "AuthorizationExpired"
    world.link.down = False
    await world.go(DAY)
    assert world.state == "Authorized"
    world.authority.good = False
    await world.tell("renew_auth")
    assert world.state == "OutOfCompliance"
    assert "smart_out_of_compliance" in world.alarms()


async def test_deregister_clears_local_data_even_when_nobody_can_be_told(
    world: SmartWorld,
) -> None:
    await world.authorized()
    world.link.down = True
    told = await world.tell("deregister")
    assert told["code"] == "manager_unreachable"
    assert world.state == "Unidentified"
    record = world.agent.smart.record
    assert (record.certificate, record.anchor, record.authorization) == ("", "", None)
    assert await refused(world, "deregister") == "not_registered"


@pytest.mark.parametrize("command", ["deregister", "disable"])
async def test_what_is_said_of_the_authoritys_list_is_so(
    world: SmartWorld, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: dict[str, str] = {}
    for code in ("certificate_revoked", "manager_unreachable"):
        if not world.agent.smart.agent.enabled:
            await world.tell("enable")
        await world.tell("register", token=world.authority.token)
        world.authority.refuse = (code, True) if code == "certificate_revoked" else None
        world.link.down = code == "manager_unreachable"
        told = await world.tell(command)
        assert told["code"] == code
        world.authority.refuse, world.link.down = None, False
        answer = msgspec.json.decode(msgspec.json.encode(told))
        monkeypatch.setattr(smart_commands, "ask", lambda *_, **__: answer)  # noqa: B023
        shown = CliRunner().invoke(smart_app, [command, "--dir", "."])
        assert shown.exit_code == 0, shown.output
        said[code] = " ".join(shown.output.split())
    assert "did not list this device any more" in said["certificate_revoked"]
    assert "still lists" not in said["certificate_revoked"]
    assert "still lists this device" in said["manager_unreachable"]
    assert "callpool smart remove" in said["manager_unreachable"]


async def test_the_plain_status_tells_what_the_json_does(world: SmartWorld) -> None:
    await world.authorized()
    shown = dict(rows(world.agent.smart_status()))
    assert shown["Export-controlled functions"] == "not allowed"
    allowed = msgspec.structs.replace(world.agent.smart_status(), export_allowed=True)
    assert dict(rows(allowed))["Export-controlled functions"] == "allowed"


async def test_what_cannot_be_is_refused_by_name_and_changes_nothing(world: SmartWorld) -> None:
    assert await refused(world, "register", token=world.authority.token) == "smart_not_enabled"
    await world.tell("enable")
    assert await refused(world, "enable") == "already_enabled"
    assert await refused(world, "register", token="garbled") == "bad_token"
    for count in (3, -5, 20_000):
        assert await refused(world, "count", count=count) in ("bad_count", "above_maximum")
    for code in ("token_expired", "token_revoked", "token_used_up", "unknown_token", "no_account"):
        world.authority.refuse = (code, False)
        assert await refused(world, "register", token=world.authority.token) == code
        assert world.agent.smart.agent.next_contact is None, "a dead token is not tried again"
    world.authority.refuse = None
    foreign = Authority(world.clock)
    assert await refused(world, "register", token=foreign.token) == "wrong_anchor"
    await world.tell("register", token=world.authority.token)
    assert await refused(world, "register", token=world.authority.token) == "already_registered"


@pytest.mark.parametrize(
    ("bend", "code"),
    [
        ({"nonce": "another"}, "wrong_nonce"),
        ({"serial": "S2"}, "wrong_serial"),
        ({"version": 99}, "unknown_version"),
        ({"instance_id": "PI-9"}, "wrong_instance"),
        ("signature", "unknown_signer"),
        ("clock", "clock_skew"),
        ("dates", "bad_message"),
        ("old", "older_authorization"),
    ],
)
async def test_a_reply_that_cannot_be_believed_changes_no_state(
    world: SmartWorld, bend: Any, code: str
) -> None:
    await world.authorized()
    held = world.agent.smart.agent.authorization
    if bend == "signature":
        world.authority.signer = SigningKey.generate()
    elif bend == "clock":
        world.authority.ahead = 3700.0
    elif bend == "dates":
        world.authority.bend = {"authorization": _absurd(world)}
    elif bend == "old":
        world.agent.smart._core.hold_smart(
            msgspec.structs.replace(
                world.agent.smart.record,
                agent=msgspec.structs.replace(world.agent.smart.agent, seen_version=9),
            )
        )
        real = world.authority._reply

        def older(path: str, asked: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
            reply = real(path, asked, told)
            reply["authorization"]["version"] = 1
            return reply

        world.authority._reply = older  # type: ignore[method-assign]
    else:
        world.authority.bend = bend
    assert await refused(world, "renew_auth") == code
    assert world.agent.smart.agent.authorization == held
    assert world.agent.smart_status().listening, "a renewal that failed is told of"


async def test_lost_answers_are_asked_for_again_byte_for_byte(world: SmartWorld) -> None:
    await world.authorized()
    world.link.lose_answers = 3
    asked = len(world.authority.requests)
    with pytest.raises(DeviceError):
        await world.tell("renew_auth")
    await world.go(DAY / 4)
    assert world.state == "Authorized"
    assert not world.agent.smart_status().listening
    assert len(world.authority.requests) <= asked + 2, "the same bytes, then one fresh question"


async def test_a_crash_at_any_time_loses_no_timer_and_grows_no_evaluation(
    world: SmartWorld,
) -> None:
    await world.tell("enable")
    await world.tell("count", count=50)
    left = world.agent.smart_status().eval_seconds_left
    for days in (1, 7, 20):
        await world.go(days * DAY)
        await world.agent.smart.close()
        await world.crash()
        world.clock.boot(off=60.0)
        await world.start()
        now = world.agent.smart_status().eval_seconds_left
        assert now < left - days * DAY + 1
        left = now
    await world.go(left + 1)
    assert world.state == "EvalExpired"
    assert step(world).reason == "eval_expired"


async def test_an_altered_authorization_in_the_flash_is_refused(world: SmartWorld) -> None:
    await world.authorized()
    record = world.flash.record
    assert record is not None
    agent = record.smart.agent
    assert agent.authorization is not None
    later = msgspec.structs.replace(agent, authorization=_later(agent.authorization))
    altered = msgspec.structs.replace(
        record, smart=msgspec.structs.replace(record.smart, agent=later)
    )
    with pytest.raises(FlashError):
        open_record(altered, world.settings)


def _absurd(world: SmartWorld) -> dict[str, Any]:
    now = world.authority.now()
    dates = {"issued_at": now, "renew_at": now, "expires_at": 1e300}
    return {"version": 9, "tag": "cps", "count": 50, "status": "in_compliance", **dates}


def _later(authorization: Any) -> Any:
    return replace(authorization, expires_at=authorization.expires_at + 1000 * DAY)


async def test_the_log_has_a_line_an_event_and_never_a_secret(world: SmartWorld) -> None:
    await world.authorized()
    text = world.layout.smart_log.read_text()
    assert world.authority.secret not in text
    for line in text.splitlines():
        time, severity, name, cause, rest = line.split(" ", 4)
        assert time.endswith("Z")
        assert severity in ("INFORMATIONAL", "WARNING", "ERROR")
        assert name.isalpha()
        assert cause.startswith("cause=")
        assert rest.startswith('next="')


async def test_the_end_of_the_evaluation_is_told_again_every_hour_until_registered(
    world: SmartWorld,
) -> None:
    def told() -> list[str]:
        lines = world.layout.smart_log.read_text().splitlines()
        return [line for line in lines if " EvalExpired " in line]

    await world.tell("enable")
    await world.tell("count", count=50)
    await world.go(90 * DAY)
    assert len(told()) == 1
    await world.go(5 * 3600.0 + 60)
    assert len(told()) == 6
    assert "cause=reminder" in told()[-1]
    await world.agent.smart.close()
    await world.crash()
    await world.start()
    assert len(told()) == 7, "a start tells it too"
    await world.tell("disable")
    await world.go(DAY)
    assert len(told()) == 7, "off"
    await world.tell("enable")
    assert len(told()) == 8
    await world.tell("register", token=world.authority.token)
    await world.go(DAY)
    assert (world.state, len(told())) == ("Authorized", 8)


async def test_the_most_that_can_be_configured_is_the_local_keys_word(world: SmartWorld) -> None:
    assert world.agent.smart_status().maximum == 10_000
    world.settings = msgspec.structs.replace(world.settings, maximum={"cps": 3000})
    world.agent.core.settings = world.settings
    assert world.agent.smart_status().maximum == 3000, "the configuration's, without a key"
    await world.agent.core.install_key(local_key(1))
    assert world.agent.smart_status().maximum == 3000, "a key that does not speak of it"
    await world.agent.core.install_key(local_key(2, cps=1000, maximum_cps=1000))
    assert world.agent.smart_status().maximum == 1000
    await world.tell("enable")
    assert await refused(world, "count", count=1005) == "above_maximum"
    await world.tell("count", count=1000)
    await world.tell("register", token=world.authority.token)
    assert world.authority.requests[-1][1]["maximum"] == 1000


async def test_a_count_above_a_newer_keys_maximum_is_cut_to_it_and_alarmed(
    world: SmartWorld,
) -> None:
    await world.agent.core.install_key(local_key(1, cps=100, maximum_cps=100))
    await world.tell("enable")
    await world.tell("count", count=100)
    await world.tell("register", token=world.authority.token)
    assert step(world).caps == {"cps": 100}
    await world.agent.core.install_key(local_key(2, cps=52, maximum_cps=52))
    assert step(world).caps == {"cps": 50}, "at once, and a multiple of 5"
    told = world.agent.smart_status()
    assert (told.count, told.limit, told.maximum) == (100, 50, 52)
    (raised,) = [a for a in world.agent.status().alarms if a.code == "smart_count_above_maximum"]
    assert "100 configured, 50 in force; configure at most 50." in raised.text
    await world.go(1.0)
    asked = [body["count"] for path, body in world.authority.requests if path == AUTHORIZE_PATH]
    assert asked[-1] == 50, "the authority does not refuse what the device cannot carry"
    assert world.state == "Authorized"
    await world.start()
    await world.go(1.0)
    assert step(world).caps == {"cps": 50}
    settled = len(world.authority.requests)
    await world.agent.core.install_key(local_key(3, cps=200, maximum_cps=200))
    await world.go(1.0)
    assert world.authority.requests[-1][1]["count"] == 100, "what counts again is asked for"
    assert len(world.authority.requests) == settled + 1
    assert step(world).caps == {"cps": 100}
    assert "smart_count_above_maximum" not in world.alarms()


async def test_what_the_pool_gives_a_smart_device_is_not_used_and_said_until_it_is_gone(
    tmp_path: Path,
) -> None:
    world = World(tmp_path / "device")
    await world.start()
    await world.agent.smart.enable()
    await world.agent.smart.count(50)
    before = dict(step(world).caps)
    assert before == {"cps": 50}
    world.manager.allocate(10)
    await world.agent.pull()
    await world.go(0.0)
    status = world.agent.status()
    assert (status.managed, dict(step(world).caps)) == ("smart", before)
    told = {alarm.code: alarm.text for alarm in status.alarms}
    assert "Take the device out of the pool, or disable smart licensing" in told["two_modes"]
    assert "restart_pending" not in told, "a restart would not help"
    world.manager.allocate(0)
    await world.agent.pull()
    await world.go(0.0)
    assert "two_modes" not in world.alarms()
    world.manager.allocate(10)
    await world.agent.pull()
    await world.go(0.0)
    assert "two_modes" in world.alarms()
    await world.agent.smart.disable()
    await world.go(0.0)
    assert "two_modes" not in world.alarms()
    assert world.agent.status().managed == "fixed"
    assert "restart_pending" in world.alarms()
    await world.agent.smart.close()
    await world.crash()


async def test_a_device_that_the_pool_licenses_is_not_enabled(tmp_path: Path) -> None:
    world = World(tmp_path / "device")
    world.manager.allocate(10)
    await world.start()
    with pytest.raises(DeviceError) as caught:
        await world.agent.smart.enable()
    assert caught.value.code == "mode_fixed"
    assert world.agent.status().managed == "fixed"
    await world.agent.smart.close()
    await world.crash()


async def test_requests_go_where_they_belong(world: SmartWorld) -> None:
    await world.authorized()
    paths = [path for path, _ in world.authority.requests]
    assert paths[:2] == [REGISTER_PATH, AUTHORIZE_PATH]
    assert world.authority.requests[1][1]["count"] == 50


def test_the_window_refuses_while_the_mean_is_at_or_above_the_license() -> None:
    window = CallWindow()
    caps = AdmissionPolicy(steps=(Step(caps={"cps": 10}),))
    for second in range(0, 301, 30):
        window.look(float(second), 10 * second)
    assert window.mean == 10.0
    over = windowed(caps, window.mean, 1000.0)
    assert (over.steps[0].admit, over.steps[0].reason) == (False, "cps_limit")
    assert over.steps[0].calls_only, "registrations are no calls"
    assert over.steps[0].until is not None
    assert over.steps[-1].admit, "it ends by itself"
    for second in range(330, 631, 30):
        window.look(float(second), 3000)
    assert window.mean == 0.0
    under = windowed(caps, window.mean, 1000.0)
    assert [(s.admit, dict(s.caps)) for s in under.steps] == [(True, {})]
    window.look(700.0, 5)
    assert window.mean == 0.0, "a count that began anew"


async def test_the_window_policy_is_walked_by_the_core(tmp_path: Path) -> None:
    world = SmartWorld(tmp_path / "device")
    world.settings = msgspec.structs.replace(world.settings, cps_policy="window")
    await world.start()
    await world.authorized()
    assert dict(step(world).caps) == {}
    for _ in range(12):
        world.gate.used = FakeUsage(admitted=world.gate.used.admitted + 30 * 60)
        await world.go(30.5)
    assert (step(world).admit, step(world).reason) == (False, "cps_limit")
    await world.go(400.0)
    assert step(world).admit
    await world.agent.smart.close()
    await world.crash()


async def test_a_full_disk_lets_nothing_in_and_keeps_nothing_up(world: SmartWorld) -> None:
    await world.tell("enable")
    await world.tell("count", count=50)
    world.flash.full = True
    for action, fields in (("count", {"count": 60}), ("disable", {})):
        with pytest.raises(DeviceError) as caught:
            await world.tell(action, **fields)
        assert caught.value.code == "flash_write_failed"
    assert (world.state, world.agent.smart.agent.count) == ("Unidentified", 50)
    await world.go(91 * DAY)
    assert world.state == "EvalExpired", "what gives less needs no disk"
    assert not step(world).admit
