"""A person who has read no documentation walks the console: sees what is wrong, and mends it.

A real manager, real devices, live calls, a real browser. Screenshots are in build/screenshots.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from consolekit import WIDE, Desk, browser, desk, faults, fits, shot, until
from lawkit import one_lab
from playwright.sync_api import Browser, Page, expect

from callpool.host.sipp import caller
from callpool.lab.fleet import Plan
from callpool.lab.handle import LabHandle
from callpool.licensing.capacity import CPS, FAR_END_USERS, SBC_SESSIONS, Capacity
from callpool.licensing.order import POOL_ORDER, SMART_ORDER
from callpool.vendor.office import Office

YEAR = 365 * 86_400


@pytest.fixture(scope="module")
def lab() -> Iterator[LabHandle]:
    with one_lab(Plan(names=("sbc-a", "sbc-b", "sbc-c"), proxies=("proxy-1",))) as made:
        now = int(time.time())
        made.buy({SBC_SESSIONS: 100, FAR_END_USERS: 40}, starts=now - 60, ends=now + YEAR)
        yield made


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as made:
        yield made


@contextmanager
def signed_in(
    chromium: Browser, lab: LabHandle, *, clean: bool = True, **options: Any
) -> Iterator[tuple[Desk, Page]]:
    """Sit down at a desk as the administrator; nothing may have complained at the end."""
    manager = lab.lab.manager
    with desk(chromium, manager.url, **options) as mine:
        page = mine.page()
        mine.sign_in(page, manager.username, manager.password)
        yield mine, page
        if clean:
            mine.clean()


def command(lab: LabHandle, *words: str, said: str = "") -> str:
    done = subprocess.run(
        [sys.executable, "-m", "callpool", *words], input=said,
        capture_output=True, text=True, timeout=180, check=False,
        env={**os.environ, "CALLPOOL_LAB": str(lab.directory), "COLUMNS": "120"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def choose(page: Page, label: str, file: Path) -> None:
    """Choose a file; its field is there once the page's script is."""
    field = page.get_by_label(label, exact=True)
    expect(field).to_be_visible()
    field.set_input_files(file)


def figure(page: Page, kind: str, name: str) -> int:
    """Read one of the overview's large figures."""
    block = page.locator(".type", has=page.get_by_role("heading", name=kind))
    cell = block.locator("dl div", has=page.locator("dt", has_text=name)).locator("dd")
    return int(re.sub(r"\D", "", cell.inner_text()))


