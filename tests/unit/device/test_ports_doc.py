"""The port table of docs/operations.md says what the programs do by default."""

from __future__ import annotations

import re
from pathlib import Path

from callpool.device.pair_settings import CORE_PORT, SIP_PORT
from callpool.device.settings import DEFAULT_PAGES
from callpool.device.setup import DEFAULT_LISTEN as SIP
from callpool.device.ssh_settings import DEFAULT_SSH
from callpool.host.snmp.settings import DEFAULT_LISTEN as SNMP
from callpool.manager.settings import Settings
from callpool.manager.snmp_settings import DEFAULT_LISTEN as TRAPS

DOC = Path(__file__).parents[3] / "docs" / "operations.md"
#: Where syslog is received, by the standards; nothing of ours listens there.
RECEIVERS = {514, 601, 6514}


def test_every_default_port_is_in_the_table_and_no_other() -> None:
    told = {int(port) for port in re.findall(r"^\| (\d+) \|", DOC.read_text(), re.MULTILINE)}
    listened = {
        int(address.rpartition(":")[2])
        for address in (Settings().listen, DEFAULT_PAGES, DEFAULT_SSH, SNMP, TRAPS, *SIP)
    }
    assert told == listened | RECEIVERS | {SIP_PORT, CORE_PORT}
