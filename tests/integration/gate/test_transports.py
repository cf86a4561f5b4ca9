"""The shipped configuration on UDP, TCP and TLS."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from pathlib import Path

from gatekit import DEADLINE, HOST, Phone, caps, invite, rig

from callpool.device.gate.settings import Destination
from callpool.host import sipp
from callpool.host.ports import free_port


async def test_calls_over_tcp_are_counted_like_any_other() -> None:
    port = free_port()
    listen = (f"udp:{HOST}:{port}", f"tcp:{HOST}:{port}")
    async with rig(caps(sessions=3), listen=listen) as r:
        running = await sipp.caller(r.address, calls=8, rate=100, hold_ms=6000, transport="tcp")
        result = await running.wait(60)
        assert (result.admitted, result.refused, result.failed) == (3, 5, 0)
        await r.settled(0)


async def test_options_over_tls_is_answered(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    made = await asyncio.to_thread(
        subprocess.run,
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
         "-nodes", "-days", "2", "-subj", "/CN=localhost", "-keyout", str(key),
         "-out", str(certificate)],
        capture_output=True,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    udp, tls = free_port(), free_port()
    async with rig(
        caps(sessions=1),
        listen=(f"udp:{HOST}:{udp}", f"tls:{HOST}:{tls}"),
        tls_certificate=str(certificate),
        tls_private_key=str(key),
    ):
        context = ssl.create_default_context(cafile=str(certificate))
        reader, writer = await asyncio.open_connection(
            HOST, tls, ssl=context, server_hostname="localhost"
        )
        with Phone((HOST, udp)) as phone:
            text = phone.message("OPTIONS", f"sip:{HOST}:{tls}", call_id="tls@test")
        writer.write(text.replace("SIP/2.0/UDP", "SIP/2.0/TLS").encode())
        await writer.drain()
        async with asyncio.timeout(DEADLINE):
            line = await reader.readline()
        assert line.startswith(b"SIP/2.0 200")
        writer.close()


async def test_the_longest_prefix_chooses_the_destination() -> None:
    with Phone((HOST, 1)) as here, Phone((HOST, 1)) as there:
        destinations = (
            Destination(host=HOST, port=here.port, prefix="49"),
            Destination(host=HOST, port=there.port, prefix="4930"),
        )
        async with rig(caps(sessions=9), destinations=destinations) as r:
            with Phone(r.address) as phone:
                phone.send(invite(phone, "a@test", number="4940123"))
                assert (await here.receive()).text.startswith("INVITE sip:4940123@")
                phone.send(invite(phone, "b@test", number="4930123"))
                assert (await there.receive()).text.startswith("INVITE sip:4930123@")
                answer = await phone.ask(invite(phone, "c@test", number="1"))
                assert answer.code == 404
                await asyncio.sleep(0)
                assert await r.count() == 2
