from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from callpool.device import control as module
from callpool.device.control import MAX_CONNECTIONS, MAX_LINE, PACE, Control, ask, short_path
from callpool.device.errors import DeviceError
from callpool.licensing.errors import CallpoolError


async def echo(request: dict[str, Any]) -> Any:
    return request.get("word")


async def refuse(_: dict[str, Any]) -> Any:
    raise DeviceError("no_such_thing", "There is no such thing.")


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[Control]:
    made = Control(tmp_path / "control.sock", {"echo": echo, "refuse": refuse})
    await made.start()
    yield made
    await made.stop()


async def asked(file: Path, do: str, **fields: Any) -> Any:
    return await asyncio.to_thread(ask, file, do, timeout=5.0, **fields)


async def test_a_command_is_answered_and_a_refusal_keeps_its_code(
    control: Control, tmp_path: Path
) -> None:
    file = tmp_path / "control.sock"
    assert stat.S_IMODE(os.stat(file).st_mode) == 0o600
    assert await asked(file, "echo", word="hello") == "hello"
    for do, code in (("refuse", "no_such_thing"), ("dance", "unknown_command")):
        with pytest.raises(CallpoolError) as caught:
            await asked(file, do)
        assert caught.value.code == code


@pytest.mark.parametrize("line", [b"rubbish\n", b"[]\n", b'{"do":5}\n', b"\xff\xfe\n", b"\n"])
async def test_what_is_no_request_is_refused_in_a_sentence(
    control: Control, tmp_path: Path, line: bytes
) -> None:
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "control.sock"))
    writer.write(line)
    told = json.loads(await reader.readline())
    assert told["code"] in ("bad_request", "unknown_command")
    writer.close()


async def test_a_line_without_end_costs_a_bounded_number_of_bytes(
    control: Control, tmp_path: Path
) -> None:
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / "control.sock"))
    writer.write(b"x" * (MAX_LINE * 3))
    told = json.loads(await reader.readline())
    assert told["code"] == "bad_request"
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read() == b"", "and the connection is ended"
    writer.close()


async def test_stuck_clients_are_bounded_and_let_go(
    control: Control, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IDLE", 1.5)
    file = str(tmp_path / "control.sock")
    stuck = [await asyncio.open_unix_connection(file) for _ in range(MAX_CONNECTIONS)]
    for _, writer in stuck:
        writer.write(b'{"do":"ec')
    async with asyncio.timeout(60):
        while True:  # the server has taken them all once it refuses one more
            reader, writer = await asyncio.open_unix_connection(file)
            try:
                async with asyncio.timeout(0.05):
                    if json.loads(await reader.readline())["code"] == "control_busy":
                        writer.close()
                        break
            except TimeoutError:
                stuck.append((reader, writer))
    async with asyncio.timeout(60):
        for reader, _ in stuck:
            assert await reader.read() == b""
    assert await asked(tmp_path / "control.sock", "echo", word="again") == "again"
    for _, writer in stuck:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_a_flood_never_delays_the_loop(control: Control, tmp_path: Path) -> None:
    file = str(tmp_path / "control.sock")
    loop = asyncio.get_running_loop()
    answers = 0

    async def flood() -> None:
        nonlocal answers
        reader, writer = await asyncio.open_unix_connection(file)
        try:
            writer.write(b'{"do":"echo","word":"x"}\n' * 2000)
            while await reader.readline():
                answers += 1
        finally:
            writer.transport.abort()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    clients = [asyncio.create_task(flood()) for _ in range(MAX_CONNECTIONS)]
    # What this process spends: on a machine that has much else to do, time passes by itself.
    worst, start = 0.0, loop.time()
    while (spent := loop.time() - start) < 1.0 or (answers <= 50 and spent < 60.0):
        began = time.process_time()
        await asyncio.sleep(0.01)
        worst = max(worst, time.process_time() - began)
    for client in clients:
        client.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    assert answers > 50
    spent = loop.time() - start
    assert answers <= MAX_CONNECTIONS * (spent / PACE + 1), "each connection is paced"
    assert worst < 0.25


async def test_a_deep_directory_is_no_obstacle(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    made = Control(deep / "control.sock", {"echo": echo})
    await made.start()
    assert await asked(deep / "control.sock", "echo", word="deep") == "deep"
    await made.stop()
    assert not (deep / "control.sock").exists()
    with short_path(tmp_path / "s") as path:
        assert path == str(tmp_path / "s") or path.startswith("/proc/self/fd/")


async def test_nobody_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DeviceError) as caught:
        await asked(tmp_path / "control.sock", "status")
    assert caught.value.code == "not_running"
