"""`callpool pool pair`, `unpair` and `hitless`: HA pairs, and their hitless installations."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final
from urllib.parse import quote

import msgspec
import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from callpool.host.console import console, say
from callpool.licensing.capacity import LICENSE_TYPES
from callpool.licensing.errors import CallpoolError, LicenseError
from callpool.manager.bulk_commands import Json, Preview, query, say_preview
from callpool.manager.client import ManagerClient

#: Seconds between two looks at a run that is being followed.
_LOOK: Final = 0.5
#: Seconds for which a manager may be away while its run is followed.
_AWAY: Final = 300.0

Name = Annotated[str, typer.Argument(help="The pair's name.")]


def _path(name: str) -> str:
    return f"/devices/{quote(name, safe='')}"


def _print(value: Mapping[str, Any]) -> None:
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def pair(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The device's name.")],
    serial: Annotated[str, typer.Argument(help="The second unit's serial number.")],
    preview: Preview = False,
    as_json: Json = False,
) -> None:
    """Make a device an HA pair; both units are given the same, and the pool pays twice."""
    opened: Callable[[], ManagerClient] = context.obj
    with opened() as client:
        path = f"{_path(name)}/pair{query(preview=preview)}"
        value = client.call("POST", path, {"serial": serial})
    if as_json:
        _print(value)
    elif preview:
        say_preview(value)
    else:
        say(f"{name} is an HA pair now: {serial} is given what it has. Enrol {serial} next.")


def unpair(
    context: typer.Context,
    name: Name,
    serial: Annotated[str, typer.Argument(help="The serial number of the unit that leaves.")],
    preview: Preview = False,
    as_json: Json = False,
) -> None:
    """Let one unit leave an HA pair; its share is free once it has dropped it."""
    opened: Callable[[], ManagerClient] = context.obj
    path = f"{_path(name)}/pair/{quote(serial, safe='')}{query(preview=preview)}"
    with opened() as client:
        value = client.call("DELETE", path)
    if as_json:
        _print(value)
    elif preview:
        say_preview(value)
    else:
        say(f"{serial} has left {name}; what it may still use is free once it has dropped it.")


def hitless(
    context: typer.Context,
    name: Name,
    resume: Annotated[bool, typer.Option("--resume", help="Let a stopped run go on.")] = False,
    stop: Annotated[bool, typer.Option("--stop", help="Stop it safely where it is.")] = False,
    roll_back: Annotated[
        bool, typer.Option("--roll-back", help="Install again what ran before, as gently.")
    ] = False,
    close: Annotated[
        bool, typer.Option("--close", help="Leave a stopped run's pair as it is.")
    ] = False,
    status: Annotated[bool, typer.Option("--status", help="Show the last run, and end.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Follow the run to its end.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Install on an HA pair what it has been given, without touching a call.

    The run is the manager's: it goes on whether somebody follows it or not.
    """
    asked = {
        "resume": resume,
        "stop": stop,
        "roll-back": roll_back,
        "close": close,
        "status": status,
    }
    actions = [action for action, on in asked.items() if on]
    if len(actions) > 1:
        raise LicenseError("bad_request", f"--{actions[0]} stands alone.")
    action = actions[0] if actions else ""
    opened: Callable[[], ManagerClient] = context.obj
    path = f"{_path(name)}/hitless"
    with opened() as client:
        if action == "status":
            value = client.call("GET", path)
        else:
            value = client.call("POST", f"{path}/{action}" if action else path)
        if wait and action not in ("status", "stop", "close"):
            value = _follow(client, path, value, quiet=as_json)
    run = value["run"]
    if as_json:
        _print(value)
    elif run is None:
        say(f"No hitless installation of {name} has been made.")
    else:
        for sentence in run_sentences(name, run):
            say(sentence)
    if wait and not as_json and run and run["state"] == "stopped" and action in _FOLLOWED:
        raise typer.Exit(1)


_FOLLOWED: Final = ("", "resume", "roll-back")


