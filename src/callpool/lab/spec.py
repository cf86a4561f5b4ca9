"""`lab.json`: where everything in a lab is. Tests, demo, benchmarks and checkers stand on it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from callpool.host.files import write_durably
from callpool.licensing.errors import CallpoolError

#: The file's name in the lab's directory.
LAB_FILE: Final = "lab.json"


class ProcessEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One process that the lab started; its start tells it from a later one of the same id."""

    name: str
    pid: int
    #: Start time in clock ticks since boot, as the kernel counts it.
    started: int


class ManagerEntry(msgspec.Struct, frozen=True, kw_only=True):
    """The lab's manager."""

    url: str
    #: The CA that signed its TLS certificate.
    ca_file: str
    username: str
    password: str
    #: The SQLite file, or a database URL.
    database: str
    directory: str
    product_key: str
    #: Where `callpool lab hostile` stands in front of it; requests may be signed for it too.
    hostile: str = ""


class VendorEntry(msgspec.Struct, frozen=True, kw_only=True):
    """The lab's vendor."""

    directory: str
    public_key_file: str


class DeviceEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One device with its Kamailio and the SIPp answerer behind it."""

    name: str
    serial: str
    #: Kamailio's address, host:port (UDP and TCP).
    sip: str
    #: The answerer behind it, host:port (UDP).
    answerer: str
    #: The License Key page's URL.
    pages: str
    #: The core process.
    pid: int
    #: Kamailio's main process when the lab came up.
    kamailio_pid: int
    #: The flash directory.
    flash: str
    directory: str
    #: `fixed` (the pool gives) or `smart` (the authority judges).
    mode: str = "fixed"
    #: Where the shell listens, host:port; empty for no shell.
    ssh: str = ""
    #: The first administrator, of the pages and of the shell.
    user: str = ""
    password: str = ""


class Lab(msgspec.Struct, frozen=True, kw_only=True):
    """A running lab."""

    manager: ManagerEntry
    vendor: VendorEntry
    devices: tuple[DeviceEntry, ...]
    processes: tuple[ProcessEntry, ...]
    #: The shared steppable clock's file.
    clock: str
    version: int = 1

    def device(self, name: str) -> DeviceEntry:
        """Return the device called `name`; raises CallpoolError `no_such_device`."""
        for device in self.devices:
            if device.name == name:
                return device
        names = ", ".join(d.name for d in self.devices)
        raise CallpoolError("no_such_device", f"The lab has no {name[:40]!r}; it has {names}.")


def read_lab(directory: Path) -> Lab:
    """Read the lab in `directory`; raises CallpoolError `no_lab`."""
    try:
        return msgspec.json.decode((directory / LAB_FILE).read_bytes(), type=Lab)
    except FileNotFoundError as error:
        raise CallpoolError(
            "no_lab", f"There is no lab in {directory}: run `callpool lab up --dir {directory}`."
        ) from error
    except msgspec.DecodeError as error:
        raise CallpoolError(
            "bad_lab", f"{directory / LAB_FILE} cannot be read: {error}."
        ) from error


def write_lab(directory: Path, lab: Lab) -> None:
    """Write `lab.json`, mode 0600 since it holds the password; raises OSError."""
    write_durably(directory / LAB_FILE, msgspec.json.format(msgspec.json.encode(lab), indent=2))
