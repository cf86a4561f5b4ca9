"""`allocate_to_enforced_ms`: from the operator's request to the first INVITE admitted under it.

A lab with one `live` device whose answerer is busy: an admitted INVITE comes back as 486 from
the answerer, a refused one as 503 from the gate. Each round starts at 0 sessions, sends the
operator's request over a kept HTTPS connection, and offers an INVITE every 2 ms until the first
is admitted. No peer does this; the figure stands alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import statistics
import tempfile
import threading
import time
from pathlib import Path

from callpool.lab.fleet import Plan, down, up
from callpool.lab.handle import LabHandle
from callpool.lab.processes import wait_for
from callpool.licensing.capacity import SBC_SESSIONS

#: Seconds between two INVITEs.
STEP = 0.002


class Prober:
    """Sends bare INVITEs over UDP and reads their final answers."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(STEP)
        self._port = self._socket.getsockname()[1]
        self._number = 0

    def _message(self, method: str, number: int, to_tag: str) -> bytes:
        host, port = self._address
        return (
            f"{method} sip:1000@{host}:{port} SIP/2.0\r\n"
            f"Via: SIP/2.0/UDP 127.0.0.1:{self._port};branch=z9hG4bK-{self._port}-{number}\r\n"
            f"From: <sip:bench@127.0.0.1:{self._port}>;tag=b{number}\r\n"
            f"To: <sip:1000@{host}:{port}>{to_tag}\r\n"
            f"Call-ID: bench-{self._port}-{number}\r\n"
            f"CSeq: 1 {method}\r\n"
            f"Contact: <sip:bench@127.0.0.1:{self._port}>\r\n"
            "Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
        ).encode()

    def until_admitted(self, limit: float, admitted: int = 486) -> float:
        """Offer INVITEs until one is answered `admitted`; return when that came (perf_counter)."""
        deadline = time.perf_counter() + limit
        while time.perf_counter() < deadline:
            self._number += 1
            self._socket.sendto(self._message("INVITE", self._number, ""), self._address)
            begun = time.perf_counter()
            while time.perf_counter() < begun + STEP:
                code = self._answer()
                if code == admitted:
                    return time.perf_counter()
        raise SystemExit("no INVITE was admitted in time")

    def admitted(self) -> bool:
        """Offer one INVITE and tell whether it is admitted."""
        self._number += 1
        self._socket.sendto(self._message("INVITE", self._number, ""), self._address)
        deadline = time.perf_counter() + 2
        while time.perf_counter() < deadline:
            code = self._answer()
            if code in (486, 503):
                return code == 486
        raise SystemExit("an INVITE was not answered")

    def drain(self) -> None:
        """Read what is still under way."""
        while self._answer():
            pass

    def _answer(self) -> int:
        """Read one answer, acknowledge a final one, return its code (0: none came)."""
        try:
            text = self._socket.recv(8192).decode(errors="replace")
        except TimeoutError:
            return 0
        code = int(text.split(" ", 2)[1])
        if code >= 200:
            headers = {
                line.split(":", 1)[0].lower(): line.split(":", 1)[1].strip()
                for line in text.split("\r\n")[1:]
                if ":" in line
            }
            number = int(headers["call-id"].rsplit("-", 1)[1])
            _, _, tag = headers["to"].partition(";")
            ack = self._message("ACK", number, f";{tag}" if tag else "")
            self._socket.sendto(ack, self._address)
        return code


def measure(lab: LabHandle, rounds: int) -> list[float]:
    """Return one time in milliseconds per round."""
    now = int(time.time())
    lab.buy({SBC_SESSIONS: 100}, starts=now - 60, ends=now + 86_400)
    prober = Prober(lab.sip("sbc-a"))
    times = []
    with lab.client() as client:
        client.call("GET", "/pool")
        for _ in range(rounds):
            path = "/devices/sbc-a/allocation"
            client.call("PUT", path, {SBC_SESSIONS: 0})
            wait_for("nothing to be admitted", lambda: not prober.admitted(), seconds=20)
            wait_for(
                "the licenses to be free",
                lambda: client.call("GET", "/pool")["types"][SBC_SESSIONS]["free"] == 100,
                seconds=20,
            )
            prober.drain()
            sent: list[float] = []

            def request(sent: list[float] = sent, path: str = path) -> None:
                sent.append(time.perf_counter())
                client.call("PUT", path, {SBC_SESSIONS: 100})

            operator = threading.Thread(target=request)
            operator.start()
            seen = prober.until_admitted(20)
            operator.join()
            times.append((seen - sent[0]) * 1000)
            prober.drain()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    rounds = parser.parse_args().rounds
    directory = Path(tempfile.mkdtemp(prefix="cp-"))
    try:
        up(directory, Plan(names=("sbc-a",), apply="live", scenario="uas_busy"), lambda _: None)
        times = sorted(measure(LabHandle(directory), rounds))
    finally:
        if (directory / "lab.json").exists():
            down(directory)
        shutil.rmtree(directory, ignore_errors=True)
    p99 = times[min(len(times) - 1, int(len(times) * 0.99))]
    figure = {
        "name": "allocate_to_enforced_ms",
        "ours": round(statistics.median(times), 1),
        "peer": None,
        "ratio": None,
        "interval": {"min": round(times[0], 1), "p99": round(p99, 1), "max": round(times[-1], 1)},
        "unit": "ms, median",
        "how": f"{len(times)} rounds 0 -> 100 sessions, one live device, HTTPS API request to the "
        "first INVITE admitted (offered every 2 ms)",
    }
    print(json.dumps(figure), flush=True)


if __name__ == "__main__":
    main()