def test_capacity_is_bought_allocated_applied_and_seen_in_use(
    chromium: Browser, lab: LabHandle, tmp_path: Path
) -> None:
    now = int(time.time())
    order, envelope = Office(Path(lab.lab.vendor.directory)).order(
        product_key=lab.lab.manager.product_key, counts=Capacity.of({SBC_SESSIONS: 50}),
        starts=now - 60, ends=now + 30 * 86_400, now=now, role=POOL_ORDER,
    )  # fmt: skip
    (tmp_path / "order.jws").write_text(envelope)
    with signed_in(chromium, lab) as (mine, page):
        # What was bought: a file is chosen, and read into the field.
        bought = figure(page, "SBC Sessions", "Purchased")
        page.get_by_role("link", name="License Pool").click()
        page.get_by_role("link", name="Orders").click()
        choose(page, "The order file", tmp_path / "order.jws")
        expect(page.get_by_label("The order file, its content")).to_have_value(envelope)
        page.get_by_role("button", name="Import").click()
        expect(page.get_by_role("status").first).to_contain_text(f"{order.order_id} is imported")
        expect(page.get_by_role("row", name=order.order_id)).to_be_visible()
        shot(page, "pool-orders")
        # The same again is refused, beside the field, which keeps what was in it.
        page.get_by_label("The order file, its content").fill(envelope)
        mine.expected.add("409")
        page.get_by_role("button", name="Import").click()
        field = page.get_by_label("The order file, its content")
        expect(field).to_have_attribute("aria-invalid", "true")
        expect(field).to_have_value(envelope)
        expect(field).to_be_focused()
        expect(page.locator("#import-file-wrong")).to_contain_text("has been imported already")

        # Allocated in place: the preview says what would happen while it is typed.
        page.goto(f"{mine.base}/pool")
        page.get_by_role("link", name="Allocate sbc-a").click()
        page.get_by_label("SBC Sessions").fill("30")
        expect(page.locator("#alloc-preview")).to_contain_text("sbc-a: SBC Sessions 0 → 30")
        shot(page, "pool-allocate")
        page.set_viewport_size({"width": WIDE[0], "height": WIDE[1]})
        # What cannot be had is said beside the field, and stays typed.
        page.get_by_label("SBC Sessions").fill("5000")
        expect(page.locator("#alloc-preview")).to_contain_text("cannot be allocated")
        page.get_by_role("button", name="Allocate sbc-a").click()
        expect(page.locator("#allocation-sbc_sessions-wrong")).to_contain_text("at most")
        expect(page.get_by_label("SBC Sessions")).to_have_value("5000")
        expect(page.get_by_label("SBC Sessions")).to_be_focused()
        page.get_by_label("SBC Sessions").fill("many")
        mine.expected.add("400")
        page.get_by_role("button", name="Allocate sbc-a").click()
        expect(page.locator("#allocation-sbc_sessions-wrong")).to_contain_text("whole number")
        shot(page, "pool-refused")
        page.get_by_label("SBC Sessions").fill("30")
        page.get_by_role("button", name="Allocate sbc-a").click()
        expect(page.get_by_role("status").first).to_contain_text("sbc-a is allocated 30 sessions")
        expect(page.locator("#edit")).to_have_count(0)

        # The overview says what is wrong, and the button beside it mends it; nobody reloads.
        page.get_by_role("link", name="Overview").click()
        assert figure(page, "SBC Sessions", "Purchased") == bought + 50
        row = page.get_by_role("row", name="sbc-a")
        expect(row).to_contain_text("Waits for a restart")
        expect(row).to_contain_text("critical")
        shot(page, "overview")
        page.set_viewport_size({"width": WIDE[0], "height": WIDE[1]})
        row.get_by_role("button", name="Restart with save sbc-a").click()
        expect(page.get_by_role("status").first).to_contain_text("sbc-a is asked to restart")
        lab.await_actual("sbc-a", SBC_SESSIONS, 30)
        expect(page.get_by_role("row", name="sbc-a")).to_have_count(0)

        # Live calls: what the device reports is on the open page at once.
        _calls(lab, page)
        # Its own page: use against license, refusals, its life.
        command(lab, "lab", "clock", "advance", "6m", "--dir", str(lab.directory))
        page.goto(f"{mine.base}/devices/sbc-a?span=hours")
        until(lambda: page.locator(".chart canvas").count())
        page.get_by_text("The same figures as a table").first.click()
        expect(page.locator("#usage ~ details table, #table-sbc_sessions table")).to_contain_text(
            "12"
        )
        life = page.locator(".timeline")
        expect(life).to_contain_text("restart asked")
        expect(life).to_contain_text("allocated")
        expect(life).to_contain_text("device added")
        shot(page, "device")


def _calls(lab: LabHandle, page: Page) -> None:
    """Hold 12 calls on sbc-a until the open page shows them."""

    async def hold() -> None:
        held = await caller(lab.sip("sbc-a"), calls=12, rate=100, hold_ms=12_000)
        await held.wait(60)

    # The browser has the loop of this thread.
    calls = threading.Thread(target=lambda: asyncio.run(hold()))
    calls.start()
    try:
        until(lambda: lab.row("sbc-a", SBC_SESSIONS)["in_use"] == 12)
        command(lab, "device", "pull", "--dir", lab.device("sbc-a").directory)
        until(lambda: figure(page, "SBC Sessions", "In use now") == 12, within=15)
        assert figure(page, "SBC Sessions", "Peak today") >= 12
        shot(page, "overview-calls")
        page.set_viewport_size({"width": WIDE[0], "height": WIDE[1]})
    finally:
        calls.join()


