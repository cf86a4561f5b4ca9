"""What the agent tells, in which order, and how it is numbered."""

from __future__ import annotations

from dataclasses import replace

import pytest
from smartkit import START, Stage

from callpool.licensing.notice_log import KEPT, Notice, NoticeLog
from callpool.licensing.smart import Enforcement, Event, State
from callpool.licensing.smart_events import Asking, Contact, Occurrence
from callpool.licensing.smart_notices import notices
from callpool.licensing.smart_timers import DAY, HOUR


def renewals_fail(stage: Stage) -> None:
    stage.cloud = lambda a: stage.down(a) if a.contact is Contact.RENEW_ID else stage.good(a)


def told(stage: Stage, since: int = 0) -> list[str]:
    return [n.name for h in stage.happened[since:] for n in notices(h, stage.agent)]


def warned(stage: Stage) -> list[float]:
    return [at for at, event in stage.times if event is Event.CERTIFICATE_WARNING]


# -- the ID certificate's end


def test_the_certificates_end_is_warned_of_while_its_renewal_fails() -> None:
    stage = Stage().authorized()
    renewals_fail(stage)
    stage.go(366 * DAY)
    left = [round((365 * DAY - at) / DAY, 3) for at in warned(stage)]
    assert left == [60, 30, 21, 14, 7, 6, 5, 4, 3, 2, 1]
    names = told(stage)
    assert names.count("IdCertExpiryWarning") == 11
    assert names.count("IdCertExpired") == 1


def test_a_renewal_that_succeeds_ends_the_warnings_and_the_next_certificate_begins_anew() -> None:
    stage = Stage().authorized()
    renewals_fail(stage)
    stage.go((365 - 20) * DAY)
    assert len(warned(stage)) == 3, "60, 30, 21 days"
    stage.cloud = stage.good
    stage.go(2 * DAY)
    renewals_fail(stage)
    stage.go(300 * DAY)
    assert len(warned(stage)) == 3, "renewed: its end is far"
    stage.go(50 * DAY)
    assert len(warned(stage)) > 4, "the next one is warned of from 60 days on again"


def test_a_device_that_was_off_warns_once_its_renewal_has_failed_and_once_for_a_jump() -> None:
    stage = Stage().authorized()
    stage.elapsed += (365 - 20) * DAY
    stage.cloud = lambda a: None if a.contact is Contact.RENEW_ID else stage.good(a)
    stage.go(60.0)
    _, asking = stage.asked[-1]
    assert asking.contact is Contact.RENEW_ID
    assert warned(stage) == [], "the renewal is under way: nothing has failed yet"
    stage.cloud = stage.down
    stage.give(stage.down(asking))
    stage.go(HOUR)
    assert len(warned(stage)) == 1, "three thresholds are past"


def test_a_restart_tells_no_warning_twice() -> None:
    stage = Stage().authorized()
    renewals_fail(stage)
    stage.go(306 * DAY)
    assert len(warned(stage)) == 1
    stage.restart()
    stage.go(DAY)
    assert len(warned(stage)) == 1


def test_a_renewal_that_could_not_be_sent_is_told_as_not_started() -> None:
    stage = Stage().authorized()

    def unsent(asking: Asking) -> Occurrence:
        if asking.contact is not Contact.RENEW_ID:
            return stage.good(asking)
        return replace(stage.down(asking), unsent=True, code="flash_write_failed")

    stage.cloud = unsent
    since = len(stage.happened)
    stage.go(182.5 * DAY)
    names = told(stage, since)
    assert names.count("IdCertRenewNotStarted") == 3, "each day again"
    assert "IdCertRenewFail" not in names
    assert "CommunicationFailure" not in names
    stage.cloud = stage.good
    stage.go(DAY)
    assert told(stage, since)[-1] == "IdCertRenewSuccess"
    renewals_fail(stage)
    since = len(stage.happened)
    stage.go(181 * DAY)
    assert "IdCertRenewFail" in told(stage, since)
    assert "IdCertRenewNotStarted" not in told(stage, since)


# -- what else is told


