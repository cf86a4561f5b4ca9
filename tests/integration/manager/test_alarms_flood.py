"""A flood of notifications, good ones and garbage: contacts stay fast, memory stays flat."""

from __future__ import annotations

import secrets
import socket
import time
from pathlib import Path

from managerkit import eventually
from northkit import Alarms, Sender, alarms, memory, quick

#: Datagrams of each kind.
MANY = 10_000
#: KiB by which the alarm process may grow in a flood, and the manager.
GROWTH = 24 * 1024


def captured(made: Alarms, serial: str, several: int) -> list[bytes]:
    """Real traps of one unit, that raise and clear in turn, as they go over the wire."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tap:
        tap.bind(("127.0.0.1", 0))
        tap.settimeout(30)
        sender = Sender(made.home, serial, tap.getsockname()[1])
        found = []
        for number in range(several):
            sender.notify(106 + number % 2, 4 if number % 4 < 2 else 0, text=f"turn {number}")
            found.append(tap.recv(65_536))
        return found


def flood(port: int, messages: list[bytes], many: int, between: float) -> None:
    """Send as fast as the loopback takes it, with a breath now and then."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number in range(many):
            sender.sendto(messages[number % len(messages)], ("127.0.0.1", port))
            if number % 100 == 0:
                time.sleep(between)


def dropped(port: int) -> int:
    """What the kernel has thrown away of what came to a UDP port: nobody was there in time."""
    for line in Path("/proc/net/udp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].partition(":")[2], 16) == port:
            return int(fields[-1])
    return 0


def test_a_flood_delays_no_contact_and_fills_nothing(tmp_path: Path) -> None:
    with alarms(tmp_path, units=("S1", "S2", "S3")) as made:
        made.manager.device("S1")
        calm = min(quick(made) for _ in range(10))
        traps = captured(made, "S2", 24)
        garbage = [secrets.token_bytes(200) for _ in range(50)]
        garbage += [t[:80] + secrets.token_bytes(len(t) - 80) for t in traps]
        # What is loaded and remembered once is no growth.
        flood(made.port, traps + garbage, 400, 0.05)
        eventually(lambda: made.counted("taken") > 20)
        process, manager = made.pid(), made.manager.process.pid
        before = memory(process), memory(manager)
        slowest = 0.0
        for messages in (traps, garbage):
            for _ in range(20):
                flood(made.port, messages, MANY // 20, 0.01)
                slowest = max(slowest, quick(made))
        assert slowest < max(2.0, 50 * calm), f"{slowest:.3f} s, calm {calm:.3f} s"
        eventually(lambda: made.counted("limited") + dropped(made.port) > MANY // 2)
        eventually(lambda: made.counted("limited") > 0)
        grown = memory(process) - before[0], memory(manager) - before[1]
        assert max(grown) < GROWTH, f"grown by {grown} KiB"
        # Bounded in the database too, and another unit is heard as ever.
        (rows,) = made.site.sql("SELECT count(*) FROM alarm_event WHERE serial = 'S2'")[0]
        assert rows <= 1_000
        assert len(made.active()) <= 3
        eventually(lambda: heard_again(made))
        assert made.pid() == process, "the alarm process has not ended meanwhile"
        print(f"calm {calm:.4f} s, slowest {slowest:.4f} s, grown {grown} KiB, {rows} events")


def heard_again(made: Alarms) -> bool:
    """Whether a trap of another unit is taken: once the flood's rate is behind us."""
    made.sender("S3").notify(107, 4)
    return made.told("S3") == {("107", "major")}
