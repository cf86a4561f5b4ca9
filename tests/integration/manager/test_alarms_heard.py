"""Alarms by SNMP and by the device protocol: net-snmp's tools as devices, a real manager."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Iterator

import pytest
from managerkit import Device, cli, eventually, load
from northkit import (
    AUTH,
    COLD_START,
    GLOBALS,
    TRAPS,
    Alarms,
    Sender,
    alarms,
    user,
)

from callpool.licensing.alarm_table import POOL_APPLICATION, POOL_INFRASTRUCTURE
from callpool.wire.messages import AlarmMessage, AlarmsMessage

ALARMS = (
    "import sys; from callpool.host.console import run; "
    "from callpool.manager.alarm_commands import alarms_app; sys.exit(run(alarms_app))"
)


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory, engine: str) -> Iterator[Alarms]:
    """One manager for all that does not disturb each other: each test has its own units."""
    units = tuple(f"S{n}" for n in range(1, 16))
    with alarms(
        tmp_path_factory.mktemp("heard"),
        units=units,
        users=[user(), user("one", serials=["S7"])],
        community="community-1",
        devices=[
            {"serial": "S5", "address": "127.0.0.1"},
            {"serial": "S6", "address": "192.0.2.1"},
            {"serial": "S8", "user": "one"},
        ],
    ) as made:
        yield made


def event(sequence: int, severity: int, *, at: float, code: str = "contact_lost") -> AlarmMessage:
    oid = POOL_INFRASTRUCTURE if code == "contact_lost" else POOL_APPLICATION
    return AlarmMessage(
        sequence=sequence, at=at, oid=oid, severity=severity, codes=(code,), text=f"{code} told"
    )


def report(device: Device, events: list[AlarmMessage], active: list[AlarmMessage]) -> int | None:
    """Make a contact that tells these; return how far the manager has taken the log."""
    last = max((e.sequence for e in (*events, *active)), default=0)
    told = AlarmsMessage(log="log-1", sequence=last, events=tuple(events), active=tuple(active))
    return device.contact(alarm_log=told).alarms_taken


def test_an_alarm_by_the_protocol_alone_is_raised_changed_and_cleared(heard: Alarms) -> None:
    device = heard.manager.device("S1")
    at = time.time()
    raised = event(1, 4, at=at)
    assert report(device, [raised], [raised]) == 1
    assert heard.told("S1") == {("106", "major")}
    graver = event(2, 5, at=at + 1)
    assert report(device, [raised, graver], [graver]) == 2, "what comes twice is taken once"
    assert report(device, [event(3, 0, at=at + 2)], []) == 3
    assert heard.told("S1") == set()
    assert heard.course("S1") == [
        ("106", "raised", "major"),
        ("106", "changed", "critical"),
        ("106", "cleared", "cleared"),
    ]
    (shown,) = {e["source"] for e in heard.history() if e["serial"] == "S1"}
    assert shown == "protocol"


def test_a_log_that_was_begun_anew_is_taken_from_its_start(heard: Alarms) -> None:
    device = heard.manager.device("S2")
    at = time.time()
    first = event(7, 4, at=at)
    assert report(device, [first], [first]) == 7
    again = event(1, 4, at=at + 5, code="restart_pending")
    told = AlarmsMessage(log="log-2", sequence=1, events=(again,), active=(again,))
    assert device.contact(alarm_log=told).alarms_taken == 1
    assert heard.told("S2") == {("107", "major")}, "what its list does not hold is cleared"


def test_an_alarm_by_trap_alone_is_raised_and_cleared(heard: Alarms) -> None:
    sender = heard.sender("S3")
    sender.notify(107, 4, text="License Pool Alarm. New license pool allocations received")
    eventually(lambda: heard.told("S3") == {("107", "major")})
    (shown,) = (a for a in heard.active() if a["serial"] == "S3")
    assert shown["device"] == "s3"
    assert shown["tenant"] == "default"
    assert shown["heard"] == ["trap"]
    assert shown["name"] == "acLicensePoolApplicationAlarm"
    sender.notify(107, 0)
    eventually(lambda: heard.told("S3") == set())


def test_an_alarm_by_trap_and_by_protocol_is_one(heard: Alarms) -> None:
    device, sender = heard.manager.device("S4"), heard.sender("S4")
    at = time.time()
    raised, cleared = event(1, 4, at=at), event(2, 0, at=at + 1)
    sender.notify(106, 4, text="Device was unable to access the License Server.",
                  info="contact_lost", unique=1, inform=True)  # fmt: skip
    report(device, [raised], [raised])
    (shown,) = (a for a in heard.active() if a["serial"] == "S4" and "trap" in a["heard"])
    assert shown["heard"] == ["protocol", "trap"]
    report(device, [cleared], [])
    sender.notify(106, 0, info="contact_lost", unique=2, inform=True)
    # An inform that is late and was told by the protocol before does not raise it again.
    sender.notify(106, 4, info="contact_lost", unique=1, inform=True)
    assert heard.told("S4") == set()
    assert heard.course("S4") == [("106", "raised", "major"), ("106", "cleared", "cleared")]


def test_a_lost_trap_is_made_good_by_the_protocol(heard: Alarms) -> None:
    device, sender = heard.manager.device("S9"), heard.sender("S9")
    at = time.time()
    sender.notify(107, 4, info="restart_pending", unique=1, inform=True)
    # The clear's trap is lost; the contact has it.
    raised = event(1, 4, at=at, code="restart_pending")
    cleared = event(2, 0, at=at + 1, code="restart_pending")
    report(device, [raised, cleared], [])
    assert heard.told("S9") == set()
    # And a clear that somebody with the credentials made up does not last.
    other = event(3, 4, at=at + 2)
    report(device, [other], [other])
    sender.notify(106, 0, info="contact_lost", unique=3, source="system0Mo", inform=True)
    eventually(lambda: heard.told("S9") == set())
    report(device, [other], [other])
    assert heard.told("S9") == {("106", "major")}


def test_v2c_counts_from_the_units_own_address_alone(heard: Alarms) -> None:
    good, elsewhere, unknown = (heard.sender(s) for s in ("S5", "S6", "S3"))
    before = heard.counted("wrong_sender")
    elsewhere.notify(106, 4, v2c=True)
    unknown.notify(106, 4, v2c=True)
    good.notify(106, 4, v2c=True, inform=True)
    assert heard.told("S5") == {("106", "major")}
    assert heard.told("S6") == set()
    assert heard.told("S3") == set()
    eventually(lambda: heard.counted("wrong_sender") >= before + 2)
    bad = heard.counted("bad_community")
    good.notify(106, 0, v2c=True, auth="guessed", inform=True, ok=False)
    eventually(lambda: heard.counted("bad_community") > bad)
    assert heard.told("S5") == {("106", "major")}


def test_one_unit_cannot_speak_for_another(heard: Alarms) -> None:
    mine, other = heard.sender("S7"), heard.sender("S10")
    before = heard.counted("wrong_sender")
    mine.notify(106, 4, name="one", inform=True)
    other.notify(106, 4, name="one")  # a user for S7 only
    mine.notify(107, 4, serial="S10")  # signed by the engine of S7
    heard.sender("S8").notify(106, 4)  # S8 speaks as another user
    eventually(lambda: heard.counted("wrong_sender") >= before + 3)
    assert heard.told("S7") == {("106", "major")}
    assert heard.told("S10") == set()
    assert heard.told("S8") == set()


def test_wrong_credentials_change_nothing_and_are_counted(heard: Alarms) -> None:
    sender = heard.sender("S11")
    sender.notify(106, 4, inform=True)
    counts = heard.links()["snmp"]["counts"]

    def more(name: str) -> bool:
        return heard.counted(name) > int(counts.get(name, 0))

    sender.notify(106, 0, auth="another-secret")
    eventually(lambda: more("wrong_digest"))
    sender.notify(106, 0, auth="another-secret", inform=True, ok=False)
    sender.notify(106, 0, name="nobody")
    eventually(lambda: more("unknown_user"))
    sender.notify(106, 0, engine="80007ed905" + "00" * 12)  # no unit's engine
    # A trap that claims a user and proves nothing: the library alone would take it.
    sender.notify(106, 0, level="noAuthNoPriv")
    sender.notify(106, 0, level="authNoPriv")
    eventually(lambda: heard.counted("bad_level_of_trap") >= 2)
    sender.notify(106, 0, serial="no such unit", engine=sender.engine)
    eventually(lambda: more("unknown_unit"))
    assert heard.told("S11") == {("106", "major")}


def test_a_trap_that_is_sent_again_by_another_is_no_news(heard: Alarms) -> None:
    sender = heard.sender("S12")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as between:
        between.bind(("127.0.0.1", 0))
        between.settimeout(30)
        tapped = Sender(heard.home, "S12", between.getsockname()[1])
        at = time.time()
        tapped.notify(106, 4, unique=1, at=at)
        raised = between.recv(65_536)
        to = ("127.0.0.1", heard.port)
        between.sendto(raised, to)
        eventually(lambda: heard.told("S12") == {("106", "major")})
        sender.notify(106, 0, unique=2, inform=True, at=at + 1.0)
        eventually(lambda: heard.told("S12") == set())
        # However late: a trap tells when its sender sent it.
        eventually(lambda: time.time() > at + 2.0)
        taken = heard.counted("taken")
        between.sendto(raised, to)
        eventually(lambda: heard.counted("taken") > taken)
    # Its number and time are known, or it is older than the clear.
    sender.notify(107, 4, unique=3, inform=True)
    assert heard.told("S12") == {("107", "major")}


def test_any_prefix_and_our_own_arc_are_taken_and_other_traps_are_not(heard: Alarms) -> None:
    sender = heard.sender("S13")
    sender.notify(125, 2, prefix="1.3.6.1.4.1.99999.1.2.0", inform=True)
    sender.notify(4, 5, prefix="1.3.6.1.4.1.32473.1.0", inform=True)
    ignored = heard.counted("not_ours")
    sender.notify(101, 5, prefix="1.3.6.1.4.1.32473.1.0", inform=True)  # the manager's own
    sender.send("1.3.6.1.6.3.1.1.5.3", inform=True)  # linkDown
    assert heard.told("S13") == {("125", "warning"), ("4", "critical")}
    eventually(lambda: heard.counted("not_ours") >= ignored + 2)
    names = {a["oid"] for a in heard.active() if a["serial"] == "S13"}
    assert f"{TRAPS}.125" in names, "known by the vendor's own prefix"


def test_garbage_changes_nothing(heard: Alarms) -> None:
    sender = heard.sender("S14")
    sender.notify(106, 4, inform=True)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as attacker:
        for size in range(150):
            attacker.sendto(secrets.token_bytes(size * 9), ("127.0.0.1", heard.port))
        attacker.sendto(b"\x30\x82\xff\xff\x02\x01\x03", ("127.0.0.1", heard.port))
    # Variables of the wrong types, and none at all.
    sender.send(f"{TRAPS}.106", f"{GLOBALS}.4.0", "s", "grave", f"{GLOBALS}.16.0", "i", "3")
    sender.send(f"{TRAPS}.106")
    sender.send(COLD_START, inform=True)
    sender.notify(107, 9, inform=True)
    sender.notify(107, 4, inform=True, text="\x01\x02 [red]", source="\x1b[31m")
    assert heard.told("S14") == {("106", "major"), ("107", "major")}
    assert heard.told("S14")
    assert AUTH not in str(heard.links())


def test_alarms_are_shown_filtered_and_acknowledged_by_command_and_api(heard: Alarms) -> None:
    sender = heard.sender("S15")
    sender.notify(106, 5, text="[bold]grave", inform=True)
    sender.notify(107, 2, text="less", inform=True)
    environment = {
        "CALLPOOL_MANAGER": heard.manager.url,
        "CALLPOOL_CA_FILE": str(heard.site.layout.ca),
        "CALLPOOL_PASSWORD": heard.site.password,
    }

    def command(*words: str, status: int = 0) -> str:
        done = cli(ALARMS, *words, env=environment)
        assert done[0] == status, done
        return done[1] if status == 0 else done[2]

    shown = load(command("active", "--device", "s15", "--json"))
    assert [a["severity"] for a in shown["alarms"]] == ["warning", "critical"]
    assert shown["counts"]["critical"] >= 1
    grave = shown["alarms"][1]["id"]
    table = command("active", "--device", "s15", "--severity", "major")
    assert "[bold]grave" in table, "what a device says is text, never markup"
    assert "less" not in table
    assert "acknowledged by admin" in command("ack", str(grave), "--note", "on it")
    assert "admin" in command("active", "--device", "s15")
    unseen = heard.active(device="s15", acknowledged="false")
    assert [a["text"] for a in unseen] == ["less"]
    page = load(command("history", "--device", "s15", "--limit", "2", "--json"))
    assert [e["transition"] for e in page["events"]] == ["acknowledged", "raised"]
    rest = load(command("history", "--device", "s15", "--cursor", page["next"], "--json"))
    assert [e["text"] for e in rest["events"]] == ["[bold]grave"]
    assert rest["next"] is None
    assert "grave" in command("history", "--device", "s15", "--since", "1h")
    assert "taken" in command("links")
    assert "unknown_alarm" in command("ack", "999999", status=1)
    for path, code in (
        ("/alarms?device=nobody", "unknown_device"),
        ("/alarms?colour=red", "bad_request"),
        ("/alarms?severity=loud", "bad_request"),
        ("/alarms/history?since=yesterday", "bad_request"),
        ("/alarms/history?acknowledged=true", "bad_request"),
    ):
        assert heard.manager.call("GET", path)["code"] == code
    body = {"note": "x", "who": "somebody else"}
    assert heard.manager.call("POST", f"/alarms/{grave}/acknowledge", body)["code"] == "bad_request"
    with heard.manager.client(signed_in=False) as stranger:
        assert stranger.get("/api/v1/alarms").status_code == 401
        assert stranger.post(f"/api/v1/alarms/{grave}/acknowledge", json={}).status_code == 401
