"""`make demo`: the Fixed License Pool's example (seed `004`), live on real SIP calls.

Every number on the screen is read from the running system; every claim is checked, and the
demo succeeds only if all of them held.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from rich.box import SIMPLE_HEAD
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from callpool.host.console import console, say
from callpool.host.sipp import SippResult, caller, register
from callpool.lab.answerer import changes, most
from callpool.lab.fleet import REALM, environment_of, user_name, user_password
from callpool.lab.handle import LabHandle
from callpool.lab.processes import wait_for
from callpool.lab.spec import DeviceEntry
from callpool.licensing.capacity import FAR_END_USERS, SBC_SESSIONS

#: What the demo's order buys.
ORDER: Final = {FAR_END_USERS: 20, SBC_SESSIONS: 60}
#: The seed's allocation of far-end users, and after 5 are taken back from A.
USERS_FIRST: Final = {"sbc-a": 10, "sbc-b": 8, "sbc-c": 2}
USERS_THEN: Final = {"sbc-a": 5, "sbc-b": 11, "sbc-c": 4}
SESSIONS: Final = {"sbc-a": 30, "sbc-b": 20, "sbc-c": 10}
#: How long each call of the load is held, and for how long calls are offered, in seconds.
HOLD: Final = 3.0
LOAD: Final = 9.0
#: How many times the licensed sessions are offered.
TIMES: Final = 3


@dataclass(frozen=True, slots=True)
class Outcome:
    """One claim of the demo and whether it held."""

    claim: str
    held: bool


@dataclass(slots=True)
class Demo:
    """One run of the demo on a lab that is up."""

    lab: LabHandle
    outcomes: list[Outcome] = field(default_factory=list)

    def check(self, claim: str, held: bool) -> None:
        """Show a claim and remember whether it held."""
        self.outcomes.append(Outcome(claim, held))
        console.print(f"  [{'green' if held else 'red'}]{'✓' if held else '✗'}[/] {claim}")

    def type(self, *words: str) -> tuple[int, str]:
        """Run a command as an operator would, shown with its answer; returns (status, said)."""
        console.print(f"[bold]$ callpool {' '.join(words)}[/]", highlight=False, soft_wrap=True)
        done = subprocess.run(
            [sys.executable, "-m", "callpool", *words],
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            env={
                "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                **environment_of(self.lab.lab.manager),
            },
        )
        said = (done.stdout + done.stderr).strip()
        say(said)
        return done.returncode, said

    def free(self, name: str) -> int:
        """Return how many of one license type the pool can still give."""
        return int(self.lab.pool()["types"][name]["free"])

    def show_devices(self, title: str) -> None:
        """Draw Remote, Local, Actual and what waits for a restart, for every device."""
        table = Table(
            "Device", "License", "Remote", "Local", "Actual", "after restart", "in use",
            title=title, box=SIMPLE_HEAD,
        )  # fmt: skip
        for device in self.lab.devices:
            for row in self.lab.status(device.name)["capacity"]:
                waits = row["pending"] != row["actual"]
                table.add_row(
                    device.name,
                    row["label"],
                    *(str(row[c]) for c in ("remote", "local", "actual")),
                    str(row["pending"]) if waits else "",
                    str(row["in_use"]),
                )
        console.print(table)

    def await_counts(self, column: str, name: str, wanted: Mapping[str, int]) -> None:
        """Wait until every device shows `wanted`; a claim that fails is shown by `check`."""
        deadline = time.monotonic() + 20
        while self.lab.counts(column, name) != dict(wanted) and time.monotonic() < deadline:
            time.sleep(0.05)

    def restart_all(self) -> None:
        """Restart every device with save, from the manager."""
        for device in self.lab.devices:
            self.type("pool", "restart", device.name, "--save")

    # -- the scenes

    def order(self) -> None:
        """Sign, import and show an order."""
        file = self.lab.directory / "demo-order.jws"
        self.type(
            "vendor", "order", "--dir", self.lab.lab.vendor.directory,
            "--product-key", self.lab.lab.manager.product_key, "--out", str(file),
            *(f"{name}={count}" for name, count in ORDER.items()),
        )  # fmt: skip
        self.type("pool", "order", str(file))
        types = self.lab.pool()["types"]
        self.check(
            "the pool holds 20 far-end users and 60 SBC sessions, all free",
            {n: (types[n]["purchased"], types[n]["free"]) for n in ORDER}
            == {n: (count, count) for n, count in ORDER.items()},
        )

    def allocation(self) -> None:
        """Give A, B and C 10, 8 and 2; one more is refused; a restart with save applies it."""
        for name, users in USERS_FIRST.items():
            self.type(
                "pool", "allocate", name, f"far_end_users={users}",
                f"sbc_sessions={SESSIONS[name]}",
            )  # fmt: skip
        code, said = self.type("pool", "allocate", "sbc-c", "far_end_users=3")
        self.check("one more is refused in one sentence", code == 1 and len(said.split("\n")) == 1)
        self.await_counts("remote", FAR_END_USERS, USERS_FIRST)
        self.show_devices("Received, not yet applied")
        self.check(
            "Remote is 10, 8 and 2; Actual is still 0",
            self.lab.counts("remote", FAR_END_USERS) == USERS_FIRST
            and set(self.lab.counts("actual", FAR_END_USERS).values()) == {0},
        )
        self.restart_all()
        self.await_counts("actual", FAR_END_USERS, USERS_FIRST)
        self.show_devices("After a restart with save")
        self.check("Actual follows Remote", self.lab.counts("actual", FAR_END_USERS) == USERS_FIRST)

    def reclaim(self) -> None:
        """Take 5 back from A and, once A has confirmed, give them to B and C."""
        self.type("pool", "allocate", "sbc-a", "far_end_users=5")
        self.await_counts("remote", FAR_END_USERS, {**USERS_FIRST, "sbc-a": 5})
        code, _ = self.type("pool", "allocate", "sbc-b", "far_end_users=11")
        self.check("before A has restarted, its 5 cannot be given away", code == 1)
        self.check(
            "the pool shows them as reclaiming",
            self.lab.pool()["types"][FAR_END_USERS]["reclaiming"] == 5,
        )
        self.type("pool", "restart", "sbc-a", "--save")
        wait_for("A to give back 5", lambda: self.free(FAR_END_USERS) == 5, seconds=20)
        self.type("pool", "allocate", "sbc-b", "far_end_users=11")
        self.type("pool", "allocate", "sbc-c", "far_end_users=4")
        self.await_counts("remote", FAR_END_USERS, USERS_THEN)
        self.type("pool", "restart", "sbc-b", "--save")
        self.type("pool", "restart", "sbc-c", "--save")
        self.await_counts("actual", FAR_END_USERS, USERS_THEN)
        self.show_devices("5 moved from A to B and C")
        self.check("Actual is 5, 11 and 4", self.lab.counts("actual", FAR_END_USERS) == USERS_THEN)

    def users(self) -> None:
        """Let endpoints register: up to the cap and not beyond."""
        results = asyncio.run(self._register())
        table = Table(
            "Device", "licensed", "tried", "registered", "refused", "reason", box=SIMPLE_HEAD
        )
        for device, tried, result in results:
            reasons = self.lab.status(device.name)["refused"]
            table.add_row(
                device.name,
                str(USERS_THEN[device.name]),
                str(tried),
                str(result.admitted),
                f"{result.refused} x 503" if result.refused else "0",
                ", ".join(k for k, n in reasons.items() if n),
            )
        console.print(table)
        self.check(
            "endpoints register up to each cap and not beyond",
            {d.name: r.admitted for d, _, r in results} == USERS_THEN
            and all(r.answers.get(503, 0) == tried - r.admitted for _, tried, r in results),
        )

    async def _register(self) -> list[tuple[DeviceEntry, int, SippResult]]:
        first, out = 1, []
        for device in self.lab.devices:
            tried = USERS_THEN[device.name] + 3
            names = {user_name(n): user_password(n) for n in range(first, first + tried)}
            first += tried
            sipp = await register(self.lab.sip(device.name), names, realm=REALM, expires=600)
            out.append((device, tried, await sipp.wait(30)))
        return out

    def load(self) -> None:
        """Offer three times the sessions that each device may carry."""
        with Progress(
            TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console
        ) as progress:
            task = progress.add_task(
                f"offering {TIMES} times the licensed sessions to each device", total=LOAD + HOLD
            )
            results = asyncio.run(
                self._offer(lambda seconds: progress.update(task, completed=seconds))
            )
        wait_for(
            "the last calls to end",
            lambda: set(self.lab.counts("in_use", SBC_SESSIONS).values()) == {0},
            seconds=20,
        )
        table = Table(
            "Device", "license", "offered", "admitted", "503", "reason", "most", "witness",
            box=SIMPLE_HEAD,
        )  # fmt: skip
        exact = complete = True
        for device, result in results:
            row = self.lab.row(device.name, SBC_SESSIONS)
            refused = self.lab.status(device.name)["refused"]
            with self.lab.trace(device.name).open(errors="replace") as lines:
                witnessed = most(changes(lines))
            licensed = SESSIONS[device.name]
            exact = exact and row["peak"] == witnessed == licensed
            complete = (
                complete
                and result.admitted + result.answers.get(503, 0) == result.calls
                and refused.get("session_limit", 0) == result.answers.get(503, 0) > 0
            )
            table.add_row(
                device.name,
                str(licensed),
                str(result.calls),
                str(result.admitted),
                str(result.answers.get(503, 0)),
                ", ".join(k for k, n in refused.items() if n and k != "user_limit"),
                str(row["peak"]),
                str(witnessed),
            )
        console.print(table)
        say("most at once: by the gate's own count; witness: by the answerer's trace.")
        self.check("the most calls at once equals the license, to the call", exact)
        self.check("every other call was refused with 503 and the reason session_limit", complete)

    async def _offer(self, tell: Callable[[float], None]) -> list[tuple[DeviceEntry, SippResult]]:
        begun = time.monotonic()
        running = []
        for device in self.lab.devices:
            rate = SESSIONS[device.name] * TIMES / HOLD
            running.append(
                await caller(
                    self.lab.sip(device.name),
                    calls=int(rate * LOAD),
                    rate=rate,
                    hold_ms=int(HOLD * 1000),
                )
            )

        async def ticking() -> None:
            while True:
                tell(time.monotonic() - begun)
                await asyncio.sleep(0.2)

        ticker = asyncio.create_task(ticking())
        results = [await sipp.wait(60) for sipp in running]
        ticker.cancel()
        tell(LOAD + HOLD)
        return list(zip(self.lab.devices, results, strict=True))

    def survivor(self) -> None:
        """Show that a call set up before a restart is still up after it."""
        asyncio.run(self._survivor(self.lab.devices[0]))

    async def _survivor(self, device: DeviceEntry) -> None:
        def sessions() -> int:
            return int(self.lab.row(device.name, SBC_SESSIONS)["in_use"])

        before = self.lab.kamailio_pid(device.name)
        done = int(self.lab.status(device.name)["restart_done"])
        sipp = await caller(self.lab.sip(device.name), calls=1, hold_ms=6000)
        await asyncio.to_thread(wait_for, "the call to be up", lambda: sessions() == 1, seconds=10)
        self.type("pool", "restart", device.name, "--save")
        await asyncio.to_thread(
            wait_for,
            "the restart",
            lambda: int(self.lab.status(device.name)["restart_done"]) > done,
            seconds=20,
        )
        self.check(
            "Kamailio is another process, and the call still counts",
            self.lab.kamailio_pid(device.name) != before and sessions() == 1 and sipp.running,
        )
        result = await sipp.wait(30)
        await asyncio.to_thread(
            wait_for, "the license to come back", lambda: sessions() == 0, seconds=10
        )
        self.check(
            "it hung up like any other, and its license is back",
            result.completed == 1 and result.failed == 0,
        )

    def run(self) -> bool:
        """Play all scenes; returns whether every claim held."""
        scenes = (
            ("1. A bulk order", self.order),
            ("2. Allocation, and a restart with save", self.allocation),
            ("3. Taking back and giving elsewhere", self.reclaim),
            ("4. Far-end users register", self.users),
            ("5. Three times the licensed sessions", self.load),
            ("6. A call outlives a restart", self.survivor),
        )
        for title, scene in scenes:
            console.rule(f"[bold]{title}")
            scene()
        failed = [o.claim for o in self.outcomes if not o.held]
        console.print(
            Panel(
                f"All {len(self.outcomes)} claims held."
                if not failed
                else "Not true: " + "; ".join(failed),
                style="green" if not failed else "red",
            )
        )
        return not failed
