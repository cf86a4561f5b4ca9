"""The codes of refusals: one catalogue, which code, document and page keep to."""

from __future__ import annotations

import re
from pathlib import Path

import callpool
from callpool.manager.codes import BY_STATUS

ROOT = Path(callpool.__file__).parent
#: What is refused at a device's door, on the manager's host or by the command line only.
ELSEWHERE = {
    "console_files_missing",
    "already_enrolled", "already_registered", "bad_ca_file", "bad_date", "bad_duration",
    "bad_backup", "bad_database_url", "file_exists", "manager_runs", "not_empty",
    "not_sqlite", "password_shown", "rows_differ", "bad_listen",
    "bad_settings", "bad_snmp_settings",
    "ca_not_known", "ca_under_way",
    "no_next_ca", "no_old_ca", "no_passphrase", "weak_passphrase",
    "bad_syslog_target", "cannot_listen", "clock_skew", "instance_locked", "key_in_use",
    "manager_exists", "no_answer", "no_lab", "no_manager", "no_manager_named", "no_password",
    "not_restored", "port_in_use", "registered_elsewhere", "repeated_license_type",
    "serial_replaced", "unknown_grant", "wrong_serial", "wrong_url",
}  # fmt: skip
RAISED = re.compile(r'(?:Callpool|License|Trust)Error\(\s*"([a-z_]+)"')


def test_every_code_that_the_manager_raises_has_its_status() -> None:
    known = {code for codes in BY_STATUS.values() for code in codes}
    raised = {
        code
        for file in (ROOT / "manager").rglob("*.py")
        for code in RAISED.findall(file.read_text())
    }
    assert len(raised) > 50
    assert raised - known - ELSEWHERE == set()


def test_no_code_has_two_statuses() -> None:
    codes = [code for codes in BY_STATUS.values() for code in codes]
    assert len(codes) == len(set(codes))
    for listed in BY_STATUS.values():
        assert list(listed) == sorted(listed)


def test_the_page_lists_the_codes_as_they_are() -> None:
    page = (ROOT.parents[1] / "docs" / "api.md").read_text()
    for status, codes in BY_STATUS.items():
        assert f"| {status} | {', '.join(f'`{code}`' for code in codes)} |" in page
