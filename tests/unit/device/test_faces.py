from __future__ import annotations

import os
import ssl
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from cryptography import x509
from device_world import DAY, World
from smart_authority import SmartWorld

from callpool.device.faces.certificate import keep_certificate, make_certificate
from callpool.device.faces.diagram import draw
from callpool.device.faces.pages import render, render_smart
from callpool.device.settings import Layout
from callpool.device.status import Status
from callpool.licensing.smart import RULES, State
from callpool.licensing.smart_policy import CALL_POLICIES
from callpool.wire.messages import WaitingMessage


async def status_of(tmp_path: Path) -> Status:
    world = World(tmp_path / "device")
    await world.start()
    world.manager.allocate(10, 3)
    await world.agent.pull()
    await world.go(0.0)
    made = world.agent.status()
    await world.crash()
    return made


async def test_the_page_has_the_columns_and_fields_of_the_seed(tmp_path: Path) -> None:
    page = render(await status_of(tmp_path))
    for text in (
        "Mode", "License Pool", "License Server Status", "Connected", "PK-1", "S1",
        ">Remote<", ">Local<", ">Actual<", "SBC Sessions", "Far End Users", "Test Call",
        "restart with save applies it", 'class="changes">15<', "restart_pending", "In service",
        "(less than a minute ago)",
    ):  # fmt: skip
        assert text in page, text


async def test_the_page_tells_of_unsaved_configuration_and_only_then(tmp_path: Path) -> None:
    status = await status_of(tmp_path)
    assert "unsaved" not in render(status)
    assert "There is unsaved configuration." in render(
        msgspec.structs.replace(status, unsaved=True)
    )


async def test_the_page_of_a_device_out_of_service_says_why_and_what_would_help(
    tmp_path: Path,
) -> None:
    world = World(tmp_path / "device", local=0)
    asked = WaitingMessage(type="sbc_sessions", count=50, sentence="waits until 10 more are unused")
    world.manager.waiting = (asked,)
    await world.start()
    waits = "no SBC Sessions are licensed; 50 SBC Sessions are asked for: waits until 10 more"
    page = render(world.agent.status())
    assert "Out of service" in page
    assert f"New calls are refused: {waits}" in page
    world.manager.waiting = ()
    world.manager.allocate(10)
    await world.agent.pull()
    await world.go(0.0)
    page = render(world.agent.status())
    assert "no SBC Sessions are licensed; 10 have arrived and wait for a restart with save" in page
    await world.restart(save=True)
    world.manager.waiting = (asked,)
    await world.agent.pull()
    await world.go(0.0)
    page = render(world.agent.status())
    assert "In service" in page
    assert "New calls are admitted; 50 SBC Sessions are asked for: waits until 10 more" in page
    await world.crash()


async def test_the_page_shows_state_mode_and_deadlines_of_smart_licensing(tmp_path: Path) -> None:
    world = SmartWorld(tmp_path / "device")
    await world.start()
    world.authority.good = False
    await world.authorized()
    page = render(world.agent.status())
    for text in (
        "Smart Licensing", "OutOfCompliance", "Notification listen mode", "out-of-compliance",
        "acme / default", "50 calls/s", "Communication deadline", "2027-04-15 08:00:00 UTC",
        "smart_out_of_compliance",
    ):  # fmt: skip
        assert text in page, text
    await world.agent.smart.close()
    await world.crash()


