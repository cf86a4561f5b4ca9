from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from callpool.device.faces.snmp.tree import table
from callpool.host.snmp.notify import COLD_START, QUEUE, Receiver, VarBinds, standard, varbinds
from callpool.host.snmp.settings import SnmpSettings, read_settings, write_settings
from callpool.host.snmp.values import View, date_and_time, text
from callpool.licensing.alarm_table import POOL_APPLICATION, Severity
from callpool.licensing.alarms import Event
from callpool.licensing.errors import CallpoolError

SECRET = "a-secret-that-nobody-sees"
USER = {"name": "noc", "auth_secret": SECRET, "privacy_secret": SECRET}


def put(tmp_path: Path, settings: Any) -> SnmpSettings:
    file = tmp_path / "in.json"
    file.write_text(settings if isinstance(settings, str) else json.dumps(settings))
    return read_settings(file)


def test_settings_are_kept_whole_and_private(tmp_path: Path) -> None:
    settings = put(
        tmp_path,
        {
            "listen": "[::1]:161",
            "users": [USER],
            "targets": [{"address": "[::1]:1", "user": "noc"}],
        },
    )
    file = tmp_path / "snmp.json"
    write_settings(file, settings)
    assert file.stat().st_mode & 0o777 == 0o600
    assert read_settings(file) == settings
    assert SECRET not in repr(settings)
    assert SECRET not in repr(settings.users)


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        ("{", "bad_snmp_settings"),
        ({}, "bad_snmp_settings"),  # nobody could read
        ({"users": [USER], "port": 161}, "bad_snmp_settings"),
        ({"users": [{**USER, "auth_secret": "short"}]}, "bad_snmp_user"),
        ({"users": [{**USER, "name": ""}]}, "bad_snmp_user"),
        ({"users": [USER, USER]}, "bad_snmp_settings"),
        ({"users": [USER], "listen": "noc.example.net:161"}, "bad_address"),
        ({"users": [USER], "targets": [{"address": "192.0.2.1"}]}, "bad_address"),
        ({"users": [USER], "targets": [{"address": "192.0.2.1:162"}]}, "bad_snmp_settings"),
        (
            {"users": [USER], "targets": [{"address": "192.0.2.1:162", "user": "x"}]},
            "bad_snmp_settings",
        ),
        (
            {"users": [USER], "targets": [{"address": "[::1]:162", "user": "noc"}]},
            "bad_snmp_settings",
        ),
        (
            {"users": [USER], "targets": [{"address": "192.0.2.1:162", "kind": "x"}]},
            "bad_snmp_settings",
        ),
        ({"users": [{**USER, "auth_secret": [SECRET]}]}, "bad_snmp_settings"),
    ],
)
def test_bad_settings_get_one_sentence_without_any_secret(
    tmp_path: Path, settings: Any, code: str
) -> None:
    with pytest.raises(CallpoolError) as refused:
        put(tmp_path, settings)
    assert refused.value.code == code
    assert SECRET not in refused.value.sentence


def test_a_view_is_read_in_lexicographic_order_to_its_end() -> None:
    oids = [(1, 3, 10), (1, 3, 9, 1), (1, 3, 9), (1, 3, 9, 1, 0), (2,)]
    view = View({oid: text(str(oid)) for oid in oids})
    walked, at = [], view.next_after(())
    while at is not None:
        walked.append(at)
        at = view.next_after(at)
    assert walked == sorted(oids)
    assert view.get((1, 3, 9, 2)) is None
    assert view.is_object((1, 3, 9, 1, 7))
    assert not view.is_object((1, 9, 7))


def test_texts_are_cut_between_characters_and_times_are_in_utc() -> None:
    assert bytes(text("ä" * 60, 101)) == ("ä" * 50).encode()
    # 2027-01-15 08:00:00.5 UTC
    assert bytes(date_and_time(1_800_000_000.5)) == bytes(
        (2027 >> 8, 2027 & 255, 1, 15, 8, 0, 0, 5, ord("+"), 0, 0)
    )


def event(code: str = "restart_pending") -> Event:
    return Event(
        sequence=64_003,
        at=1_800_000_000.0,
        oid=POOL_APPLICATION,
        severity=Severity.MAJOR,
        codes=(code,),
        text="New licenses have arrived.",
    )


def test_the_unique_number_wraps_and_an_unknown_condition_is_told_all_the_same() -> None:
    for code in ("restart_pending", "of_a_later_release"):
        sent = varbinds(event(code), serial="S1", uptime=5)
        assert len(sent) == 18
        assert int(sent[6][1]) == 64_003 % 32_001
        assert len(table((1,), (event(code),), lambda _: 0)) == 13


async def test_a_receiver_gets_all_in_order_and_what_it_lacks_is_bounded() -> None:
    tried: list[int] = []
    up = False
    first, all_ = asyncio.Event(), asyncio.Event()

    def send(notification: VarBinds, answered: Callable[[bool], None]) -> None:
        tried.append(int(notification[0][1]))
        first.set()
        if len(tried) == QUEUE + 1:
            all_.set()
        answered(up)

    receiver = Receiver(send)
    for number in range(QUEUE + 10):
        receiver.put(standard(COLD_START, number))
    assert receiver.waiting == QUEUE
    task = asyncio.create_task(receiver.run())
    async with asyncio.timeout(30):
        await first.wait()
        assert receiver.waiting == QUEUE, "not answered, so it is kept"
        up = True
        await all_.wait()
    assert tried == [10, *range(10, QUEUE + 10)]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