def _follow(client: ManagerClient, path: str, value: Any, *, quiet: bool) -> Any:
    """Show a run's progress until it is over or stands; the manager may be away meanwhile."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f} of {task.total:.0f} steps"),
        TimeElapsedColumn(),
        console=console,
        disable=quiet or not console.is_terminal,
    )
    told, away_since = 0, 0.0
    with bar:
        task = bar.add_task("", total=len(value["run"]["steps"]))
        while True:
            run = value["run"]
            done = sum(step["status"] in ("done", "not_needed") for step in run["steps"])
            bar.update(task, completed=done, description=escape(_now(run)))
            if not quiet and not console.is_terminal:
                for line in run["history"][told:]:
                    say(_line(line))
            told = len(run["history"])
            if run["state"] != "running":
                return value
            time.sleep(_LOOK)
            try:
                value = client.call("GET", path)
                away_since = 0.0
            except CallpoolError as error:
                away_since = away_since or time.monotonic()
                if error.code != "no_answer" or time.monotonic() - away_since > _AWAY:
                    raise
                bar.update(task, description="The manager does not answer; its run goes on")


def _now(run: Mapping[str, Any]) -> str:
    for step in run["steps"]:
        if step["status"] in ("ordered", "waiting"):
            waits = f"; {run['waits_for']['sentence']}" if run["waits_for"] else ""
            return f"{step['number']} {step['words']}: {step['unit']}{waits}"
    return str(run["state"])


def _line(line: Mapping[str, Any]) -> str:
    step = f" step {line['step']}" if line["step"] else ""
    unit = f" {line['unit']}" if line["unit"] else ""
    return f"{_moment(line['at'])}{step} {line['what']}{unit}: {line['seen']}".rstrip(": ")


_ENDS: Final = {
    "running": "is running",
    "stopped": "has stopped safely; the pair serves on",
    "complete": "is complete",
    "rolled_back": "is rolled back",
    "closed": "was closed",
}
_STATUS: Final = {
    "to_do": "to do",
    "waiting": "waits",
    "ordered": "asked for",
    "done": "done",
    "not_needed": "was so already",
}


def run_sentences(name: str, run: Mapping[str, Any]) -> Iterator[str]:
    """Say how a run stands, its steps, and what can be done."""
    for step in run["steps"]:
        at = step["done_at"] or step["ordered_at"]
        when = f" {_moment(at)}" if at else ""
        seen = f" ({step['seen']})" if step["seen"] else ""
        yield (
            f"{step['number']} {step['words']}, {step['unit']}: "
            f"{_STATUS[step['status']]}{when}{seen}"
        )
    what = "The roll back" if run["back"] else "The hitless installation"
    yield f"{what} of {_counts(run['before'] if run['back'] else run['wanted'])} on {name} " + (
        f"{_ENDS[run['state']]}."
    )
    if run["waits_for"] and run["state"] in ("running", "stopped"):
        yield f"{run['waits_for']['sentence']}."
    if run["state"] == "stopped":
        ways = ", ".join(f"--{action.replace('_', '-')}" for action in run["may"])
        yield f"`callpool pool hitless {name}` with one of {ways} goes on from here."


def _counts(counts: Mapping[str, int] | None) -> str:
    if counts is None:
        return "nothing that it has told"
    said = [f"{n} {LICENSE_TYPES[kind].label}" for kind, n in counts.items() if n]
    return ", ".join(said) or "no licenses"


def pair_notes(value: Mapping[str, Any]) -> Iterator[str]:
    """Say of each HA pair which unit is active, whether they are synchronised, and what runs."""
    for device in value["devices"]:
        seen = device["pair"]
        if seen is None or not any(unit["role"] for unit in seen["units"]):
            continue
        active = f"{seen['active']} is active" if seen["active"] else "no one unit is active"
        state = "synchronised" if seen["synchronised"] else "NOT synchronised"
        if seen["trouble"]:
            state += f" ({seen['trouble']['sentence']})"
        runs = "; ".join(f"{u['serial']} runs {_counts(u['runs'])}" for u in seen["units"])
        yield f"HA pair {device['name']}: {active}, {state}; {runs}."
        run = seen["run"]
        if run is not None:
            what = "roll back" if run["back"] else "hitless installation"
            yield f"HA pair {device['name']}: {what} {run['state']}, {_now(run)}."
