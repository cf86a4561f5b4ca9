"""What a target is handed, and the tail of sml.log."""

from __future__ import annotations

from pathlib import Path

import pytest

from callpool.device.alarm_book import AlarmReport
from callpool.device.faces.syslog import smart_tail
from callpool.device.faces.syslog.face import Teller
from callpool.device.faces.syslog.smart_tail import LogLine, Position
from callpool.device.faces.syslog.words import alarm_message, notice_message
from callpool.host.syslog.message import SyslogMessage
from callpool.host.syslog.sender import Done, SyslogSender
from callpool.host.syslog.target import SyslogTarget
from callpool.licensing.alarm_table import DEFINITIONS, POOL_APPLICATION, Severity
from callpool.licensing.alarms import Event
from callpool.licensing.smart_mnemonics import mnemonic
from callpool.licensing.smart_notices import _NOTICES

STARTED = 1000.0


def event(sequence: int, *, at: float = STARTED + 1, severity: int = 4) -> Event:
    return Event(
        sequence=sequence, at=at, oid=POOL_APPLICATION, severity=Severity(severity),
        codes=("restart_pending",), text="New licenses have arrived.",
    )  # fmt: skip


def report(*events: Event, active: tuple[Event, ...] = (), sequence: int = 0) -> AlarmReport:
    return AlarmReport(
        started=STARTED, uptime=1.0, active=active, history=events,
        sequence=sequence or (events[-1].sequence if events else 0),
    )  # fmt: skip


class Kept(SyslogSender):
    """A queue that takes nothing by itself."""

    def __init__(self) -> None:
        super().__init__(SyslogTarget(address="127.0.0.1:9"))
        self.put_in: list[tuple[SyslogMessage, Done | None]] = []

    def put(self, message: SyslogMessage, done: Done | None = None) -> None:
        self.put_in.append((message, done))

    def take(self) -> list[str]:
        """Take all; return their sequence numbers, or the notices' names."""
        taken, self.put_in = self.put_in, []
        for _, done in taken:
            assert done is not None
            done()
        data = [m.data["callpool@32473"] for m, _ in taken]
        return [d.get("sequence") or d["notice"] for d in data]


def hand(teller: Teller, told: AlarmReport, *lines: LogLine) -> None:
    teller.hand(told, lambda _: lines, serial="SN-a", hostname="h")


def test_a_new_target_begins_with_this_run_and_what_is_still_active() -> None:
    sender = Kept()
    teller = Teller(sender, None, lambda: None)
    old = [event(n, at=STARTED - 9) for n in (1, 2, 3)]
    hand(teller, report(*old, event(4), active=(old[1],)))
    assert sender.take() == ["2", "3", "4"]
    sender = Kept()
    teller = Teller(sender, None, lambda: None)
    hand(teller, report(*old))
    assert sender.take() == []
    assert teller.had is not None
    assert teller.had.alarm == 3


def test_what_was_handed_is_not_handed_again_and_what_was_not_taken_is_after_a_restart() -> None:
    sender, kept = Kept(), []
    teller = Teller(sender, None, lambda: kept.append(teller.had))
    hand(teller, report(event(1), event(2)))
    hand(teller, report(event(1), event(2)))
    assert len(sender.put_in) == 2
    _, first = sender.put_in[0]
    assert first is not None
    first()
    again = Kept()
    hand(Teller(again, kept[-1], lambda: None), report(event(1), event(2), event(3)))
    assert again.take() == ["2", "3"]


def test_events_that_the_history_has_dropped_are_counted() -> None:
    sender = Kept()
    teller = Teller(sender, None, lambda: None)
    hand(teller, report(event(1)))
    hand(teller, report(event(5), event(6)))
    assert sender.take() == ["1", "5", "6"]
    assert teller.missed == 3


def test_a_log_that_was_begun_anew_is_told_from_its_beginning() -> None:
    sender = Kept()
    teller = Teller(sender, None, lambda: None)
    hand(teller, report(event(7)))
    assert teller.after > report(event(1)).sequence
    teller.begun_anew()
    hand(teller, report(event(1)))
    assert sender.take() == ["7", "1"]


