"""`callpool lab`: a whole system on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Final
from urllib.parse import urlsplit

import msgspec
import typer

from callpool.host.clock import LabClock
from callpool.host.console import console, say
from callpool.lab.demo import Demo
from callpool.lab.fleet import Plan, down, up
from callpool.lab.handle import LabHandle
from callpool.lab.hostile import FAULTS, Hostile, HostileServer
from callpool.lab.simulated_fleet import SimulatedFleet, run_fleet
from callpool.lab.spec import LAB_FILE, read_lab
from callpool.licensing.errors import LicenseError
from callpool.licensing.lease import APPLY_LIVE, APPLY_RESTART
from callpool.manager.client import find_connection

lab_app = typer.Typer(no_args_is_help=True, help="A whole system on loopback, to try and test.")
clock_app = typer.Typer(no_args_is_help=True, help="The lab's shared clock.")
lab_app.add_typer(clock_app, name="clock")

Directory = Annotated[
    Path, typer.Option("--dir", envvar="CALLPOOL_LAB", help="The lab's directory.")
]

#: The smart devices that a lab has by default.
PROXIES: Final = ("proxy-1", "proxy-2")

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


@lab_app.command("up")
def lab_up(
    directory: Directory,
    apply: Annotated[
        str, typer.Option(help="restart (the default: a change waits for one) or live.")
    ] = APPLY_RESTART,
    device: Annotated[
        list[str] | None, typer.Option(help="A device of the pool by its name; repeatable.")
    ] = None,
    proxy: Annotated[
        list[str] | None, typer.Option(help="A smart device by its name; repeatable.")
    ] = None,
    through_hostile: Annotated[
        bool,
        typer.Option(
            "--through-hostile", help="Smart devices speak through `callpool lab hostile`."
        ),
    ] = False,
) -> None:
    """Start vendor, manager, three devices of the pool and two smart ones, each with a Kamailio.

    Behind each stands a SIPp answerer. With --device or --proxy only those that are named.
    """
    if apply not in (APPLY_RESTART, APPLY_LIVE):
        raise LicenseError("bad_apply", "--apply is restart or live.")
    with console.status("Starting the lab") as status:
        named = device is not None or proxy is not None
        plan = Plan(
            names=tuple(device or ()) if named else Plan().names,
            proxies=tuple(proxy or ()) if named else PROXIES,
            apply=apply,
            through_hostile=through_hostile,
            ssh=True,
        )
        lab = up(directory, plan, lambda what: status.update(what))
    for made in lab.devices:
        shell = f"ssh://{made.user}@{made.ssh}"
        say(f"{made.name}  {made.serial}  {made.mode}  sip {made.sip}  pages {made.pages}  {shell}")
    say(f"manager  {lab.manager.url}  (operator {lab.manager.username})")
    say(f"All of it, passwords too, is in {directory / LAB_FILE}; try:")
    say(f"  CALLPOOL_LAB={directory} callpool pool show")


@lab_app.command("demo")
def lab_demo(
    once: Annotated[
        bool, typer.Option("--once", help="End by itself; else the lab stays up until Enter.")
    ] = False,
) -> None:
    """Play the Fixed License Pool's example, live; exits 0 only if all it showed was true."""
    directory = Path(tempfile.mkdtemp(prefix="callpool-demo-"))
    with console.status("Starting the lab") as status:
        up(directory, Plan(), lambda what: status.update(what))
    try:
        held = Demo(LabHandle(directory)).run()
        if not once:
            say(f"The lab is up: CALLPOOL_LAB={directory} callpool pool show")
            console.input("Press Enter to stop it. ")
    finally:
        with console.status("Stopping the lab"):
            down(directory)
    if held:
        shutil.rmtree(directory, ignore_errors=True)
    else:
        say(f"Logs are kept in {directory / 'log'}")
    raise typer.Exit(0 if held else 1)


@lab_app.command()
def chaos(
    minutes: Annotated[float, typer.Option(help="How long faults go on.", min=0.1)] = 10.0,
    seed: Annotated[
        int, typer.Option(help="Plays that run again; 0 for one by chance.", min=0)
    ] = 0,
    sqlite: Annotated[
        bool, typer.Option("--sqlite", help="Managers on SQLite instead of PostgreSQL.")
    ] = False,
) -> None:
    """Hurt a whole system under calls at random; exits 0 only if every law held.

    Two managers behind HAProxy, three devices with Kamailio and SIPp: kills, stops, cut links,
    full disks, clocks that jump or are set wrong, the database killed and frozen. It mounts small
    disks, so it needs root.
    """
    from callpool.lab.chaos.run import play

    seed = seed or secrets.randbelow(10**9)
    say(
        f"seed {seed}: callpool lab chaos --minutes {minutes:g} --seed {seed}{' --sqlite' * sqlite}"
    )
    with console.status("Starting the system") as status:
        outcome = play(seed, minutes * 60, status.update, postgresql=not sqlite)
    for fault in outcome.faults:
        say(str(fault))
    for name, value in outcome.figures.items():
        say(f"{name}: {value:g}")
    for sentence in outcome.findings:
        say(f"BROKEN: {sentence}")
    if outcome.kept:
        say(f"Files are kept in {outcome.kept}")
    else:
        say("Laws 1 to 5 held; nothing acknowledged was lost; the fleet converged.")
    raise typer.Exit(1 if outcome.findings else 0)


