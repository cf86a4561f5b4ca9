"""What a network operations centre sees of one unit: snmptrapd and snmpget beside it."""

from __future__ import annotations

import os
import subprocess
import time

from pairkit import DEADLINE, Unit, eventually

from callpool.licensing.alarm_table import DEFINITIONS

_TRAP_OID = ".1.3.6.1.6.3.1.1.4.1.0"
_GLOBALS = ".1.3.6.1.4.1.5003.9.10.1.21.1."
_PORT, _AGENT = 16_200, 16_100
_COMMUNITY = "callpool-test"


class Watch:
    """Notifications of one unit as they come to a real receiver; to be made before it runs."""

    def __init__(self, unit: Unit) -> None:
        self.unit = unit
        home = unit.pair.directory / f"noc-{unit.part}"
        home.mkdir()
        self._log = home / "traps"
        (home / "snmptrapd.conf").write_text(f"authCommunity log {_COMMUNITY}\n")
        self._environment = {**os.environ, "MIBS": "", "SNMPCONFPATH": str(home),
                             "SNMP_PERSISTENT_DIR": str(home)}  # fmt: skip
        settings = home / "snmp.json"
        settings.write_text(
            f'{{"listen": "127.0.0.1:{_AGENT}", "community": "{_COMMUNITY}",'
            f' "targets": [{{"address": "127.0.0.1:{_PORT}"}}]}}'
        )
        unit.command("snmp", "set", settings)
        self._process = subprocess.Popen(
            [*unit.pair.net.inside(unit.part), "snmptrapd", "-f", "-n", "-A", "-Lf",
             str(self._log), "-OnQe", "-F", r"NOTIFY %v\n", f"udp:127.0.0.1:{_PORT}"],
            env=self._environment, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(10)

    def _told(self, code: str) -> list[tuple[int, str]]:
        """(severity, codes) of what came of the alarm that a condition belongs to, in order."""
        found = []
        text = self._log.read_text(errors="replace") if self._log.exists() else ""
        for line in text.splitlines():
            if not line.startswith("NOTIFY "):
                continue
            binds = dict(
                b.split(" = ", 1) for b in line.removeprefix("NOTIFY ").split("\t") if " = " in b
            )
            if binds.get(_TRAP_OID) == f".{DEFINITIONS[code].oid}":
                codes = binds[f"{_GLOBALS}8.0"].strip('"')
                found.append((int(binds[f"{_GLOBALS}4.0"]), codes))
        return found

    async def raised(self, code: str, within: float = DEADLINE) -> float:
        """Await that a condition is told as the gravest of its alarm; return when it was seen."""
        severity = int(DEFINITIONS[code].severity)
        await eventually(
            lambda: (
                [(s, c.partition(",")[0]) for s, c in self._told(code)][-1:] == [(severity, code)]
            ),
            within=within,
            what=f"{code} is told: {self._told(code)}",
        )
        return time.monotonic()

    async def cleared(self, code: str, within: float = 2 * DEADLINE) -> float:
        """Await that the alarm with that condition is told as over; return when it was seen."""
        await eventually(
            lambda: [s for s, _ in self._told(code)][-1:] == [0],
            within=within,
            what=f"{code} is told as cleared: {self._told(code)}",
        )
        return time.monotonic()

    def get(self, oid: str) -> str:
        """The value of one object."""
        done = subprocess.run(
            [*self.unit.pair.net.inside(self.unit.part), "snmpget", "-v2c", "-c", _COMMUNITY,
             "-r2", "-t5", "-OnQve", f"127.0.0.1:{_AGENT}", oid],
            capture_output=True, text=True, timeout=60, env=self._environment,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.strip().strip('"')
