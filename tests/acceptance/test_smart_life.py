"""The whole life of one smart device: real processes, the lab's clock, SIPp calling throughout."""

from __future__ import annotations

import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
from lawkit import LabMaker

from callpool.device.control import ask
from callpool.device.settings import Layout
from callpool.host.clock import LabClock
from callpool.host.sipp import SippResult, caller
from callpool.lab.fleet import Plan
from callpool.lab.handle import LabHandle
from callpool.lab.hostile import Answered, Hostile, HostileServer
from callpool.lab.processes import wait_for
from callpool.licensing.capacity import CPS, Capacity
from callpool.licensing.errors import CallpoolError
from callpool.licensing.order import SMART_ORDER
from callpool.vendor.office import Office
from callpool.wire.smart_messages import AUTHORIZE_PATH

DAY = 86_400.0
PROXY = "proxy-1"
OFFERED = 20


class Road(Hostile):
    """The network between device and authority; it can be cut, whole or for some requests."""

    def __init__(self, directory: Path, upstream: str) -> None:
        super().__init__(directory, upstream, share=0.0)
        self.cut = False
        self.closed: set[str] = set()

    def answer(self, path: str, headers: dict[str, str], body: bytes) -> Answered | None:
        if self.cut or path in self.closed:
            return None
        return super().answer(path, headers, body)


