"""What `callpool pool usage` prints fits a terminal of 80 columns."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from callpool.manager.usage_tables import advice_table, course_tables, tenants_table, trends_table

ROW: dict[str, Any] = {
    "tenant": "north-and-south",
    "device": "sbc-frankfurt-1",
    "type": "sbc_sessions",
    "allocated": 25000,
    "local": 12000,
    "now": 20012,
    "peak": 21345,
    "p95": 20111,
    "refused": 1203,
    "repeated": 411,
    "trend": -112.4,
}
POINT = {"mean": 12345.6, "cap": 12000, "admitted": 120012, "minutes": 60}
VALUE: dict[str, Any] = {
    "by": "hour",
    "tenants": [ROW, ROW | {"type": "far_end_users", "trend": None}],
    "devices": [ROW, ROW | {"type": "far_end_users", "trend": None}],
    "series": [
        {
            "device": ROW["device"],
            "type": ROW["type"],
            "points": [POINT | {"at": 1.8e9 + 3600 * n, "peak": 100 * n, "refused": 1203,
                                "repeated": 411} for n in range(168)],
        }
    ],
}  # fmt: skip


def printed(*tables: Any) -> str:
    console = Console(width=80, color_system=None)
    with console.capture() as shown:
        for table in tables:
            console.print(table)
    return shown.get()


@pytest.mark.parametrize("table", [tenants_table, advice_table, trends_table])
def test_no_number_and_no_bar_is_cut_at_80_columns(table: Any) -> None:
    text = printed(table(VALUE))
    assert "…" not in text
    assert "sessions" in text
    if table is trends_table:
        assert "-112.4 a day" in text
        assert "too little data" in text
    else:
        assert text.count("1203 (+411)") == 2
        assert text.count("21345") == 2


def test_the_course_has_a_table_for_each_device_and_type_with_whole_times() -> None:
    text = printed(*course_tables(VALUE))
    assert "sbc-frankfurt-1, sessions by hour" in text
    assert "2027-01-15 08:00" in text
    assert text.count("1203 (+411)") == 168
    assert "…" not in text
