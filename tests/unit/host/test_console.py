from __future__ import annotations

from pathlib import Path

import pytest
import typer

from callpool.host.console import counts_from, run
from callpool.licensing.capacity import MAX_COUNT, Capacity
from callpool.licensing.errors import CallpoolError, LicenseError


def test_a_bare_count_means_sbc_sessions() -> None:
    assert counts_from(["50", "far_end_users=3"]) == Capacity.of(sbc_sessions=50, far_end_users=3)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["sbc_sessions=-1"], "bad_count"),
        (["sbc_sessions=1.5"], "bad_count"),
        ([f"sbc_sessions={MAX_COUNT + 1}"], "bad_count"),
        (["sbc_sessions="], "bad_count"),
        (["trunks=5"], "unknown_license_type"),
        (["5", "sbc_sessions=6"], "repeated_license_type"),
    ],
)
def test_a_count_that_cannot_be_is_refused_by_its_code(words: list[str], code: str) -> None:
    with pytest.raises(LicenseError) as caught:
        counts_from(words)
    assert caught.value.code == code


def _app() -> typer.Typer:
    app = typer.Typer(pretty_exceptions_enable=False, add_completion=False)

    @app.command()
    def act(what: str, as_json: bool = typer.Option(False, "--json")) -> None:
        if what == "refuse":
            raise CallpoolError("some_code", "It cannot be.")
        if what == "exit":
            raise typer.Exit(3)
        if what == "file":
            Path("/nonexistent/file").read_bytes()

    return app


@pytest.mark.parametrize(
    ("words", "status"),
    [(["fine"], 0), (["refuse"], 1), (["exit"], 3), (["file"], 1), (["--nope"], 2), ([], 2)],
)
def test_the_exit_status_tells_success_failure_and_usage_apart(
    words: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(_app(), words) == status
    assert "Traceback" not in capsys.readouterr().err


def test_an_error_is_one_sentence_with_its_code_and_json_where_asked(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(_app(), ["refuse", "--json"]) == 1
    said = capsys.readouterr()
    assert said.err == "callpool: It cannot be. [some_code]\n"
    assert said.out == '{"code":"some_code","detail":"It cannot be."}\n'
