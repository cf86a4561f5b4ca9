"""Kamailio CPU a call: the relay with the gate against the same relay without gate and dialogs.

Both run side by side; the load goes to one and to the other in turn, in an order that is
turned round each time. CPU is the run time of the whole process group (schedstat) over a run.
Prints one JSON line. `--runs`, `--calls`, `--rate` set the size.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

from callpool.device.gate.driver import KamailioGate
from callpool.device.gate.launch import check_program, launch
from callpool.device.gate.render import full_config
from callpool.device.gate.settings import Destination, GateSettings
from callpool.host import sipp
from callpool.host.clock import SystemClock
from callpool.host.ports import free_port
from callpool.host.process import ProcessId, end_group, group_members, identify
from callpool.licensing.admission import AdmissionPolicy, Step, limited

HOST = "127.0.0.1"
MODULES = ("sl", "rr", "pv", "textops", "siputils", "xlog")


def bare_config(settings: GateSettings) -> str:
    """Return the shipped configuration with every trace of the gate taken out."""
    text = full_config(settings)
    loads = "".join(f'loadmodule "{m}.so"\n' for m in MODULES)
    text = text.replace('include_file "callpool.cfg"\n', loads)
    text = re.sub(r"^.*route\(CALLPOOL_OPTIONS\).*\n", "", text, flags=re.M)
    text = re.sub(
        r"^\s*(if \(is_method\(\"BYE\"\)\) )?route\(CALLPOOL_\w+\);\n", "", text, flags=re.M
    )
    text = text[: text.index("reply_route {")]
    assert "CALLPOOL_" not in text.replace("#!define CALLPOOL_HAVE_TM", "")
    return text


def make_settings(place: Path, uas_port: int) -> GateSettings:
    return GateSettings(
        directory=str(place),
        listen=(f"udp:{HOST}:{free_port()}",),
        trusted_peers=(HOST,),
        destinations=(Destination(host=HOST, port=uas_port),),
        mac_secret="5e" * 16,
        shared_memory_mb=512,
        workers=4,
    )


def cpu(leader: ProcessId, config: str) -> float:
    """Return the run time of a group, in microseconds."""
    total = 0
    for pid in group_members(leader, config):
        total += int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])
    return total / 1000


async def answers(port: int) -> None:
    """Wait until a Kamailio of ours answers OPTIONS or refuses it."""
    for _ in range(100):
        run = await sipp.run(
            "options", (HOST, port), calls=1, keys={"target": f"sip:{HOST}:{port}", "caller": "b"}
        )
        result = await run.wait(40)
        if result.calls:
            return
        await asyncio.sleep(0.1)


async def load(port: int, calls: int, rate: float, hold_ms: int) -> int:
    run = await sipp.caller((HOST, port), calls=calls, rate=rate, hold_ms=hold_ms)
    result = await run.wait(calls / rate + 90)
    return result.completed


def interval(values: list[float]) -> list[float]:
    """Return the 95 % bootstrap interval of the median."""
    rng = random.Random(7)
    medians = sorted(statistics.median(rng.choices(values, k=len(values))) for _ in range(4000))
    return [round(medians[100], 4), round(medians[3899], 4)]


async def measure(runs: int, calls: int, rate: float, hold_ms: int) -> dict[str, object]:
    place = Path(tempfile.mkdtemp(prefix="cpbench"))
    uas = await sipp.answerer()
    gated, bare = make_settings(place / "g", uas.port), make_settings(place / "b", uas.port)
    gate = KamailioGate(gated, SystemClock())
    (place / "b").mkdir()
    (place / "b" / "kamailio.cfg").write_text(bare_config(bare))
    child: subprocess.Popen[bytes] | None = None
    leaders: dict[str, ProcessId] = {}
    configs = {k: str(place / k / "kamailio.cfg") for k in ("g", "b")}
    try:
        await gate.start(
            AdmissionPolicy(steps=(Step(caps=limited(sessions=100_000, users=0, cps=100_000)),))
        )
        child = launch(check_program("kamailio"), bare, place / "b" / "kamailio.cfg")
        found = identify(gate.kamailio_pid), identify(child.pid)
        assert found[0] is not None
        assert found[1] is not None
        leaders = {"g": found[0], "b": found[1]}
        ports = {
            "g": int(gated.listen[0].rpartition(":")[2]),
            "b": int(bare.listen[0].rpartition(":")[2]),
        }
        await asyncio.sleep(1)
        for kind in ("g", "b"):  # warm: memory, caches
            await load(ports[kind], 200, rate, hold_ms)
        pairs: list[tuple[float, float]] = []
        for number in range(runs):
            spent: dict[str, float] = {}
            for kind in ("g", "b") if number % 2 else ("b", "g"):
                await asyncio.sleep(0.7)
                before = cpu(leaders[kind], configs[kind])
                done = await load(ports[kind], calls, rate, hold_ms)
                spent[kind] = (cpu(leaders[kind], configs[kind]) - before) / max(done, 1)
            pairs.append((spent["g"], spent["b"]))
        ratios = [g / b for g, b in pairs]
        return {
            "name": "gate_cpu_per_call",
            "ours": round(statistics.median(g for g, _ in pairs), 1),
            "peer": round(statistics.median(b for _, b in pairs), 1),
            "ratio": round(statistics.median(ratios), 4),
            "interval": interval(ratios),
            "unit": "microseconds of Kamailio CPU a call",
            "how": f"{runs} alternating pairs of {calls} calls at {rate:g}/s, 4 workers, loopback;"
            " median of paired ratios, 95 % bootstrap interval; peer: the same relay with"
            " neither gate nor dialogs",
        }
    finally:
        await gate.stop()
        if child is not None:
            end_group(leaders.get("b") or ProcessId(pid=child.pid, started=0), configs["b"])
            child.wait()
        await uas.stop(grace=0.5)
        shutil.rmtree(place, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--calls", type=int, default=2000)
    parser.add_argument("--rate", type=float, default=400)
    parser.add_argument("--hold-ms", type=int, default=100)
    a = parser.parse_args()
    print(json.dumps(asyncio.run(measure(a.runs, a.calls, a.rate, a.hold_ms))))


if __name__ == "__main__":
    main()
