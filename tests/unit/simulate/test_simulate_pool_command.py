"""`callpool simulate pool` as it is typed: JSON lines, a table, a refused script."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from callpool.cli import build
from callpool.host.console import run

SESSIONS, USERS = "sbc_sessions", "far_end_users"


def test_the_command_prints_a_line_a_change_and_a_total(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "script.json"
    script = {
        "purchased": {SESSIONS: 5},
        "devices": [{"name": "A", "apply": "live"}],
        "until_days": 1,
        "events": [
            {"at_seconds": 0.5, "do": "allocate", "device": "A", SESSIONS: 5},
            {"at_seconds": 1, "do": "allocate", "device": "A", SESSIONS: 6},
        ],
    }
    file.write_text(json.dumps(script))
    words = ["simulate", "pool", "--script", str(file)]
    assert run(build(words), [*words, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    nothing, five = {SESSIONS: 0, USERS: 0}, {SESSIONS: 5, USERS: 0}
    assert lines[1] == {
        "at_seconds": 0.5,
        "device": "A",
        "remote": five,
        "applied": five,
        "local": nothing,
        "actual": five,
        "in_service": True,
        "pending_restart": False,
        "cause": "allocate",
    }
    assert lines[2]["refused"] == "pool_exceeded"
    assert lines[2]["sentence"].endswith("at most 5.")
    assert lines[-1] == {"checked": lines[-1]["checked"], "violations": 0}
    assert run(build(words), words) == 0
    table = capsys.readouterr().out
    assert "5 / 0" in table
    assert "[pool_exceeded]" in table
    file.write_text("{")
    assert run(build(words), words) == 1
    assert "[bad_script]" in capsys.readouterr().err
