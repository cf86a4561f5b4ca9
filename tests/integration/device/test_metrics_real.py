"""The metrics of a real manager and device under real calls say what `status` says."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from devicekit import Device, Site, call, eventually, site
from prometheus_client.parser import text_string_to_metric_families

from callpool.host.sipp import answerer, caller

Numbers = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Site]:
    with site(tmp_path) as made:
        yield made


def fetch(url: str, ca: Path, authorization: str = "", accept: str = "") -> str:
    headers = {"Authorization": authorization, "Accept": accept}
    request = urllib.request.Request(  # noqa: S310  an https address of ours
        url, headers={k: v for k, v in headers.items() if v}
    )
    context = ssl.create_default_context(cafile=str(ca))
    with urllib.request.urlopen(request, timeout=30, context=context) as reply:  # noqa: S310
        text: str = reply.read().decode()
        return text


def device_metrics(device: Device, token: str = "", accept: str = "") -> str:
    token = token or device.layout.metrics_token.read_text().strip()
    url = f"https://127.0.0.1:{device.pages}/metrics"
    return fetch(url, device.layout.pages_certificate, f"Bearer {token}", accept)


def manager_metrics(at: Site) -> str:
    password = (at.manager_directory / "admin.password").read_text().strip()
    basic = base64.b64encode(f"admin:{password}".encode()).decode()
    return fetch(f"{at.url}/metrics", at.ca_file, f"Basic {basic}")


def numbers(text: str) -> Numbers:
    return {
        (s.name, frozenset(s.labels.items())): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def value(text: str, name: str, **labels: str) -> float:
    return numbers(text)[(name, frozenset(labels.items()))]


def linted(text: str) -> None:
    """`promtool check metrics` has nothing to say."""
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr.strip()


def refused(url: str, ca: Path, authorization: str = "") -> int:
    with pytest.raises(urllib.error.HTTPError) as error:
        fetch(url, ca, authorization)
    error.value.close()
    return error.value.code


def test_the_numbers_move_with_calls_and_are_those_of_the_status(alone: Site) -> None:
    device = alone.device("a")
    device.start()
    eventually(device.connected)
    url = f"https://127.0.0.1:{device.pages}/metrics"
    eventually(device.layout.pages_certificate.exists)
    eventually(lambda: device.running()["faces_pid"])
    ca = device.layout.pages_certificate
    eventually(lambda: answers(device))
    assert refused(url, ca) == 401, "no token was made yet"
    call("device", "metrics", "token", "--dir", device.layout.root)
    assert device.layout.metrics_token.stat().st_mode & 0o777 == 0o600
    old = device.layout.metrics_token.read_text().strip()
    call("device", "metrics", "token", "--new", "--dir", device.layout.root)
    assert refused(url, ca) == refused(url, ca, f"Bearer {old}") == 401
    assert refused(f"{alone.url}/metrics", alone.ca_file) == 401

    alone.allocate("a", sbc_sessions=10)
    eventually(lambda: device.status()["pending"])
    before = device_metrics(device)
    linted(before)
    assert value(before, "callpool_device_licenses_actual", type="sbc_sessions") == 5
    assert value(before, "callpool_device_licenses_pending", type="sbc_sessions") == 15
    assert value(before, "callpool_device_alarm_active", code="restart_pending",
                 severity="major") == 1  # fmt: skip
    device.ask("restart", save=True)
    asyncio.run(calls_above_the_cap(device, alone))

    call("device", "metrics", "off", "--dir", device.layout.root)
    assert refused(url, ca, "Bearer ") == 401, "an empty token opens nothing"


def answers(device: Device) -> bool:
    try:
        fetch(f"https://127.0.0.1:{device.pages}/style.css", device.layout.pages_certificate)
    except OSError:
        return False
    return True


async def calls_above_the_cap(device: Device, alone: Site) -> None:
    far = await answerer(port=device.answerer)
    near = await caller(("127.0.0.1", device.sip), calls=20, rate=20, hold_ms=600_000)
    try:
        await asyncio.to_thread(
            eventually, lambda: device.ask("calls")["sessions"] == 15 and refusals(device) == 5
        )
        await asyncio.to_thread(check_numbers, device, alone)
    finally:
        await near.stop()
        await far.stop()


def refusals(device: Device) -> int:
    return sum(device.status()["refused"].values())


def check_numbers(device: Device, alone: Site) -> None:
    device.ask("pull")
    status = device.status()
    text = device_metrics(device)
    linted(text)
    said = numbers(text)
    for row in status["capacity"]:
        for column in ("remote", "local", "actual", "pending", "maximum", "in_use", "peak"):
            name = f"callpool_device_licenses_{column}"
            assert said[(name, frozenset({("type", row["type"])}))] == row[column], column
    assert value(text, "callpool_device_licenses_in_use", type="sbc_sessions") == 15
    assert value(text, "callpool_device_licenses_used_ratio", type="sbc_sessions") == 1
    assert value(text, "callpool_device_calls_admitted_total") == 15
    assert status["refused"]
    for reason, count in status["refused"].items():
        assert value(text, "callpool_device_refused_total", reason=reason) == count
    active = {
        dict(labels)["code"]
        for (name, labels), n in said.items()
        if name == "callpool_device_alarm_active" and n
    }
    assert active == {a["code"] for a in status["alarms"]} == {"sessions_nearly_used"}
    assert value(text, "callpool_device_alarms_active", severity="warning") == 1
    assert value(text, "callpool_device_grant_confirmed_version") == status["applied_version"] == 1
    assert value(text, "callpool_device_flash_generation") >= status["flash_generation"]
    assert 0 <= value(text, "callpool_device_contact_age_seconds") < 60
    week = 7 * 86400
    assert week - 60 < value(text, "callpool_device_lease_remaining_seconds") <= week
    for up in ("core_up", "gate_up", "gate_in_sync", "policy_confirmed", "in_service", "enrolled"):
        assert value(text, f"callpool_device_{up}") == 1, up
    assert value(text, "callpool_device_core_process_resident_memory_bytes") > 1e6
    assert device_metrics(device, accept="application/openmetrics-text; version=1.0.0").endswith(
        "# EOF\n"
    )

    shown = alone.client.call("GET", "/pool")["types"]
    there = manager_metrics(alone)
    linted(there)
    for kind, row in shown.items():
        for column in ("purchased", "held", "free", "reclaiming"):
            name = f"callpool_manager_licenses_{column}"
            assert value(there, name, type=kind) == row[column], column
    assert value(there, "callpool_manager_licenses_in_use", type="sbc_sessions") == 15
    assert value(there, "callpool_manager_units", state="enrolled") == 1
    assert value(there, "callpool_manager_devices", mode="fixed") == 1
    assert value(there, "callpool_manager_hint_streams") == 1
    good = value(there, "callpool_manager_contacts_total", door="contact", outcome="ok")
    assert good == value(there, "callpool_manager_contact_duration_seconds_count", door="contact")
    assert good >= 3
    assert value(there, "callpool_manager_database_write_duration_seconds_count") > good
    assert value(there, "callpool_manager_tenant_held", tenant="default", type="sbc_sessions") == 10
    ends = [v for (name, _), v in numbers(there).items() if "order_end_timestamp" in name]
    assert ends == [alone.client.call("GET", "/orders")["orders"][0]["ends"]]

    # A core that is frozen is told of, and its absence is a number.
    os.kill(device.running()["pid"], signal.SIGSTOP)
    try:
        frozen = device_metrics(device)
    finally:
        assert device.process is not None
        os.kill(device.process.pid, signal.SIGCONT)
    linted(frozen)
    assert value(frozen, "callpool_device_core_up") == 0
    assert not any("licenses" in name for name, _ in numbers(frozen))
