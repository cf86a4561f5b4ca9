"""Two real smart devices of a lab and the authority: who learns what, and when."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from callpool.host.clock import LabClock
from callpool.lab.fleet import Plan, down, up
from callpool.lab.handle import LabHandle
from callpool.lab.processes import wait_for
from callpool.licensing.errors import CallpoolError

DAY = 86_400
PROXIES = ("proxy-1", "proxy-2")
Made = Callable[..., LabHandle]


@pytest.fixture
def lab() -> Iterator[Made]:
    made: list[Path] = []

    def make(*, through_hostile: bool = False) -> LabHandle:
        directory = Path(tempfile.mkdtemp(prefix="cp-"))
        made.append(directory)
        plan = Plan(names=(), proxies=PROXIES, through_hostile=through_hostile)
        up(directory, plan, lambda _: None)
        handle = LabHandle(directory)
        handle.call("POST", "/smart/accounts", {"name": "acme"})
        handle.buy(
            {"cps": 100},
            starts=now(handle),
            ends=now(handle) + 400 * DAY,
            virtual_account="default",
        )
        return handle

    try:
        yield make
    finally:
        for directory in made:
            if (directory / "lab.json").exists():
                down(directory)
            shutil.rmtree(directory, ignore_errors=True)


def now(handle: LabHandle) -> int:
    return int(LabClock(Path(handle.lab.clock)).now().wall)


def both(handle: LabHandle, state: str) -> None:
    for name in PROXIES:
        handle.await_smart(name, state)


def test_60_and_60_of_100_are_out_of_compliance_without_a_call_and_90_is_authorized(
    lab: Made,
) -> None:
    handle = lab()
    assert [d.mode for d in handle.devices] == ["smart", "smart"]
    assert handle.smart("proxy-1")["state"] == "Unconfigured"
    for name in PROXIES:
        handle.smart(name, "enable")
        handle.smart(name, "count", count=60)
        handle.register(name)
    # The first learns by push what the second's registration brought about.
    both(handle, "OutOfCompliance")
    assert handle.smart("proxy-1")["listening"]
    handle.smart("proxy-2", "count", count=30)
    both(handle, "Authorized")
    # By purchase, and by removing the other: nothing is typed at the device.
    handle.smart("proxy-1", "count", count=75)
    both(handle, "OutOfCompliance")
    handle.buy({"cps": 5}, starts=now(handle), ends=now(handle) + DAY, virtual_account="default")
    both(handle, "Authorized")
    LabClock(Path(handle.lab.clock)).advance(1.01 * DAY)
    both(handle, "OutOfCompliance")
    handle.call("DELETE", f"/smart/instances/{handle.device('proxy-2').serial}")
    handle.await_smart("proxy-1", "Authorized")
    with pytest.raises(CallpoolError) as caught:
        handle.smart("proxy-1", "count", count=7)
    assert caught.value.code == "bad_count"
    assert handle.smart("proxy-1")["state"] == "Authorized"


def test_a_revoked_certificate_and_a_move_reach_the_devices_by_push(lab: Made) -> None:
    handle = lab()
    handle.call("POST", "/smart/virtual-accounts", {"name": "lab"})
    for name in PROXIES:
        handle.smart(name, "enable")
        handle.smart(name, "count", count=60)
        handle.register(name, export_allowed=name == "proxy-1")
    both(handle, "OutOfCompliance")
    assert [handle.smart(name)["export_allowed"] for name in PROXIES] == [True, False]

    serials = {name: handle.device(name).serial for name in PROXIES}
    path = f"/smart/instances/{serials['proxy-2']}/move"
    handle.call("POST", path, {"virtual_account": "lab"})
    handle.await_smart("proxy-1", "Authorized")
    wait_for(
        "proxy-2 to know its account",
        lambda: bool(handle.smart("proxy-2")["virtual_account"] == "lab"),
        seconds=60,
    )
    assert handle.smart("proxy-2")["state"] == "OutOfCompliance"

    handle.call("POST", f"/smart/instances/{serials['proxy-1']}/revoke")
    wait_for(
        "proxy-1 to be told",
        lambda: bool(handle.smart("proxy-1")["failure_code"] == "certificate_revoked"),
        seconds=60,
    )
    # One refusal is not the limit of three: calls go on, and the count is free already.
    assert handle.smart("proxy-1")["state"] == "Authorized"
    found = handle.call("GET", "/smart/entitlements?virtual_account=default")["entitlements"]
    assert [(r["purchased"], r["in_use"]) for r in found] == [(100, 0)]
    secret = str(handle.call("POST", "/smart/tokens", {})["token"])
    handle.smart("proxy-1", "register", token=secret, force=True)
    handle.await_smart("proxy-1", "Authorized")
    assert handle.smart("proxy-1")["failure_code"] == ""


def test_through_a_hostile_authority_both_end_in_the_right_state(lab: Made) -> None:
    handle = lab(through_hostile=True)
    clock = LabClock(Path(handle.lab.clock))
    words = (
        *("lab", "hostile", "--dir", str(handle.directory)),
        *("--share", "0.4", "--delay", "0.1", "--seed", "5"),
    )
    hostile = subprocess.Popen(
        [sys.executable, "-m", "callpool", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert hostile.stdout is not None
        assert hostile.stdout.readline().startswith("hostile authority: https://")
        for name in PROXIES:
            handle.smart(name, "enable")
            handle.smart(name, "count", count=60)
            with contextlib.suppress(CallpoolError):  # then it goes on by itself
                handle.register(name)

        def settled() -> bool:
            states = [handle.smart(name) for name in PROXIES]
            if all(s["state"] == "OutOfCompliance" and s["in_use"] == 120 for s in states):
                return True
            clock.advance(15 * 60 + 1)  # the next retry
            return False

        wait_for("both to be out of compliance", lambda: _paced(settled), seconds=200)
        (license_,) = handle.call("GET", "/smart/entitlements")["entitlements"]
        assert (license_["in_use"], license_["balance"]) == (120, -20)
        kinds = {a["kind"] for a in handle.call("GET", "/smart/alerts")["alerts"]}
        assert kinds == {"insufficient_licenses"}  # nobody was taken for a clone
    finally:
        hostile.terminate()
        hostile.wait(60)
        assert hostile.stdout is not None
        hostile.stdout.close()


def _paced(look: Callable[[], bool]) -> bool:
    """Give contacts that the last step of the clock began the time to end."""
    time.sleep(0.5)  # the pace of the lab's clock, not a wait for an outcome
    return look()
