from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from callpool.host.ports import free_port
from callpool.lab.answerer import changes, most
from callpool.lab.commands import PROXIES, seconds_from
from callpool.lab.fleet import Builder, Plan
from callpool.lab.hostile import FAULTS, Hostile
from callpool.lab.processes import run, spawn, stop, wait_for
from callpool.lab.spec import read_lab
from callpool.licensing.errors import CallpoolError


def line(time: float, way: str, call: str, what: str) -> str:
    return f"2027-01-01\t00:00:00\t{time}\t{way}\t{call}\tCSeq:1 X\t{what}\n"


def test_the_trace_counts_each_call_once_from_its_invite_to_its_bye() -> None:
    trace = [
        line(1.0, "R", "a", "INVITE sip:1 SIP/2.0"),
        line(1.1, "R", "a", "INVITE sip:1 SIP/2.0"),  # a retransmission or a re-INVITE
        line(1.2, "S", "a", "SIP/2.0 200 OK"),
        line(1.3, "R", "b", "INVITE sip:1 SIP/2.0"),
        line(1.4, "R", "a", "BYE sip:1 SIP/2.0"),
        line(1.5, "R", "a", "BYE sip:1 SIP/2.0"),
        line(1.6, "R", "c", "INVITE sip:1 SIP/2.0"),
        "torn line",
    ]
    assert list(changes(trace)) == [(1.0, 1), (1.3, 1), (1.4, -1), (1.6, 1)]
    assert most(changes(trace)) == 2


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("1.5h", 5400), ("89d", 89 * 86_400)]
)
def test_a_time_is_a_number_and_its_unit(text: str, seconds: float) -> None:
    assert seconds_from(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "d", "-1d", "5w", "1e3s"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(CallpoolError, match="is not a time"):
        seconds_from(text)


def test_a_process_is_stopped_by_its_identity_and_its_number_alone_is_not_enough(
    tmp_path: Path,
) -> None:
    ours = spawn("sleeper", ["sleep", "60"], tmp_path / "log")
    other = type(ours)(name="other", pid=ours.pid, started=ours.started + 1)
    stop(other, grace=1)
    assert Path(f"/proc/{ours.pid}").exists()
    stop(ours, grace=5)
    wait_for("it to be gone", lambda: not Path(f"/proc/{ours.pid}").exists(), seconds=5)


def test_who_was_killed_by_others_is_reaped_with_the_next_one(tmp_path: Path) -> None:
    killed = spawn("killed", ["sleep", "60"], tmp_path / "log")
    ours = spawn("ours", ["sleep", "60"], tmp_path / "log")
    os.kill(killed.pid, signal.SIGKILL)
    stat = f"/proc/{killed.pid}/stat"
    wait_for("a zombie", lambda: Path(stat).read_text().split()[2] == "Z", seconds=60)
    stop(ours, grace=5)
    assert not Path(stat).exists()


def test_a_command_that_fails_is_told_by_its_own_last_line() -> None:
    with pytest.raises(CallpoolError, match="no such lab") as caught:
        run(["sh", "-c", "echo no such lab >&2; exit 3"])
    assert caught.value.code == "command_failed"


def test_waiting_in_vain_ends_and_says_for_what() -> None:
    with pytest.raises(CallpoolError, match="for rain"):
        wait_for("rain", lambda: False, seconds=0.05)


def test_a_directory_without_a_lab_is_said_to_hold_none(tmp_path: Path) -> None:
    with pytest.raises(CallpoolError, match="callpool lab up"):
        read_lab(tmp_path)
    (tmp_path / "lab.json").write_text("{}")
    with pytest.raises(CallpoolError) as caught:
        read_lab(tmp_path)
    assert caught.value.code == "bad_lab"


def test_free_ports_differ() -> None:
    assert len({free_port() for _ in range(20)}) > 15


def test_a_hostile_authority_repeats_itself_by_its_seed_and_spoils_its_share(
    tmp_path: Path,
) -> None:
    def chosen(seed: int, share: float) -> list[str]:
        made = Hostile(directory=tmp_path, upstream="https://localhost:1", share=share, seed=seed)
        return [made.choose() for _ in range(1000)]

    assert chosen(1, 0.5) == chosen(1, 0.5) != chosen(2, 0.5)
    assert 400 < sum(1 for fault in chosen(1, 0.5) if fault) < 600
    assert set(chosen(1, 1.0)) == set(FAULTS)
    assert not any(chosen(1, 0.0))


def test_ports_of_one_lab_are_all_different_and_a_lab_names_what_each_device_is(
    tmp_path: Path,
) -> None:
    builder = Builder(tmp_path / "lab", Plan(), lambda _: None)
    ports = [builder.port() for _ in range(50)]
    assert len(set(ports)) == 50
    assert Plan().proxies == ()
    assert PROXIES == ("proxy-1", "proxy-2")
