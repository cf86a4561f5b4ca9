"""`syslog.json`: who is told by syslog. It names keys, so it is private: mode 0600."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from callpool.host.files import write_durably
from callpool.host.syslog.target import SyslogTarget, tls_context
from callpool.licensing.errors import CallpoolError

#: The most targets of one device.
MOST: Final = 8


class SyslogSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole file."""

    targets: tuple[SyslogTarget, ...]
    #: What messages name as their sender; empty: the machine's name.
    hostname: str = ""

    def __post_init__(self) -> None:
        """Check it; raises CallpoolError `bad_syslog_settings`."""
        if not 1 <= len(self.targets) <= MOST:
            raise CallpoolError("bad_syslog_settings", f"Name 1 to {MOST} targets.")
        if len({key(t) for t in self.targets}) != len(self.targets):
            raise CallpoolError("bad_syslog_settings", "Two targets are the same.")


def key(target: SyslogTarget) -> str:
    """Return what a target is known by across restarts."""
    return f"{target.transport}:{target.address}"


def read_settings(file: Path) -> SyslogSettings:
    """Read the settings; raises CallpoolError `bad_syslog_settings`, `bad_syslog_target`."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=SyslogSettings)
    except FileNotFoundError as error:
        raise CallpoolError("bad_syslog_settings", f"{file}: there is no such file.") from error
    except msgspec.DecodeError as error:
        raise CallpoolError("bad_syslog_settings", f"{file}: {error}.") from error


def check_files(settings: SyslogSettings) -> None:
    """Read what the targets name; raises CallpoolError `bad_syslog_target`."""
    for target in settings.targets:
        if target.transport == "tls":
            tls_context(target)


def write_settings(file: Path, settings: SyslogSettings) -> None:
    """Write the settings, mode 0600; raises OSError."""
    write_durably(file, msgspec.json.format(msgspec.json.encode(settings)) + b"\n")
