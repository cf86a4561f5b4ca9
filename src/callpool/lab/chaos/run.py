"""One run: the system comes up, calls begin, faults happen, witnesses are heard."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from callpool.host import structs
from callpool.host.sipp.runner import Sipp, run
from callpool.lab.chaos.judge import Records, findings
from callpool.lab.chaos.schedule import AT_ONCE, Fault, schedule
from callpool.lab.chaos.site import Site
from callpool.lab.chaos.witness import CapWitness, Operator, calls_of, tenants_missing
from callpool.lab.processes import wait_for
from callpool.licensing.capacity import SBC_SESSIONS
from callpool.licensing.errors import CallpoolError
from callpool.manager.client import Connection

#: Sessions that are bought, and the most that one device is ever asked to have.
BOUGHT: Final = 40
MOST: Final = 20
#: Calls a second at each device, and how long each is held, milliseconds.
RATE: Final = 3.0
HOLD_MS: Final = 4_000
#: Seconds in which the fleet has to be as the manager has it, after the last fault.
CONVERGE: Final = 60.0
#: Seconds that SIPp may go on telling a BYE again.
_ENDS: Final = 90.0
_YEAR: Final = 365 * 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a run."""

    seed: int
    faults: tuple[Fault, ...]
    findings: tuple[str, ...]
    #: Figures worth telling: calls, admitted, acknowledged changes, ...
    figures: dict[str, float]
    #: Where its files are kept, where something was found; "" otherwise.
    kept: str


def play(
    seed: int,
    seconds: float,
    progress: Callable[[str], None] = lambda _: None,
    *,
    postgresql: bool = True,
) -> Outcome:
    """Play one run of `seconds` from `seed`, on PostgreSQL or SQLite.

    Raises CallpoolError where it cannot be played.
    """
    structs.ready_for_threads()
    directory = Path(tempfile.mkdtemp(prefix="cp-"))
    try:
        site = Site(directory, progress, postgresql=postgresql)
        try:
            faults = schedule(
                seed, seconds, managers=site.builder.managers, devices=site.devices,
                database=postgresql,
            )  # fmt: skip
            records, figures = asyncio.run(_run(site, seed, seconds, faults, progress))
            found = findings(records)
            if found:
                site.keep()
        finally:
            site.close()
    except BaseException as error:
        error.add_note(f"Files are kept in {directory}; seed {seed}.")
        raise
    if not found:
        shutil.rmtree(directory, ignore_errors=True)
    return Outcome(
        seed=seed,
        faults=tuple(faults),
        findings=tuple(found),
        figures=figures,
        kept=str(directory) if found else "",
    )


async def _run(
    site: Site, seed: int, seconds: float, faults: list[Fault], progress: Callable[[str], None]
) -> tuple[Records, dict[str, float]]:
    lab = site.lab
    now = int(time.time())
    lab.buy({SBC_SESSIONS: BOUGHT}, starts=now - 60, ends=now + _YEAR)
    witnesses = {name: CapWitness(*_sockets(site, name)) for name in site.devices}
    for witness in witnesses.values():
        witness.start()
    manager = lab.lab.manager
    operator = Operator(
        Connection(url=manager.url, ca_file=manager.ca_file, username=manager.username,
                   password=manager.password),
        site.devices, seed, MOST,
    )  # fmt: skip
    operator.start()
    callers = {name: await _caller(site, name, seconds) for name in site.devices}
    await _faults(site, seconds, faults, progress)
    # The last fault is over: calls go on while the fleet converges.
    book = await asyncio.to_thread(operator.finish)
    converged = await asyncio.to_thread(_converge, site)
    counts = [await sipp.finish(_ENDS) for sipp in callers.values()]
    await asyncio.to_thread(_idle, site)
    records = Records(
        bought=BOUGHT,
        caps={name: witness.finish() for name, witness in witnesses.items()},
        calls={
            name: calls_of(_trace(site, name).read_text(errors="replace").splitlines())
            for name in site.devices
        },
        book=book,
        allocations=_allocations(site),
        actual={name: lab.row(name, SBC_SESSIONS)["actual"] for name in site.devices},
        counted={name: int(lab.gate(name)["sessions"]) for name in site.devices},
        tenants_missing=_missing(site, operator),
        held=site.held(),
        journals={n: Path(lab.device(n).directory) / "journal.jsonl" for n in site.devices},
        converged=converged,
        planned=Counter(fault.kind for fault in faults),
        happened=site.happened,
    )
    every = [call for calls in records.calls.values() for call in calls]
    return records, {
        **{f"{kind} of {n}": site.happened[kind] for kind, n in records.planned.items()},
        "calls": sum(c.calls for c in counts),
        "established": sum(1 for c in every if c.established),
        "refused": sum(1 for c in every if c.answer >= 300),
        "no final answer": sum(1 for c in every if not c.answer),
        "changes acknowledged": len(book.tenants)
        + sum(1 for a in book.allocations.values() for x in a if x[3]),
        "changes refused": sum(1 for a in book.allocations.values() for x in a if x[4]),
        "changes unanswered": book.unanswered,
        "looks at a cap": sum(len(s) for s in records.caps.values()),
        "seconds to converge": round(converged or -1.0, 1),
    }


