"""Every alarm has a test that raises and clears it by its real cause, before a real receiver."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from callpool.licensing.alarm_table import DEFINITIONS

HERE = Path(__file__).parents[2] / "integration" / "device"

_THREE = "test_snmp_notify.py::test_the_three_alarms_by_their_real_causes"
_MANAGER = "test_alarm_causes.py::test_every_word_of_the_manager_is_an_alarm_until_it_is_taken_back"
_DEVICE = (
    "test_alarm_causes.py::test_what_fails_on_the_device_itself_is_an_alarm_until_it_is_mended"
)
_USE = (
    "test_alarm_causes.py::"
    "test_use_is_alarmed_at_95_percent_and_cleared_at_80_by_real_calls_and_registrations"
)
_SMART = (
    "test_alarm_causes_smart.py::"
    "test_clocks_and_smart_licensing_are_alarmed_until_what_is_wrong_is_mended"
)

_PAIR = "../../acceptance/test_pair_alarms.py::test_the_alarms_of_a_pair_by_their_real_causes"

#: Code of the alarm: the test that proves it, and the cause that it is raised by there.
PROVED = {
    "contact_lost": (_THREE, "the manager is ended"),
    "lease_warning": (_THREE, "6.5 days without it; the end of the lease makes it graver"),
    "lease_ended": (_THREE, "7.5 days without it, until it is back"),
    "no_longer_managed": (_MANAGER, "the mode is set to none; the device is removed"),
    "not_listed": (_MANAGER, "the device is removed from the pool, and added again"),
    "not_managed": (_MANAGER, "the mode is set to none, and back"),
    "restart_pending": (_THREE, "an allocation, until the restart with save"),
    "flash_write_failed": (_DEVICE, "a file system that is full"),
    "key_upgrade_under_way": (_DEVICE, "a grant, while a frozen Kamailio confirms no new key"),
    "over_allocated": (_THREE, "5000 for a device of 1000, at receipt and at application"),
    "clone_locked": (_MANAGER, "a flash that is rolled back, until the operator unlocks"),
    "clock_skew": (_SMART, "two clocks that differ by 2 and by 10 minutes"),
    "clock_behind": (_SMART, "another boot, with a clock 10 minutes behind"),
    "gate_down": (_DEVICE, "Kamailio killed, its program gone; Kamailio frozen"),
    "calls_uncertain": (_DEVICE, "core and Kamailio killed together"),
    "flash_fell_back": (_DEVICE, "the newest generation torn, until the start after it"),
    "reply_refused": (_MANAGER, "replies altered on the way"),
    "enrolment_failed": (_MANAGER, "a token that the manager never made"),
    "local_key_ends": (_DEVICE, "a key that ends in 20 days"),
    "local_key_ended": (_DEVICE, "the same key, 21 days later"),
    "two_modes": (_MANAGER, "a grant under way while smart licensing is turned on"),
    "smart_evaluation_ends": (_SMART, "31 days of evaluation"),
    "smart_evaluation_expired": (_SMART, "91 days of evaluation, until it registers"),
    "smart_renewal_failed": (_SMART, "the way to the authority cut for 31 days"),
    "smart_out_of_compliance": (_SMART, "150 configured of 100 purchased"),
    "smart_authorization_expired": (_SMART, "the way to the authority cut for 91 days"),
    "smart_registration_failed": (_SMART, "a registration with the way cut"),
    "smart_clock_out_of_range": (_SMART, "a wall clock set back behind the certificate's dates"),
    "smart_count_above_maximum": (_SMART, "a newer local key that names less"),
    "sessions_nearly_used": (_USE, "19 calls of 20; 17 keep it, 16 end it"),
    "users_nearly_used": (_USE, "19 registrations of 20; 17 keep it, 16 end it"),
    "ha_fault": (_PAIR, "the way between the units is cut for more than half a minute"),
    "ha_waiting": (_PAIR, "the same, at first"),
    "ha_mismatch": (_PAIR, "a newer local key on one unit, until the other has it too"),
    "ha_switchover": (_PAIR, "a switchover, for ten seconds"),
    "ha_double_active": (_PAIR, "VRRP kept from passing, until it passes again"),
    "ha_drift": (_PAIR, "calls that come while what is told of them goes astray for a moment"),
}


def reached(module: ast.Module, name: str) -> str:
    """The source of a test and of the module's functions that it comes to."""
    functions = {
        node.name: node
        for node in module.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert name in functions, f"there is no test {name}"
    seen: dict[str, str] = {}
    todo = [name]
    while todo:
        at = todo.pop()
        seen[at] = ast.unparse(functions[at])
        names = {node.id for node in ast.walk(functions[at]) if isinstance(node, ast.Name)}
        todo += [n for n in names if n in functions and n not in seen]
    return "\n".join(seen.values())


def test_every_alarm_that_is_defined_has_its_proof_and_no_other() -> None:
    assert set(PROVED) == set(DEFINITIONS)


@pytest.mark.parametrize("code", PROVED)
def test_the_proof_is_there_and_speaks_of_the_alarm(code: str) -> None:
    file, _, name = PROVED[code][0].partition("::")
    source = reached(ast.parse((HERE / file).read_text()), name)
    if file == "test_snmp_notify.py":
        assert f"'{code}'" in source
        return
    # A graver condition of the same alarm may stand between: its end is then the alarm's.
    same = [c for c, d in DEFINITIONS.items() if d.oid == DEFINITIONS[code].oid]
    assert f"watch.raised('{code}')" in source or f"watch.raised, '{code}'" in source
    assert any(f"watch.cleared('{c}')" in source or f"watch.cleared, '{c}'" in source for c in same)
