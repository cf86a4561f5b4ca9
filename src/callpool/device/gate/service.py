"""`Service`: one Kamailio's life. Ours is a child; an external one is its service manager's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from callpool.device.gate.journal import GateState
from callpool.device.gate.launch import failure, identity, launch
from callpool.device.gate.rpc import Rpc
from callpool.device.gate.settings import GateError, GateSettings
from callpool.host.process import ProcessId, end_group, groups_of, is_alive

#: How long Kamailio may take to answer after it was started, in seconds.
START_LIMIT: Final = 15.0


class Service:
    """Starts and ends Kamailio; knows which one is ours across restarts of the driver."""

    def __init__(self, settings: GateSettings, rpc: Rpc) -> None:
        """`rpc` is how the Kamailio of `settings` is spoken to."""
        self._settings = settings
        self._rpc = rpc
        self.state = GateState()
        #: Kamailio's main process; None when there is none of ours.
        self.leader: ProcessId | None = None
        self._child: subprocess.Popen[bytes] | None = None

    def forget(self) -> None:
        """Leave Kamailio at work, whoever cares for it next."""
        self.leader = None
        if self._child is not None:
            self._child.returncode = 0  # or Python would warn of a child that still runs
        self._child = None

    def known(self) -> ProcessId | None:
        """Return the main process that the state names, None when it names none."""
        if self._settings.mode == "external" or self.state.pid == 0:
            return None
        return ProcessId(pid=self.state.pid, started=self.state.started)

    async def end_leftover(self, drain: Callable[[], None]) -> None:
        """End what an earlier driver left of our child, noted or not.

        A driver may have been killed after it started one and before it could note which.
        Raises GateError `kamailio_failed`.
        """
        if self._settings.mode == "external":
            return
        config = str(self._settings.path / "kamailio.cfg")
        for leader in await asyncio.to_thread(groups_of, ["-f", config, "-DD"]):
            self.leader = leader
            await self.end(drain, grace=0.0)

    def save_ended(self) -> None:
        """Note on disk that no Kamailio is left. Raises OSError."""
        self.state = GateState(
            gen=self.state.gen, core_port=self.state.core_port, token=self.state.token
        )
        self.state.save(self._settings.path)

    async def end(self, drain: Callable[[], None], *, grace: float) -> None:
        """End the group; then `drain` what it still had to say.

        It has `grace` seconds to end by itself. Raises GateError `kamailio_failed`.
        """
        leader, self.leader = self.leader, None
        if leader is None:
            return
        argument = str(self._settings.path / "kamailio.cfg")
        gone = await asyncio.to_thread(end_group, leader, argument, grace=grace)
        if self._child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(timeout=1)
            self._child = None
        if not gone:
            raise GateError("kamailio_failed", f"Kamailio {leader.pid} cannot be ended.")
        drain()

    async def start(self, program: str, config: Path, gen: int, drain: Callable[[], None]) -> None:
        """Start a Kamailio that is seeded already; return once it answers.

        Raises GateError `kamailio_failed` or what else kept it from starting.
        """
        log = self._settings.path / "kamailio.log"
        offset = log.stat().st_size if log.exists() else 0
        child = launch(program, self._settings, config)
        self._child, self.leader = child, identity(child)
        self.state = GateState(
            pid=self.leader.pid, started=self.leader.started, gen=gen,
            core_port=self.state.core_port, token=self.state.token,
        )  # fmt: skip
        self.state.save(self._settings.path)
        deadline = time.monotonic() + START_LIMIT
        while True:
            if child.poll() is not None:
                with contextlib.suppress(GateError):
                    await self.end(drain, grace=0.0)
                raise failure(self._settings, offset)
            try:
                await self._rpc.call("htable.get", "cp_cnt", "up", timeout=0.25)
                return
            except GateError:
                if time.monotonic() > deadline:
                    await self.end(drain, grace=0.0)
                    raise failure(self._settings, offset) from None
                await asyncio.sleep(0.01)

    async def restart_external(self) -> int:
        """Run the configured command, whose pre-start step seeds; return the new start's number.

        Raises GateError `restart_command_failed` or `kamailio_failed`.
        """
        try:
            process = await asyncio.create_subprocess_exec(
                *self._settings.restart_command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
        except OSError as exc:
            raise GateError(
                "restart_command_failed", f"The restart command cannot be run: {exc}."
            ) from exc
        output, _ = await process.communicate()
        if process.returncode != 0:
            said = output.decode(errors="replace").strip()[-300:]
            raise GateError(
                "restart_command_failed",
                f"The restart command ended with {process.returncode}: {said}",
            )
        deadline = time.monotonic() + START_LIMIT
        while True:
            self.state = GateState.load(self._settings.path)
            with contextlib.suppress(GateError):
                gen = await self._rpc.get("cp_cnt", "gen")
                if isinstance(gen, int) and gen == self.state.gen:
                    return gen
            if time.monotonic() > deadline:
                raise GateError(
                    "kamailio_failed",
                    "Kamailio does not answer after the restart command, or was not seeded:"
                    " see docs/gate.md on its pre-start command.",
                )
            await asyncio.sleep(0.02)


async def gone(process: ProcessId) -> None:
    """Return once the process is gone (at once if it is)."""
    try:
        fd = os.pidfd_open(process.pid)
    except OSError:
        return
    try:
        if not is_alive(process):
            return
        loop = asyncio.get_running_loop()
        done = asyncio.Event()
        loop.add_reader(fd, done.set)
        try:
            await done.wait()
        finally:
            loop.remove_reader(fd)
    finally:
        os.close(fd)
