"""What `show license` says: the field's labels, and dates that do not jitter."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from device_world import DAY, World
from smart_authority import SmartWorld

from callpool.device.faces.shell import license_text as text
from callpool.device.faces.shell.support import bundle
from callpool.device.status import Status
from callpool.wire.messages import WaitingMessage


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[SmartWorld]:
    made = SmartWorld(tmp_path / "device")
    await made.start()
    yield made
    await made.agent.smart.close()
    await made.crash()


def shown(world: World) -> list[str]:
    """All of it, as the shell has it: from the socket's JSON."""
    told = msgspec.json.decode(msgspec.json.encode(world.agent.status()))
    status = msgspec.convert(told, Status)
    for part in (text.standing, text.summary, text.usage, text.udi):
        assert all(line == line.rstrip() for line in part(status))
    return text.whole(status)


def value(lines: list[str], label: str) -> str:
    return next(x.split(": ", 1)[1] for x in lines if x.strip().startswith(f"{label}: "))


def after(lines: list[str], heading: str) -> list[str]:
    """The lines under a heading, to the next empty one."""
    at = lines.index(heading) + 1
    end = lines.index("", at) if "" in lines[at:] else len(lines)
    return lines[at:end]


async def test_a_device_that_is_not_enabled_says_so_and_what_to_type_here(
    world: SmartWorld,
) -> None:
    lines = shown(world)
    assert lines[0] == "Smart Licensing is DISABLED"
    assert "turn it on with `license smart enable`" in lines[2]
    assert value(lines, "UDI") == "PID:CALLPOOL-DEVICE,SN:S1"
    assert "  No licenses in use" in lines


async def test_every_label_of_the_field_is_there(world: SmartWorld) -> None:
    await world.authorized()
    lines = shown(world)
    assert lines[0] == "Smart Licensing is ENABLED"
    headings = {line for line in lines if line and not line.startswith(" ")}
    assert {
        "Utility:", "Data Privacy:", "Transport:", "Registration:", "License Authorization:",
        "License Usage", "Product Information", "Agent Version", "Reservation Info",
    } <= headings  # fmt: skip
    registration = after(lines, "Registration:")
    assert [x.split(":")[0].strip() for x in registration] == [
        "Status", "Smart Account", "Virtual Account", "Export-Controlled Functionality",
        "Initial Registration", "Last Renewal Attempt", "Next Renewal Attempt",
        "Registration Expires",
    ]  # fmt: skip
    assert value(registration, "Status") == "REGISTERED"
    assert value(registration, "Initial Registration").startswith("SUCCEEDED on 2027-01-15 ")
    assert value(registration, "Last Renewal Attempt") == "None"
    authorization = after(lines, "License Authorization:")
    assert value(authorization, "Status").startswith("AUTHORIZED on 2027-01-15 ")
    assert value(authorization, "Last Communication Attempt").startswith("SUCCEEDED on 2027-")
    assert value(authorization, "Communication Deadline").startswith("2027-04-15 ")
    assert value(lines, "Count") == "50"


async def test_what_happens_at_each_deadline_stands_beside_it(world: SmartWorld) -> None:
    await world.authorized()
    deadlines = after(shown(world), "Deadlines:")
    assert len(deadlines) % 2 == 0
    by_what = {deadlines[n][27:]: deadlines[n + 1] for n in range(0, len(deadlines), 2)}
    assert "    Then: AuthorizationExpired: calls are admitted." in by_what.values()
    assert "The registration ends." in by_what["ID certificate ends if it is not renewed"]