def test_many_devices_are_changed_by_a_file_after_a_look_at_what_it_would_do(
    chromium: Browser, lab: LabHandle, tmp_path: Path
) -> None:
    for name in ("bulk-1", "bulk-2"):
        lab.call("POST", "/devices", {"name": name, "serials": [name.upper()], "apply": "live"})
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    good.write_text("device,sbc_sessions\nbulk-1,4\nbulk-2,6\n")
    bad.write_text("device,sbc_sessions\nbulk-1,4\nno-such,6\n")
    with signed_in(chromium, lab) as (mine, page):
        page.goto(f"{mine.base}/pool/bulk")
        mine.expected.add("400")
        choose(page, "The file", bad)
        page.get_by_role("button", name="Carry out").click()
        expect(page.locator("#bulk-file-wrong")).to_contain_text("Row 2 (no-such)")
        expect(page.get_by_label("The file, its content")).to_have_value(bad.read_text())
        shot(page, "bulk-refused")
        choose(page, "The file", good)
        page.get_by_role("button", name="Preview").click()
        preview = page.locator("#bulk-preview")
        expect(preview).to_contain_text("bulk-1: SBC Sessions 0 → 4")
        expect(preview).to_contain_text("bulk-2: SBC Sessions 0 → 6")
        assert lab.call("GET", "/devices/bulk-1")["allocation"][SBC_SESSIONS] == 0
        shot(page, "bulk-preview")
        page.get_by_role("button", name="Carry out").click()
        expect(page.locator("#said")).to_contain_text("2 rows carried out")
        assert lab.call("GET", "/devices/bulk-2")["allocation"][SBC_SESSIONS] == 6


def test_an_alarm_is_found_acknowledged_with_a_note_and_read_again_in_its_history(
    chromium: Browser, lab: LabHandle
) -> None:
    name = "sbc-c"
    lab.call("PATCH", f"/devices/{name}", {"mode": "none"})
    with signed_in(chromium, lab) as (mine, page):
        page.goto(f"{mine.base}/alarms?device={name}")
        row = page.get_by_role("row", name=re.compile("its pool does not manage it"))
        expect(row).to_contain_text("Manage the device at the license server")
        row.get_by_label("Note").fill("the line is being moved")
        row.get_by_role("button", name=re.compile("Acknowledge")).click()
        expect(page.locator("#said")).to_contain_text("is acknowledged")
        page.goto(f"{mine.base}/alarms?device={name}")
        expect(row).to_contain_text("by admin")
        expect(row).to_contain_text("the line is being moved")
        shot(page, "alarms")
        lab.call("PATCH", f"/devices/{name}", {"mode": "fixed"})
        expect(row).to_have_count(0)  # the page is live
        page.get_by_role("link", name="History").click()
        page.get_by_label("Device").fill(name)
        page.get_by_role("button", name="Filter").click()
        lines = page.get_by_role("row", name=re.compile("its pool does not manage it"))
        expect(lines.filter(has_text="cleared")).to_have_count(1)
        expect(lines.filter(has_text="acknowledged by admin")).to_contain_text("is being moved")
        expect(lines.filter(has_text="raised")).to_have_count(1)
        shot(page, "alarms-history")


