"""`callpool pool usage`: who can spare licenses, who is short, and the course of use."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Annotated, Any, Final
from urllib.parse import urlencode

import msgspec
import typer

from callpool.host.console import console, say
from callpool.licensing.errors import LicenseError
from callpool.manager.client import ManagerClient
from callpool.manager.usage_tables import advice_table, course_tables, tenants_table, trends_table

_UNITS: Final = {"m": 60.0, "h": 3600.0, "d": 86_400.0}


def window(text: str) -> float:
    """Read a time back such as 90m, 12h or 7d, in seconds; raises LicenseError `bad_duration`."""
    match = re.fullmatch(r"(\d{1,5})([mhd])", text)
    if match is None or not int(match[1]):
        raise LicenseError("bad_duration", f"{text[:40]!r} is not a time such as 90m, 12h or 7d.")
    return int(match[1]) * _UNITS[match[2]]


def usage(
    context: typer.Context,
    tenant: Annotated[str, typer.Option(help="Only this tenant.")] = "",
    device: Annotated[str, typer.Option(help="Only this device.")] = "",
    license_type: Annotated[str, typer.Option("--type", help="Only this license type.")] = "",
    since: Annotated[str, typer.Option(help="How far back, such as 90m, 12h or 7d.")] = "7d",
    by: Annotated[str, typer.Option(help="minute, hour or day: show the course as well.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show how much of the pool is used: who can spare, who is short, and the trend."""
    back = window(since)
    opened: Callable[[], ManagerClient] = context.obj
    with opened() as client:
        asked = {"tenant": tenant, "device": device, "type": license_type}
        asked = {k: v for k, v in asked.items() if v} | {"since": f"{back:.0f}"}
        value = client.call("GET", f"/usage/advice?{urlencode(asked)}")
        step = by or ("day" if back > 2 * _UNITS["d"] else "hour")
        course = client.call("GET", f"/usage?{urlencode(asked | {'by': step})}")
    value |= {"by": course["by"], "series": course["series"]}
    if as_json:
        sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
        return
    show(value, with_course=bool(by))


def show(value: dict[str, Any], *, with_course: bool) -> None:
    """Print the answers for people."""
    console.print(tenants_table(value))
    console.print(advice_table(value))
    console.print(trends_table(value))
    if with_course:
        for table in course_tables(value):
            console.print(table)
    for title, key in (("Who can spare?", "can_spare"), ("Who is short?", "is_short")):
        say(title)
        tenant = ""
        for found in value[key]:
            if found["tenant"] != tenant:
                tenant = found["tenant"]
                say(f"  Tenant {tenant}")
            say(f"    {found['device']}, {found['type']}: {found['answer']}")
        if not value[key]:
            say("  Nobody.")
    if value["next"]:
        say("More devices are not shown: ask for a tenant or a device.")
