"""Each task of the device's pages in a real browser, as a person would do it."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from browserkit import NARROW, Visit, chromium
from devicekit import PASSWORD, Device, Site, eventually, site, with_user
from playwright.sync_api import Browser, expect

from callpool.licensing.capacity import Capacity
from callpool.licensing.order import SMART_ORDER


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as made:
        yield made


@pytest.fixture(scope="module")
def live(module_path: Path) -> Iterator[Site]:
    with site(module_path) as made:
        yield made


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Site]:
    """A site whose manager the test may stop."""
    with site(tmp_path) as made:
        yield made


def start(device: Device) -> str:
    """Start a device; return its pages' address once they answer."""
    device.start()
    eventually(device.connected)
    eventually(lambda: _listens(device.pages))
    return f"https://127.0.0.1:{device.pages}"


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
        return True
    return False


def sign_in(visit: Visit, name: str = "anna", password: str = PASSWORD) -> None:
    page = visit.page
    page.get_by_label("User name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


def cell(visit: Visit, row: str, head: str) -> str:
    found = visit.page.locator("tr", has=visit.page.get_by_role("rowheader", name=row))
    return found.locator(f"td[data-label='{head}']").inner_text()


def becomes(visit: Visit, row: str, head: str, value: int) -> None:
    """Wait until a number is there, without anybody loading the page anew."""
    eventually(lambda: cell(visit, row, head) == str(value))


def test_the_license_key_page_task_by_task(alone: Site, browser: Browser) -> None:
    device = alone.device("a")
    with_user(device)
    visit = Visit(browser, start(device))
    page = visit.page
    visit.open("/")
    visit.judged("device-sign-in")
    sign_in(visit, password="wrong")
    expect(page.get_by_role("alert").first).to_have_text("The user name or the password is wrong.")
    sign_in(visit)
    expect(page).to_have_title(f"License Key – {device.serial}")
    assert cell(visit, "SBC Sessions", "Actual") == "5"
    assert re.fullmatch(
        r"[-\d]+ [:\d]+ UTC \(in 6 d 23 h\)",
        page.locator("dt:text-is('Lease End') + dd").inner_text(),
    )
    visit.judged("device-license-key")

    # What the pool gives arrives on the open page; a restart with save applies it.
    alone.allocate("a", sbc_sessions=10)
    becomes(visit, "SBC Sessions", "Remote", 10)
    expect(page.get_by_text("A change is pending.")).to_be_visible()
    expect(page.get_by_text("restart_pending")).to_be_visible()
    assert cell(visit, "SBC Sessions", "After restart") == "15"
    visit.judged("device-pending")
    page.get_by_role("button", name="Restart", exact=True).click()
    expect(page.locator("#told-restart")).to_contain_text("What was pending is applied.")
    becomes(visit, "SBC Sessions", "Actual", 15)
    expect(page.get_by_text("A change is pending.")).to_have_count(0)

    # A key: one for another serial number is refused beside its form; the right one counts.
    other = alone.directory / "other.key"
    for serial, file in (("SN-other", other), (device.serial, alone.directory / "new.key")):
        _, envelope = alone.vendor.key(
            serials=[serial],
            counts=Capacity.of(sbc_sessions=7, far_end_users=7),
            maximum=Capacity.of(sbc_sessions=1000, far_end_users=1000),
            features=frozenset(),
            now=int(time.time()),
        )
        file.write_text(envelope)
    page.get_by_label("License key file").set_input_files(other)
    page.get_by_role("button", name="Install").click()
    expect(page.locator("#told-install")).to_contain_text("key_for_another_serial")
    visit.judged("device-key-refused")
    page.get_by_label("License key file").set_input_files(alone.directory / "new.key")
    page.get_by_role("button", name="Install").click()
    expect(page.locator("#told-install")).to_contain_text("is installed and counts from now on")
    becomes(visit, "SBC Sessions", "Actual", 17)

    # The manager is away: the page works, says so, and what it does still counts.
    assert alone.manager is not None
    alone.manager.end()
    page.get_by_role("button", name="Contact it now").click()
    expect(page.locator("#told-contact")).to_contain_text("License Server Status says")
    expect(page.locator("dt:text-is('License Server Status') + dd")).to_have_text("Disconnected")
    visit.judged("device-disconnected")
    page.get_by_label("Wait for calls to end").fill("soon")
    page.get_by_role("button", name="Restart", exact=True).click()
    expect(page.locator("#told-restart.refused")).to_be_visible()
    expect(page.get_by_label("Wait for calls to end")).to_have_value("soon")
    page.get_by_label("Wait for calls to end").fill("5")
    page.get_by_role("button", name="Restart", exact=True).click()
    expect(page.locator("#told-restart.done")).to_contain_text("0 calls are in progress")
    alone.start()
    eventually(device.connected)

    # The core is killed: the open page says that it is old, and recovers by itself.
    device.kill()
    expect(page.locator("#lost")).to_be_visible()
    expect(page.locator("#lost")).to_contain_text("The connection to the device is lost.")
    visit.shot("device-lost")
    device.start()
    eventually(lambda: _comes_back(visit))
    visit.complaints.clear()  # while it was away, the browser said so, rightly

    # A factory reset takes the serial number, and nobody is signed in after it.
    sign_in(visit)
    page.get_by_label("Serial number").fill("SN-wrong")
    page.get_by_role("button", name="Reset to factory defaults").click()
    expect(page.locator("#told-factory-reset")).to_contain_text("wrong_serial")
    page.get_by_label("Serial number").fill(device.serial)
    page.get_by_role("button", name="Reset to factory defaults").click()
    expect(page.get_by_text("The device is reset to factory defaults.")).to_be_visible()
    visit.judged("device-reset")
    visit.open("/license-key")
    expect(page).to_have_title(f"Sign in – {device.serial}")
    visit.clean()
    visit.close()


def _comes_back(visit: Visit) -> bool:
    """Whether the window shows the way in again: sessions ended with the faces."""
    visit.page.wait_for_timeout(50)
    return visit.page.title().startswith("Sign in")


def test_the_admin_page_task_by_task_and_narrow(live: Site, browser: Browser) -> None:
    device = live.device("s", local=0)
    with_user(device)
    with_user(device, "otto", "operator")
    live.client.call("PATCH", "/devices/s", {"mode": "none"})
    url = start(device)
    account = live.client.call("POST", "/smart/accounts", {"name": "acme"})
    assert account
    now = int(time.time())
    _, envelope = live.vendor.order(
        product_key=live.product_key, counts=Capacity.of(cps=100), starts=now - 10,
        ends=now + 400 * 86400, now=now, role=SMART_ORDER,
    )  # fmt: skip
    live.client.import_order(envelope.encode(), "/smart/orders?virtual_account=default")
    visit = Visit(browser, url)
    page = visit.page
    visit.open("/smart")
    sign_in(visit)
    expect(page).to_have_title(f"Admin – {device.serial}")
    visit.judged("device-admin-off")
    page.get_by_role("button", name="Enable smart licensing").click()
    expect(page.locator("#told-enable")).to_have_text("Smart licensing is on.")
    expect(page.locator(".state-name")).to_have_text("Unidentified")
    count = page.get_by_label("Calls per second")
    count.fill("7")
    page.get_by_role("button", name="Configure").click()
    expect(page.locator("#told-count.refused")).to_contain_text("multiple of 5")
    expect(count).to_have_value("7")
    count.fill("50")
    page.get_by_role("button", name="Configure").click()
    expect(page.locator("#told-count.done")).to_be_visible()
    expect(page.get_by_text("Calls are admitted, up to 50 a second")).to_be_visible()
    page.get_by_label("Registration token").fill("not-a-token")
    page.get_by_role("button", name="Register", exact=True).click()
    expect(page.locator("#told-register.refused")).to_be_visible()
    expect(page.get_by_label("Registration token")).to_have_value("")
    page.get_by_label("Registration token").fill(
        live.client.call("POST", "/smart/tokens", {})["token"]
    )
    page.get_by_role("button", name="Register", exact=True).click()
    expect(page.locator("#told-register.done")).to_have_text("The device is registered.")
    expect(page.locator(".state-name")).to_have_text("Authorized")
    expect(page.locator(".log strong").first).to_be_visible()
    visit.judged("device-admin-authorized")

    # What happens elsewhere is on the open page: the log, live.
    before = page.locator(".log li").count()
    device.ask("smart", action="renew_auth")
    eventually(lambda: page.locator(".log li").count() > before or before == 20)
    expect(page.locator(".log strong", has_text="AuthRenewSuccess").first).to_be_visible()
    page.get_by_role("button", name="Renew the ID certificate").click()
    expect(page.locator("#told-renew-id")).to_have_text("The ID certificate is renewed.")

    # An operator reads on a telephone, and is offered nothing to change.
    small = Visit(browser, visit.url, NARROW)
    small.open("/smart")
    sign_in(small, "otto")
    expect(small.page.locator(".state-name")).to_have_text("Authorized")
    expect(small.page.get_by_role("button", name="Deregister")).to_have_count(0)
    small.judged("device-admin-narrow")
    small.open("/license-key")
    small.judged("device-license-key-narrow")
    page.get_by_role("button", name="Deregister").click()
    expect(page.locator("#told-deregister")).to_contain_text("has left its authority")
    # The telephone hears of it by itself.
    small.open("/smart")
    expect(small.page.locator(".state-name")).to_have_text("Unidentified")
    page.get_by_role("button", name="Disable smart licensing").click()
    expect(page.locator("#told-disable")).to_contain_text("Smart licensing is off.")
    expect(small.page.locator(".state-name")).to_have_text("Unconfigured")
    for one in (visit, small):
        one.clean()
        one.close()


def test_by_keyboard_alone_and_what_is_not_written_is_told(live: Site, browser: Browser) -> None:
    device = live.device("k", apply="live")
    with_user(device)
    visit = Visit(browser, start(device))
    page = visit.page
    visit.open("/")
    expect(page.get_by_label("User name")).to_be_focused()
    page.keyboard.type("anna")
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    expect(page).to_have_title(f"License Key – {device.serial}")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="To the content")).to_be_focused()
    device.ask("config", action="change", change={"type": "set_idle", "minutes": 30}, who="test")
    expect(page.get_by_text("a restart of the device loses the change")).to_be_visible()
    visit.judged("device-unsaved")
    page.get_by_role("button", name="Write the configuration").press("Enter")
    expect(page.locator("#told-configuration")).to_contain_text("The configuration is written")
    assert device.ask("config")["unsaved"] is False
    # Somebody who types is not disturbed by what changes around it.
    field = page.get_by_label("Wait for calls to end")
    field.fill("12")
    live.allocate("k", sbc_sessions=20)
    becomes(visit, "SBC Sessions", "Actual", 25)
    expect(field).to_have_value("12")
    expect(field).to_be_focused()
    visit.clean()
    visit.close()