def test_who_waits_is_seen_with_what_for_and_a_request_is_withdrawn(
    chromium: Browser, lab: LabHandle
) -> None:
    lab.call("POST", "/tenants", {"name": "queue", "shares": {SBC_SESSIONS: 5}})
    for name in ("queue-1", "queue-2"):
        body = {"name": name, "serials": [name.upper()], "tenant": "queue", "apply": "live"}
        lab.call("POST", "/devices", body)
    lab.allocate("queue-1", sbc_sessions=5)
    with signed_in(chromium, lab) as (mine, page):
        page.goto(f"{mine.base}/pool?tenant=queue")
        page.get_by_role("link", name="Allocate queue-2").click()
        page.get_by_label("SBC Sessions").fill("3")
        expect(page.locator("#alloc-preview")).to_contain_text("cannot be allocated")
        page.get_by_label("Let it wait").check()
        page.get_by_role("button", name="Allocate queue-2").click()
        expect(page.locator("#said")).to_contain_text("queue-2 waits for 3 sessions")
        page.get_by_role("link", name="Waiting requests").click()
        row = page.get_by_role("row", name="queue-2")
        expect(row).to_contain_text("3 sessions")
        expect(row).to_contain_text("admin")
        expect(row).to_contain_text("unused in its tenant")
        shot(page, "pool-requests")
        row.get_by_role("button", name="Withdraw the request of queue-2").click()
        expect(page.locator("#said")).to_contain_text("is withdrawn")
        expect(page.get_by_role("row", name="queue-2")).to_have_count(0)


def test_a_device_is_added_enrolled_unlocked_moved_and_removed(
    chromium: Browser, lab: LabHandle
) -> None:
    serial = lab.device("sbc-c").serial
    directory = lab.device("sbc-c").directory
    with signed_in(chromium, lab) as (mine, page):
        # Added by its serial number: what is wrong is said at the field.
        page.goto(f"{mine.base}/pool")
        page.get_by_text("Add a device").click()
        mine.expected |= {"409", "400"}
        page.get_by_label("Name", exact=True).fill("new-1")
        page.get_by_label("Serial number", exact=True).fill(serial)
        page.get_by_role("button", name="Add", exact=True).click()
        expect(page.locator("#add-serials-wrong")).to_contain_text("is listed already")
        expect(page.get_by_label("Name", exact=True)).to_have_value("new-1")
        page.get_by_label("Serial number", exact=True).fill("SN-NEW-1")
        page.get_by_role("button", name="Add", exact=True).click()
        expect(page.locator("#said")).to_contain_text("new-1 is listed")
        # The overview leads to what mends it.
        page.get_by_role("link", name="Overview").click()
        page.get_by_role("link", name="Make a token… new-1").click()
        page.get_by_role("button", name="Make", exact=True).click()
        token = page.locator(".secret").inner_text()
        assert token.count(".") >= 1
        shot(page, "device-token")
        page.reload()
        assert not page.locator(".secret").count()

        # A machine that is in doubt is unlocked: its token lets one go on.
        page.goto(f"{mine.base}/devices/sbc-c#unlock")
        page.get_by_role("button", name="Unlock", exact=True).click()
        token = page.locator(".secret").inner_text()
        expect(page.locator("#live")).to_contain_text("Unlocked, not back yet")
        command(lab, "device", "enrol", "--dir", directory, "--token-file", "-", said=token)
        command(lab, "device", "pull", "--dir", directory)
        # Nobody reloads.
        expect(page.locator(".standing")).to_contain_text("In order.")

        # Settings: only what differs is changed; a name that there is not stays typed.
        page.goto(f"{mine.base}/devices/new-1#settings")
        page.get_by_label("Tenant", exact=True).fill("nowhere")
        mine.expected.add("404")
        page.get_by_role("button", name="Change", exact=True).click()
        expect(page.locator("#settings-tenant-wrong")).to_contain_text("no tenant named")
        expect(page.get_by_label("Tenant", exact=True)).to_have_value("nowhere")

        # Changed by somebody else meanwhile: nothing is overwritten unseen.
        page.goto(f"{mine.base}/devices/new-1#allocation")
        page.get_by_label("SBC Sessions", exact=True).fill("7")
        lab.allocate("new-1", sbc_sessions=2)
        mine.expected.add("412")
        page.get_by_role("button", name="Allocate new-1").click()
        expect(page.locator("#allocation")).to_contain_text("was changed since you read it")
        assert lab.call("GET", "/devices/new-1")["allocation"][SBC_SESSIONS] == 2

        # In a window, and no more.
        page.goto(f"{mine.base}/devices/sbc-c#restart")
        page.get_by_label("Window, UTC").fill("at night")
        page.get_by_role("button", name="Restart", exact=True).click()
        expect(page.locator("#restart-window-wrong")).to_contain_text("HH:MM-HH:MM")
        page.get_by_label("Window, UTC").fill("02:00-02:01")
        page.get_by_role("button", name="Restart", exact=True).click()
        expect(page.locator(".standing")).to_contain_text("in the window 02:00-02:01")
        shot(page, "device-window")
        page.get_by_role("button", name="Cancel it").click()
        expect(page.locator("#said")).to_contain_text("not asked to restart any more")

        # Removed: its name is typed, and nothing less will do.
        page.goto(f"{mine.base}/devices/new-1#remove")
        page.get_by_label("Type new-1 to remove it").fill("new")
        page.get_by_role("button", name="Remove new-1").click()
        expect(page.locator("#remove-confirm-wrong")).to_contain_text("nothing was done")
        page.get_by_label("Type new-1 to remove it").fill("new-1")
        page.get_by_role("button", name="Remove new-1").click()
        expect(page.locator("#said")).to_contain_text("new-1 is removed")


