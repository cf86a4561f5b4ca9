"""Alarms and smart notices by their real causes, received by rsyslogd over UDP, TCP and TLS."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from devicekit import Device, Site, call, command, eventually, site
from syslogkit import Authority, Rsyslog, form, own

from callpool.host.ports import free_port

WAYS = ("udp", "tcp", "tls")
#: An alarm of the pool's, raised and cleared.
RAISED = ("RAISE-ALARM", "major", "restart_pending")
CLEARED = ("CLEAR-ALARM", "cleared", "restart_pending")


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as made:
        yield made


@pytest.fixture
def rsyslog(tmp_path: Path) -> Iterator[Rsyslog]:
    made = Rsyslog(tmp_path / "rsyslog")
    yield made
    made.stop()


def set_syslog(device: Device, *targets: dict[str, str], ok: bool = True) -> str:
    """Set a device's targets; return what the command said."""
    done = subprocess.run(
        command("device", "syslog", "set", "-", "--dir", device.layout.root),
        input=json.dumps({"targets": targets, "hostname": "sbc-a.example.net"}),
        text=True, capture_output=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode == 0) is ok, done.stdout + done.stderr
    return done.stdout + done.stderr


@contextmanager
def black_hole() -> Iterator[str]:
    """An address whose connections never come about: its queue of connections is full."""
    with socket.socket() as deaf, socket.socket() as one, socket.socket() as two:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for filler in (one, two):
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
        yield f"127.0.0.1:{deaf.getsockname()[1]}"


def active(device: Device) -> list[str]:
    """The alarms that the device's log holds: those that are told."""
    return [e["codes"][0] for e in device.ask("alarms")["active"]]


def had(device: Device) -> set[int]:
    """The last alarm event of each target that it is known to have had."""
    return {t["alarm"] for t in json.loads(device.layout.syslog_state.read_text()).values()}


def log(device: Device, event: str) -> list[dict[str, Any]]:
    """What the device's log says of an event."""
    assert device.process is not None
    lines = (json.loads(x) for x in device.process.said().splitlines() if x.startswith("{"))
    return [line for line in lines if line.get("event") == event]


def test_alarms_arrive_by_every_way_in_order_whatever_other_targets_do(
    alone: Site, rsyslog: Rsyslog, tmp_path: Path
) -> None:
    wrong = Authority(tmp_path / "wrong", "another authority")
    nobody = f"127.0.0.1:{free_port()}"
    # One address of the receiver by three names: each target is known by its address.
    port = rsyslog.address("tls").partition(":")[2]
    unsure, unknown = f"localhost:{port}", f"127.1:{port}"
    device = alone.device("a")
    with black_hole() as deaf:
        set_syslog(
            device,
            {"address": deaf, "transport": "tcp"},
            {"address": nobody, "transport": "tcp"},
            rsyslog.target("tls", address=unsure, ca_file=str(wrong.ca)),
            rsyslog.target("tls", address=unknown, server_name="localhost", certificate="", key=""),
            *(rsyslog.target(way) for way in WAYS),
        )  # fmt: skip
        device.start()
        eventually(device.connected)
        alone.allocate("a", sbc_sessions=10)
        eventually(lambda: all(rsyslog.alarms(way) == [RAISED] for way in WAYS))
        alone.client.call("POST", "/devices/a/restart", {"save": True})
        eventually(lambda: all(rsyslog.alarms(way) == [RAISED, CLEARED] for way in WAYS))

        # The manager is lost, the lease nears its end: the change of severity is told as a raise.
        assert alone.manager is not None
        alone.manager.end()
        device.ask("pull")
        eventually(lambda: rsyslog.alarms("tls")[-1] == ("RAISE-ALARM", "major", "contact_lost"))
        alone.clock.advance(6.5 * 86400)
        last = ("RAISE-ALARM", "critical", "lease_warning")
        eventually(lambda: all(rsyslog.alarms(way)[-1] == last for way in WAYS))

        # Each target that takes nothing is told of in one sentence, and once.
        down = eventually(
            lambda: len(log(device, "syslog_down")) >= 4 and log(device, "syslog_down")
        )
        said = {line["target"]: (line["code"], line["text"]) for line in down}
        assert len(down) == len(said) == 4, down
        assert said[nobody][0] == "syslog_unreachable"
        assert said[nobody][1].endswith("cannot be reached: Connection refused.")
        assert said[deaf] == ("syslog_timeout", f"Syslog target {deaf} does not answer.")
        assert said[unknown][0] in ("syslog_tls_failed", "syslog_unreachable")
        code, text = said[unsure]
        assert code == "syslog_certificate_refused"
        assert "its certificate is refused: self-signed certificate in certificate chain." in text
        assert had(device) == {0, len(rsyslog.alarms("tls"))}, "a refused sender has told nothing"
    eventually(lambda: len({len(rsyslog.got(way)) for way in WAYS}) == 1)
    for way in WAYS:
        assert rsyslog.sequences(way) == list(range(1, len(rsyslog.sequences(way)) + 1))
        check_messages(rsyslog.got(way), device)


