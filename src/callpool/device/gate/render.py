"""Write what Kamailio reads: its configuration and the parameters of the include."""

from __future__ import annotations

import contextlib
import ipaddress
import shutil
from importlib import resources
from pathlib import Path

import jinja2

from callpool.device.gate.policy import refusal_of, words
from callpool.device.gate.settings import GateSettings, parse_listen
from callpool.host.files import write_whole
from callpool.licensing.admission import REASONS

#: Seconds that a call which was asked for credentials keeps its license.
AUTH_WAIT = 10
#: Seconds that a request is told again when no answer comes (RFC 3261: 64 times T1).
UNANSWERED = 32


def write_private(path: Path, text: str) -> None:
    """Write a file whole or not at all, readable by its owner only."""
    write_whole(path, text.encode())


def core_host(settings: GateSettings) -> str:
    """Return the loopback address of the family of the first udp listen address."""
    first = next(a for a in settings.listen if a.startswith("udp:"))
    return "::1" if ":" in parse_listen(first)[1] else "127.0.0.1"


def local_parameters(settings: GateSettings, *, core_port: int, token: str) -> str:
    """Return the text of callpool-local.cfg: the parameters of the include, secrets too."""
    host = core_host(settings)
    values: dict[str, object] = {
        "CORE": f"sip:[{host}]:{core_port}" if ":" in host else f"sip:{host}:{core_port}",
        "TOKEN": token,
        "SEED": settings.path / "seed.db",
        "RPC_SOCKET": settings.path / "rpc.sock",
        "KEY1": settings.mac_secret + ".1.",
        "KEY2": settings.mac_secret + ".2.",
        "HOST": settings.host,
        "LOCATION": "location",
        "MAX_CALL": settings.max_call_seconds,
        "AUTH_WAIT": AUTH_WAIT,
        "PENDING": settings.ring_timeout_ms // 1000 + UNANSWERED,
        "BURST_MS": settings.cps_burst_ms,
        "USRLOC_INTERVAL": settings.expiry_interval,
        "MAX_CONTACTS": settings.max_contacts,
        "MIN_EXPIRES": settings.min_expires,
        "MAX_EXPIRES": settings.max_expires,
    }
    pair = settings.pair
    if pair is not None:
        values |= {
            "PAIR1": pair.secret + ".1.",
            "PAIR2": pair.secret + ".2.",
            "PAIR_SOCKET": pair.socket,
            "PAIR_ADDRESS": pair.address,
            "PAIR_PORT": pair.port,
            "PEER_ADDRESS": pair.peer,
            "PEER": pair.peer_uri,
        }
    for reason in REASONS:
        refusal = refusal_of(reason, settings.refusals)
        values[f"{reason.upper()}_CODE"] = refusal.code
        values[f"{reason.upper()}_RETRY"] = refusal.retry_after or 0
        values[f"{reason.upper()}_TEXT"] = words(reason)
    lines = ["# Written by callpool; holds secrets. Changes are overwritten."]
    lines += [f'#!substdef "!CP_{name}_!{value}!g"' for name, value in values.items()]
    if settings.emergency:
        test = " || ".join(f'$rU == "{n}"' for n in settings.emergency_numbers) or '$rU == "-"'
        lines += ["#!define CALLPOOL_EMERGENCY", f"#!define CP_EMERGENCY_TEST_ {test}"]
    if settings.users:
        lines.append("#!define CALLPOOL_USERS")
    if pair is not None:
        lines.append("#!define CALLPOOL_IS_PAIRED")
    if settings.mac_only:
        lines.append("#!define CALLPOOL_MAC_ONLY")
    return "\n".join(lines) + "\n"


def full_config(settings: GateSettings) -> str:
    """Return the text of the full configuration that callpool ships."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("callpool.device.gate", "."),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # noqa: S701 (not HTML; every value is checked by GateSettings)
    )
    routes = [
        {"number": i, "test": f'$(rU{{s.substr,0,{len(d.prefix)}}}) == "{d.prefix}"'}
        for i, d in enumerate(settings.destinations)
        if d.prefix
    ]
    known = [f"src_ip == {p}" for p in settings.trusted_peers]
    for d in settings.destinations:
        with contextlib.suppress(ValueError):  # a name: who answers to it is not known here
            known.append(f"src_ip == {ipaddress.ip_address(d.host.strip('[]'))}")
    # The longest prefix wins.
    routes.sort(key=lambda r: -len(settings.destinations[int(str(r["number"]))].prefix))
    default = next((i for i, d in enumerate(settings.destinations) if not d.prefix), None)
    return environment.get_template("kamailio.cfg.j2").render(
        s=settings,
        tcp=any(not a.startswith("udp:") for a in settings.listen),
        tls=any(a.startswith("tls:") for a in settings.listen),
        routes=routes,
        default_route=default,
        known=" || ".join(dict.fromkeys(known)) or "src_ip == 255.255.255.255",
        destinations=settings.destinations,
    )


def write_config(settings: GateSettings, *, core_port: int, token: str) -> Path:
    """Write the include, its parameters and (for a child) the full configuration.

    Returns the path of the configuration that Kamailio is started with; for an external
    Kamailio, of the include.
    """
    directory = settings.path
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    with resources.as_file(resources.files("callpool.device.gate") / "callpool.cfg") as include:
        shutil.copyfile(include, directory / "callpool.cfg")
    write_private(
        directory / "callpool-local.cfg",
        local_parameters(settings, core_port=core_port, token=token),
    )
    if settings.mode == "external":
        return directory / "callpool.cfg"
    write_private(directory / "kamailio.cfg", full_config(settings))
    return directory / "kamailio.cfg"
