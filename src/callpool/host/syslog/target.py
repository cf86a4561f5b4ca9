"""Where syslog goes to."""

from __future__ import annotations

import ssl
from typing import Final, Literal

import msgspec

from callpool.host.addresses import address
from callpool.licensing.errors import CallpoolError

FACILITIES: Final = (
    "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv",
    "ftp", "ntp", "audit", "alert", "clock", "local0", "local1", "local2", "local3", "local4",
    "local5", "local6", "local7",
)  # fmt: skip


class SyslogTarget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One receiver of syslog messages."""

    #: host:port; the standards' ports are 514 (UDP), 601 (TCP) and 6514 (TLS).
    address: str
    #: RFC 5426, RFC 6587 with octet counting, RFC 5425.
    transport: Literal["udp", "tcp", "tls"] = "udp"
    #: TLS: the file with the authority that signed the receiver's certificate; empty: the system's.
    #: Files are named by their whole path.
    ca_file: str = ""
    #: TLS: the files of our own certificate and its key, both or neither.
    certificate: str = ""
    key: str = ""
    #: TLS: the name that the receiver's certificate must bear; empty: the address's host.
    server_name: str = ""
    #: The facility by its usual name.
    facility: str = "local0"

    def __post_init__(self) -> None:
        """Check it; raises CallpoolError `bad_address`, `bad_syslog_target`."""
        _, port = address(self.address)
        if not port:
            raise CallpoolError("bad_address", f"{self.address} needs a port from 1 on.")
        if self.facility not in FACILITIES:
            raise _bad(self, f"a facility is one of {', '.join(FACILITIES)}")
        if bool(self.certificate) != bool(self.key):
            raise _bad(self, "a certificate and its key go together")
        if self.transport != "tls" and (self.ca_file or self.certificate or self.server_name):
            raise _bad(self, "certificates and names are for the transport tls alone")

        for file in (self.ca_file, self.certificate, self.key):
            if file and not file.startswith("/"):
                raise _bad(self, f"name {file[:60]} by its whole path")

    @property
    def facility_number(self) -> int:
        """Return the facility's number."""
        return FACILITIES.index(self.facility)


def tls_context(target: SyslogTarget) -> ssl.SSLContext:
    """Return what verifies the receiver; raises CallpoolError `bad_syslog_target`."""
    try:
        context = ssl.create_default_context(cafile=target.ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise _bad(target, f"{target.ca_file} holds no certificate authority ({error})") from error
    if target.certificate:
        try:
            # An encrypted key is refused rather than asked for at a terminal.
            context.load_cert_chain(target.certificate, target.key, password="")
        except (OSError, ssl.SSLError) as error:
            raise _bad(target, f"{target.certificate} and {target.key}: {error}") from error
    return context


def _bad(target: SyslogTarget, why: str) -> CallpoolError:
    return CallpoolError("bad_syslog_target", f"Syslog target {target.address}: {why}.")