def test_a_mode_that_changes_without_a_state_is_told_too() -> None:
    stage = Stage(count=0)
    stage.tell(Event.ENABLE)
    since = len(stage.happened)
    stage.tell(Event.SET_COUNT, count=50)
    (count, mode) = (n for h in stage.happened[since:] for n in notices(h, stage.agent))
    assert count.name == "CountConfigured"
    assert (mode.name, mode.was, mode.mode) == (
        "EnforcementMode", Enforcement.INIT, Enforcement.EVALUATION,
    )  # fmt: skip
    assert mode.count == 50
    since = len(stage.happened)
    stage.tell(Event.SET_COUNT, count=60)
    assert told(stage, since) == ["CountConfigured"]


def test_a_clock_out_of_range_is_told_with_its_cause() -> None:
    stage = Stage().authorized()
    since = len(stage.happened)
    stage.off = 400 * DAY
    stage.look()
    assert told(stage, since) == ["IdCertOutOfRange", "SystemClockChanged"]


@pytest.mark.parametrize("reached", [True, False])
def test_how_each_contact_ended_is_remembered_until_the_registration_goes(reached: bool) -> None:
    stage = Stage().authorized()
    stage.go(DAY)
    stage.cloud = stage.down
    stage.tell(Event.RENEW_AUTH)
    tries = stage.agent.tries
    assert tries.register is not None
    assert (tries.register.at, tries.register.good) == (START, True)
    assert tries.authorize is not None
    assert (tries.authorize.at, tries.authorize.good) == (START + DAY, False)
    assert tries.authorize.sentence == "Cut."
    assert tries.renew_id is None
    stage.cloud = stage.good if reached else stage.down
    stage.tell(Event.DEREGISTER)
    tries = stage.agent.tries
    assert (tries.register, tries.authorize) == (None, None)
    assert tries.deregister is not None
    assert tries.deregister.good is reached


def test_when_compliance_and_evaluation_ended_is_remembered() -> None:
    stage = Stage()
    stage.tell(Event.ENABLE)
    stage.go(91 * DAY)
    assert stage.agent.eval_ended_at == pytest.approx(START + 90 * DAY)
    stage.cloud = stage.out_of_compliance
    stage.tell(Event.REGISTER)
    since = stage.agent.out_of_compliance_at
    assert since == pytest.approx(START + 91 * DAY)
    stage.go(DAY)
    assert (stage.state(), stage.agent.out_of_compliance_at) == (State.OUT_OF_COMPLIANCE, since)
    stage.cloud = stage.good
    stage.go(DAY)
    assert stage.agent.out_of_compliance_at is None
    assert stage.agent.eval_ended_at == pytest.approx(START + 90 * DAY)


@pytest.mark.parametrize("ended", ["certificate", "deregistration"])
def test_an_outage_ends_when_the_authority_is_reached_and_not_before(ended: str) -> None:
    stage = Stage().authorized()
    stage.cloud = stage.down
    since = len(stage.happened)
    if ended == "certificate":
        stage.go(366 * DAY)
    else:
        stage.tell(Event.DEREGISTER)
    assert not stage.agent.registered
    said = told(stage, since)
    assert said.count("CommunicationFailure") == 1
    assert "CommunicationRestored" not in said
    stage.cloud = stage.good
    stage.tell(Event.REGISTER)
    assert told(stage, since).count("CommunicationRestored") == 1


# -- the log


def notice(name: str) -> Notice:
    return Notice(name=name, severity="informational", cause="x")


def test_notices_are_numbered_for_good_and_the_oldest_are_dropped() -> None:
    log = NoticeLog().added([notice("A"), notice("B")], START)
    assert [(t.sequence, t.notice.name) for t in log.told] == [(1, "A"), (2, "B")]
    assert log.added([], START) is log
    assert [t.notice.name for t in log.after(1)] == ["B"]
    for _ in range(KEPT):
        log = log.added([notice("C")], START)
    assert (len(log.told), log.sequence) == (KEPT, KEPT + 2)
    assert log.told[0].sequence == 3


def test_a_lost_record_leaves_a_gap_and_no_number_is_used_twice() -> None:
    kept = NoticeLog().added([notice("A")], START)
    lost = kept.added([notice("B")] * KEPT, START)
    after = kept.skipped().added([notice("C")], START)
    assert after.told[-1].sequence > lost.sequence
    assert [t.notice.name for t in after.after(lost.sequence)] == ["C"]