@lab_app.command("down")
def lab_down(directory: Directory) -> None:
    """Stop exactly what `lab up` started."""
    with console.status("Stopping the lab"):
        down(directory)
    say("The lab is down; its files are kept.")


@lab_app.command()
def hostile(
    directory: Directory,
    share: Annotated[float, typer.Option(help="The share of requests that are spoilt.")] = 0.5,
    fault: Annotated[
        list[str] | None, typer.Option(help="Only this fault; repeatable. All by default.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The seed of its random.")] = 1,
    delay: Annotated[float, typer.Option(help="The longest delay, in seconds.", min=0.0)] = 1.0,
) -> None:
    """Stand in front of the lab's authority and spoil a share of good requests.

    Devices of a lab made with --through-hostile speak to it; others may be pointed at its URL.
    """
    manager = read_lab(directory).manager
    rules = Hostile(
        directory=Path(manager.directory),
        upstream=manager.url,
        share=share,
        faults=tuple(fault or FAULTS),
        seed=seed,
        delay=delay,
    )
    server = HostileServer(rules, "127.0.0.1", urlsplit(manager.hostile).port or 0)
    say(f"hostile authority: {manager.hostile}")
    for name in rules.faults:
        say(f"  {name:8} {FAULTS[name]}")
    with server, contextlib.suppress(KeyboardInterrupt):
        server.serve_forever(poll_interval=0.1)


def seconds_from(text: str) -> float:
    """Read a time such as 90s, 15m, 12h or 89d; raises LicenseError `bad_duration`."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d+)?)([smhd])", text)
    if match is None:
        raise LicenseError("bad_duration", f"{text[:40]!r} is not a time such as 15m, 12h or 89d.")
    return float(match[1]) * _UNITS[match[2]]


@lab_app.command("fleet")
def lab_fleet(
    devices: Annotated[int, typer.Option(help="How many devices.", min=1)] = 100,
    directory: Annotated[
        Path | None, typer.Option("--dir", help="Their directories; kept, and used again.")
    ] = None,
    manager: Annotated[str, typer.Option(help="URL of the manager; CALLPOOL_MANAGER.")] = "",
    ca_file: Annotated[str, typer.Option(help="Its CA certificate; CALLPOOL_CA_FILE.")] = "",
    seconds: Annotated[float, typer.Option("--for", help="Seconds to run for.", min=1)] = 60.0,
    every: Annotated[
        float, typer.Option(help="All contact at once, again after so many seconds; 0 for never.")
    ] = 0.0,
    hints: Annotated[
        bool, typer.Option("--hints", help="Each keeps its hint stream open.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Load a manager with many devices: the real device core without SIP, on one event loop.

    They are listed at the manager (as SIM-000000 and so on) by the operator of CALLPOOL_USERNAME
    and CALLPOOL_PASSWORD, and enrol. `lab up` starts whole devices instead, a few.
    """
    with tempfile.TemporaryDirectory(prefix="callpool-fleet-") as scratch:
        fleet = SimulatedFleet(
            directory or Path(scratch),
            find_connection(manager=manager, ca_file=ca_file, username="", lab=""),
            devices=devices,
            hints=hints,
        )
        told = asyncio.run(run_fleet(fleet, seconds=seconds, every=every))
    if as_json:
        typer.echo(msgspec.json.encode(told).decode())
    else:
        for name, value in told.items():
            say(f"{name.replace('_', ' ')}: {value}")


@clock_app.command()
def advance(
    by: Annotated[str, typer.Argument(help="Such as 15m, 12h or 89d.")], directory: Directory
) -> None:
    """Step wall and elapsed time of every callpool process in the lab forward together."""
    LabClock(Path(read_lab(directory).clock)).advance(seconds_from(by))
    say(f"The lab is {by} further on.")


@clock_app.command()
def rate(
    factor: Annotated[float, typer.Argument(help="Lab seconds a second, 1 to 60.")],
    directory: Directory,
) -> None:
    """Let the lab's clock run faster."""
    LabClock(Path(read_lab(directory).clock)).set_rate(factor)
    say(f"The lab's clock runs at {factor:g}.")
