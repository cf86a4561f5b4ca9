"""What the device's metrics tell, who may ask, and that the alert rules know their names."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from device_world import World
from litestar.testing import AsyncTestClient
from prometheus_client.metrics_core import Metric
from smart_authority import SmartWorld

from callpool.device.errors import DeviceError
from callpool.device.faces.metrics import families, syslog_families
from callpool.device.faces.pages import make_app
from callpool.device.faces.reader import Reader
from callpool.device.status import Status
from callpool.device.vitals import Vitals, vitals_of
from callpool.host.metrics import make_token
from callpool.host.syslog.sender import SyslogSender
from callpool.host.syslog.target import SyslogTarget
from callpool.manager import metrics as manager_metrics
from callpool.manager.core import Manager
from callpool.manager.settings import Layout as ManagerLayout
from callpool.manager.settings import Settings as ManagerSettings

RULES = Path(__file__).parents[3] / "packaging" / "prometheus" / "callpool-alerts.yml"
PROOF = RULES.with_name("callpool-alerts_test.yml")


async def told(tmp_path: Path) -> tuple[Status, Vitals]:
    world = World(tmp_path / "device")
    await world.start()
    await world.agent.pull()
    made = world.agent.status(), vitals_of(world.agent.core, gate_restarts=2, faces_starts=1)
    await world.crash()
    return made


class OneReading(Reader):
    def __init__(self, status: Status, vitals: Vitals) -> None:
        super().__init__(Path("/nowhere"))
        self.away = False
        self._told, self._vitals = status, vitals

    async def status(self) -> Status:
        if self.away:
            raise DeviceError("not_running", "The core is away.")
        return self._told

    async def vitals(self) -> Vitals:
        return self._vitals


def samples(found: list[Metric]) -> dict[str, float]:
    return {
        s.name + "".join(f",{k}={v}" for k, v in s.labels.items()): s.value
        for m in found
        for s in m.samples
    }


async def test_the_numbers_are_those_of_status_and_vitals(tmp_path: Path) -> None:
    status, vitals = await told(tmp_path)
    said = samples([*families(status, vitals)])
    row = status.capacity[0]
    assert said[f"callpool_device_licenses_local,type={row.type}"] == row.local
    assert said["callpool_device_gate_restarts_total"] == 2
    assert said["callpool_device_policy_confirmed"] == 1
    assert said["callpool_device_alarm_active,code=clone_locked,severity=critical"] == 0
    assert not any("smart" in name for name in said if "alarm_active" not in name)


async def test_smart_licensing_is_told_of_by_its_state(tmp_path: Path) -> None:
    world = SmartWorld(tmp_path / "device")
    await world.start()
    await world.tell("enable")
    status = world.agent.status()
    vitals = vitals_of(world.agent.core, gate_restarts=0, faces_starts=1)
    said = samples([*families(status, vitals)])
    states = {n: v for n, v in said.items() if n.startswith("callpool_device_smart_state,")}
    assert [n for n, v in states.items() if v] == ["callpool_device_smart_state,state=Unidentified"]
    assert len(states) > 5
    await world.agent.smart.close()


async def test_a_scrape_needs_the_token_and_tells_when_the_core_is_away(tmp_path: Path) -> None:
    reader = OneReading(*await told(tmp_path))
    file = tmp_path / "metrics.token"
    app = make_app(reader, tmp_path, control=tmp_path / "none", serial="S1", metrics_token=file)
    async with AsyncTestClient(app) as client:
        reply = await client.get("/metrics", headers={"authorization": "Bearer "})
        assert (reply.status_code, reply.json()["code"]) == (401, "metrics_off")
        token = make_token(file)
        assert file.stat().st_mode & 0o777 == 0o600
        for wrong in ("", "Bearer x", f"Basic {token}", f"Bearer {token}x", "Bearer ä"):
            header = (b"authorization", wrong.encode())
            reply = await client.get("/metrics", headers=[header])
            assert (reply.status_code, reply.json()["code"]) == (401, "bad_metrics_token"), wrong
            assert token not in reply.text
            assert reply.headers["www-authenticate"].startswith("Bearer")
        right = {"authorization": f"Bearer {token}"}
        reply = await client.get("/metrics", headers=right)
        assert "callpool_device_core_up 1.0" in reply.text
        assert reply.headers["content-type"].startswith("text/plain")
        reader.away = True
        reply = await client.get("/metrics", headers=right)
        assert reply.status_code == 200
        assert "callpool_device_core_up 0.0" in reply.text
        assert "licenses" not in reply.text


@pytest.mark.parametrize("arguments", [("check", "rules", RULES), ("test", "rules", PROOF)])
def test_promtool_takes_the_alert_rules_and_their_proof(arguments: tuple[object, ...]) -> None:
    done = subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "SUCCESS" in done.stdout


def test_every_alert_is_proved_to_fire_and_not_to_fire() -> None:
    alerts = re.findall(r"- alert: (\w+)", RULES.read_text())
    proof = PROOF.read_text()
    assert len(alerts) == len(set(alerts)) > 20
    for alert in alerts:
        expression = rf"""expr: 'ALERTS\{{alertname="{alert}", alertstate="firing"\}}'"""
        assert re.search(rf"{expression}, eval_time: \w+, exp_samples: \[\]", proof), alert
        assert re.search(rf"{expression}\n.*\n +exp_samples: \[\{{labels", proof), alert


async def test_every_metric_that_an_alert_reads_is_served(tmp_path: Path) -> None:
    world = SmartWorld(tmp_path / "smart")
    await world.start()
    await world.tell("enable")
    smart = world.agent.status()
    status, vitals = await told(tmp_path)
    sender = SyslogSender(SyslogTarget(address="127.0.0.1:9"))
    found = [*families(status, vitals), *families(smart, vitals), *syslog_families({"x": sender})]
    await world.agent.smart.close()
    manager = Manager.create(ManagerLayout(tmp_path / "manager"), ManagerSettings())
    found += manager.database.read(lambda tx: manager_metrics.families(tx, 0.0))
    found += [*manager_metrics.Metrics(manager).registry.collect()]
    found.append(manager_metrics.certificates(manager))
    manager.close()
    served = {m.name for m in found} | {"callpool_device_core_up"}
    read = set(re.findall(r"\b(callpool_\w+?)(?:_total|_bucket)?\b(?![\w.])", RULES.read_text()))
    assert len(read) > 20
    assert read - served == set()
