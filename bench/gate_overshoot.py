"""Most concurrent calls above the cap, at three times the cap, over at least 20,000 INVITEs.

Ours is the gate; the peer is the common idiom (dialog profile: look at its size, then set it),
in the same run, one after the other, with the same load. What counts is what the server itself
holds, and beside it what the callers saw. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from callpool.device.gate.driver import KamailioGate
from callpool.device.gate.launch import check_program, launch
from callpool.device.gate.rpc import Rpc
from callpool.host import sipp
from callpool.host.clock import SystemClock
from callpool.host.process import ProcessId, end_group, identify
from callpool.licensing.admission import AdmissionPolicy, Step
from gate_cpu_per_call import HOST, bare_config, make_settings

DIALOG = """
loadmodule "dialog.so"
loadmodule "htable.so"
loadmodule "jsonrpcs.so"
modparam("jsonrpcs", "dgram_socket", "{socket}")
modparam("jsonrpcs", "transport", 4)
modparam("dialog", "profiles_no_value", "calls")
modparam("htable", "htable", "peak=>size=2;initval=0;")
"""

# The idiom as it is found in the wild; the peak is taken after the set, without a lock.
IDIOM = """
    get_profile_size("calls", "$var(size)");
    if ($var(size) >= {cap}) {{
        sl_send_reply("503", "Service Unavailable");
        exit;
    }}
    dlg_manage();
    set_dlg_profile("calls");
    get_profile_size("calls", "$var(now)");
    if ($var(now) > $sht(peak=>n)) $sht(peak=>n) = $var(now);
    record_route();
    route(WHERE);
"""


def peer_config(text: str, socket: str, cap: int) -> str:
    """Return the bare relay with the dialog profile idiom in it."""
    text = text.replace(
        'loadmodule "maxfwd.so"', DIALOG.format(socket=socket) + 'loadmodule "maxfwd.so"'
    )
    text, count = re.subn(
        r"    record_route\(\);\n    route\(WHERE\);\n", IDIOM.format(cap=cap), text
    )
    assert count == 1
    return text


async def offer(port: int, cap: int, calls: int) -> tuple[sipp.SippResult, float]:
    """Offer three times the cap: each call is held 500 ms, so 6 * cap calls a second."""
    rate = 6.0 * cap
    run = await sipp.caller((HOST, port), calls=calls, rate=rate, hold_ms=500)
    return await run.wait(calls / rate + 90), rate


async def measure(calls: int, cap: int) -> dict[str, object]:
    place = Path(tempfile.mkdtemp(prefix="cpbench"))
    uas = await sipp.answerer()
    ours, peer = make_settings(place / "g", uas.port), make_settings(place / "b", uas.port)
    gate = KamailioGate(ours, SystemClock())
    (place / "b").mkdir()
    config = place / "b" / "kamailio.cfg"
    config.write_text(peer_config(bare_config(peer), str(place / "b" / "rpc.sock"), cap))
    child: subprocess.Popen[bytes] | None = None
    rpc = Rpc(place / "b" / "rpc.sock", place / "b" / "client.sock")
    try:
        await gate.start(AdmissionPolicy(steps=(Step(caps={"sbc_sessions": cap}),)))
        mine, rate = await offer(int(ours.listen[0].rpartition(":")[2]), cap, calls)
        await asyncio.sleep(1.5)
        usage = gate.usage()
        left = int(await gate._rpc.get("cp_cnt", "s") or 0)
        child = launch(check_program("kamailio"), peer, config)
        rpc.open()
        for _ in range(200):
            await asyncio.sleep(0.05)
            with contextlib.suppress(Exception):
                await rpc.call("core.version")
                break
        theirs, _ = await offer(int(peer.listen[0].rpartition(":")[2]), cap, calls)
        peak = int(await rpc.get("peak", "n") or 0)
        return {
            "name": "gate_overshoot",
            "ours": usage.peak_sessions - cap,
            "peer": peak - cap,
            "ratio": None,
            "interval": [usage.peak_sessions - cap, usage.peak_sessions - cap],
            "unit": "calls above the cap",
            "how": f"{mine.calls} INVITEs at {rate:g}/s held 500 ms against a cap of {cap}"
            f" (three times the cap), 4 workers; ours: {mine.admitted} admitted,"
            f" {mine.refused} refused, {mine.failed} failed, peak {usage.peak_sessions}"
            f" ({usage.peak_sessions / cap:.1%} of the cap), {left} left at the end;"
            f" peer (dialog profile, check then set): {theirs.admitted} admitted,"
            f" {theirs.refused} refused, {theirs.failed} failed, peak {peak}",
        }
    finally:
        rpc.close()
        await gate.stop()
        if child is not None:
            leader = identify(child.pid) or ProcessId(pid=child.pid, started=0)
            end_group(leader, str(config))
            child.wait()
        await uas.stop(grace=0.5)
        shutil.rmtree(place, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--cap", type=int, default=100)
    a = parser.parse_args()
    print(json.dumps(asyncio.run(measure(a.calls, a.cap))))


if __name__ == "__main__":
    main()
