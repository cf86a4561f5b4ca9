"""What commands beside a running device have in common with it: its lock, its gate's settings."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec

from callpool.device.errors import DeviceError
from callpool.device.gate.settings import GateSettings
from callpool.device.pair_settings import derived, read_pair, read_secret
from callpool.device.settings import Layout, Settings
from callpool.host.files import locked


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """`run.json`: what runs, for whoever looks after it."""

    pid: int
    kamailio_pid: int
    faces_pid: int
    #: host:port of the first UDP listen address.
    sip: str
    #: host:port of the pages; empty for none.
    pages: str
    #: The shell's process, 0 for none; host:port where it listens, empty for none.
    shell_pid: int = 0
    ssh: str = ""


def gate_settings(settings: Settings, layout: Layout, *, secret: str = "") -> GateSettings:
    """Return what the gate is told; raises GateError or DeviceError `bad_gate_settings`.

    `secret` stands in for the device's own where there is none yet.
    """
    unknown = sorted(set(settings.gate) - set(GateSettings.__struct_fields__))
    if unknown:
        raise DeviceError("bad_gate_settings", f"The gate has no setting {unknown[0][:40]!r}.")
    pair = read_pair(layout.pair)
    values: dict[str, Any] = {"directory": str(layout.gate)}
    try:
        if pair is None:
            values["mac_secret"] = secret or layout.gate_secret.read_text().strip()
        else:
            # What one unit signs the other one knows.
            shared = read_secret(layout.pair_secret)
            values["mac_secret"] = derived(shared, "record-route")
            values["pair"] = msgspec.to_builtins(pair.gate(shared))
        return msgspec.convert({**settings.gate, **values}, type=GateSettings)
    except msgspec.ValidationError as error:
        raise DeviceError("bad_gate_settings", f"The gate's settings: {error}.") from error
    except FileNotFoundError as error:
        raise DeviceError("no_secret", f"{layout.gate_secret} is missing.") from error


def sip_address(gate: GateSettings) -> str:
    """Return host:port of the gate's first UDP listen address."""
    first = next(a for a in gate.listen if a.startswith("udp:"))
    return first.removeprefix("udp:")


@contextmanager
def only_one(layout: Layout) -> Iterator[None]:
    """Hold the directory's lock; raises DeviceError `already_running`."""
    with contextlib.ExitStack() as held:
        try:
            held.enter_context(locked(layout.lock, fcntl.LOCK_EX | fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise DeviceError(
                "already_running", f"A device already runs in {layout.root}."
            ) from error
        yield
