"""What keeps a gate from starting is said in one clear sentence with a stable code."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from gatekit import caps, rig

from callpool.device.gate.driver import KamailioGate
from callpool.device.gate.settings import GateError
from callpool.host.clock import SystemClock
from callpool.host.ports import free_port


async def start_with(**more: object) -> GateError:
    async with rig(caps(), start=False) as r:
        gate = KamailioGate(msgspec.structs.replace(r.gate.settings, **more), SystemClock())
        with pytest.raises(GateError) as caught:
            await gate.start(caps())
        assert gate.kamailio_pid == 0
        return caught.value


async def test_a_missing_kamailio_names_the_command_that_mends_it() -> None:
    error = await start_with(kamailio="kamailio-that-is-not-there")
    assert error.code == "kamailio_missing"
    assert "apt-get install kamailio" in error.sentence


async def test_an_older_kamailio_is_refused_by_its_version(tmp_path: Path) -> None:
    old = tmp_path / "kamailio"
    old.write_text("#!/bin/sh\necho 'version: kamailio 5.5.2 (x86_64/linux)'\n")
    old.chmod(0o755)
    error = await start_with(kamailio=str(old))
    assert error.code == "kamailio_too_old"
    assert "5.5" in error.sentence


async def test_a_kamailio_that_cannot_start_is_quoted() -> None:
    error = await start_with(
        listen=(f"udp:127.0.0.1:{free_port()}", f"tls:127.0.0.1:{free_port()}"),
        tls_certificate="/nonexistent/cert.pem",
        tls_private_key="/nonexistent/key.pem",
    )
    assert error.code == "kamailio_failed"
    assert "cert" in error.sentence.lower() or "tls" in error.sentence.lower()


async def test_an_address_of_another_machine_is_named() -> None:
    error = await start_with(listen=("udp:192.0.2.77:45997",))
    assert error.code == "bad_listen_address"
