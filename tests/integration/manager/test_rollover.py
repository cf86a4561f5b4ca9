"""Rollover of the certificate authority, revocation and the encrypted identity, on a real manager.

Devices are real cores with their own flash; nothing is typed at them.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fleetkit import contact, enrolled, until
from managerkit import MAIN, Running, Site, cli, eventually, running

from callpool.device.errors import LinkError
from callpool.device.manager_link import ManagerLink
from callpool.host.files import write_durably
from callpool.host.process import command_line
from callpool.lab.simulated_fleet import CountedLink, Simulated
from callpool.manager.identity import Identity
from callpool.wire.messages import CONTACT_PATH

PASSPHRASE = "a passphrase of some length"


def manage(site: Site, *words: str, **env: str) -> str:
    status, out, err = cli(MAIN, *words, "--dir", str(site.layout.directory), env=env)
    assert status == 0, err
    return out


def refused(site: Site, *words: str, **env: str) -> str:
    status, out, err = cli(MAIN, *words, "--dir", str(site.layout.directory), env=env)
    assert status == 1, out
    return err


async def trusts(link: ManagerLink, certificate: Path, key: Path) -> bool:
    """Tell whether `link`'s client takes a server of localhost with that certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    there = link._manager
    link._manager = f"https://localhost:{port}"
    try:
        return await link.exchange(CONTACT_PATH, "x") == "hi"
    except LinkError as error:
        if "CERTIFICATE_VERIFY_FAILED" not in error.sentence:
            raise
        return False
    finally:
        link._manager = there
        server.close()


async def test_the_certificate_authority_is_rolled_over_and_devices_follow_untouched(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path / "manager", lab_clock="")
    layout = site.layout
    with running(site) as manager:
        port = manager.port
        async with enrolled(manager, tmp_path / "fleet", 3) as fleet:
            given = tmp_path / "given-ca.pem"  # what the devices were set up with
            shutil.copy(layout.ca, given)
            old = [
                Path(shutil.copy(f, tmp_path)) for f in (layout.certificate, layout.certificate_key)
            ]
            link = ManagerLink(manager.url, ca_file=str(given))
            assert "no next certificate" in refused(site, "ca", "switch")
            await asyncio.to_thread(manage, site, "ca", "begin")
            assert "under way" in refused(site, "ca", "begin")
            assert "3 devices do not know" in refused(site, "ca", "switch")
            # One contact brings it, the next shows that it arrived.
            await contact(fleet, 2)
            assert "known to 3 devices, not yet to 0" in manage(site, "ca", "status")
            await asyncio.to_thread(manage, site, "ca", "switch")
            assert manager.stop() == 0
            with running(site, f"127.0.0.1:{port}"):
                await contact(fleet)
                link.trust(fleet.devices[0].core.authorities)
                assert await trusts(link, *old)
                await asyncio.to_thread(manage, site, "ca", "retire")
                await contact(fleet, 2)
                authorities = fleet.devices[0].core.authorities
                assert authorities == (layout.ca.read_text(),)
                # What the old authority signed is worth nothing from now on.
                link.trust(authorities)
                assert not await trusts(link, *old)
                assert await trusts(link, layout.certificate, layout.certificate_key)
                await link.close()
                # A restart reads it from flash: the file it was set up with is the old one.
                context = ssl.create_default_context(cafile=given)
                fresh = CountedLink(manager.url, fleet.figures, ca_file=str(given), context=context)
                again = Simulated(fleet.devices[0].layout, fresh, hints=False)
                await fleet.devices.pop(0).close()
                fleet.devices.append(again)
                since = time.time()
                await again.start()
                await until(lambda: again.fresh(since))


