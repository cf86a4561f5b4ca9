"""`callpool simulate`: what will happen, before it does."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from callpool.device.alarms import span
from callpool.host.console import say
from callpool.licensing.errors import LicenseError
from callpool.simulate.plot import plot
from callpool.simulate.reading import MAX_SCRIPT
from callpool.simulate.script import read_script
from callpool.simulate.smart import Line, Simulation

simulate_app = typer.Typer(no_args_is_help=True, help="Run the real rules on virtual time.")


@simulate_app.callback()
def simulate() -> None:
    """Run the real rules on virtual time; nothing is contacted, nothing is changed."""


@simulate_app.command("smart")
def simulate_smart(
    script: Annotated[Path, typer.Option(help="The script, JSON; - for standard input.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON line a change, errors with their code.")
    ] = False,
    plot_file: Annotated[
        Path | None, typer.Option("--plot", help="Draw state, calls and contacts into an SVG file.")
    ] = None,
) -> None:
    """Run one smart device through a script and print one line a change."""
    simulation = Simulation(read_script(_read(script)))
    lines: list[Line] = []
    for line in simulation.run():
        if plot_file is not None:
            lines.append(line)
        if as_json:
            sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
        else:
            say(_words(line))
    if plot_file is not None:
        try:
            plot_file.write_text(plot(lines, simulation.script), encoding="utf-8")
        except OSError as error:
            raise LicenseError(
                "cannot_write", f"{plot_file} cannot be written: {error.strerror}."
            ) from error


@simulate_app.command("pool")
def simulate_pool(
    script: Annotated[Path, typer.Option(help="The script, JSON; - for standard input.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON line a change, errors with their code.")
    ] = False,
) -> None:
    """Run a manager and its devices through a script and print one line a change."""
    # Imported here: the other simulation does without the manager.
    from callpool.simulate.pool import run_script
    from callpool.simulate.pool_script import read_pool_script
    from callpool.simulate.pool_table import heading, words

    read = read_pool_script(_read(script))
    if not as_json:
        say(heading())
    for line in run_script(read):
        if as_json:
            sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
        else:
            say(words(line))


def _read(file: Path) -> bytes:
    if str(file) == "-":
        return sys.stdin.buffer.read(MAX_SCRIPT + 1)
    try:
        with file.open("rb") as source:
            return source.read(MAX_SCRIPT + 1)
    except IsADirectoryError as error:
        raise LicenseError("bad_script", f"{file} is a directory, not a script.") from error
    except OSError as error:
        raise LicenseError("no_such_file", f"{file} cannot be read: {error.strerror}.") from error


def _words(line: Line) -> str:
    mode = "listening" if line.listening else ""
    due = line.next_contact_seconds
    after = "no contact planned" if due is None else f"next contact in {span(due)}"
    return (
        f"{line.at_seconds / 86400:11.4f} d  {line.state:20} {line.calls:6} {mode:9} "
        f"{'contact' if line.contact else '':7} {line.cause:24} {after}; "
        f"evaluation left {span(line.eval_seconds_left)}"
    )