def test_a_target_that_takes_nothing_is_handed_no_more_than_its_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sender = Kept()
    monkeypatch.setattr(Kept, "waiting", property(lambda self: len(self.put_in) * 200))
    teller = Teller(sender, None, lambda: None)
    hand(teller, report(event(1)))
    hand(teller, report(event(1), event(2)))
    assert sender.take() == ["1"]
    hand(teller, report(event(1), event(2), event(3)))
    assert sender.take() == ["2", "3"], "it is told from the history later"


def test_only_a_clear_is_told_as_one_and_the_form_is_the_vendors() -> None:
    raised = alarm_message(event(32_001), serial="SN-a", hostname="h")
    assert raised.text.startswith(
        "RAISE-ALARM: acLicensePoolApplicationAlarm; Textual Description: License Pool Alarm. "
        "New license pool allocations received; Severity major; Source system0Mo; Unique ID: 0; "
        "Additional Info1: restart_pending; Additional Info2: "
    )
    assert raised.data["alarm"]["eventType"] == "communicationsAlarm"
    cleared = alarm_message(event(2, severity=0), serial="SN-a", hostname="h")
    assert cleared.text.startswith("CLEAR-ALARM: acLicensePoolApplicationAlarm; ")
    assert cleared.msgid == "CLEAR-ALARM"


def test_every_alarm_has_a_name() -> None:
    assert all(d.name.endswith("Alarm") for d in DEFINITIONS.values())


LINE = '2027-01-15T08:00:0{n}Z {s} {name} cause=enable next="nothing"{more}\n'


def lines(*numbers: int) -> str:
    return "".join(LINE.format(n=n, s="ERROR", name=f"N{n}", more="") for n in numbers)


def names(found: tuple[LogLine, ...]) -> list[str]:
    return [line.name for line in found]


def test_every_line_of_the_log_is_read_once_while_it_is_turned_over(tmp_path: Path) -> None:
    log = tmp_path / "sml.log"
    assert smart_tail.read(log, None) == ()
    log.write_text(lines(1, 2) + "2027-01-15T08:00:03Z ERR")
    first = smart_tail.read(log, None)
    assert names(first) == ["N1", "N2"]
    at = first[-1].behind
    assert smart_tail.read(log, at) == ()
    log.write_text(lines(1, 2, 3))
    log.rename(tmp_path / "sml.log.1")
    log.write_text(lines(4))
    older = smart_tail.read(log, at)
    assert names(older) == ["N3"]
    newer = smart_tail.read(log, older[-1].behind)
    assert names(newer) == ["N4"]
    assert smart_tail.read(log, newer[-1].behind) == ()
    # A place that is gone: what is there is read, and nothing that cannot be one is.
    log.write_text("no line of ours\n" + lines(5))
    found = smart_tail.read(log, Position(inode=1, offset=7))
    assert names(found) == ["N1", "N2", "N3"]


def notice(name: str, severity: str = "informational", text: str = "") -> LogLine:
    return LogLine(
        at=STARTED, severity=severity, name=name, cause="c", next="n", text=text,
        behind=Position(inode=1, offset=1),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("line", "begins"),
    [
        (notice("Ready"), "%SMART_LIC-6-AGENT_READY: Smart Agent for Licensing is initialized"),
        (
            notice("CommunicationFailure", "error", "no route"),
            "%SMART_LIC-3-COMM_FAILED: no route",
        ),
        (
            notice("EnforcementMode", text="Unconfigured -> Unidentified, evaluation"),
            "%SMART_LIC-5-EVAL_START: Unconfigured -> Unidentified, evaluation",
        ),
        (
            notice("EnforcementMode", "warning", "Authorized -> OutOfCompliance, overage"),
            "%SMART_LIC-4-ENFORCEMENT_MODE: Authorized",
        ),
        (notice("IdCertRenewSuccess"), "%SMART_LIC-6-ID_CERT_RENEW_SUCCESS: Id cert renew"),
    ],
)
def test_a_notice_is_told_by_its_mnemonic(line: LogLine, begins: str) -> None:
    told = notice_message(line, serial="SN-a", hostname="h")
    assert told.text.startswith(begins)
    assert f"-{int(told.severity)}-{told.msgid}: " in told.text


def test_every_notice_has_a_mnemonic_that_fits_a_message() -> None:
    for name, severity in _NOTICES.values():
        told = mnemonic(name, severity, "")
        assert len(told.name) <= 32
        assert told.severity <= 6
