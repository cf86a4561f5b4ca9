"""Start SIPp, wait for it, read what it counted, stop it by its id."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import re
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Final

from callpool.host.ports import free_port
from callpool.licensing.errors import CallpoolError

#: SIPp's transports by name.
_TRANSPORTS: Final = {"udp": "u1", "tcp": "t1", "tls": "l1"}
#: Seconds that an answerer may take to listen, on a machine that has much else to do.
_LISTEN_LIMIT: Final = 30.0


class SippError(CallpoolError):
    """SIPp cannot be run: `sipp_missing`, `sipp_failed`, `sipp_timeout`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SippResult:
    """What one SIPp counted."""

    #: Calls started, and those that took the way of the scenario to an end or did not.
    calls: int = 0
    completed: int = 0
    failed: int = 0
    #: Final answers to the first request, by code (retransmissions not counted).
    answers: Mapping[int, int] = field(default_factory=dict)
    #: Milliseconds from INVITE to 200, on average.
    response_ms: float = 0.0
    #: The exit status: 0 when every call was completed.
    status: int = 0

    @property
    def admitted(self) -> int:
        """Return how many first requests were answered with 200."""
        return self.answers.get(200, 0)

    @property
    def refused(self) -> int:
        """Return how many were answered with 300 or more."""
        return sum(n for code, n in self.answers.items() if code >= 300 and code not in (401, 407))


class Sipp:
    """One running SIPp; it is ended with its object's `stop` or by itself."""

    def __init__(
        self, process: asyncio.subprocess.Process, directory: Path, port: int, owned: bool
    ) -> None:
        self._process = process
        self._directory = directory
        self._owned = owned
        self._counted: SippResult | None = None
        self._words: str | None = None
        #: The port that it sends from and listens on.
        self.port = port

    @property
    def pid(self) -> int:
        """Return its process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Tell whether it still runs."""
        return self._process.returncode is None

    async def wait(self, seconds: float) -> SippResult:
        """Return what it counted once it has ended by itself.

        Raises SippError `sipp_timeout` after `seconds` (it is ended then) and `sipp_failed`
        when it could not run at all, with its own words.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._process.wait()
        except TimeoutError as exc:
            await self.stop()
            raise SippError(
                "sipp_timeout", f"SIPp did not end within {seconds:g} seconds."
            ) from exc
        return self._result()

    async def finish(self, seconds: float) -> SippResult:
        """Have it start no more calls; return what it counted once those it has are over.

        Raises SippError as `wait` does.
        """
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGUSR1)
        return await self.wait(seconds)

    async def stop(self, *, grace: float = 2.0) -> SippResult:
        """End it (calls in progress are dropped without a BYE); return what it counted."""
        for sign in (signal.SIGTERM, signal.SIGKILL):
            if self._process.returncode is not None:
                break
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(sign)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self._process.wait()
        return self._result()

    def pause(self) -> None:
        """Stop its new calls by SIGSTOP; `resume` goes on."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `pause`."""
        self._process.send_signal(signal.SIGCONT)

    def errors(self) -> str:
        """Return the last of what it complained of."""
        if self._words is not None:
            return self._words
        texts = [p.read_text(errors="replace") for p in self._directory.glob("*errors.log")]
        texts.append((self._directory / "screen").read_text(errors="replace")[-2000:])
        return "\n".join(texts)[-4000:]

    def _result(self) -> SippResult:
        status = self._process.returncode or 0
        # 0 all right, 1 a call failed, 97 ended by a command, 99 by a signal; the rest is ours.
        if status not in (0, 1, 97, 99) and status > 0:
            raise SippError("sipp_failed", f"SIPp ended with {status}: {self.errors()[-600:]}")
        if self._counted is None:
            self._counted = read_statistics(self._directory, status)
            self._words = self.errors()
            if self._owned:
                shutil.rmtree(self._directory, ignore_errors=True)
        return self._counted


