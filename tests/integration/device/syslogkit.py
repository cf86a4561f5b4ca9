"""rsyslogd as a real receiver on free ports: its own configuration, work directory and pid file."""

from __future__ import annotations

import ipaddress
import json
import re
import socket
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from devicekit import Process, eventually

from callpool.host.ports import free_port
from callpool.host.syslog.message import SD_ID

_CONFIGURATION = """
global(workDirectory="{home}" maxMessageSize="64k"
       defaultNetstreamDriverCAFile="{ca}"
       defaultNetstreamDriverCertFile="{certificate}"
       defaultNetstreamDriverKeyFile="{key}")
module(load="imudp")
module(load="imtcp")
module(load="mmpstrucdata")
template(name="json" type="list" option.jsonf="on") {{
  property(outname="version" name="protocol-version" format="jsonf")
  property(outname="at" name="timereported" dateFormat="rfc3339" format="jsonf")
  property(outname="severity" name="syslogseverity" format="jsonf")
  property(outname="facility" name="syslogfacility-text" format="jsonf")
  property(outname="hostname" name="hostname" format="jsonf")
  property(outname="app" name="app-name" format="jsonf")
  property(outname="msgid" name="msgid" format="jsonf")
  property(outname="raw" name="structured-data" format="jsonf")
  property(outname="data" name="$!rfc5424-sd" format="jsonf")
  property(outname="text" name="msg" format="jsonf")
}}
ruleset(name="udp") {{
  action(type="mmpstrucdata")
  action(type="omfile" file="{home}/udp.json" template="json")
}}
ruleset(name="tcp") {{
  action(type="mmpstrucdata")
  action(type="omfile" file="{home}/tcp.json" template="json")
}}
ruleset(name="tls") {{
  action(type="mmpstrucdata")
  action(type="omfile" file="{home}/tls.json" template="json")
}}
input(type="imudp" address="127.0.0.1" port="{udp}" ruleset="udp")
input(type="imtcp" address="127.0.0.1" port="{tcp}" ruleset="tcp")
input(type="imtcp" address="127.0.0.1" port="{tls}" ruleset="tls"
      streamDriver.name="ossl" streamDriver.mode="1" streamDriver.authMode="x509/certvalid")
"""


class Authority:
    """A certificate authority with a server's and a client's certificate."""

    def __init__(self, home: Path, name: str) -> None:
        home.mkdir()
        self._home = home
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.ca = home / "ca.pem"
        own = self._certify(self._name, self._key, x509.BasicConstraints(True, None))
        self.ca.write_bytes(own.public_bytes(serialization.Encoding.PEM))

    def _certify(
        self, name: x509.Name, key: ec.EllipticCurvePrivateKey, is_ca: x509.BasicConstraints
    ) -> x509.Certificate:
        start = datetime.now(UTC) - timedelta(days=1)
        names = [
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        ]
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + timedelta(days=30))
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(is_ca, critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def issue(self, name: str) -> tuple[Path, Path]:
        """Files with a new certificate for localhost and 127.0.0.1, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = self._certify(subject, key, x509.BasicConstraints(False, None))
        certificate, private = self._home / f"{name}.pem", self._home / f"{name}.key"
        certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
        private.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return certificate, private


class Rsyslog:
    """One rsyslogd."""

    def __init__(self, home: Path) -> None:
        home.mkdir()
        self._home = home
        self.authority = Authority(home / "authority", "syslog authority")
        self._ports = {way: free_port() for way in ("udp", "tcp", "tls")}
        certificate, key = self.authority.issue("receiver")
        self.certificate, self.key = (str(f) for f in self.authority.issue("device"))
        self._file = home / "rsyslog.conf"
        self._file.write_text(
            _CONFIGURATION.format(
                home=home, ca=self.authority.ca, certificate=certificate, key=key, **self._ports
            )
        )
        self._process: Process | None = None
        self.start()

    def start(self) -> None:
        self._process = Process(
            ["rsyslogd", "-n", "-f", str(self._file), "-i", str(self._home / "pid")],
            self._home / "rsyslogd.out",
        )
        eventually(self._listens)

    def _listens(self) -> bool:
        assert self._process is not None
        assert not self._process.ended(), self._process.said()
        for way in ("tcp", "tls"):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self._ports[way])):
                    return False
        return True

    def stop(self) -> None:
        if self._process is not None and not self._process.ended():
            self._process.end()

    def address(self, way: str) -> str:
        return f"127.0.0.1:{self._ports[way]}"

    def target(self, way: str, **more: str) -> dict[str, str]:
        """A target's settings."""
        made = {"address": self.address(way), "transport": way, **more}
        if way == "tls":
            made = {
                "ca_file": str(self.authority.ca), "certificate": self.certificate,
                "key": self.key, **made,
            }  # fmt: skip
        return made

    def got(self, way: str) -> list[dict[str, Any]]:
        """What has arrived, in order."""
        file = self._home / f"{way}.json"
        if not file.exists():
            return []
        whole = file.read_text().rpartition("\n")[0]
        found = [json.loads(line) for line in whole.splitlines()]
        return [message | {"data": json.loads(message["data"])} for message in found]

    def alarms(self, way: str) -> list[tuple[str, str, str]]:
        """(RAISE-ALARM or CLEAR-ALARM, severity, first condition) of each alarm, in order."""
        return [
            (m["msgid"], m["data"]["alarm"]["perceivedseverity"], own(m)["code"])
            for m in self.got(way)
            if m["msgid"].endswith("-ALARM")
        ]

    def sequences(self, way: str) -> list[int]:
        """The numbers of the alarm events that have arrived, in order."""
        alarms = (m for m in self.got(way) if m["msgid"].endswith("-ALARM"))
        return [int(own(m)["sequence"]) for m in alarms]


def own(message: Mapping[str, Any]) -> dict[str, str]:
    """Our own structured data of a message; rsyslog writes parameters' names in small letters."""
    found: dict[str, str] = message["data"][SD_ID]
    return found


def form(text: str) -> dict[str, str]:
    """The parts of an alarm's text, by the vendor's names."""
    found = re.fullmatch(
        r"(?P<what>RAISE-ALARM|CLEAR-ALARM): (?P<name>\w+); Textual Description: (?P<text>.*?); "
        r"Severity (?P<severity>\w+); Source (?P<source>\S+); Unique ID: (?P<unique>\d+)"
        r"(?:; Additional Info1: (?P<info1>.*?))?(?:; Additional Info2: (?P<info2>.*?))?"
        r"(?:; Additional Info3: (?P<info3>.*))?",
        text.strip(),
    )
    assert found is not None, text
    return found.groupdict("")