def test_the_smart_inventory_is_kept_from_account_to_renewal(
    chromium: Browser, lab: LabHandle, tmp_path: Path
) -> None:
    now = int(time.time())
    _, envelope = Office(Path(lab.lab.vendor.directory)).order(
        product_key=lab.lab.manager.product_key, counts=Capacity.of({CPS: 50}),
        starts=now - 60, ends=now + YEAR, now=now, role=SMART_ORDER,
    )  # fmt: skip
    (tmp_path / "order.jws").write_text(envelope)
    directory = lab.device("proxy-1").directory
    with signed_in(chromium, lab) as (mine, page):
        page.goto(f"{mine.base}/smart")
        page.get_by_text("Add an account").click()
        page.get_by_label("Name", exact=True).fill("acme")
        page.get_by_role("button", name="Add", exact=True).first.click()
        expect(page.locator("#accounts")).to_be_visible()
        expect(page.locator("#said")).to_contain_text("Account acme is added")
        page.get_by_role("link", name="Tokens", exact=True).click()
        page.get_by_label("Description").fill("for the proxies")
        page.get_by_role("button", name="Make", exact=True).click()
        token = page.locator(".secret").inner_text()
        shot(page, "smart-token")
        command(lab, "device", "smart", "enable", "--dir", directory)
        command(lab, "device", "smart", "count", "60", "--dir", directory)
        command(
            lab, "device", "smart", "register", "--dir", directory, "--token-file", "-", said=token
        )
        # Out of compliance: seen, and mended by an order.
        page.get_by_role("link", name="Licenses", exact=True).click()
        expect(page.get_by_role("row", name="acme / default")).to_contain_text("out of compliance")
        page.get_by_role("link", name="Alerts").click()
        expect(page.get_by_role("row", name="acme / default")).to_contain_text("Buy licenses")
        shot(page, "smart-alerts")
        page.get_by_role("link", name="Licenses", exact=True).click()
        page.get_by_text("Import an order").click()
        choose(page, "The order file", tmp_path / "order.jws")
        page.get_by_role("button", name="Import").click()
        row = page.get_by_role("row", name="acme / default")
        expect(row).to_contain_text("-10")
        command(lab, "device", "smart", "count", "40", "--dir", directory)
        # Nobody reloads.
        expect(row).to_contain_text("in compliance")
        shot(page, "smart")
        page.get_by_role("link", name="Product instances").click()
        instance = page.locator("tbody th").first.inner_text().split()[0]
        page.get_by_role("button", name=f"Renew {instance}").click()
        expect(page.locator("#said")).to_contain_text("asked to renew")
        shot(page, "smart-instances")
        page.get_by_role("link", name="Event log").click()
        expect(page.get_by_role("table")).to_contain_text("was asked to renew")
        page.get_by_label("Kind").select_option("instance_registered")
        page.get_by_role("button", name="Filter").click()
        expect(page.get_by_role("table").get_by_role("row")).to_have_count(2)
        with page.expect_download() as download:
            page.get_by_role("link", name="as CSV").click()
        lines = Path(download.value.path()).read_text().splitlines()
        assert len(lines) == 2
        assert instance in lines[1]
        shot(page, "smart-events")