class Life:
    """One lab with one smart device, and what happens to it."""

    def __init__(self, lab: LabHandle) -> None:
        self.lab = lab
        self.clock = LabClock(Path(lab.lab.clock))
        manager = lab.lab.manager
        self.road = Road(Path(manager.directory), manager.url)
        self.server = HostileServer(self.road, "127.0.0.1", urlsplit(manager.hostile).port or 0)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.counted: dict[str, dict[int, int]] = {}

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def smart(self, action: str = "status", **fields: Any) -> dict[str, Any]:
        socket = Layout(Path(self.lab.device(PROXY).directory)).control
        return dict(ask(socket, "smart", timeout=90.0, action=action, **fields)["smart"])

    def command(self, *words: str, status: int = 0) -> str:
        """Run `callpool device smart`; return what it said."""
        done = subprocess.run(
            [sys.executable, "-m", "callpool", "device", "smart", words[0], "--dir",
             self.lab.device(PROXY).directory, *words[1:]],
            capture_output=True, text=True, timeout=180,
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def buy(self, count: int) -> None:
        now = int(self.clock.now().wall)
        _, envelope = Office(Path(self.lab.lab.vendor.directory)).order(
            product_key=self.lab.lab.manager.product_key,
            counts=Capacity.of({CPS: count}),
            starts=now,
            ends=now + int(2000 * DAY),
            now=now,
            role=SMART_ORDER,
        )
        with self.lab.client() as client:
            client.import_order(envelope.encode(), "/smart/orders?virtual_account=default")

    def token(self) -> str:
        return str(self.lab.call("POST", "/smart/tokens", {})["token"])

    def move(self, count: int, source: str, target: str) -> None:
        body = {"tag": CPS, "count": count, "source": source, "target": target}
        self.lab.call("POST", "/smart/transfers", body)

    def becomes(self, state: str, *, listening: bool = False) -> None:
        def reached() -> bool:
            now = self.smart()
            return (now["state"], now["listening"]) == (state, listening)

        try:
            wait_for(f"{state}, listening {listening}", reached, seconds=60)
        except CallpoolError as error:
            raise AssertionError(f"{error}: {self.smart()}") from error

    async def offer(self, phase: str) -> SippResult:
        sipp = await caller(self.lab.sip(PROXY), calls=OFFERED, rate=10, hold_ms=100)
        result = await sipp.wait(90)
        self.counted[phase] = dict(result.answers)
        return result

    async def admitted(self, phase: str) -> None:
        assert (await self.offer(phase)).answers == {200: OFFERED}, phase

    async def rejected(self, phase: str) -> None:
        assert (await self.offer(phase)).answers == {503: OFFERED}, phase

    def alarms(self) -> set[str]:
        return {a["code"] for a in self.lab.status(PROXY)["alarms"]}

    def page(self) -> str:
        """Fetch the Smart Licensing page over HTTPS, by the device's own certificate."""
        device = self.lab.device(PROXY)
        trusted = str(Layout(Path(device.directory)).pages_certificate)
        context = ssl.create_default_context(cafile=trusted)
        with httpx.Client(
            base_url=device.pages, verify=context, trust_env=False, timeout=30,
            follow_redirects=True,
        ) as browser:  # fmt: skip
            browser.post("/sign-in", data={"name": device.user, "password": device.password})
            return browser.get("/smart").text

    def refused(self) -> dict[str, int]:
        return dict(self.lab.status(PROXY)["refused"])


@pytest.fixture
def life(make_lab: LabMaker) -> Any:
    made = Life(make_lab(Plan(names=(), proxies=(PROXY,), through_hostile=True)))
    try:
        yield made
    finally:
        made.close()


async def test_the_whole_life_with_real_calls(life: Life) -> None:
    life.lab.call("POST", "/smart/accounts", {"name": "acme"})
    life.lab.call("POST", "/smart/virtual-accounts", {"name": "spare"})
    life.buy(100)
    assert life.smart()["state"] == "Unconfigured"
    assert life.smart()["maximum"] == 1000, "the local key's word"
    assert "[smart_not_enabled]" in life.command("register", life.token(), status=1)
    await life.rejected("Unconfigured")

    life.smart("enable")
    assert "[bad_count]" in life.command("count", "7", status=1)
    assert "[bad_count]" in life.command("count", "-5", status=1)
    assert "[above_maximum]" in life.command("count", "5000", status=1)
    assert "50 calls/s" in life.command("count", "50")
    assert "[not_registered]" in life.command("deregister", status=1)
    life.becomes("Unidentified")
    await life.admitted("Unidentified")

    # Registered; the way is cut before the first authorization.
    life.road.closed = {AUTHORIZE_PATH}
    life.smart("register", token=life.token())
    life.becomes("Registered")
    await life.admitted("Registered")
    long = await caller(life.lab.sip(PROXY), calls=4, rate=20, hold_ms=40_000)
    wait_for("4 calls", lambda: life.lab.gate(PROXY)["sessions"] == 4, seconds=60)

    life.clock.advance(90 * DAY)
    life.becomes("EvalExpired")
    await life.rejected("EvalExpired")
    wait_for(
        "all refusals to be counted",
        lambda: life.refused().get("eval_expired") == OFFERED,
        seconds=60,
    )
    assert life.lab.gate(PROXY)["sessions"] == 4, "a call that is up stays up"
    kept = await long.wait(120)
    assert (kept.completed, kept.failed) == (4, 0)

    life.road.closed = set()
    life.clock.advance(4 * 3600 + 1)
    life.becomes("Authorized")
    await life.admitted("Authorized")

    life.road.cut = True
    life.clock.advance(30 * DAY)
    life.becomes("Authorized", listening=True)
    assert "smart_renewal_failed" in life.alarms()
    await life.admitted("renewal failing")

    life.clock.advance(60 * DAY)
    life.becomes("AuthorizationExpired", listening=True)
    await life.admitted("AuthorizationExpired")
    assert "notification listen mode tells of the failure" in life.page()

    life.road.cut = False
    life.clock.advance(4 * 3600 + 1)
    life.becomes("Authorized")
    await life.admitted("cloud back")

    told = life.command("status")
    assert "Authorized" in told
    assert "acme / default" in told
    assert "[already_registered]" in life.command("register", life.token(), status=1)
    life.move(60, "default", "spare")
    life.becomes("OutOfCompliance", listening=True)
    await life.admitted("OutOfCompliance")
    life.move(60, "spare", "default")
    life.becomes("Authorized")

    life.road.cut = True
    life.clock.advance(366 * DAY)
    life.becomes("EvalExpired")
    assert life.smart()["registration"] == "not-registered"
    await life.rejected("certificate ended")

    log = (Path(life.lab.device(PROXY).directory) / "sml.log").read_text()
    for name in ("EvalExpired", "AuthRenewFail", "AuthorizationExpired", "IdCertExpired"):
        assert f" {name} " in log
    assert "callpool1." not in log, "no token is ever in the log"


async def test_what_counts_is_what_is_configured_not_what_is_called(make_lab: LabMaker) -> None:
    lab = make_lab(Plan(names=(), proxies=("proxy-1", "proxy-2")))
    life = Life(lab)
    try:
        lab.call("POST", "/smart/accounts", {"name": "acme"})
        life.buy(100)

        def tell(name: str, action: str, **fields: Any) -> dict[str, Any]:
            socket = Layout(Path(lab.device(name).directory)).control
            return dict(ask(socket, "smart", timeout=90.0, action=action, **fields)["smart"])

        for name in ("proxy-1", "proxy-2"):
            tell(name, "enable")
            tell(name, "count", count=45)
            tell(name, "register", token=life.token())
        # A hundred calls a second on a device that has 45: the rest is refused, and nobody is
        # out of compliance for it.
        sipp = await caller(lab.sip("proxy-1"), calls=600, rate=200, hold_ms=50)
        result = await sipp.wait(60)
        assert result.answers.get(503, 0) > 100
        assert result.answers.get(200, 0) > 50
        wait_for(
            "the refusals to be counted",
            lambda: lab.status("proxy-1")["refused"] == {"cps_limit": result.answers[503]},
            seconds=60,
        )
        for name in ("proxy-1", "proxy-2"):
            now = tell(name, "renew_auth")
            assert (now["state"], now["in_use"], now["purchased"]) == ("Authorized", 90, 100)
        # Configured beyond what is purchased, without a call.
        tell("proxy-2", "count", count=60)
        for name in ("proxy-1", "proxy-2"):
            wait_for(
                f"{name} out of compliance",
                lambda name=name: tell(name, "status")["state"] == "OutOfCompliance",  # type: ignore[misc]
                seconds=60,
            )
    finally:
        life.close()
