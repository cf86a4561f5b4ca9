"""The tables that `callpool pool usage` prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from callpool.licensing.capacity import LICENSE_TYPES

_BARS: Final = "▁▂▃▄▅▆▇█"
#: Bars in a line at most: more points are gathered, each bar showing the highest of them.
_WIDTH: Final = 24


def sparkline(values: Sequence[int], top: int) -> str:
    """Return `values` as a line of bars; `top` (or the highest value) is a full bar."""
    if not values:
        return ""
    per = -(-len(values) // _WIDTH)
    highest = [max(values[i : i + per]) for i in range(0, len(values), per)]
    full = max(top, *highest, 1)
    return "".join(_BARS[min(7, v * 8 // full)] for v in highest)


def _going(slope: float | None) -> str:
    return "too little data" if slope is None else f"{slope:+.1f} a day"


def _unit(name: str) -> str:
    return LICENSE_TYPES[name].unit


def _refusals(row: Mapping[str, Any]) -> str:
    return f"{row['refused']} (+{row['repeated']})" if row["repeated"] else str(row["refused"])


def _table(title: str, heads: Sequence[str], rights: Sequence[str]) -> Table:
    """Return an empty table: names are folded where the terminal is narrow, numbers are not."""
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for head in heads:
        table.add_column(head, overflow="fold")
    for head in rights:
        table.add_column(head, justify="right", no_wrap=True)
    return table


def tenants_table(value: Mapping[str, Any]) -> Table:
    """Return the sums of each tenant."""
    table = _table(
        "Tenants",
        ("Tenant", "License"),
        ("Allocated", "Now", "Peak", "95 %", "Refused", "Per day"),
    )
    for row in value["tenants"]:
        table.add_row(
            escape(row["tenant"]),
            _unit(row["type"]),
            *(str(row[key]) for key in ("allocated", "now", "peak", "p95")),
            _refusals(row),
            "unknown" if row["trend"] is None else f"{row['trend']:+.1f}",
        )
    table.caption = "Per day: the trend of the daily peak"
    return table


def advice_table(value: Mapping[str, Any]) -> Table:
    """Return what each device has and uses."""
    table = _table(
        "Devices",
        ("Device", "License"),
        ("Allocated", "Local", "Now", "Peak", "95 %", "Refused"),
    )
    for row in value["devices"]:
        table.add_row(
            escape(row["device"]),
            _unit(row["type"]),
            *(str(row[key]) for key in ("allocated", "local", "now", "peak", "p95")),
            _refusals(row),
        )
    table.caption = "Refused: true refusals (+ repeats of the same caller within 30 seconds)"
    return table


def trends_table(value: Mapping[str, Any]) -> Table:
    """Return where each device's use goes; a full bar is all that it has."""
    table = _table("Trends", ("Device", "License"), ("Trend",))
    table.add_column(f"By {value['by']}", no_wrap=True)
    lines = {(s["device"], s["type"]): [p["peak"] for p in s["points"]] for s in value["series"]}
    for row in value["devices"]:
        table.add_row(
            escape(row["device"]),
            _unit(row["type"]),
            _going(row["trend"]),
            sparkline(lines.get((row["device"], row["type"]), []), row["allocated"] + row["local"]),
        )
    return table


def course_tables(value: Mapping[str, Any]) -> Iterator[Table]:
    """Return every point of the course, a table for each device and license type."""
    for series in value["series"]:
        table = _table(
            f"{escape(series['device'])}, {_unit(series['type'])} by {value['by']}",
            (),
            ("From", "Peak", "Mean", "Cap", "Admitted", "Refused", "Minutes"),
        )
        for point in series["points"]:
            at = datetime.fromtimestamp(point["at"], UTC)
            table.add_row(
                at.strftime("%Y-%m-%d" if value["by"] == "day" else "%Y-%m-%d %H:%M"),
                str(point["peak"]),
                f"{point['mean']:.1f}",
                *(str(point[key]) for key in ("cap", "admitted")),
                _refusals(point),
                str(point["minutes"]),
            )
        yield table