def test_roles_see_what_is_theirs_and_the_audit_log_says_who_did_what(
    chromium: Browser, lab: LabHandle
) -> None:
    lab.call("POST", "/tenants", {"name": "north"})
    lab.call("POST", "/devices", {"name": "north-1", "serials": ["SN-N1"], "tenant": "north"})
    made = {}
    with signed_in(chromium, lab) as (mine, page):
        page.get_by_role("link", name="Operators").click()
        for username, role, tenants in (
            ("nora", "tenant_operator", "north"),
            ("vic", "viewer", ""),
        ):
            page.get_by_label("User name").fill(username)
            page.locator("#add").get_by_label("Role").select_option(role)
            page.locator("#add").get_by_label("Tenants").fill(tenants)
            page.get_by_role("button", name="Add", exact=True).click()
            expect(page.locator(".notice")).to_contain_text(f"Password of {username}")
            made[username] = page.locator(".secret").inner_text()
        shot(page, "operators")
    with desk(chromium, lab.lab.manager.url) as hers:
        page = hers.page()
        hers.expected |= {"401", "403"}
        # A wrong password is said, and the name stays typed.
        page.goto(f"{hers.base}/pool?q=north")
        page.get_by_label("User name").fill("nora")
        page.get_by_label("Password").fill("wrong")
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("alert")).to_contain_text("wrong")
        expect(page.get_by_label("User name")).to_have_value("nora")
        page.get_by_label("Password").fill(made["nora"])
        page.get_by_role("button", name="Sign in").click()
        # On to where she wanted to go; she sees her tenant alone.
        page.wait_for_url("**/pool?q=north")
        expect(page.get_by_role("link", name="north-1", exact=True)).to_be_visible()
        assert "sbc-a" not in page.content()
        assert not page.get_by_role("link", name="Audit").count()
        page.goto(f"{hers.base}/audit")
        expect(page.get_by_role("alert")).to_contain_text("The role tenant_operator may not")
        page.goto(f"{hers.base}/devices/sbc-a")
        expect(page.get_by_role("alert")).to_contain_text("There is no device named")
        page.goto(f"{hers.base}/devices/north-1#allocation")
        page.get_by_label("SBC Sessions", exact=True).fill("1")
        page.get_by_role("button", name="Allocate north-1").click()
        expect(page.locator("#said")).to_contain_text("north-1 is allocated 1 sessions")
        page.goto(f"{hers.base}/account")
        page.get_by_label("Old password").fill(made["nora"])
        page.get_by_label("New password", exact=True).fill("short")
        page.get_by_label("New password again").fill("short")
        hers.expected.add("400")
        page.get_by_role("button", name="Change the password").click()
        expect(page.locator("#password-new_password-wrong")).to_contain_text("12 to 256")
        shot(page, "account")
        hers.expected.add("404")
        assert hers.elsewhere == []
    with desk(chromium, lab.lab.manager.url) as his:
        page = his.page()
        his.sign_in(page, "vic", made["vic"])
        page.goto(f"{his.base}/devices/north-1")
        assert not page.get_by_text("What can be done").count()
        assert not page.locator("#content form").count()
        page.goto(f"{his.base}/pool")
        assert not page.get_by_role("link", name="Allocate north-1").count()
        his.clean()
    with signed_in(chromium, lab) as (mine, page):
        page.get_by_role("link", name="Audit").click()
        page.get_by_label("Who", exact=True).fill("nora")
        page.get_by_label("What", exact=True).select_option("allocated")
        page.get_by_role("button", name="Filter").click()
        row = page.get_by_role("row", name="allocated")
        expect(row).to_contain_text("tenant operator")
        expect(row).to_contain_text("127.0.0.1")
        expect(row).to_contain_text("north-1")
        with page.expect_download() as download:
            page.get_by_role("link", name="As CSV").click()
        assert "nora" in Path(download.value.path()).read_text().splitlines()[1]
        page.goto(f"{mine.base}/audit?outcome=refused&who=nora")
        expect(page.get_by_role("table")).to_contain_text("permission refused")
        page.goto(f"{mine.base}/audit")
        page.get_by_role("button", name="Verify the whole log").click()
        expect(page.get_by_role("heading", name="The log is whole")).to_be_visible()
        shot(page, "audit")


