"""Start and end one Kamailio: the program itself, its ports, its process group, its words."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Final

from callpool.device.gate.settings import GateError, GateSettings, parse_listen
from callpool.host.process import ProcessId, identify

#: The oldest Kamailio that has all that the include uses.
OLDEST: Final = (5, 6)

#: linux/in.h and linux/in6.h: bind an address that this machine does not have.
_IP_FREEBIND: Final = 15
_IPV6_FREEBIND: Final = 78

_INSTALL: Final = (
    "apt-get install kamailio kamailio-extra-modules kamailio-sqlite-modules"
    " kamailio-utils-modules kamailio-tls-modules"
)


def check_program(program: str) -> str:
    """Return the path of the program.

    Raises GateError `kamailio_missing` or `kamailio_too_old`.
    """
    path = shutil.which(program, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if path is None:
        raise GateError("kamailio_missing", f"Kamailio is not installed: run {_INSTALL}.")
    try:
        text = subprocess.run([path, "-v"], capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise GateError("kamailio_failed", f"{path} -v cannot be run: {exc}.") from exc
    found = re.search(r"version: kamailio (\d+)\.(\d+)", text)
    if found is None or (int(found[1]), int(found[2])) < OLDEST:
        version = found[0].split()[-1] if found else "unknown"
        raise GateError(
            "kamailio_too_old",
            f"Kamailio {version} is too old, 5.6 or newer is needed: {_INSTALL}.",
        )
    return path


def check_ports(settings: GateSettings) -> None:
    """Raise GateError `port_in_use` or `bad_listen_address` when an address cannot be had.

    Kamailio itself would start beside another one without a word: it sets SO_REUSEADDR.
    """
    extra = () if settings.pair is None else (settings.pair.socket,)
    for text in (*settings.listen, *extra):
        transport, address, port = parse_listen(text)
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
        with socket.socket(family, kind) as sock:
            if kind == socket.SOCK_STREAM:  # connections that linger must not count
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if settings.pair is not None:  # the service address may be the other unit's now
                option = _IPV6_FREEBIND if family == socket.AF_INET6 else _IP_FREEBIND
                level = socket.IPPROTO_IPV6 if family == socket.AF_INET6 else socket.IPPROTO_IP
                sock.setsockopt(level, option, 1)
            try:
                sock.bind((address, port))
            except OSError as exc:
                if exc.errno == errno.EADDRINUSE:
                    raise GateError(
                        "port_in_use",
                        f"Another program has {text}; stop it or set another listen address.",
                    ) from exc
                raise GateError(
                    "bad_listen_address", f"{text} cannot be listened on: {exc.strerror}."
                ) from exc


def launch(program: str, settings: GateSettings, config: Path) -> subprocess.Popen[bytes]:
    """Start Kamailio in a session and process group of its own; its words go to a file.

    Raises GateError `kamailio_failed`.
    """
    log = settings.path / "kamailio.log"
    if log.exists() and log.stat().st_size > 8 << 20:
        log.replace(log.with_suffix(".log.1"))
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        return subprocess.Popen(
            [program, "-f", str(config), "-DD", "-E", "-m", str(settings.shared_memory_mb),
             "-x", "tlsf", "-X", "tlsf", "-M", "16",
             "-w", str(settings.path), "-Y", str(settings.path)],
            stdin=subprocess.DEVNULL, stdout=fd, stderr=fd, cwd=settings.path,
            start_new_session=True,
        )  # fmt: skip
    except OSError as exc:
        raise GateError("kamailio_failed", f"{program} cannot be started: {exc}.") from exc
    finally:
        os.close(fd)


def failure(settings: GateSettings, offset: int) -> GateError:
    """Return the error for a Kamailio that ended at start, with its own first complaint."""
    log = settings.path / "kamailio.log"
    try:
        with log.open("rb") as file:
            file.seek(offset)
            text = file.read(200_000).decode(errors="replace")
    except OSError:
        text = ""
    complaints = [
        line.partition(": ")[2].strip() or line.strip()
        for line in text.splitlines()
        if re.search(r"CRITICAL|ERROR|error", line)
    ]
    said = complaints[0][:300] if complaints else "it said nothing"
    return GateError("kamailio_failed", f"Kamailio ended at start: {said} (see {log}).")


def identity(process: subprocess.Popen[bytes]) -> ProcessId:
    """Return the identity of a process that was just started (it may be gone already)."""
    return identify(process.pid) or ProcessId(pid=process.pid, started=0)
