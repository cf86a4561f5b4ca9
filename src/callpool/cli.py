"""The `callpool` command: one program, a sub-command for each part."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Final

import typer

from callpool import __version__
from callpool.host.console import run, say

#: Each part's module and its Typer app.
PARTS: Final = {
    "vendor": ("callpool.vendor.commands", "vendor_app"),
    "manager": ("callpool.manager.commands", "manager_app"),
    "pool": ("callpool.manager.pool_commands", "pool_app"),
    "alarms": ("callpool.manager.alarm_commands", "alarms_app"),
    "smart": ("callpool.manager.smart_commands", "smart_app"),
    "operator": ("callpool.manager.operator_commands", "operator_app"),
    "audit": ("callpool.manager.audit_commands", "audit_app"),
    "device": ("callpool.device.commands", "device_app"),
    "lab": ("callpool.lab.commands", "lab_app"),
    "simulate": ("callpool.simulate.commands", "simulate_app"),
}

gate_app = typer.Typer(no_args_is_help=True, help="The gate inside Kamailio.")


@gate_app.command("check")
def gate_check(
    file: Annotated[Path, typer.Argument(help="A Kamailio configuration file.")],
) -> None:
    """Tell what to merge so that an existing Kamailio carries the gate."""
    from callpool.device.gate.check import check

    report = check(file)
    say(str(report))
    raise typer.Exit(0 if report.ok else 1)


@gate_app.command("seed")
def gate_seed(
    directory: Annotated[Path, typer.Argument(help="The gate's directory.")],
) -> None:
    """Write the seed of an external Kamailio: what its service manager runs before each start."""
    from callpool.device.gate.seeding import seed_external

    seed_external(directory.absolute())


def version() -> None:
    """Print the version of callpool."""
    say(f"callpool {__version__}")


def build(words: Sequence[str]) -> typer.Typer:
    """Put the command together for `words`: only the part that is asked for is loaded."""
    app = typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        add_completion=False,
        help="License call capacity for a fleet of SIP devices.",
    )
    app.command("version")(version)
    asked = {words[0]} & PARTS.keys() if words else set()
    for name in PARTS:
        if not asked or name in asked:
            module, attribute = PARTS[name]
            app.add_typer(getattr(import_module(module), attribute), name=name)
    app.add_typer(gate_app, name="gate")
    return app


def main() -> None:
    """Run the command line and exit with its status."""
    words = sys.argv[1:]
    sys.exit(run(build(words), words))


if __name__ == "__main__":
    main()