def test_a_page_says_that_the_manager_is_away_and_recovers_by_itself(
    chromium: Browser, lab: LabHandle
) -> None:
    lab.call("POST", "/devices", {"name": "away-1", "serials": ["SN-AWAY-1"]})
    with signed_in(chromium, lab, clean=False) as (mine, page):
        page.goto(f"{mine.base}/pool?q=away-1&edit=away-1")
        page.get_by_label("SBC Sessions").fill("17")
        lab.kill("manager")
        banner = page.locator("#lost")
        expect(banner).to_contain_text("connection to the manager is lost")
        expect(banner).to_contain_text("The figures are as of")
        shot(page, "manager-away")
        lab.start("manager")
        lab.await_manager()
        lab.call("POST", "/devices", {"name": "away-1b", "serials": ["SN-AWAY-1B"]})
        # What was missed is fetched before the banner goes; what was typed is still there.
        expect(banner).to_be_hidden()
        expect(page.get_by_role("link", name="away-1b", exact=True)).to_be_visible()
        expect(page.get_by_label("SBC Sessions")).to_have_value("17")
        expect(page.get_by_label("SBC Sessions")).to_be_focused()
        assert mine.elsewhere == []


def test_keyboard_alone_will_do_and_focus_outlives_what_changes(
    chromium: Browser, lab: LabHandle
) -> None:
    lab.call("PATCH", "/devices/sbc-b", {"mode": "none"})
    with signed_in(chromium, lab) as (mine, page):
        page.goto(f"{mine.base}/pool?q=sbc-b")
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#content")).to_be_focused()
        button = page.get_by_role("button", name="Manage sbc-b")
        for _ in range(200):
            page.keyboard.press("Tab")
            if button.evaluate("e => e === document.activeElement"):
                break
        expect(button).to_be_focused()
        outline = button.evaluate("e => getComputedStyle(e).outlineWidth")
        assert outline == "3px"
        # Others change things: the list moves, the hand stays where it was.
        lab.call("POST", "/devices", {"name": "a-sbc-b", "serials": ["SN-KEYS-0"]})
        expect(page.get_by_role("link", name="a-sbc-b", exact=True)).to_be_visible()
        expect(button).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.locator("#said")).to_contain_text("The pool manages sbc-b")
        # The button is another one now (or gone): focus is not lost at the top of the page, not
        # even until the page has settled.
        assert page.evaluate("document.activeElement !== document.body")
        # Nor when others take away what has it, and go on changing what is around it.
        page.get_by_role("link", name="a-sbc-b", exact=True).focus()
        lab.call("DELETE", "/devices/a-sbc-b")
        expect(page.get_by_role("heading", name="1 device", exact=True)).to_be_focused()
        # It stays there throughout: a screen reader reads anew what gets focus anew.
        page.evaluate("document.addEventListener('focusout', () => { window.moved = true; })")
        for number in (1, 2):
            name = f"{number}-sbc-b"
            lab.call("POST", "/devices", {"name": name, "serials": [f"SN-KEYS-{number}"]})
            expect(page.get_by_role("link", name=name, exact=True)).to_be_visible()
            frames(page)  # an element that may no longer have focus loses it in the next one
            expect(page.locator("#devices")).to_be_focused()
            lab.call("DELETE", f"/devices/{name}")
        assert not page.evaluate("window.moved")
        mine.clean()


