"""`alarms.state.json`: what the alarm process must remember, and what it counts."""

from __future__ import annotations

from pathlib import Path

import msgspec


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file."""

    #: How often the SNMP engine has been started (snmpEngineBoots).
    boots: int = 0
    #: The process.
    pid: int = 0
    #: Where notifications are listened for, empty for nowhere.
    listen: str = ""
    #: What came and was turned away since the process began.
    counts: dict[str, int] = {}


def load_kept(file: Path) -> Kept:
    """Read the state; one that cannot be read is begun anew."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=Kept)
    except (OSError, msgspec.DecodeError):
        return Kept()
