"""A device's directory: where each file lies, and the settings that `init` writes once.

| file | holds |
| --- | --- |
| `device.json` | the settings below |
| `secret` | the device secret that seals the flash (0600) |
| `gate.secret` | what signs the Record-Route of this device's calls (0600) |
| `identity.pem` | the device's ID key (0600) |
| `identity.next.pem` | the ID key of an enrolment under way (0600) |
| `token` | the registration token, until the device is enrolled (0600) |
| `smart.pem` | the ID key of smart licensing (0600) |
| `smart.token` | the smart registration token, until the device is registered (0600) |
| `sml.log` | every event of smart licensing, one line each |
| `smart.switches.json` | which notifications of smart licensing are sent by SNMP |
| `journal.jsonl` | every change with cause, time and who asked |
| `flash/flash.0`, `flash/flash.1` | the flash, two generations |
| `control.sock` | the core's socket (0600) |
| `snmp.json`, `syslog.json` | who reads and who is told (0600) |
| `metrics.token` | what a scraper of the metrics shows (0600) |
| `pages.crt`, `pages.key` | the pages' certificate and key |
| `run.json` | process ids and addresses of the running device |
| `config.json` | the startup configuration: users with hashes of their passwords (0600) |
| `ssh.json` | where the shell listens; no such file, no shell |
| `ssh_host_ed25519` | the shell's host key (0600) |
| `pair.json` | the HA pair that the device is a unit of; no such file, a device of its own |
| `pair.secret` | what the two units prove themselves to one another by (0600) |
| `gate/` | the gate's own files |
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from callpool.device.errors import DeviceError
from callpool.device.window import CPS_POLICIES, INSTANT
from callpool.host.addresses import address
from callpool.host.files import sync_directory, write_durably
from callpool.licensing.capacity import Capacity
from callpool.licensing.errors import TrustError
from callpool.licensing.key import check_serial
from callpool.licensing.smart_policy import CCCSP_15, call_policy
from callpool.wire.keys import PublicKey, SigningKey

#: The most calls a second where `maximum` names none: that of `cuspLicenseLimit` (P).
MAX_CPS: Final = 10_000
#: Where the pages listen unless told otherwise: this machine only.
DEFAULT_PAGES: Final = "127.0.0.1:8443"


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`device.json`."""

    #: The device's serial number.
    serial: str
    #: The manager's address, such as https://pool.example.net; empty for none.
    manager: str = ""
    #: The file with the authority that signed the manager's TLS certificate; empty: the system's.
    ca_file: str = ""
    #: An HTTP proxy on the way to the manager, such as http://proxy.example.net:3128.
    proxy: str = ""
    #: The vendor's public key, base64url: local keys are verified by it.
    vendor_key: str = ""
    #: The device's maximum supported capacity where no local key says it.
    maximum: dict[str, int] = {}
    #: The lab's clock file; empty outside a lab.
    lab_clock: str = ""
    #: Host and port of the pages; empty for no pages.
    pages: str = DEFAULT_PAGES
    #: A device that smart licensing alone licenses: while that is off, every call is refused.
    smart: bool = False
    #: What each smart state means for calls: cccsp-15, cusp or cusp-mib.
    call_policy: str = CCCSP_15
    #: How calls per second are judged in smart mode: instant or window.
    cps_policy: str = INSTANT
    #: The gate's settings, as `callpool.device.gate` reads them.
    gate: dict[str, Any] = {}

    def __post_init__(self) -> None:
        """Check what a person may have typed; raises LicenseError, TrustError, DeviceError."""
        check_serial(self.serial)
        Capacity.of(self.maximum)
        if self.vendor_key:
            PublicKey.from_text(self.vendor_key)
        if self.manager and not self.manager.startswith("https://"):
            raise DeviceError(
                "bad_manager_url", "The manager's address starts with https:// and has no path."
            )
        if self.pages:
            address(self.pages)
        call_policy(self.call_policy)
        if self.cps_policy not in CPS_POLICIES:
            raise DeviceError(
                "unknown_cps_policy", f"A CPS policy is one of {', '.join(CPS_POLICIES)}."
            )

    @property
    def vendor(self) -> PublicKey | None:
        """Return the vendor's key, None where none was given."""
        return PublicKey.from_text(self.vendor_key) if self.vendor_key else None


