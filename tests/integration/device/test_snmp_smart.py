"""A smart device's life as net-snmp sees it: objects, notifications, switches, calls a second."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator

import pytest
from devicekit import eventually
from smartsnmpkit import DAY, PROXY, SLA, USP, SmartLab, smart_lab
from snmpkit import V2C, V3

from callpool.host.sipp import caller
from callpool.wire.smart_messages import AUTHORIZE_PATH

GLOBAL, ENTITLEMENT = f"{SLA}.0.8.1.0", f"{SLA}.0.8.2.0"
EXCEEDED, STATE = f"{USP}.1.3.6.0", f"{USP}.1.3.7.0"
ON, OFF = ("i", "1"), ("i", "2")


def mode(sla: int, usp: int) -> tuple[str, str, str]:
    """The three that tell of another enforcement mode."""
    return f"1:{sla}", f"15:{sla}", f"usp6:{usp}"


EVALUATION, EVAL_EXPIRED = mode(6, 10), mode(7, 9)
AUTHORIZED, OUT_OF_COMPLIANCE, AUTH_EXPIRED = mode(3, 8), mode(4, 3), mode(8, 12)


def among(lab: SmartLab, since: int, *wanted: str) -> None:
    """Wait until these were heard in this order; retries that failed between them do not count."""

    def heard() -> bool:
        said = [s for s in lab.heard()[since:] if s in wanted]
        firsts = [s for n, s in enumerate(said) if s not in said[:n]]
        return firsts == list(dict.fromkeys(wanted))

    try:
        eventually(heard)
    except AssertionError as error:
        raise AssertionError(f"{wanted} are not in {lab.heard()[since:]}") from error


def again(lab: SmartLab, before: list[str]) -> None:
    """Wait until nothing but a start has been told; an answer that was still due may be."""
    eventually(lambda: [s for s in lab.heard()[len(before) :] if s != "10"] == ["2"])
    assert lab.heard()[: len(before)] == before


def test_the_whole_life_is_told_in_order_and_served_as_it_is() -> None:
    with smart_lab() as lab:
        lab.hears("2")
        assert (lab.sla("4.0"), lab.sla("7.2.0"), lab.usp("6.0")) == ("2", "DISABLED", "1")

        lab.smart("enable")
        lab.hears("2", "3", *mode(1, 7))
        lab.smart("count", count=50)
        lab.hears(*mode(1, 7), *EVALUATION)
        assert lab.sla("4.0") == "1"
        assert (lab.sla("7.2.0"), lab.sla("7.4.1.0")) == ("EVAL MODE", "1")
        assert (lab.usp("4.0"), lab.usp("5.0"), lab.usp("6.0")) == ("50", "10", "2")
        # The evaluation's warnings, one for a jump over several, and its end.
        lab.clock.advance(30 * DAY)
        lab.hears(*EVALUATION, "18")
        assert 59 * DAY < int(lab.sla("7.4.3.0")) <= 60 * DAY, "an amount, no date"
        lab.clock.advance(59.5 * DAY)
        lab.hears("18", "18")
        lab.clock.advance(DAY)
        lab.hears("18", "19", *EVAL_EXPIRED)
        assert abs(int(lab.sla("7.4.2.0")) - lab.clock.now().wall) < 2 * DAY

        # Registered and authorized, but the first authorization fails on its way.
        lab.road.closed = {AUTHORIZE_PATH}
        lab.smart("register", token=lab.token())
        lab.hears(*EVAL_EXPIRED, "6", "11", "12")
        since = len(lab.heard())
        lab.road.closed = set()
        lab.clock.advance(900)
        among(lab, since, "10", "13", *AUTHORIZED)
        now = lab.clock.now().wall
        assert (lab.sla("6.1.0"), lab.sla("6.2.0"), lab.sla("6.4.0")) == ("5", "default", "acme")
        assert abs(int(lab.sla("6.3.0")) - now - 365 * DAY) < DAY
        assert abs(int(lab.sla("7.1.0")) - now - 90 * DAY) < 60
        assert (lab.sla("7.5.2.0"), lab.sla("7.2.0"), lab.usp("6.0")) == ("1", "AUTHORIZED", "6")
        assert lab.sla("5.1.1.7.1") == "Calls per Second"

        # A core that is killed, and faces that are: nothing is told twice.
        before = lab.heard()
        lab.lab.kill(PROXY)
        lab.start_device()
        again(lab, before)
        os.kill(lab.lab.ask(PROXY, "running")["faces_pid"], signal.SIGKILL)
        eventually(lambda: "1.3.6.1.6.3.1.1.5.2" in lab.receiver.got()[-1].oid)
        again(lab, before)

        # One receiver is away for a while; it will miss nothing.
        lab.down.stop()
        lab.move(60, "default", "spare")
        lab.hears("10", *OUT_OF_COMPLIANCE)
        assert (lab.sla("7.2.0"), lab.usp("6.0")) == ("OUT OF COMPLIANCE", "5")
        assert abs(int(lab.sla("7.3.0")) - lab.clock.now().wall) < 60
        lab.move(60, "spare", "default")
        lab.hears(*OUT_OF_COMPLIANCE, "10", *AUTHORIZED)
        lab.down.start()

        since = len(lab.heard())
        lab.road.cut = True
        lab.clock.advance(30 * DAY)
        among(lab, since, "11", "12")
        assert (lab.sla("7.5.2.0"), lab.usp("5.0")) == ("2", "8")
        assert lab.sla("7.5.3.0") != ""
        lab.clock.advance(60 * DAY)
        among(lab, since, "11", "12", *AUTH_EXPIRED)
        lab.road.cut = False
        lab.clock.advance(4 * 3600 + 1)
        among(lab, since, "12", *AUTH_EXPIRED, "10", "13", *AUTHORIZED)
        assert lab.heard()[since:].count("12") == 1, "once an outage"

        # The ID certificate: renewed; then its renewal fails until it ends.
        since = len(lab.heard())
        lab.clock.advance(91 * DAY)
        among(lab, since, "8")
        renewed = lab.clock.now().wall
        assert lab.sla("6.6.2.0") == "1"
        assert abs(int(lab.sla("6.3.0")) - renewed - 365 * DAY) < DAY
        since = len(lab.heard())
        lab.road.cut = True
        lab.clock.advance(190 * DAY)
        among(lab, since, "12", "9")
        assert "20" not in lab.heard()[since:], "its end is far"
        lab.clock.advance(120 * DAY)
        among(lab, since, "9", "20")
        assert lab.heard()[since:].count("20") == 1
        assert lab.sla("6.6.2.0") == "2"
        lab.clock.advance(61 * DAY)
        among(lab, since, "9", "20", "7", *EVAL_EXPIRED)
        assert "13" not in lab.heard()[lab.heard().index("7") :], "nobody was reached"
        assert lab.sla("6.1.0") == "1"
        assert "No Such" in lab.snmp.get(f"{SLA}.0.6.3.0")

        # Registered again; left, heard and unheard; off.
        lab.road.cut = False
        lab.smart("register", token=lab.token())
        lab.becomes("Authorized")
        lab.hears("6", "13", "10", *AUTHORIZED)
        lab.smart("deregister")
        lab.hears(*AUTHORIZED, "21", *EVAL_EXPIRED, "19")
        assert (lab.sla("9.1.0"), lab.sla("9.2.0")) == ("0", "")
        lab.smart("register", token=lab.token(), force=True)
        lab.becomes("Authorized")
        lab.hears("6", "10", *AUTHORIZED)
        lab.road.cut = True
        lab.smart("deregister")
        lab.hears(*AUTHORIZED, "22", "12", *EVAL_EXPIRED, "19")
        failed = next(n for n in lab.receiver.got() if n.oid == f"{SLA}.1.22")
        assert failed[f"{SLA}.0.9.1.0"] == "3"
        assert failed[f"{SLA}.0.9.2.0"] != ""
        assert failed[f"{SLA}.0.9.2.0"] == lab.sla("9.2.0")
        lab.smart("disable")
        lab.hears("19", "4", *mode(10, 11))
        assert (lab.sla("4.0"), lab.usp("6.0")) == ("2", "1")

        # The one that was away has all of it, in the same order.
        eventually(lambda: lab.heard(lab.down) == lab.heard(), within=200)


@pytest.fixture(scope="module")
def lab() -> Iterator[SmartLab]:
    """An authorized device of five calls a second."""
    with smart_lab() as made:
        made.smart("enable")
        made.smart("count", count=5)
        made.smart("register", token=made.token())
        made.becomes("Authorized")
        made.hears(*AUTHORIZED)
        yield made


def put(lab: SmartLab, *words: str, credentials: tuple[str, ...] = V3, ok: bool = True) -> str:
    return lab.snmp.run("snmpset", *credentials, lab.snmp.address, *words, ok=ok)


def switches(lab: SmartLab) -> list[str]:
    return [lab.snmp.get(oid) for oid in (GLOBAL, ENTITLEMENT, EXCEEDED, STATE)]


def test_both_trees_are_walked_in_order_and_end_properly(lab: SmartLab) -> None:
    for tree in (SLA, USP):
        walked = lab.snmp.walk(tree)
        oids = [tuple(int(n) for n in oid[1:].split(".")) for oid, _ in walked]
        assert oids == sorted(set(oids))
        assert [oid for oid, _ in lab.snmp.walk(tree, tool="snmpbulkwalk")] == [
            oid for oid, _ in walked
        ]
        said = lab.snmp.run("snmpgetnext", *V3, lab.snmp.address, walked[-1][0])
        assert not said.startswith(f"{tree}."), "the walk ends where the tree does"
    assert len(lab.snmp.walk(SLA)) > 25
    row = [v for _, v in lab.snmp.walk(f"{SLA}.0.5.1.1")]
    assert row == [
        "5", "cps", "1.0", "3", "New calls that may be admitted each second",
        "Calls per Second", "0",
    ]  # fmt: skip
    assert f"SN:{lab.serial}" in lab.sla("2.0")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((GLOBAL, "i", "3"), "wrongValue"),
        ((GLOBAL, "i", "0"), "wrongValue"),
        ((GLOBAL, "u", "1"), "wrongType"),
        ((GLOBAL, "s", "1"), "wrongType"),
        ((f"{SLA}.0.8.1.1", "i", "1"), "noCreation"),
        ((f"{SLA}.0.4.0", "i", "1"), "notWritable"),
        ((f"{USP}.1.3.8.0", "i", "1"), "notWritable"),
        ((".1.3.6.1.2.1.1.4.0", "s", "mallory"), "notWritable"),
        (
            (GLOBAL, "i", "2", ENTITLEMENT, "i", "2", STATE, "i", "7", EXCEEDED, "i", "2"),
            "wrongValue",
        ),
        ((GLOBAL, "i", "2", ".1.3.6.1.2.1.1.4.0", "s", "x"), "notWritable"),
        ((GLOBAL, "i", "2", GLOBAL, "i", "1"), "inconsistentValue"),
    ],
)
def test_what_may_not_be_written_is_refused_whole_by_the_standards_name(
    lab: SmartLab, words: tuple[str, ...], why: str
) -> None:
    said = put(lab, *words, ok=False)
    assert why in said
    bad = {"wrongValue": STATE}.get(why, "") if len(words) == 12 else ""
    assert bad in said, "the variable that is wrong is named"
    assert switches(lab) == ["1"] * 4


def test_a_community_writes_nothing(lab: SmartLab) -> None:
    for oid in (GLOBAL, ENTITLEMENT, EXCEEDED, STATE):
        assert "noAccess" in put(lab, oid, *OFF, credentials=V2C, ok=False)
    assert "notWritable" in put(lab, f"{SLA}.0.4.0", *OFF, credentials=V2C, ok=False)
    assert switches(lab) == ["1"] * 4
    assert lab.snmp.get(GLOBAL, *V2C) == "1", "it may read them"


def test_a_switch_that_cannot_be_written_or_a_core_that_does_not_answer_is_an_error(
    lab: SmartLab,
) -> None:
    file = lab.layout.smart_switches
    file.unlink(missing_ok=True)
    (file / "in the way").mkdir(parents=True)
    try:
        assert "commitFailed" in put(lab, GLOBAL, *OFF, ok=False)
        assert switches(lab) == ["1"] * 4
    finally:
        (file / "in the way").rmdir()
        file.rmdir()
    core = lab.lab.process(PROXY).pid
    os.kill(core, signal.SIGSTOP)
    try:
        said = put(lab, GLOBAL, *OFF, ok=False)
        assert "genError" in said, "nobody knows whether it was made"
        assert lab.snmp.get(GLOBAL) == "1", "the agent itself goes on"
    finally:
        os.kill(core, signal.SIGCONT)
    # What the core still had in its hands it does; then it is turned on again.
    eventually(lambda: lab.snmp.get(GLOBAL) == "2")
    put(lab, GLOBAL, *ON)
    assert switches(lab) == ["1"] * 4


def test_what_is_turned_off_is_not_sent_and_stays_off_until_it_is_turned_on(lab: SmartLab) -> None:
    before = lab.heard()
    put(lab, GLOBAL, *OFF, STATE, *OFF)
    assert switches(lab) == ["2", "1", "1", "2"]
    lab.move(98, "default", "spare")
    lab.hears(*before, "15:4")
    journal = [json.loads(line) for line in lab.layout.journal.read_text().splitlines()]
    told = [d for d in journal if d["event"] == "notifications_switched"]
    assert [(d["switch"], d["on"], d["who"]) for d in told[-2:]] == [
        ("sla_global", False, "snmp:noc"),
        ("usp_state", False, "snmp:noc"),
    ]
    # Neither a start of the faces nor one of the device turns them on again.
    os.kill(lab.lab.ask(PROXY, "running")["faces_pid"], signal.SIGKILL)
    eventually(lab.snmp.answers)
    assert switches(lab) == ["2", "1", "1", "2"]
    lab.lab.kill(PROXY)
    lab.start_device()
    assert switches(lab) == ["2", "1", "1", "2"]
    put(lab, ENTITLEMENT, *OFF)
    lab.move(98, "spare", "default")
    lab.becomes("Authorized")
    put(lab, GLOBAL, *ON, ENTITLEMENT, *ON, STATE, *ON)
    assert switches(lab) == ["1"] * 4
    # What happened while they were off is not told now.
    lab.smart("renew_auth")
    lab.hears(*before, "15:4", "10")


async def test_calls_move_the_counters_and_more_than_licensed_are_told_once(lab: SmartLab) -> None:
    eventually(lambda: lab.usp("4.0") == "5")
    total, dropped = int(lab.usp("10.1.0")), int(lab.usp("10.12.0"))
    before = lab.heard().count("usp5")
    sipp = await caller(lab.lab.sip(PROXY), calls=400, rate=150, hold_ms=50)
    result = await sipp.wait(90)
    refused = result.answers[503]
    assert refused > 300
    eventually(lambda: int(lab.usp("10.1.0")) == total + 400)
    eventually(lambda: int(lab.usp("10.12.0")) == dropped + refused)
    eventually(lambda: lab.heard().count("usp5") == before + 1)
    alert = next(n for n in lab.receiver.got() if n.oid == f"{USP}.0.5")
    assert list(alert)[2:] == [f"{USP}.1.3.1.0", f"{USP}.1.1.10.3.0", f"{USP}.1.1.4.0"]
    assert alert[f"{USP}.1.3.1.0"] == "1"
    assert alert[f"{USP}.1.1.4.0"] == "5"
    offered, drop, routed = (int(lab.usp(f"10.{n}.0")) for n in (5, 8, 11))
    assert offered > 50, "the most in one second of the last minute"
    assert drop > routed
    assert 6 <= int(lab.usp("10.4.0")) <= 8, "400 calls in a minute"
    # More of the same is not told again while it is not over.
    sipp = await caller(lab.lab.sip(PROXY), calls=50, rate=50, hold_ms=50)
    await sipp.wait(90)
    eventually(lambda: int(lab.usp("10.1.0")) == total + 450)
    assert lab.heard().count("usp5") == before + 1
