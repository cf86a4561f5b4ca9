"""Making a device: everything is checked before the first file is written."""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

from callpool.device.config import Change, Config
from callpool.device.config_book import encoded
from callpool.device.errors import DeviceError
from callpool.device.faces.certificate import make_certificate
from callpool.device.flash import Flash
from callpool.device.record import FlashRecord, Marked, open_record, read_local_key
from callpool.device.running import gate_settings, only_one
from callpool.device.settings import Layout, Settings
from callpool.device.ssh_settings import SshSettings, host_key, write_ssh
from callpool.device.window import INSTANT
from callpool.host.addresses import address
from callpool.host.clock import clock_for
from callpool.host.files import write_durably
from callpool.licensing.instant import HighWaterMark
from callpool.licensing.key import check_installable
from callpool.licensing.smart_policy import CCCSP_15

#: Where SIP listens unless told otherwise.
DEFAULT_LISTEN: Final = ("udp:127.0.0.1:5060",)

_DESTINATION = re.compile(r"(?:([^=;]*)=)?(\[[^\]]+\]|[^:;=]+):([0-9]{1,5})(?:;(udp|tcp|tls))?")


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What `callpool device init` was told."""

    serial: str
    manager: str = ""
    ca_file: str = ""
    proxy: str = ""
    #: A registration token, checked for its form; empty for none.
    token: str = ""
    #: A local key's envelope; empty for none.
    key: str = ""
    #: The vendor's public key, base64url.
    vendor_key: str = ""
    maximum: dict[str, int] = {}
    listen: tuple[str, ...] = ()
    #: `[PREFIX=]HOST:PORT[;TRANSPORT]`.
    destinations: tuple[str, ...] = ()
    trusted: tuple[str, ...] = ()
    #: The gate's settings; the three above are written over them where they are given.
    gate: dict[str, Any] = {}
    pages: str = ""
    #: Where the shell listens; empty for no shell.
    ssh: str = ""
    #: Smart licensing alone licenses the device; its call policy; how its CPS are judged.
    smart: bool = False
    call_policy: str = CCCSP_15
    cps_policy: str = INSTANT
    lab_clock: str = ""

    def __repr__(self) -> str:
        """Show the serial only: a token is a secret."""
        return f"Plan({self.serial})"


def destination(text: str) -> dict[str, Any]:
    """Read `[PREFIX=]HOST:PORT[;TRANSPORT]`; raises DeviceError `bad_destination`."""
    match = _DESTINATION.fullmatch(text)
    if match is None or not 0 < int(match[3]) < 65536:
        raise DeviceError(
            "bad_destination", f"A destination is [PREFIX=]HOST:PORT[;TRANSPORT], not {text!r}."
        )
    prefix, host, port, transport = match.groups()
    return {
        "prefix": prefix or "",
        "host": host,
        "port": int(port),
        "transport": transport or "udp",
    }


def set_up(layout: Layout, plan: Plan) -> Settings:
    """Make a device and return its settings.

    Raises LicenseError, TrustError, GateError or DeviceError for what cannot be (nothing is
    left behind then but an empty directory), `device_exists`, OSError.
    """
    gate = dict(plan.gate)
    if plan.listen or "listen" not in gate:
        gate["listen"] = list(plan.listen or DEFAULT_LISTEN)
    if plan.destinations:
        gate["destinations"] = [destination(d) for d in plan.destinations]
    if plan.trusted:
        gate["trusted_peers"] = list(plan.trusted)
    settings = Settings(
        serial=plan.serial,
        manager=plan.manager,
        ca_file=plan.ca_file,
        proxy=plan.proxy,
        vendor_key=plan.vendor_key,
        maximum=plan.maximum,
        lab_clock=plan.lab_clock,
        smart=plan.smart,
        call_policy=plan.call_policy,
        cps_policy=plan.cps_policy,
        pages=plan.pages,
        gate=gate,
    )
    if plan.token and not plan.manager:
        raise DeviceError("no_manager", "A registration token needs --manager.")
    if plan.key:
        key = read_local_key(plan.key.strip(), settings.vendor, settings.serial)
        time = clock_for(settings.lab_clock).now().wall
        check_installable(key, settings.serial, None, time=time)
    shell = SshSettings(listen=plan.ssh) if plan.ssh else None
    # The gate's own check wants its secret; any will do until the real one is made.
    gate_settings(settings, layout, secret="0" * 64)
    layout.create()
    now = clock_for(settings.lab_clock).now()
    record = FlashRecord(
        serial=settings.serial,
        mark=Marked.of(HighWaterMark.first(now)),
        local_key=plan.key.strip(),
    )
    Flash(layout.flash, layout.load_secret()).store(record)
    if plan.token:
        layout.lay_token(plan.token)
    if plan.pages:
        make_certificate(layout, address(plan.pages)[0])
    if shell is not None:
        write_ssh(layout.ssh, shell)
        host_key(layout.ssh_host_key)
    # Last, so that a half-made directory is no device.
    layout.write(settings)
    return settings


def install_offline(layout: Layout, envelope: str) -> str:
    """Install a local key in a device that does not run; return its number.

    Raises as `Core.install_key` does, DeviceError `no_device` or `already_running`.
    """
    settings = layout.load()
    with only_one(layout):
        flash = Flash(layout.flash, layout.load_secret())
        record = flash.load()
        if record is None:
            raise DeviceError("no_device", f"The device in {layout.root} has no flash.")
        opened = open_record(record, settings)
        key = read_local_key(envelope, settings.vendor, settings.serial)
        now = clock_for(settings.lab_clock).now()
        time = record.mark.read().advance(now).time(now)
        check_installable(key, settings.serial, opened.local_key, time=time)
        flash.store(msgspec.structs.replace(record, local_key=envelope))
    return key.key_id


def configure_offline(layout: Layout, change: Change) -> None:
    """Change the startup configuration of a device that does not run.

    Raises DeviceError as the change does, `no_device`, `already_running`, `bad_config`, or OSError.
    """
    layout.load()
    with only_one(layout):
        write_durably(layout.config, encoded(change.apply(startup_config(layout))))


def startup_config(layout: Layout) -> Config:
    """Return the startup configuration of a device; raises DeviceError `bad_config`."""
    try:
        return msgspec.json.decode(layout.config.read_bytes(), type=Config)
    except FileNotFoundError:
        return Config()
    except msgspec.DecodeError as error:
        raise DeviceError("bad_config", f"{layout.config} cannot be read: {error}.") from error