async def test_the_smart_page_tells_state_calls_timers_and_the_log(tmp_path: Path) -> None:
    world = SmartWorld(tmp_path / "device")
    await world.start()

    def page() -> str:
        return " ".join(render_smart(world.agent.status(), world.layout.smart_log).split())

    shown = page()
    assert '<p class="state-name">Unconfigured</p>' in shown
    assert "New calls are refused: smart licensing is not enabled." in shown
    await world.tell("enable")
    assert "New calls are refused: no count is configured." in page()
    assert "To do: Configure a count with <code>callpool device smart count N</code>." in page()
    await world.tell("count", count=50)
    shown = page()
    assert "Calls are admitted, up to 50 a second" in shown
    heading = 'UTC</td> <th scope="row" role="rowheader">'
    assert f'class="when">2027-04-15 08:00:00 {heading}Evaluation ends' in shown
    assert "EvalExpired: new calls are refused, the evaluation period has ended." in shown
    await world.tell("register", token=world.authority.token)
    shown = page()
    # 30, 90, 180 and 365 days from 2027-01-15 08:00.
    for when, what in (
        ("2027-02-14 08:00:00", "Authorization is asked for"),
        ("2027-04-15 08:00:00", "Authorization ends if it is not renewed"),
        ("2027-07-14 08:00:00", "ID certificate is renewed"),
        ("2028-01-15 08:00:00", "ID certificate ends if it is not renewed"),
    ):
        assert f"{when} {heading}{what}" in shown, what
    assert "AuthorizationExpired: calls are admitted." in shown
    assert "The registration ends. Unidentified: calls are admitted." in shown
    assert "<strong>AuthRenewSuccess</strong>" in shown
    world.link.down = True
    await world.go(31 * DAY)
    shown = page()
    assert "notification listen mode tells of the failure" in shown
    assert "smart_renewal_failed" in shown
    await world.agent.smart.close()
    await world.crash()


@pytest.mark.parametrize("policy", list(CALL_POLICIES))
@pytest.mark.parametrize("state", list(State))
def test_the_diagram_marks_the_state_and_shows_every_way_of_the_table(
    state: State, policy: str
) -> None:
    drawn = ElementTree.fromstring(draw(state, policy))  # noqa: S314 - our own
    groups = {g.findtext("text"): g.attrib["class"] for g in drawn.iter("g")}
    assert set(groups) == {s.value for s in State}
    assert [name for name, kind in groups.items() if "current" in kind] == [state.value]
    for other, reason in CALL_POLICIES[policy].items():
        assert ("refuses" in groups[other.value].split()) is bool(reason)
    ways = {(r.source, r.target) for r in RULES if r.source is not r.target}
    lines = [p for p in drawn.iter("path") if p.attrib["class"].startswith("arrow")]
    assert len(lines) == len(ways)
    bold = [p for p in lines if p.attrib["class"] == "arrow next"]
    assert len(bold) == len({way for way in ways if way[0] is state})
    names = {t.text for t in drawn.iter("tspan")}
    assert names == {
        r.event.value.replace("_", " ") for r in RULES if r.source is state is not r.target
    }


async def test_what_comes_from_elsewhere_is_escaped(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    status = msgspec.structs.replace(
        await status_of(tmp_path), product_key=evil, manager=evil, refused={evil: 1}
    )
    assert "<script" not in render(status)
    world = SmartWorld(tmp_path / "smart")
    await world.start()
    log = tmp_path / "sml.log"
    log.write_text(f"2027-01-15T08:00:00Z ERROR {evil} {evil}\n\nodd\n" * 3)
    shown = render_smart(world.agent.status(), log)
    assert "<script" not in shown
    assert "&lt;script&gt;" in shown
    assert "Nothing yet." in render_smart(world.agent.status(), tmp_path / "none")
    await world.agent.smart.close()
    await world.crash()
    assert "&lt;script&gt;" in render(status)


def test_the_certificate_is_p256_made_once_and_anew_before_it_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = Layout(tmp_path)
    make_certificate(layout, "192.0.2.7")
    first = layout.pages_certificate.read_bytes()
    made = x509.load_pem_x509_certificate(first)
    assert getattr(made.public_key(), "curve").name == "secp256r1"  # noqa: B009
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "192.0.2.7" in [str(a) for a in names.get_values_for_type(x509.IPAddress)]
    assert os.stat(layout.pages_key).st_mode & 0o777 == 0o600
    keep_certificate(layout, "192.0.2.7")
    assert layout.pages_certificate.read_bytes() == first
    monkeypatch.setattr("callpool.device.faces.certificate.RENEW_DAYS", 400)
    keep_certificate(layout, "192.0.2.7")
    assert layout.pages_certificate.read_bytes() != first
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(
        layout.pages_certificate, layout.pages_key
    )