def read_statistics(directory: Path, status: int = 0) -> SippResult:
    """Read what a SIPp in `directory` has written so far."""
    last = _last_row(directory, "stat.csv")
    counts = _last_row(directory, "*_counts.csv")
    answers: dict[int, int] = {}
    invited = done = False
    for name, value in counts.items():
        found = re.fullmatch(r"\d+_(\w+)_(Sent|Recv)", name)
        if found is None or done:
            continue
        if found[2] == "Sent":
            # A BYE's 200 is not a call's, nor is a re-INVITE's: the first 200 is the last.
            invited = found[1] in ("INVITE", "REGISTER", "OPTIONS")
        elif invited and found[1].isdigit() and int(found[1]) >= 200:
            answers[int(found[1])] = answers.get(int(found[1]), 0) + int(value or 0)
            done = found[1] == "200"
    return SippResult(
        calls=int(last.get("TotalCallCreated", 0) or 0),
        completed=int(last.get("SuccessfulCall(C)", 0) or 0),
        failed=int(last.get("FailedCall(C)", 0) or 0),
        answers={k: v for k, v in answers.items() if v},
        response_ms=_milliseconds(last.get("ResponseTime1(C)", "")),
        status=status,
    )


def _safe(value: str) -> str:
    """Return a keyword's value if it can stand in a scenario. Raises SippError `bad_keyword`."""
    literal = value.replace("[remote_ip]", "").replace("[remote_port]", "")
    if any(c in literal for c in "\r\n[]"):
        raise SippError("bad_keyword", f"{value[:40]!r} cannot stand in a SIPp scenario.")
    return value


def _milliseconds(text: str) -> float:
    parts = text.split(":")
    if len(parts) < 3:
        return 0.0
    hours, minutes, seconds = parts[:3]
    fraction = int(parts[3]) / 1e6 if len(parts) > 3 else 0.0
    return (int(hours) * 3600 + int(minutes) * 60 + float(seconds) + fraction) * 1000


def _last_row(directory: Path, pattern: str) -> dict[str, str]:
    for path in directory.glob(pattern):
        with path.open(newline="", errors="replace") as file:
            rows = [row for row in csv.reader(file, delimiter=";") if len(row) > 1]
        if len(rows) > 1:
            return dict(zip(rows[0], rows[-1], strict=False))
    return {}


async def run(
    scenario: str,
    remote: tuple[str, int] | None = None,
    *,
    calls: int = 0,
    rate: float = 10.0,
    hold_ms: int = 0,
    limit: int = 100_000,
    keys: Mapping[str, str] | None = None,
    lines: Sequence[str] = (),
    transport: str = "udp",
    host: str = "127.0.0.1",
    port: int | None = None,
    directory: Path | None = None,
    tls: tuple[Path, Path] | None = None,
    timeout: int = 600,  # noqa: ASYNC109 (SIPp's own, a bound on load)
    trace: bool = False,
    wrapper: Sequence[str] = (),
) -> Sipp:
    """Start SIPp with one of our scenarios (a name in `scenarios/`, or the path of a file).

    `remote` is where it sends (None for an answerer), `calls` how many (0: without end),
    `rate` calls a second, `hold_ms` how long each is held, `limit` the most at once, `keys` the
    scenario's keywords, `lines` the rows of its CSV file, `timeout` when it ends at the latest,
    in seconds; `trace` writes a line for each message into `messages.csv`; `wrapper` is what it
    runs under, such as `ip netns exec NAME` (`port` must be given then).
    Raises SippError `sipp_missing`.
    """
    program = shutil.which("sipp")
    if program is None:
        raise SippError("sipp_missing", "SIPp is not installed: run apt-get install sip-tester.")
    owned = directory is None
    place = Path(tempfile.mkdtemp(prefix="callpool-sipp-")) if directory is None else directory
    place.mkdir(parents=True, exist_ok=True)
    source = Path(scenario)
    if not scenario.endswith(".xml"):
        source = place / f"{scenario}.xml"
        text = (resources.files("callpool.host.sipp") / "scenarios" / f"{scenario}.xml").read_text()
        # Not SIPp's own -key: it does not reach inside [authentication ...].
        for name, value in (keys or {}).items():
            text = text.replace(f"[{name}]", _safe(value))
        source.write_text(text)
    port = free_port(host) if port is None else port
    # A caller does not give a call up for a 180 that comes after its 200: the workers of a busy
    # proxy may change their order. (`optional="global"` would take it and never end the pause.)
    behaviours = "all,-bye" if remote is None else "all,-bye,-abortunexp"
    command = [
        *wrapper, program, "-sf", str(source), "-i", host, "-p", str(port),
        "-t", _TRANSPORTS[transport],
        "-nostdin", "-trace_stat", "-stf", "stat.csv", "-fd", "1", "-trace_counts",
        "-trace_err", "-skip_rlimit", "-default_behaviors", behaviours, "-aa",
        "-timeout", str(timeout), "-cp", str(free_port()),
        "-l", str(limit), "-r", f"{rate:g}", "-d", str(hold_ms),
    ]  # fmt: skip
    if calls:
        command += ["-m", str(calls)]
    if trace:
        command += ["-trace_shortmsg", "-shortmessage_file", "messages.csv"]
    if tls is not None:
        command += ["-tls_cert", str(tls[0]), "-tls_key", str(tls[1])]
    if lines:
        table = place / "lines.csv"
        table.write_text("SEQUENTIAL\n" + "".join(f"{line}\n" for line in lines))
        command += ["-inf", str(table)]
    if remote is not None:
        command.append(f"[{remote[0]}]:{remote[1]}" if ":" in remote[0] else
                       f"{remote[0]}:{remote[1]}")  # fmt: skip
    with (place / "screen").open("wb") as screen:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=place,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=screen,
            stderr=screen,
        )
    return Sipp(process, place, port, owned)


