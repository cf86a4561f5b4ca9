"""A real manager in the network of a pair, and what an operator does there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pairkit import MANAGER, PairRig, Unit, eventually

from callpool.licensing.capacity import Capacity

_SOURCE = "import sys; from callpool.cli import main; sys.exit(main())"
_YEAR = 365 * 86_400
NAME = "edge"
S = "sbc_sessions"


class PairManager:
    """The manager; it is made once the network is there, with the pair as one device."""

    def __init__(self, bought: int) -> None:
        self.bought = bought
        self.process: subprocess.Popen[bytes] | None = None

    def options(self, pair: PairRig, unit: Unit) -> tuple[object, ...]:
        """What a unit is told of the manager; the first that asks has it made."""
        if self.process is None:
            self.make(pair)
        token = pair.directory / f"{unit.part}.token"
        token.write_text(self.pool("token").strip())
        return ("--manager", self.url, "--ca-file", self.ca, "--token-file", token)

    def make(self, pair: PairRig) -> None:
        self.pair, self.directory = pair, pair.directory / "manager"
        self.url = f"https://{MANAGER}:8443"
        self.ca = self.directory / "identity" / "ca.pem"
        made = self.run(
            "manager", "init", "--dir", self.directory, "--listen", f"{MANAGER}:8443",
            "--host", MANAGER, "--vendor-key", pair.vendor.public_key_file,
            "--retry-seconds", "2",
        )  # fmt: skip
        self.start()
        pair.last.append(self.kill)
        now = int(time.time())
        _, envelope = pair.vendor.order(
            product_key=made.partition("Product key: ")[2].split()[0],
            counts=Capacity.of(sbc_sessions=self.bought), starts=now - 60, ends=now + _YEAR,
            now=now - 60,
        )  # fmt: skip
        order = pair.directory / "order"
        order.write_text(envelope)
        deadline = time.monotonic() + 180  # a busy machine starts it slowly
        while "[no_answer]" in self.pool("show", ok=None):
            assert time.monotonic() < deadline, "the manager does not answer"
        self.pool("order", order)
        self.pool("add", NAME, "SN-a", "SN-b", "--apply", "restart")

    def start(self) -> None:
        with (self.pair.directory / "manager.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.pair.net.inside("net"), sys.executable, "-c", _SOURCE, "manager", "run",
                 "--dir", str(self.directory)],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def environment(self) -> dict[str, str]:
        return {
            "CALLPOOL_MANAGER": self.url,
            "CALLPOOL_CA_FILE": str(self.ca),
            "CALLPOOL_USERNAME": "admin",
            "CALLPOOL_PASSWORD": (self.directory / "admin.password").read_text().strip(),
        }

    def run(
        self, *words: object, ok: bool | None = True, environment: dict[str, str] | None = None
    ) -> str:
        line = [*self.pair.net.inside("net"), sys.executable, "-c", _SOURCE, *map(str, words)]
        done = subprocess.run(
            line, capture_output=True, text=True, timeout=300,
            env={**os.environ, "COLUMNS": "200", **(environment or {})},
        )  # fmt: skip
        assert ok is None or (done.returncode == 0) is ok, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout + (done.stderr if ok is None else "")

    def pool(self, *words: object, ok: bool | None = True) -> str:
        """Run `callpool pool ...` as an operator in the manager's network."""
        return self.run("pool", *words, ok=ok, environment=self.environment())

    def hitless(self, *words: object) -> dict[str, Any]:
        """The last run as the manager tells of it; empty while it does not answer."""
        said = self.pool("hitless", NAME, *words, "--json", ok=None)
        try:
            run: dict[str, Any] = json.loads(said)["run"]
        except (ValueError, KeyError):
            return {}
        return run or {}

    async def installed(self, count: int) -> None:
        """Give both units `count` sessions by plain restarts, the redundant one first."""
        self.pool("allocate", NAME, "--sbc-sessions", count)
        pair = self.pair
        first = pair.active()
        for unit in (pair.other(first), first):
            await eventually(lambda u=unit: received(u) == count)  # type: ignore[misc]
            unit.command("restart", "--save")
            await eventually(lambda u=unit: actual(u) == count)  # type: ignore[misc]
            await eventually(lambda: all(u.ready() for u in pair.units))


def row(unit: Unit) -> dict[str, Any]:
    rows = unit.status().get("capacity")
    return dict(rows[0]) if rows else {}


def actual(unit: Unit) -> int:
    """What a unit enforces of sessions, -1 while it does not answer."""
    return int(row(unit).get("actual", -1))


def received(unit: Unit) -> int:
    """What a unit has received of the pool, -1 while it does not answer."""
    return int(row(unit).get("remote", -1))


def logs(directory: Path) -> str:
    return (directory / "manager.log").read_text(errors="replace")[-3000:]