@dataclass(frozen=True, slots=True)
class Layout:
    """The files of one device directory."""

    root: Path

    @property
    def settings(self) -> Path:
        """The settings file."""
        return self.root / "device.json"

    @property
    def secret(self) -> Path:
        """The secret that seals the flash."""
        return self.root / "secret"

    @property
    def gate_secret(self) -> Path:
        """What signs the Record-Route of this device's calls."""
        return self.root / "gate.secret"

    @property
    def journal(self) -> Path:
        """Every change with cause, time and who asked."""
        return self.root / "journal.jsonl"

    @property
    def usage(self) -> Path:
        """Minutes of use that the manager has not taken yet."""
        return self.root / "usage.json"

    @property
    def alarms(self) -> Path:
        """The alarms that are active, and their history."""
        return self.root / "alarms.json"

    @property
    def snmp(self) -> Path:
        """Who may read by SNMP and who is told; no such file, no SNMP."""
        return self.root / "snmp.json"

    @property
    def snmp_state(self) -> Path:
        """What the SNMP agent remembers across its restarts."""
        return self.root / "snmp.state.json"

    @property
    def config(self) -> Path:
        """The startup configuration: users and what else `wr` writes."""
        return self.root / "config.json"

    @property
    def ssh(self) -> Path:
        """Where the shell listens; no such file, no shell."""
        return self.root / "ssh.json"

    @property
    def ssh_host_key(self) -> Path:
        """The shell's host key."""
        return self.root / "ssh_host_ed25519"

    @property
    def syslog(self) -> Path:
        """Who is told by syslog; no such file, no syslog."""
        return self.root / "syslog.json"

    @property
    def syslog_state(self) -> Path:
        """What each syslog target has been told."""
        return self.root / "syslog.state.json"

    @property
    def metrics_token(self) -> Path:
        """What a scraper of the metrics shows; no such file, no metrics."""
        return self.root / "metrics.token"

    @property
    def identity(self) -> Path:
        """The device's ID key."""
        return self.root / "identity.pem"

    @property
    def next_identity(self) -> Path:
        """The ID key that a new enrolment is under way for."""
        return self.root / "identity.next.pem"

    @property
    def token(self) -> Path:
        """The registration token, until the device is enrolled."""
        return self.root / "token"

    @property
    def smart_identity(self) -> Path:
        """The ID key of smart licensing."""
        return self.root / "smart.pem"

    @property
    def smart_token(self) -> Path:
        """The smart registration token, until the device is registered."""
        return self.root / "smart.token"

    @property
    def smart_switches(self) -> Path:
        """Which notifications of smart licensing are sent."""
        return self.root / "smart.switches.json"

    @property
    def smart_log(self) -> Path:
        """Every event of smart licensing."""
        return self.root / "sml.log"

    @property
    def flash(self) -> Path:
        """The directory of the flash."""
        return self.root / "flash"

    @property
    def control(self) -> Path:
        """The core's socket."""
        return self.root / "control.sock"

    @property
    def lock(self) -> Path:
        """Held by the one core that may run here."""
        return self.root / "lock"

    @property
    def run(self) -> Path:
        """Process ids and addresses of the running device."""
        return self.root / "run.json"

    @property
    def pages_certificate(self) -> Path:
        """The pages' TLS certificate."""
        return self.root / "pages.crt"

    @property
    def pages_key(self) -> Path:
        """The pages' TLS key."""
        return self.root / "pages.key"

    @property
    def pair(self) -> Path:
        """The HA pair that this is a unit of; no such file, a device of its own."""
        return self.root / "pair.json"

    @property
    def pair_secret(self) -> Path:
        """What the two units prove themselves to one another by."""
        return self.root / "pair.secret"

    @property
    def gate(self) -> Path:
        """The gate's own directory."""
        return self.root / "gate"

    def load(self) -> Settings:
        """Read the settings; raises DeviceError `no_device` or `bad_settings`."""
        try:
            return msgspec.json.decode(self.settings.read_bytes(), type=Settings)
        except FileNotFoundError as error:
            raise DeviceError(
                "no_device",
                f"There is no device in {self.root}: run `callpool device init` first.",
            ) from error
        except msgspec.DecodeError as error:
            raise DeviceError("bad_settings", f"{self.settings}: {error}.") from error

    def create(self) -> None:
        """Make the directory with its secrets and its ID key; the settings come last (`write`).

        A directory without settings is no device. Raises DeviceError `device_exists`, OSError.
        """
        if self.settings.exists():
            raise DeviceError("device_exists", f"{self.root} already holds a device.")
        self.root.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o700)
        self.flash.mkdir(exist_ok=True)
        self.gate.mkdir(exist_ok=True)
        for old in self.flash.glob("flash.?"):
            old.unlink()  # of an `init` that did not come to its end
        write_durably(self.secret, secrets.token_bytes(32))
        write_durably(self.gate_secret, secrets.token_hex(32).encode())
        SigningKey.generate().save(self.identity)

    def lay_token(self, token: str) -> None:
        """Write a registration token, mode 0600; raises OSError."""
        write_durably(self.token, token.encode() + b"\n")

    def lay_smart_token(self, token: str) -> None:
        """Write a smart registration token, mode 0600; raises OSError."""
        write_durably(self.smart_token, token.encode() + b"\n")

    def load_smart_identity(self) -> SigningKey:
        """Return the ID key of smart licensing, made and written where there is none yet.

        Raises OSError, TrustError `bad_key`.
        """
        if not self.smart_identity.exists():
            SigningKey.generate().save(self.smart_identity)
        return SigningKey.load(self.smart_identity)

    def write(self, settings: Settings) -> None:
        """Write the settings durably; raises OSError."""
        write_durably(self.settings, msgspec.json.format(msgspec.json.encode(settings)) + b"\n")

    def load_secret(self) -> bytes:
        """Read the device secret; raises DeviceError `no_secret`."""
        try:
            raw = self.secret.read_bytes()
        except FileNotFoundError as error:
            raise DeviceError(
                "no_secret", f"{self.secret} is missing: the flash cannot be verified without it."
            ) from error
        if len(raw) != 32:
            raise DeviceError("no_secret", f"{self.secret} is not a device secret.")
        return raw

    def load_identity(self) -> SigningKey:
        """Read the ID key; raises TrustError `bad_key` or DeviceError `no_identity`."""
        try:
            return SigningKey.load(self.identity)
        except FileNotFoundError as error:
            raise DeviceError("no_identity", f"{self.identity} is missing.") from error

    def load_next_identity(self) -> SigningKey:
        """Return the ID key for a new enrolment, made and written where there is none yet.

        A device that enrols anew takes a new key: a copy of the old directory then speaks by a
        key that the manager no longer knows. Raises OSError, TrustError `bad_key`.
        """
        if not self.next_identity.exists():
            SigningKey.generate().save(self.next_identity)
        return SigningKey.load(self.next_identity)

    def drop_identities(self) -> None:
        """Drop the ID keys, the tokens and the users, and make a new ID key; raises OSError.

        The use that is not reported yet goes with them: it is no next manager's business.
        Whatever of it was done before is done again.
        """
        mine = (self.token, self.next_identity, self.smart_token, self.smart_identity, self.usage)
        for file in (*mine, self.config):
            file.unlink(missing_ok=True)
        SigningKey.generate().save(self.identity)

    def take_next_identity(self) -> SigningKey:
        """Make the new ID key the device's own, durably; raises as `load_identity`, OSError."""
        self.next_identity.replace(self.identity)
        sync_directory(self.root)
        return self.load_identity()


def read_token(file: Path) -> str:
    """Read a registration token from a file; raises DeviceError `no_token`, TrustError."""
    try:
        text = file.read_text(encoding="ascii").strip()
    except FileNotFoundError as error:
        raise DeviceError("no_token", f"{file}: there is no such file.") from error
    except UnicodeDecodeError as error:
        raise TrustError("bad_token", f"{file} does not hold a registration token.") from error
    return text