def check_messages(got: list[dict[str, Any]], device: Device) -> None:
    """Every field of RFC 5424 as rsyslog parsed it, and the vendor's form."""
    for message in got:
        assert message["version"] == "1"
        assert (message["hostname"], message["app"]) == ("sbc-a.example.net", "callpool-device")
        assert message["facility"] == "local0"
        assert own(message)["serial"] == "SN-a"
        assert message["raw"].startswith("[")
    raised = got[0]
    history = {e["sequence"]: e for e in device.ask("alarms", after=0)["history"]}
    told = datetime.fromisoformat(raised["at"]).timestamp()
    assert told == pytest.approx(history[1]["at"], abs=0.001), "trusted time, as the history has it"
    assert raised["severity"] == "2", "major is critical by RFC 5674"
    assert raised["data"]["alarm"] == {
        "resource": "SN-a/system0Mo", "probablecause": "other", "perceivedseverity": "major",
        "eventtype": "communicationsAlarm",
    }  # fmt: skip
    parts = form(raised["text"])
    assert parts["name"] == own(raised)["name"] == "acLicensePoolApplicationAlarm"
    assert parts["text"] == "License Pool Alarm. New license pool allocations received"
    assert (parts["severity"], parts["source"], parts["unique"]) == ("major", "system0Mo", "1")
    assert parts["info1"] == "restart_pending"
    assert parts["info3"].startswith("Restart the device with save")
    cleared = form(got[1]["text"])
    assert (cleared["what"], cleared["severity"]) == ("CLEAR-ALARM", "cleared")


def test_smart_notices_arrive_by_their_mnemonics_and_the_settings_are_checked_and_private(
    alone: Site, rsyslog: Rsyslog
) -> None:
    device = alone.device("a")
    missing = rsyslog.target("tls", ca_file="/nowhere/ca.pem")
    assert "[bad_syslog_target]" in set_syslog(device, missing, ok=False)
    assert not device.layout.syslog.exists()
    set_syslog(device, rsyslog.target("tls", facility="local3"))
    assert device.layout.syslog.stat().st_mode & 0o777 == 0o600
    shown = call("device", "syslog", "show", "--dir", device.layout.root)
    assert f"tls {rsyslog.address('tls')} local3" in shown

    alone.client.call("PATCH", "/devices/a", {"mode": "none"})
    device.start()
    eventually(lambda: rsyslog.alarms("tls") == [("RAISE-ALARM", "major", "not_managed")])
    call("device", "smart", "enable", "--dir", device.layout.root)
    call("device", "smart", "count", "10", "--dir", device.layout.root)

    def notices() -> dict[str, dict[str, Any]]:
        return {m["msgid"]: m for m in rsyslog.got("tls") if not m["msgid"].endswith("-ALARM")}

    eventually(lambda: "COUNT_CONFIGURED" in notices())
    assert {m["facility"] for m in rsyslog.got("tls")} == {"local3"}
    enabled = notices()["AGENT_ENABLED"]
    assert enabled["text"].strip() == (
        "%SMART_LIC-6-AGENT_ENABLED: Smart Agent for Licensing is enabled"
    )
    assert (enabled["severity"], own(enabled)["mnemonic"]) == ("6", "public")
    assert own(notices()["COUNT_CONFIGURED"])["mnemonic"] == "own"

    call("device", "syslog", "off", "--dir", device.layout.root)
    assert "off" in call("device", "syslog", "show", "--dir", device.layout.root)


def test_what_happened_while_target_faces_or_core_were_away_is_told_once_and_in_order(
    alone: Site, rsyslog: Rsyslog
) -> None:
    device = alone.device("a")
    set_syslog(device, *(rsyslog.target(way) for way in WAYS))
    device.start()
    eventually(device.connected)
    alone.allocate("a", sbc_sessions=10)
    eventually(lambda: all(rsyslog.alarms(way) == [RAISED] for way in WAYS))

    # The receiver is down while the alarm is cleared, raised and cleared again.
    rsyslog.stop()
    for count in (20, 30):
        device.ask("restart", save=True)
        eventually(lambda: not active(device))
        alone.allocate("a", sbc_sessions=count)
        eventually(lambda: active(device) == ["restart_pending"])
    rsyslog.start()
    wanted = [RAISED, CLEARED] * 2 + [RAISED]
    eventually(lambda: all(rsyslog.alarms(way) == wanted for way in WAYS))

    # A message that is on its way while the faces die may come twice; these have arrived.
    eventually(lambda: had(device) == {len(wanted)})

    # The faces are killed and held off while the alarm is cleared and raised.
    old = device.running()["faces_pid"]
    os.kill(old, signal.SIGSTOP)  # frozen: nothing is told
    device.ask("restart", save=True)
    eventually(lambda: not active(device))
    os.kill(old, signal.SIGKILL)
    wanted.append(CLEARED)
    eventually(lambda: all(rsyslog.alarms(way) == wanted for way in WAYS))
    assert device.running()["faces_pid"] != old

    # The core is killed; the alarm that was told is not told again, the next one is.
    alone.allocate("a", sbc_sessions=40)
    wanted.append(RAISED)
    eventually(lambda: all(rsyslog.alarms(way) == wanted for way in WAYS))
    eventually(lambda: had(device) == {len(wanted)})
    device.kill()
    device.start()
    eventually(device.connected)
    device.ask("restart", save=True)
    wanted.append(CLEARED)
    eventually(lambda: all(rsyslog.alarms(way)[-1] == CLEARED for way in WAYS))
    for way in WAYS:
        assert rsyslog.alarms(way) == wanted
        assert rsyslog.sequences(way) == list(range(1, len(wanted) + 1))