def _sockets(site: Site, name: str) -> tuple[Path, Path]:
    gate = Path(site.lab.device(name).directory) / "gate"
    return gate / "rpc.sock", site.directory / f"{name}.witness.sock"


def _trace(site: Site, name: str) -> Path:
    return site.directory / f"{name}-caller" / "messages.csv"


async def _caller(site: Site, name: str, seconds: float) -> Sipp:
    where = site.lab.sip(name)
    keys = {"target": f"sip:1000@{where[0]}:{where[1]}", "caller": name, "password": ""}
    return await run(
        "uac", where, rate=RATE, hold_ms=HOLD_MS, keys=keys, limit=2_000, trace=True,
        directory=site.directory / f"{name}-caller",
        timeout=int(seconds + CONVERGE + 4 * _ENDS),
    )  # fmt: skip


async def _faults(
    site: Site, seconds: float, faults: list[Fault], progress: Callable[[str], None]
) -> None:
    begin = time.monotonic()
    undo: list[tuple[float, int, Callable[[], None]]] = []
    waiting = list(faults)
    number = 0
    while waiting or undo:
        now = time.monotonic() - begin
        if undo and undo[0][0] <= now:
            await asyncio.to_thread(heapq.heappop(undo)[2])
        elif waiting and waiting[0].at <= now:
            fault = waiting.pop(0)
            progress(f"of {seconds:.0f} s  {fault}")
            number += 1
            mend = await asyncio.to_thread(site.begin, fault)
            until = now + (0.0 if fault.kind in AT_ONCE else fault.seconds)
            heapq.heappush(undo, (until, number, mend))
        else:
            await asyncio.to_thread(site.restart_dead)
            await asyncio.sleep(0.1)


def _converge(site: Site) -> float | None:
    began = time.monotonic()

    def there() -> bool:
        site.restart_dead()
        with contextlib.suppress(CallpoolError, OSError):
            allocated = _allocations(site)
            return all(
                site.lab.row(name, SBC_SESSIONS)["actual"] == allocated[name]
                and site.lab.status(name)["connected"]
                for name in site.devices
            )
        return False

    try:
        wait_for("the fleet to converge", there, seconds=CONVERGE)
    except CallpoolError:
        return None
    return time.monotonic() - began


def _idle(site: Site) -> None:
    """Give the gates the moment in which they hear of the last calls' ends."""
    with contextlib.suppress(CallpoolError):
        wait_for(
            "the gates to count no call",
            lambda: all(site.lab.gate(name)["sessions"] == 0 for name in site.devices),
            seconds=20.0,
        )


def _allocations(site: Site) -> dict[str, int]:
    devices = site.lab.pool()["devices"]
    return {d["name"]: int(d["allocation"].get(SBC_SESSIONS, 0)) for d in devices}


def _missing(site: Site, operator: Operator) -> list[str]:
    with site.lab.client() as client:
        return tenants_missing(client, operator.book)
