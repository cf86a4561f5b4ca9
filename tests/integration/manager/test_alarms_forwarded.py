"""What the manager forwards, to snmptrapd; killed, targets down, expected alarms."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from managerkit import Running, eventually
from northkit import AUTH, PRIVACY, TRAPS, USER, Alarms, alarms, quick, ready, set_snmp

from callpool.host.ports import free_port
from callpool.host.snmp.engine import engine_id
from callpool.licensing.alarm_feed import HITLESS_RUN
from callpool.manager.alarms import expect, expect_no_more
from callpool.manager.core import Manager

GLOBALS = ".1.3.6.1.4.1.5003.9.10.1.21.1."
TRAP_OID = ".1.3.6.1.6.3.1.1.4.1.0"


class Center:
    """A network operations centre: snmptrapd on a free port, taking traps and informs."""

    def __init__(self, home: Path, identity: str = "") -> None:
        home.mkdir()
        self.home, self.port = home, free_port()
        self.address = f"127.0.0.1:{self.port}"
        self._log = home / "traps"
        self._process: subprocess.Popen[bytes] | None = None
        self.trust(identity)

    def trust(self, identity: str) -> None:
        """Take traps of the engine of this product key, and informs of anybody's."""
        keys = f"{USER} SHA-256 {AUTH} AES {PRIVACY}"
        (self.home / "snmptrapd.conf").write_text(
            f"createUser -e 0x{engine_id(identity).hex()} {keys}\ncreateUser {keys}\n"
            f"authUser log {USER}\n"
        )

    def start(self) -> None:
        (self.home / "state").mkdir(exist_ok=True)
        starts = self._starts()
        with (self.home / "out").open("ab") as out:
            self._process = subprocess.Popen(
                ["snmptrapd", "-f", "-n", "-A", "-Lf", str(self._log), "-OnQe",
                 "-F", r"NOTIFY %v\n", f"udp:{self.address}"],
                stdout=out, stderr=out,
                env={**os.environ, "SNMPCONFPATH": f"{self.home}:{self.home}/state", "MIBS": "",
                     "SNMP_PERSISTENT_DIR": f"{self.home}/state"},
            )  # fmt: skip
        eventually(lambda: self._starts() > starts)

    def _starts(self) -> int:
        # What it says when it stops has a time before it.
        return sum(line.startswith("NET-SNMP version") for line in self._text().splitlines())

    def _text(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def got(self) -> list[dict[str, str]]:
        found = []
        for line in self._text().splitlines():
            if line.startswith("NOTIFY "):
                binds = (b.split(" = ", 1) for b in line.removeprefix("NOTIFY ").split("\t"))
                found.append({b[0]: b[1].strip('"') for b in binds if len(b) == 2})
        return found

    def told(self, serial: str = "") -> list[tuple[str, str, str]]:
        """(number, severity, text) of each alarm, in order."""
        return [
            (n[TRAP_OID].rpartition(".")[2], n[f"{GLOBALS}4.0"], n[f"{GLOBALS}2.0"])
            for n in self.got()
            if not serial or n[f"{GLOBALS}16.0"] == serial
        ]

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait(30)


@pytest.fixture
def centers(tmp_path: Path) -> Iterator[tuple[Center, Center]]:
    made = Center(tmp_path / "informed"), Center(tmp_path / "trapped")
    yield made
    for center in made:
        center.stop()


def target(center: Center, kind: str, **filtered: Any) -> dict[str, Any]:
    return {"address": center.address, "kind": kind, "user": USER, "filter": filtered}


def begin(center: Center, alarms: Alarms) -> None:
    center.trust(alarms.site.product_key)
    center.start()


def positions(alarms: Alarms) -> dict[str, Any]:
    return {t["name"]: t for t in alarms.links()["targets"]}


def test_alarms_are_forwarded_with_the_device_filled_in_and_filtered(
    tmp_path: Path, centers: tuple[Center, Center]
) -> None:
    informed, trapped = centers
    with alarms(
        tmp_path,
        devices=[{"serial": "S1", "description": "rack 1"}],
        targets=[target(informed, "inform"), target(trapped, "trap", severity="major")],
    ) as made:
        begin(informed, made)
        begin(trapped, made)
        eventually(lambda: len(positions(made)) == 2)
        sender = made.sender("S1")
        sender.notify(106, 3, text="minor", info="detail", source="Board#1")
        sender.notify(107, 4, text="major")
        sender.notify(107, 2, text="less")
        sender.notify(106, 0, text="minor", source="Board#1")
        sender.notify(107, 0, text="less")
        wanted = [("106", "3", "minor"), ("107", "4", "major"), ("107", "2", "less"),
                  ("106", "0", "minor"), ("107", "0", "less")]  # fmt: skip
        eventually(lambda: sorted(informed.told()) == sorted(wanted))
        graver = [w for w in wanted if w[0] == "107"]
        eventually(lambda: trapped.told() == graver)
        assert [w for w in informed.told() if w[0] == "107"] == graver, "in order"
        first = next(n for n in informed.got() if n[TRAP_OID] == f".{TRAPS}.106")
        assert len(first) == 18, "sysUpTime, snmpTrapOID and 16"
        assert first[f"{GLOBALS}1.0"] == "105"
        assert first[f"{GLOBALS}3.0"] == "Board#1"
        assert first[f"{GLOBALS}8.0"] == "detail"
        assert first[f"{GLOBALS}13.0"] == "s1"
        assert first[f"{GLOBALS}14.0"] == "tenant default"
        assert first[f"{GLOBALS}15.0"] == "rack 1"
        assert first[f"{GLOBALS}16.0"] == "S1"
        assert AUTH not in str(made.links())


def test_a_target_that_is_down_delays_nobody_and_loses_nothing(
    tmp_path: Path, centers: tuple[Center, Center]
) -> None:
    informed, trapped = centers
    with alarms(tmp_path, targets=[target(informed, "inform"), target(trapped, "inform")]) as made:
        begin(trapped, made)
        made.manager.device("S1")
        sender = made.sender("S1")
        told = []
        for number in range(6):
            sender.notify(106, 4 if number % 2 == 0 else 0, text=f"turn {number}", inform=True)
            told.append(f"turn {number}")
            eventually(lambda: [t[2] for t in trapped.told("S1")] == told)
            assert quick(made) < 5.0
        assert informed.got() == []
        made.advance(60)
        eventually(lambda: positions(made)[f"snmp inform {informed.address}"]["failing_since"])
        made.advance(60)
        down = eventually(lambda: [a for a in made.active() if a["codes"] == ["target_down"]])
        assert informed.address in down[0]["text"]
        begin(informed, made)
        eventually(lambda: [t[2] for t in informed.told("S1")] == told, within=120)
        eventually(lambda: not [a for a in made.active() if a["codes"] == ["target_down"]])
        # The other target was told of it, raised and cleared.
        about = [t for t in trapped.told() if t[0] == "109"]
        eventually(lambda: [t[1] for t in trapped.told() if t[0] == "109"] == ["4", "0"])
        assert informed.address in about[0][2]


def test_a_manager_that_is_killed_forgets_nothing_and_repeats_nothing(
    tmp_path: Path, centers: tuple[Center, Center]
) -> None:
    informed, trapped = centers
    with alarms(tmp_path, targets=[target(informed, "inform"), target(trapped, "trap")]) as made:
        begin(informed, made)
        begin(trapped, made)
        eventually(lambda: len(positions(made)) == 2)
        sender = made.sender("S1")
        sender.notify(106, 4, text="before", inform=True)
        eventually(lambda: trapped.told() == [("106", "4", "before")])
        (alarm,) = made.active()
        made.manager.call("POST", f"/alarms/{alarm['id']}/acknowledge", {"note": "seen"}, 200)
        informed.stop()
        # Acknowledged by us, so it is on disk, whatever happens to us now.
        sender.notify(107, 4, text="during", inform=True)
        process = made.pid()
        os.kill(process, signal.SIGKILL)
        made.manager.kill()
        eventually(lambda: not Path(f"/proc/{process}").exists())
        with pytest.raises(AssertionError):
            sender.notify(125, 4, text="nobody hears this", inform=True)
        again = Running(made.site)
        made.manager = again
        try:
            ready(made)
            begin(informed, made)
            shown = {a["oid"].rpartition(".")[2]: a for a in made.active()}
            assert set(shown) == {"106", "107"}
            assert (shown["106"]["acknowledged_by"], shown["106"]["note"]) == ("admin", "seen")
            sender.notify(107, 0, text="after", inform=True)
            wanted = [("106", "4", "before"), ("107", "4", "during"), ("107", "0", "after")]
            eventually(lambda: trapped.told() == wanted)
            eventually(lambda: informed.told() == wanted)
        finally:
            again.stop()


def test_alarms_of_a_hitless_run_are_expected_while_it_lasts(
    tmp_path: Path, centers: tuple[Center, Center]
) -> None:
    informed, _ = centers
    with alarms(tmp_path, targets=[target(informed, "inform")]) as made:
        begin(informed, made)
        eventually(lambda: positions(made))
        manager = Manager(made.site.layout)
        now = manager.clock.now().wall
        device = made.site.sql("SELECT device_id FROM device WHERE name = 's1'")[0][0]
        manager.change(
            "admin",
            "here",
            lambda c: expect(c, device, HITLESS_RUN, until=now + 600, why="hitless run 1"),
        )
        sender, other = made.sender("S1"), made.sender("S2")
        fault, module = "HA: waiting for the redundant", "System#0/Module#2"
        sender.notify(48, 1, text="Hitless: Start software upgrade.", inform=True)
        sender.notify(33, 3, text=fault, source=module, inform=True)
        sender.notify(33, 0, text=fault, source=module, inform=True)
        sender.notify(35, 5, text="Switch-over", inform=True)
        sender.notify(106, 4, text="not of the run", inform=True)
        other.notify(35, 5, text="not of the pair", inform=True)
        assert {(a["name"], a["expected"]) for a in made.active(expected="true")} == {
            ("acHASystemSwitchOverAlarm", "hitless run 1")
        }
        assert made.told("S1") == {("35", "critical"), ("106", "major")}
        told = [("106", "4", "not of the run"), ("35", "5", "not of the pair")]
        eventually(lambda: informed.told() == told)
        # Its time is over, and it is active still.
        made.advance(601)
        told.append(("35", "5", "Switch-over"))
        eventually(lambda: informed.told() == told)
        assert made.active(expected="true") == []
        assert made.course("S1")[-1] == ("35", "unexpected", "critical")
        sender.notify(35, 0, text="Switch-over", inform=True)
        sender.notify(33, 3, text=fault, source=module, inform=True)
        told += [("35", "0", "Switch-over"), ("33", "3", fault)]
        eventually(lambda: informed.told() == told)
        # A run that ends before its time: what is active then is unexpected at once.
        now = manager.clock.now().wall
        manager.change(
            "admin", "here",
            lambda c: expect(c, device, HITLESS_RUN, until=now + 600, why="hitless run 2"),
        )  # fmt: skip
        sender.notify(35, 5, text="Again", inform=True)
        manager.change("admin", "here", lambda c: expect_no_more(c, device))
        told.append(("35", "5", "Again"))
        eventually(lambda: informed.told() == told)
        manager.close()


def test_an_address_that_is_taken_is_alarmed_and_tried_again(
    tmp_path: Path, centers: tuple[Center, Center]
) -> None:
    with alarms(tmp_path) as made:
        port = free_port()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("127.0.0.1", port))
            set_snmp(made.site, port)
            made.port = port
            since = "SELECT failing_since FROM alarm_target WHERE name = 'receiver'"
            eventually(lambda: made.site.sql(since))
            made.advance(60)
            eventually(lambda: [a for a in made.active() if a["codes"] == ["receiver_down"]])
        ready(made)
        eventually(lambda: made.active() == [])
        # A file that somebody has edited by hand is alarmed as well, and nothing else suffers.
        whole = made.site.layout.snmp.read_bytes()
        made.site.layout.snmp.write_text("{torn")
        eventually(lambda: made.site.sql(since))
        made.advance(60)
        (down,) = eventually(made.active)
        assert down["codes"] == ["receiver_down"]
        assert "snmp.json" in down["text"]
        made.site.layout.snmp.write_bytes(whole)
        eventually(lambda: made.active() == [], within=120)
        ready(made)
        made.sender("S1").notify(106, 4, inform=True)
        assert made.told("S1") == {("106", "major")}
        began = time.monotonic()
        assert made.manager.stop() == 0
        assert time.monotonic() - began < 30