async def answerer(
    scenario: str = "uas", *, port: int | None = None, host: str = "127.0.0.1",
    transport: str = "udp", directory: Path | None = None, timeout: int = 86_400,  # noqa: ASYNC109
) -> Sipp:  # fmt: skip
    """Start an answerer and return once its port is taken. Raises SippError."""
    for tries_left in reversed(range(3)):
        sipp = await run(
            scenario,
            host=host,
            port=port,
            transport=transport,
            directory=directory,
            timeout=timeout,
        )
        try:
            await _listens(sipp, host, transport)
        except SippError:
            # A free port may be another's by the time it is taken.
            if port is not None or directory is not None or tries_left == 0:
                raise
        else:
            return sipp
    raise AssertionError


async def _listens(sipp: Sipp, host: str, transport: str) -> None:
    kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    deadline = time.monotonic() + _LISTEN_LIMIT
    while time.monotonic() < deadline:
        if not sipp.running:
            raise SippError("sipp_failed", f"The answerer ended: {sipp.errors()[-600:]}")
        with socket.socket(family, kind) as probe:
            try:
                probe.bind((host, sipp.port))
            except OSError:
                return
        await asyncio.sleep(0.01)
    await sipp.stop()
    raise SippError("sipp_timeout", "The answerer did not take its port.")


async def caller(
    remote: tuple[str, int], *, calls: int, rate: float = 10.0, hold_ms: int = 0,
    number: str = "1000", name: str = "caller", scenario: str = "uac", transport: str = "udp",
    host: str = "127.0.0.1", directory: Path | None = None, limit: int = 100_000,
    password: str = "", domain: str = "", tls: tuple[Path, Path] | None = None,
    port: int | None = None, wrapper: Sequence[str] = (),
) -> Sipp:  # fmt: skip
    """Start calls to `number` by way of `remote`. Raises SippError `sipp_missing`."""
    # An IPv6 address in brackets would be a keyword to SIPp; its own word writes the brackets.
    host_part = "[remote_ip]" if ":" in remote[0] else remote[0]
    where = domain or f"{host_part}:{remote[1]}"
    target = number if number.startswith("urn:") else f"sip:{number}@{where}"
    keys = {"target": target, "caller": name, "password": password}
    return await run(
        scenario, remote, calls=calls, rate=rate, hold_ms=hold_ms, keys=keys, limit=limit,
        transport=transport, host=host, directory=directory, tls=tls, port=port, wrapper=wrapper,
    )  # fmt: skip


async def register(
    remote: tuple[str, int], users: Mapping[str, str], *, realm: str, expires: int = 600,
    rate: float = 50.0, transport: str = "udp", host: str = "127.0.0.1",
    directory: Path | None = None, port: int | None = None, wrapper: Sequence[str] = (),
) -> Sipp:  # fmt: skip
    """Register each of `users` (name to password) once; `expires` 0 removes them.

    Raises SippError `sipp_missing`.
    """
    lines = [f"{n};[authentication username={n} password={p}]" for n, p in users.items()]
    return await run(
        "register", remote, calls=len(users), rate=rate, lines=lines, transport=transport,
        keys={"realm": realm, "expires": str(expires)}, host=host, directory=directory, port=port,
        wrapper=wrapper,
    )  # fmt: skip