def frames(page: Page) -> None:
    """Let the browser draw twice."""
    page.evaluate("() => new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")


def test_pages_read_and_forms_post_without_script(chromium: Browser, lab: LabHandle) -> None:
    lab.call("POST", "/devices", {"name": "plain-1", "serials": ["SN-PLAIN-1"]})
    with signed_in(chromium, lab, java_script_enabled=False) as (mine, page):
        page.goto(f"{mine.base}/pool?q=plain-1")
        page.get_by_role("link", name="Allocate plain-1").click()
        page.get_by_label("SBC Sessions").fill("9999")
        mine.expected.add("409")
        page.get_by_role("button", name="Allocate plain-1").click()
        expect(page.locator("#allocation-sbc_sessions-wrong")).to_contain_text("at most")
        page.get_by_label("SBC Sessions").fill("2")
        page.get_by_role("button", name="Allocate plain-1").click()
        expect(page.locator("#said")).to_contain_text("plain-1 is allocated 2 sessions")
        assert "does not renew itself" in page.content()


EVERY_PAGE = (
    "/", "/pool", "/pool?edit=sbc-b", "/pool/tenants", "/pool/tenants?edit=default",
    "/pool/requests", "/pool/orders", "/pool/bulk", "/pool/advice", "/pool/tokens",
    "/pool/journal", "/devices/sbc-a", "/smart", "/smart/instances", "/smart/tokens",
    "/smart/alerts", "/smart/events", "/alarms", "/alarms/history", "/audit", "/operators",
    "/account",
)  # fmt: skip


def test_no_page_has_a_fault_for_those_who_see_badly_or_asks_another_host(
    chromium: Browser, lab: LabHandle
) -> None:
    with signed_in(chromium, lab) as (mine, page):
        found = {}
        for address in EVERY_PAGE:
            page.goto(f"{mine.base}{address}")
            for folded in page.locator("details").all():
                folded.evaluate("e => { e.open = true; }")
            found[address] = faults(page)
            shot(page, f"every-{re.sub('[^a-z]+', '-', address).strip('-') or 'overview'}")
            # At 200 % zoom a desk of 1280 pixels has 640.
            page.set_viewport_size({"width": 640, "height": 400})
            until(lambda: fits(page), within=10)
            page.set_viewport_size({"width": WIDE[0], "height": WIDE[1]})
        page.goto(f"{mine.base}/devices/no-such")
        found["refused"] = faults(page)
        mine.complaints = [c for c in mine.complaints if "404" not in c]
        page.get_by_role("link", name="Go to the overview").click()
        page.get_by_role("button", name="Sign out").click()
        found["sign-in"] = faults(page)
        shot(page, "sign-in")
        assert {a: f for a, f in found.items() if f} == {}


def test_in_the_dark_every_word_can_be_read_too(chromium: Browser, lab: LabHandle) -> None:
    with signed_in(chromium, lab, color_scheme="dark") as (mine, page):
        for address in ("/", "/pool?edit=sbc-b", "/devices/sbc-a", "/smart", "/audit"):
            page.goto(f"{mine.base}{address}")
            assert faults(page) == []
        shot(page, "dark")


def test_a_session_that_has_ended_leads_to_the_sign_in_and_back(
    chromium: Browser, lab: LabHandle
) -> None:
    with signed_in(chromium, lab, clean=False) as (mine, page):
        page.goto(f"{mine.base}/pool?q=sbc")
        lab.call("DELETE", "/operators/admin/sessions")
        lab.call("POST", "/devices", {"name": "over-1", "serials": ["SN-OVER-1"]})
        page.wait_for_url("**/sign-in?*")
        expect(page.get_by_role("status")).to_contain_text("The session is over")
        page.get_by_label("User name").fill("admin")
        page.get_by_label("Password").fill(lab.lab.manager.password)
        page.get_by_role("button", name="Sign in").click()
        page.wait_for_url("**/pool?q=sbc")
