"""The manager's directory and its configuration file `manager.json`.

manager.json        configuration (this module)
manager.db          the database, unless database.url names another one
database.url        the URL of a PostgreSQL database, with its password (mode 0600)
grants/journal      the grant journal, unless manager.json names another file
admin.password      the first operator's password, mode 0600
snmp.json           SNMP in and out, and whom alarms are forwarded to (mode 0600)
syslog.json         the syslog targets of alarms
alarms.state.json   what the alarm process must remember, and what it counts
identity/           anchor, signing keys, certificate authority, TLS certificate
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec

from callpool.host.files import write_durably
from callpool.licensing.errors import CallpoolError

_FILE: Final = "manager.json"
#: The environment's name for the database's URL.
DATABASE_URL: Final = "CALLPOOL_DATABASE_URL"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an administrator can set; durations are seconds."""

    #: Address and port to listen on.
    listen: str = "0.0.0.0:443"
    #: Names and addresses that devices may reach the manager by, beside localhost.
    hosts: tuple[str, ...] = ()
    #: Further URLs that requests may be signed for (a proxy in front, another port).
    urls: tuple[str, ...] = ()
    #: Public keys (base64url) of the vendors whose orders are imported.
    vendor_keys: tuple[str, ...] = ()
    #: A device may use its grant for this long after each good contact.
    lease_seconds: float = 7 * 86_400.0
    #: A device polls unasked this often,
    poll_seconds: float = 12 * 3_600.0
    #: and this often while calls in progress keep units that it must give back.
    reclaim_poll_seconds: float = 5.0
    #: A unit reports this often while a request of its tenant waits (a tenant of more than 50
    #: units less often: this often for 50 of them).
    waiting_poll_seconds: float = 1.0
    #: A failed contact is retried this often at first, for `retry_later_after`,
    retry_seconds: float = 900.0
    #: and this often later.
    retry_later_seconds: float = 4 * 3_600.0
    retry_later_after: float = 2 * 3_600.0
    #: The grant journal; empty for `grants/journal` in the manager's directory. Another disk than
    #: the database's is better.
    grant_journal: str = ""
    #: A device reports its use this often, by a whole contact; 0 for never.
    usage_seconds: float = 300.0
    #: Days for which use is kept by minute, by hour and by day.
    usage_minute_days: int = 2
    usage_hour_days: int = 60
    usage_day_days: int = 5 * 365
    #: Contacts that wait at most; beyond it those with the longest leases are sent away (503).
    contacts_waiting: int = 500
    #: The fleet is asked to spread its reconnections so that so many come in a second.
    reconnects_per_second: float = 200.0
    #: A hitless run stops where within these seconds a pair is not synchronised and heard,
    hitless_settle_seconds: float = 300.0
    #: a restart is not reported,
    hitless_restart_seconds: float = 300.0
    #: a switchover is not reported by both units.
    hitless_switch_seconds: float = 60.0
    #: The file of a lab's shared clock; empty in real life.
    lab_clock: str = ""

    def __post_init__(self) -> None:
        """Refuse values that cannot work (reported as a validation error)."""
        split_listen(self.listen)
        positive = (self.lease_seconds, self.poll_seconds, self.retry_seconds)
        if not all(
            v > 0
            for v in (
                *positive,
                self.retry_later_seconds,
                self.reclaim_poll_seconds,
                self.waiting_poll_seconds,
                self.hitless_settle_seconds,
                self.hitless_restart_seconds,
                self.hitless_switch_seconds,
            )
        ):
            raise ValueError("every duration is above 0 seconds")
        if self.contacts_waiting < 1 or not self.reconnects_per_second > 0:
            raise ValueError("contacts_waiting and reconnects_per_second are above 0")
        if self.usage_seconds and self.usage_seconds < 60:
            raise ValueError("usage_seconds is 60 or more, or 0 for no reports")
        if not 1 <= self.usage_minute_days <= self.usage_hour_days <= self.usage_day_days:
            raise ValueError("use is kept longer by hour than by minute, by day than by hour")

    def base_urls(self, port: int) -> frozenset[str]:
        """Return the URLs that a request may be signed for, without a path."""
        names = [*self.hosts, "localhost", "127.0.0.1"]
        named = {f"https://{bracket(name)}:{port}" for name in names}
        if port == 443:
            named |= {f"https://{bracket(name)}" for name in names}
        return frozenset(named | {url.rstrip("/") for url in self.urls})

    def url(self, port: int) -> str:
        """Return the URL to show: the first name it was given, or localhost."""
        name = bracket(self.hosts[0] if self.hosts else "localhost")
        return f"https://{name}" if port == 443 else f"https://{name}:{port}"


def bracket(name: str) -> str:
    """Return a host as it stands in a URL: an IPv6 address in brackets."""
    return f"[{name}]" if ":" in name else name


def split_listen(listen: str) -> tuple[str, int]:
    """Return (address, port) of `ADDRESS:PORT`; raises ValueError."""
    address, colon, port = listen.rpartition(":")
    if not colon or not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise ValueError(f"{listen!r} is not ADDRESS:PORT")
    return address.strip("[]") or "0.0.0.0", int(port)  # noqa: S104  all addresses is what ':443' asks for


class Layout:
    """The files in a manager's directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.settings = directory / _FILE
        self.database = directory / "manager.db"
        self.database_url = directory / "database.url"
        self.password = directory / "admin.password"
        self.identity = directory / "identity"
        self.grants = directory / "grants" / "journal"
        self.ca = self.identity / "ca.pem"
        self.certificate = self.identity / "tls.pem"
        self.certificate_key = self.identity / "tls-key.pem"
        self.snmp = directory / "snmp.json"
        self.syslog = directory / "syslog.json"
        self.alarm_state = directory / "alarms.state.json"

    def database_place(self) -> Path | str:
        """Return the database's URL, or SQLite's file where none is set; raises OSError.

        The environment's CALLPOOL_DATABASE_URL goes before the file `database.url`.
        """
        url = os.environ.get(DATABASE_URL, "").strip()
        if not url and self.database_url.exists():
            url = self.database_url.read_text().strip()
        return url or self.database

    def grant_journal(self, settings: Settings) -> Path:
        """Return the grant journal's file."""
        return Path(settings.grant_journal) if settings.grant_journal else self.grants


def save(layout: Layout, settings: Settings) -> None:
    """Write the configuration file; raises OSError."""
    text = msgspec.json.format(msgspec.json.encode(settings), indent=2)
    write_durably(layout.settings, text + b"\n")


def load(layout: Layout) -> Settings:
    """Read the configuration file.

    Raises CallpoolError `no_manager` (not initialised) or `bad_settings`.
    """
    try:
        raw = layout.settings.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CallpoolError(
            "no_manager",
            f"There is no manager in {layout.directory}: "
            f"run `callpool manager init --dir {layout.directory}`.",
        ) from error
    return parse(raw, str(layout.settings))


def parse(raw: bytes, name: str) -> Settings:
    """Read settings from JSON; raises CallpoolError `bad_settings`."""
    try:
        return msgspec.json.decode(raw, type=Settings)
    except msgspec.DecodeError as error:
        raise CallpoolError("bad_settings", f"{name} cannot be read: {error}.") from error