async def test_a_revoked_identity_is_refused_by_name_and_the_serial_number_can_be_given_again(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path / "manager", lab_clock="")
    with running(site) as manager:
        async with enrolled(manager, tmp_path / "fleet", 2, hints=True) as fleet:
            lost, other = fleet.devices
            serial = lost.core.settings.serial
            manager.call("POST", f"/units/{serial}/revoke", {"reason": "stolen"}, 200)
            lost.agent.contacts.want("poll")
            lost.agent.nudge()
            await until(lambda: "contact_lost" in lost.core.faults)
            assert "has been revoked" in lost.core.faults["contact_lost"]
            assert fleet.figures.failures["identity_revoked"] >= 1
            # It is no clone, and no other device is concerned.
            assert "clone_locked" not in lost.core.faults
            since = time.time()
            other.agent.contacts.want("poll")
            other.agent.nudge()
            await until(lambda: other.fresh(since))
            assert not lost.fresh(since)
            unit = manager.unit(serial)
            assert unit["locked"] == "identity_revoked"
            lines = manager.call("GET", "/journal?limit=50")["journal"]
            said = [line for line in lines if "identity_revoked" in str(line)]
            assert len(said) == 1
            assert "stolen" in str(said[0])
            # Found again: an operator releases the number to one machine.
            token = manager.call("POST", f"/units/{serial}/unlock", {}, 200)["token"]
            lost.layout.lay_token(token)
            await lost.agent.ask(lost.agent.enrol)
            await until(lambda: lost.fresh(since))


def start(site: Site, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, "run", "--dir", str(site.layout.directory)],
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, err = process.communicate(timeout=60)
    return process.returncode, err


def test_an_encrypted_identity_is_of_no_use_without_its_passphrase(tmp_path: Path) -> None:
    site = Site(tmp_path / "manager", lab_clock="")
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    file = credentials / "manager-passphrase"
    file.write_text("short\n")
    assert "at least 12" in refused(site, "key", "encrypt", "--passphrase-file", str(file))
    file.write_text(f"{PASSPHRASE}\n")
    assert "4 private files" in manage(site, "key", "encrypt", "--passphrase-file", str(file))
    private = [f for f in site.layout.identity.iterdir() if b"PRIVATE" in f.read_bytes()]
    assert len(private) == 4
    assert all(b"BEGIN ENCRYPTED PRIVATE KEY" in f.read_bytes() for f in private)
    assert all(f.stat().st_mode & 0o777 == 0o600 for f in private)

    status, err = ended(start(site))
    assert (status, "is encrypted: give its passphrase" in err) == (1, True)
    wrong = tmp_path / "wrong"
    wrong.write_text("another passphrase\n")
    status, err = ended(start(site, CALLPOOL_PASSPHRASE_FILE=str(wrong)))
    assert (status, "not that of anchor.pem" in err) == (1, True)
    assert PASSPHRASE not in err

    # As systemd hands it over; the process list shows neither it nor what it opens.
    process = start(site, CREDENTIALS_DIRECTORY=str(credentials))
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("callpool manager: ")
        shown = " ".join(command_line(process.pid))
        environment = Path(f"/proc/{process.pid}/environ").read_text()
        assert PASSPHRASE not in shown + environment
    finally:
        process.send_signal(signal.SIGTERM)
        assert ended(process)[0] == 0

    # What is made from now on is encrypted as well.
    manage(site, "roll-key", CREDENTIALS_DIRECTORY=str(credentials))
    manage(site, "ca", "begin", CREDENTIALS_DIRECTORY=str(credentials))
    for name in ("signing-2.pem", "ca-next-key.pem"):
        assert b"ENCRYPTED" in (site.layout.identity / name).read_bytes()
    assert "6 private files" in manage(
        site, "key", "decrypt", CREDENTIALS_DIRECTORY=str(credentials)
    )
    with running(site) as plain:
        assert plain.pool()


def test_an_encryption_that_is_cut_off_half_way_leaves_a_manager_that_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path / "manager", lab_clock="")
    kept = Identity(site.layout)
    count = 0

    def cut(file: Path, content: bytes, *, mode: int = 0o600) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise OSError(28, "No space left on device")
        write_durably(file, content, mode=mode)

    monkeypatch.setattr("callpool.manager.identity.write_durably", cut)
    with pytest.raises(OSError, match="No space"):
        kept.reseal(PASSPHRASE.encode())
    monkeypatch.undo()
    passphrase = tmp_path / "passphrase"
    passphrase.write_text(PASSPHRASE)
    monkeypatch.setenv("CALLPOOL_PASSPHRASE_FILE", str(passphrase))
    mixed = Identity(site.layout)
    assert mixed.anchor.public == kept.anchor.public
    assert not mixed.encrypted  # the anchor comes last
    assert mixed.reseal(PASSPHRASE.encode()) == 4
    made: Running = Running(site)
    try:
        assert eventually(made.pool)
    finally:
        assert made.stop() == 0
