"""The page of an HA pair: which unit is active, what each runs, and a whole hitless run."""

from __future__ import annotations

import re
from pathlib import Path

from managerkit import Running, Site, running
from managerpairkit import Pair, S

NAME = "edge"


class Reader:
    """A person with a browser's session, who reads one page and presses its buttons."""

    def __init__(self, manager: Running) -> None:
        self.http = manager.client(signed_in=False)
        form = {"username": "admin", "password": manager.site.password, "next": "/"}
        assert self.http.post("/sign-in", data=form).status_code == 303

    def page(self) -> str:
        reply = self.http.get(f"/devices/{NAME}")
        assert reply.status_code == 200, reply.text
        return re.sub(r"\s+", " ", reply.text)

    def press(self, verb: str, status: int = 303) -> str:
        csrf = re.search(r'name="csrf" value="([^"]+)"', self.page())
        assert csrf is not None
        reply = self.http.post(f"/devices/{NAME}/{verb}", data={"csrf": csrf[1]})
        assert reply.status_code == status, reply.text
        return reply.text


def turn(pair: Pair) -> None:
    for serial in pair.units:
        pair.call(serial)


def test_a_pair_is_seen_and_its_installation_begun_followed_stopped_and_resumed(
    tmp_path: Path,
) -> None:
    with running(Site(tmp_path / "manager")) as manager:
        manager.import_order(manager.site.order("PO-1", sbc_sessions=1_000))
        pair = Pair(manager, NAME, "E1-A", "E1-B")
        manager.call("PUT", f"/devices/{NAME}/allocation", {S: 100}, 200)
        pair.settle()
        manager.call("PUT", f"/devices/{NAME}/allocation", {S: 140}, 200)
        turn(pair)
        turn(pair)
        reader = Reader(manager)
        page = reader.page()
        assert '<strong class="good">active</strong>' in page
        assert "<span>redundant</span>" in page
        assert "Waits for its installation." in page
        assert "100 sessions" in page
        reader.press("hitless")
        page = reader.page()
        assert re.search(r"Hitless installation of 140 sessions.*running", page)
        assert "Stop it safely" in page
        assert "Roll back" in page
        assert "0 of 4 steps" in page
        reader.press("hitless/stop")
        assert "Resume" in reader.page()
        assert "no_hitless" not in reader.press("hitless/resume")
        for _ in range(40):
            turn(pair)
            if ">complete</span>" in reader.page():
                break
        page = reader.page()
        assert 'Hitless installation of 140 sessions: <span class="good">complete</span>' in page
        assert "4 of 4 steps" in page
        assert "Install without touching a call" in page
        assert pair.state() == ("E1-A", 140, 140)
        assert "hitless" in reader.press("hitless/stop", 409)
