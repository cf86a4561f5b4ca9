"""A person at a prompt, and the server as an auditor sees it."""

from __future__ import annotations

import socket
import stat
import subprocess
import sys
from pathlib import Path

import pexpect
import pytest
from shellkit import PROMPT, Shell, eventually


def test_a_person_finds_help_completion_history_pages_and_a_way_to_stop(smart: Shell) -> None:
    child = smart.session()
    child.send("sh l?")
    child.expect(r"license +Licenses\r\n +log +Logs")
    child.send("ic st")
    child.expect("lic st")
    child.send("\t")
    child.expect("status")
    child.send("\r")
    child.expect("--More--")
    child.send(" ")
    child.expect(PROMPT)
    child.sendline("show license all")
    child.expect("--More--")
    child.send("q")
    child.expect(PROMPT)
    child.sendline("terminal length 0")
    child.expect(PROMPT)
    child.sendline("sh lic all | inc agent FOR")
    child.expect("Smart Agent for Licensing: callpool")
    child.expect(PROMPT)
    assert "More" not in (child.before or "")
    child.send("half a line\x03")
    child.expect(PROMPT)
    child.send("\x1b[A")
    child.expect("sh lic all")
    child.send("\x1b[A")
    child.expect("terminal length 0")
    child.send("\r")
    child.expect(PROMPT)
    child.sendline("show nonsense")
    child.expect(r"% There is no command word 'nonsense' after 'show'. \[unknown_word\]\r\n")
    child.expect(rf"{smart.serial}# ")
    child.send("\x04")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_a_secret_is_in_no_history_no_log_and_no_journal(smart: Shell) -> None:
    secret = "Sec-ret?99"
    child = smart.session()
    for line in (
        "username bob create",
        f"username bob password {secret}",
        f"usrname bob password {secret}",
    ):
        child.sendline(line)
        child.expect(PROMPT)
    child.sendline("username bob password")
    child.expect("New password: ")
    child.sendline(secret)
    child.expect("The same again: ")
    assert secret not in (child.before or ""), "it is not echoed"
    child.sendline(secret)
    child.expect(PROMPT)
    child.sendline("username bob password")
    child.expect("New password: ")
    child.send(f"{secret}1\r")
    child.expect("The same again: ")
    child.send(f"{secret}2\r")
    child.expect("bad_password")
    child.expect(PROMPT)
    child.sendline("show history")
    child.expect(PROMPT)
    assert "username bob create" in (child.before or "")
    assert secret not in (child.before or "")
    for _ in range(6):
        child.send("\x1b[A")
    child.send("\x03")
    child.expect(PROMPT)
    assert secret not in (child.before or "")
    child.sendline("exit")
    child.expect(pexpect.EOF)
    signed = smart.with_password("ssh", user="bob", password=secret)
    signed.close(force=True)
    kept = [p for p in smart.layout.root.rglob("*") if p.is_file()]
    kept += list((smart.lab.directory / "log").iterdir())
    assert smart.layout.journal in kept
    for file in kept:
        assert secret.encode() not in file.read_bytes(), file
    assert secret not in smart.does("show tech-support")
    made = [e for e in smart.journal() if e.get("change") == "username bob password ***"]
    assert made[-1]["who"] == "root (ssh from 127.0.0.1)"


def test_new_lines_of_the_log_are_followed_until_a_key_is_pressed(smart: Shell) -> None:
    child = smart.session()
    child.sendline("show log sml follow")
    child.expect("follow")
    other = subprocess.Popen(
        ["ssh", *smart.options(), "-p", str(smart.port), f"root@{smart.host}",
         "show log sml follow | include counted"],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert other.stdout is not None

        def write() -> bool:
            with smart.layout.smart_log.open("a") as out:
                out.write("a line to be counted\n")
            return child.expect(["a line to be counted", pexpect.TIMEOUT], timeout=1) == 0

        eventually(write)
        child.send("x")
        child.expect(PROMPT)
        with smart.layout.smart_log.open("a") as out:
            out.write("another that is counted\nand one that is not\n")
        while (line := other.stdout.readline()) != "another that is counted\n":
            assert line == "a line to be counted\n"
    finally:
        other.terminate()
        other.wait(30)
        if other.stdout:
            other.stdout.close()
    child.sendline("exit")
    child.expect(pexpect.EOF)


def test_nothing_is_forwarded_and_the_host_key_stays(smart: Shell) -> None:
    with socket.create_server(("127.0.0.1", 0)) as target:
        port = target.getsockname()[1]
        done = smart.run(more=("-W", f"127.0.0.1:{port}"))
        assert done.returncode != 0
        target.setblocking(False)
        with pytest.raises(BlockingIOError):
            target.accept()
    assert stat.S_IMODE(smart.layout.ssh_host_key.stat().st_mode) == 0o600
    shown = smart.host_command("ssh", "show")
    scanned = subprocess.run(
        ["ssh-keygen", "-lf", str(smart.home / "known_hosts")], capture_output=True, text=True
    ).stdout
    fingerprint = scanned.split()[1]
    assert fingerprint in shown


def test_ssh_audit_finds_no_failure(pool: Shell) -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ssh-audit")), "-n", "-p", str(pool.port), pool.host],
        capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    # 0: all good; 2: warnings (clients without post-quantum key exchange are served); 3: failures.
    assert done.returncode in (0, 2), done.stdout
    assert "[fail]" not in done.stdout
    warned = [x for x in done.stdout.splitlines() if "[warn]" in x]
    assert all("curve25519-sha256" in x for x in warned), warned
    assert "DHEat" not in done.stdout
