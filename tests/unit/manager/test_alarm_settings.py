"""`snmp.json` and `syslog.json`: what is refused, and that no secret is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from callpool.host.snmp.station import Received
from callpool.licensing.alarm_table import Severity
from callpool.licensing.errors import CallpoolError
from callpool.manager.alarm_process.inventory import Inventory
from callpool.manager.snmp_commands import public
from callpool.manager.snmp_settings import (
    DeviceEntry,
    Filtered,
    StationSettings,
    SyslogSettings,
    read_settings,
    write_settings,
)

USER = {"name": "noc", "auth_secret": "auth-secret-1", "privacy_secret": "privacy-secret-1"}


def made(**settings: Any) -> StationSettings:
    return msgspec.convert({"users": [USER], **settings}, StationSettings)


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ({"users": []}, "bad_snmp_settings"),
        ({"users": [USER, USER]}, "bad_snmp_settings"),
        ({"users": [USER | {"auth_secret": "short"}]}, "bad_snmp_user"),
        ({"listen": "somewhere:162"}, "bad_address"),
        ({"ask_user": "nobody"}, "bad_snmp_settings"),
        ({"devices": [{"serial": "S", "user": "nobody"}]}, "bad_snmp_settings"),
        ({"devices": [{"serial": "S"}, {"serial": "S"}]}, "bad_snmp_settings"),
        ({"devices": [{"serial": "S", "address": "name"}]}, "bad_address"),
        ({"devices": [{"serial": "S", "engine_id": "80"}]}, "bad_snmp_settings"),
        ({"devices": [{"serial": "S", "engine_id": "xyz"}]}, "bad_snmp_settings"),
        ({"targets": [{"address": "192.0.2.1:162"}]}, "bad_snmp_settings"),
        ({"targets": [{"address": "[2001:db8::1]:162", "user": "noc"}]}, "bad_snmp_settings"),
        ({"targets": [{"address": "192.0.2.1:162", "user": "noc"}] * 2}, "bad_snmp_settings"),
        ({"prefixes": ["1.3.x"]}, "bad_snmp_settings"),
    ],
)
def test_what_cannot_work_is_refused(settings: dict[str, Any], code: str) -> None:
    with pytest.raises(CallpoolError) as refused:
        made(**settings)
    assert refused.value.code == code


def test_secrets_are_kept_private_and_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "snmp.json"
    settings = made(community="community-1", devices=[{"serial": "S", "address": "192.0.2.9"}])
    write_settings(file, settings)
    assert file.stat().st_mode & 0o777 == 0o600
    assert read_settings(file, StationSettings) == settings
    for shown in (repr(settings), repr(settings.users), str(public(settings))):
        assert "secret" not in shown
        assert "community-1" not in shown
    file.write_text('{"users": [{"name": "noc", "auth_secret": "my-secret-1"}]}')
    with pytest.raises(CallpoolError) as refused:
        read_settings(file, StationSettings)
    assert "my-secret-1" not in refused.value.sentence
    with pytest.raises(CallpoolError):
        read_settings(tmp_path / "none", SyslogSettings)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("192.0.2.1", ("192.0.2.1", 161)),
        ("192.0.2.1:1161", ("192.0.2.1", 1161)),
        ("2001:db8::1", ("2001:db8::1", 161)),
        ("[2001:db8::1]", ("2001:db8::1", 161)),
        ("[2001:db8::1]:1161", ("2001:db8::1", 1161)),
    ],
)
def test_a_device_is_asked_at_snmps_own_port_unless_another_is_named(
    text: str, at: tuple[str, int]
) -> None:
    assert DeviceEntry(serial="S", address=text).asked_at() == at


def test_a_target_is_told_by_the_gravest_that_an_alarm_has_been_and_by_tenant() -> None:
    majors = Filtered(severity="major")
    assert majors.wants(Severity.MAJOR, "")
    assert not majors.wants(Severity.MINOR, "")
    one = Filtered(tenants=("one",))
    assert one.wants(Severity.WARNING, "one")
    assert not one.wants(Severity.CRITICAL, "two")
    assert not one.wants(Severity.CRITICAL, ""), "the manager's own alarms are nobody's"


def received(address: str, *, user: str = "noc", engine: bytes = b"") -> Received:
    return Received(
        source=(address, 161), user=user, engine=engine, confirmed=not engine, binds=(),
        acknowledge=lambda: None,
    )  # fmt: skip


def test_who_names_nobody_is_known_by_the_engine_or_by_the_only_unit_at_its_address() -> None:
    inventory = Inventory(made(devices=[{"serial": "S3", "engine_id": "8000000001020304"}]))
    inventory.refresh(["S1", "S2", "S3"])
    assert inventory.speaker(received("192.0.2.1"), "") == ("", "unknown_unit")
    assert inventory.speaker(received("192.0.2.1"), "S1") == ("S1", "")
    assert inventory.speaker(received("192.0.2.1"), "") == ("S1", "")
    assert inventory.speaker(received("192.0.2.1"), "S2") == ("S2", "")
    assert inventory.speaker(received("192.0.2.1"), "") == ("", "unknown_unit"), "which of two?"
    foreign = bytes.fromhex("8000000001020304")
    assert inventory.knows_engine(foreign)
    assert inventory.speaker(received("192.0.2.7", engine=foreign), "") == ("S3", "")
    assert inventory.speaker(received("192.0.2.7", engine=foreign), "S1") == ("", "wrong_sender")
    inventory.refresh(["S1"])
    assert inventory.speaker(received("192.0.2.1"), "S2") == ("", "unknown_unit")
    assert not inventory.knows_engine(foreign)
