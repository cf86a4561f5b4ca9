"""`callpool vendor`: init, order, key."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated

import typer

from callpool.host.clock import clock_for
from callpool.host.console import counts_from, say
from callpool.host.files import write_durably
from callpool.licensing.errors import LicenseError
from callpool.licensing.order import POOL_ORDER, SMART_ORDER
from callpool.vendor.office import Office

vendor_app = typer.Typer(no_args_is_help=True, help="Sell licenses: sign orders and local keys.")

Directory = Annotated[Path, typer.Option("--dir", help="The vendor's directory.")]
Output = Annotated[Path, typer.Option("--out", help="The file to write the signed document to.")]
LabClock = Annotated[str, typer.Option("--lab-clock", help="A lab's clock file.", hidden=True)]


@vendor_app.command()
def init(directory: Directory) -> None:
    """Make the vendor's signing key."""
    office = Office.create(directory)
    say(f"The vendor's key is {office.public_key.kid}; give managers and devices the file")
    say(f"  {office.public_key_file}")


def day(text: str, what: str) -> int:
    """Return the first second (UTC) of a day `YYYY-MM-DD`; raises LicenseError `bad_date`."""
    try:
        return int(datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp())
    except ValueError as error:
        raise LicenseError("bad_date", f"{what} is a day such as 2027-01-31.") from error


@vendor_app.command()
def order(
    directory: Directory,
    product_key: Annotated[str, typer.Option(help="The manager's product key.")],
    out: Output,
    counts: Annotated[
        list[str], typer.Argument(help="TYPE=COUNT: sbc_sessions=500; with --role smart cps=100.")
    ],
    role: Annotated[
        str, typer.Option(help="pool, or smart: an entitlement of a virtual account.")
    ] = POOL_ORDER,
    starts: Annotated[str, typer.Option(help="First day, YYYY-MM-DD; today by default.")] = "",
    ends: Annotated[str, typer.Option(help="First day out of date; or use --days.")] = "",
    days: Annotated[int, typer.Option(help="Days in date from the start.", min=1)] = 365,
    lab_clock: LabClock = "",
) -> None:
    """Sign a bulk order bound to one manager, for its pool or for smart licensing."""
    if role not in (POOL_ORDER, SMART_ORDER):
        raise LicenseError("bad_role", "--role is pool or smart.")
    now = int(clock_for(lab_clock).now().wall)
    begin = day(starts, "--starts") if starts else now
    end = day(ends, "--ends") if ends else begin + int(timedelta(days=days).total_seconds())
    bought, envelope = Office(directory).order(
        product_key=product_key,
        counts=counts_from(counts),
        starts=begin,
        ends=end,
        now=now,
        role=role,
    )
    write_durably(out, (envelope + "\n").encode(), mode=0o644)
    say(f"Order {bought.order_id} is in {out}")


@vendor_app.command()
def key(
    directory: Directory,
    serial: Annotated[list[str], typer.Option(help="A serial number; two for an HA pair.")],
    out: Output,
    counts: Annotated[list[str] | None, typer.Argument(help="Local TYPE=COUNT.")] = None,
    maximum: Annotated[
        list[str] | None, typer.Option(help="The device's maximum, TYPE=COUNT; repeatable.")
    ] = None,
    feature: Annotated[list[str] | None, typer.Option(help="Such as test_call.")] = None,
    ends: Annotated[
        str, typer.Option(help="First day on which it counts no more; without, it has no end.")
    ] = "",
    lab_clock: LabClock = "",
) -> None:
    """Sign a local license key bound to serial numbers."""
    local = counts_from(counts or [])
    now = int(clock_for(lab_clock).now().wall)
    end = day(ends, "--ends") if ends else None
    if end is not None and end <= now:
        raise LicenseError("bad_date", "--ends is a day to come.")
    made, envelope = Office(directory).key(
        serials=serial,
        counts=local,
        maximum=counts_from(maximum) if maximum else local,
        features=frozenset(feature or []),
        now=now,
        ends=end,
    )
    write_durably(out, (envelope + "\n").encode(), mode=0o644)
    say(f"Local key {made.key_id} for {', '.join(made.serials)} is in {out}")
