"""Restarts that wait for their window, by a real manager, its clock and the command line."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from managerkit import POOL, Device, Running, Site, cli, load, running

from callpool.host.clock import LabClock
from callpool.wire.envelope import HINTS, sign
from callpool.wire.messages import HINTS_PATH, HintsRequest

HOUR = 3600.0


class Place:
    """A manager with devices `a`, which is connected, and `b`, which is away."""

    def __init__(self, directory: Path) -> None:
        self.site = Site(directory / "manager")
        self.clock = LabClock(self.site.clock_file)
        self.manager = Running(self.site)
        #: Processes that are no more; the devices' connections are closed with them.
        self.ended: list[Running] = []
        for name in "ab":
            self.manager.add(name, name.upper())
        self.a, self.b = (self.manager.device(serial) for serial in "AB")
        for device in (self.a, self.b):
            device.contact()
        self.env = {
            "CALLPOOL_MANAGER": self.manager.url,
            "CALLPOOL_CA_FILE": str(self.site.layout.ca),
            "CALLPOOL_PASSWORD": self.site.password,
        }

    def restart_manager(self) -> None:
        """End the manager's process as a power cut would, and start another."""
        self.ended.append(self.manager)
        self.manager.process.kill()
        self.manager.process.wait()
        self.manager = Running(self.site)

    def close(self) -> None:
        self.manager.stop()
        for one in self.ended:
            one.close()

    def restarts(self) -> int:
        return len([e for e in self.journal() if e == "restart_ordered"])

    def journal(self) -> list[str]:
        return [e["cause"] for e in self.manager.call("GET", "/journal")["journal"]]

    def advance(self, seconds: float) -> None:
        self.clock.advance(seconds)
        for device in (self.a, self.b):
            device.ahead += seconds

    def window(self, *, hours: float, length: float = 2.0) -> str:
        """Return a window that opens in `hours`, on the minute."""
        begins = self.clock.now().wall + hours * HOUR

        def say(wall: float) -> str:
            return time.strftime("%H:%M", time.gmtime(wall))

        return f"{say(begins)}-{say(begins + length * HOUR)}"

    def cli(self, *words: str) -> tuple[int, str, str]:
        return cli(POOL, *words, env=self.env)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    made.close()


@contextmanager
def hints(device: Device) -> Iterator[Iterator[str]]:
    request = HintsRequest(
        url=device.manager.url + HINTS_PATH,
        nonce="n",
        serial=device.serial,
        time=time.time() + device.ahead,
    )
    with device.http.stream(
        "POST",
        device.manager.url + HINTS_PATH,
        content=sign(device.key, HINTS, request),
        headers={"content-type": "application/jose"},
    ) as stream:
        lines = stream.iter_lines()
        assert next(lines).startswith(":")
        yield (line for line in lines if line.startswith("data"))


def test_the_window_opens_by_the_managers_clock_for_those_who_are_there_and_those_who_are_away(
    place: Place,
) -> None:
    window = place.window(hours=2)
    for name in "ab":
        status, out, _ = place.cli("restart", name, "--save", "--window", window)
        assert (status, out) == (
            0,
            f"{name} is asked to restart with save in the window {window} UTC.\n",
        )
    reply = place.a.contact()
    assert reply.restart is None
    assert HOUR < reply.poll_seconds <= 2 * HOUR + 1
    _, out, _ = place.cli("show")
    assert f"b restarts with save in the window {window} UTC, which opens " in out
    with hints(place.a) as pulled:
        place.advance(2 * HOUR)
        next(pulled)  # by the manager's own sweep
        order = place.a.contact().restart
    assert order is not None
    assert order.save
    assert order.until > place.clock.now().wall
    place.a.restart_done = order.number
    assert place.a.contact().restart is None
    place.advance(3 * HOUR)
    assert place.b.contact().restart is None  # it has closed
    # The manager's process ends; what waits does not.
    place.restart_manager()
    place.b.moved(place.manager)
    place.advance(22 * HOUR)
    late = place.b.contact().restart
    assert late is not None
    assert place.restarts() == 2
    shown = {d["name"]: d["restart_window"] for d in place.manager.pool()["devices"]}
    assert shown["a"] is None
    assert (shown["b"]["open"], shown["b"]["waits_for"]) == (True, ["B"])


def test_a_restart_that_waits_is_cancelled_and_bad_words_are_refused(place: Place) -> None:
    window = place.window(hours=2)
    status, out, _ = place.cli("restart", "a", "--window", window, "--json")
    assert (status, load(out)) == (0, {"name": "a", "save": False, "window": window})
    status, out, _ = place.cli("restart", "a", "--cancel")
    assert (status, out) == (0, "a is not asked to restart any more.\n")
    place.advance(2 * HOUR)
    assert place.a.contact().restart is None
    for words, code in (
        (("a", "--cancel"), "no_restart_waits"),
        (("a", "--window", "25:00-26:00"), "bad_window"),
        (("a", "--window", window, "--cancel"), "bad_request"),
        (("nobody", "--window", window), "unknown_device"),
        (("nobody", "--cancel"), "unknown_device"),
    ):
        status, out, error = place.cli("restart", *words)
        assert (status, out) == (1, "")
        assert error.endswith(f". [{code}]\n")
        assert error.count("\n") == 1


def test_two_processes_of_a_manager_hand_an_order_out_once(place: Place) -> None:
    place.cli("restart", "a", "--window", place.window(hours=0.0))
    with running(place.site) as second:
        first = place.a.contact().restart
        assert first is not None
        place.a.moved(second)
        again = place.a.contact().restart
    assert again == first
    assert place.restarts() == 1