async def test_the_evaluation_says_when_it_ends_and_a_failure_why(world: SmartWorld) -> None:
    await world.tell("enable")
    await world.tell("count", count=50)
    lines = shown(world)
    assert value(lines, "Evaluation Period Remaining").startswith("90 d 0 h, in use; it ends 2027-")
    assert value(after(lines, "License Authorization:"), "Status") == "EVAL MODE"
    await world.tell("register", token=world.authority.token)
    world.link.down = True
    world.clock.advance(31 * DAY)
    await world.go(0.0)
    lines = shown(world)
    assert value(lines, "Last Communication Attempt").startswith("FAILED on ")
    assert value(lines, "Failure reason") == "cut. [manager_unreachable]"
    assert "notification listen mode" in lines[1]
    world.clock.advance(150 * DAY)
    await world.go(0.0)
    lines = shown(world)
    assert value(lines, "Last Renewal Attempt").startswith("FAILED")
    assert value(after(lines, "License Authorization:"), "Status").startswith(
        "AUTHORIZATION EXPIRED on "
    )
    world.link.down = False
    await world.go(DAY)
    assert value(shown(world), "Last Renewal Attempt").startswith("SUCCEEDED on 2027-07-1")


async def test_two_readings_differ_only_where_something_has_changed(world: SmartWorld) -> None:
    await world.tell("enable")
    await world.tell("count", count=50)
    await world.go(1800.0)  # the evaluation's whole hours left are no date: they may count down
    for prepare in (None, "register"):
        if prepare:
            await world.tell(prepare, token=world.authority.token)
        first = shown(world)
        for _ in range(50):
            world.clock.advance(0.37)
            assert shown(world) == first, "a date jitters"


async def test_the_pool_shows_remote_local_actual_and_what_is_pending(tmp_path: Path) -> None:
    world = World(tmp_path / "device")
    await world.start()
    world.manager.allocate(10, 3)
    world.manager.waiting = (
        WaitingMessage(type="sbc_sessions", count=50, sentence="waits until 10 more are unused"),
    )
    await world.agent.pull()
    await world.go(0.0)
    lines = text.pool(world.agent.status())
    assert "Mode: License Pool" in lines
    assert "License Server Status: Connected" in lines
    assert [x.split() for x in lines if x.startswith("SBC ")] == [
        ["SBC", "Capacity", "Remote", "Local", "Actual", "Pending", "In", "Use"],
        ["SBC", "Sessions", "10", "5", "5", "15", "0"],
    ]
    assert "Waiting: 50 sbc_sessions: waits until 10 more are unused" in lines
    assert any("restart save" in line for line in lines)
    await world.restart(save=True)
    sessions = next(x for x in text.pool(world.agent.status()) if x.startswith("SBC Sessions"))
    assert sessions.split()[2:] == ["10", "5", "15", "-", "0"]
    await world.crash()


async def test_the_bundle_is_made_of_what_the_device_says_and_holds_no_secret(
    world: SmartWorld,
) -> None:
    await world.authorized()
    (world.layout.journal).write_text('{"event": "started"}\n')
    answers = {
        "status": msgspec.to_builtins(world.agent.status()),
        "alarms": {"started": 0, "uptime": 1, "sequence": 0, "active": [], "history": []},
        "config": {
            "running": ["username bob password ***"], "startup": [], "unsaved": True,
            "idle_minutes": 10,
        },
        "calls": {"sessions": 1},
    }  # fmt: skip

    async def read(do: str, **_: object) -> object:
        return answers[do]

    lines = await bundle(read, world.layout.root)
    whole = "\n".join(lines)
    for title in ("show license all", "show alarms active", "show running-config", "sml.log"):
        assert f"------ {title}" in whole
    assert '{"event": "started"}' in whole
    assert " INFORMATIONAL " in whole, "the log's end is in it"
    secrets = [world.authority.token, world.authority.secret, world.authority.value]
    for file in ("secret", "gate.secret", "identity.pem", "smart.pem"):
        raw = (world.layout.root / file).read_bytes()
        secrets += [raw.hex(), *raw.decode(errors="ignore").splitlines()]
    for secret in secrets:
        if len(secret) > 8 and "-----" not in secret:
            assert secret not in whole
