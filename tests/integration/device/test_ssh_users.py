"""Users: the seed's own sequence, what survives a restart, who may what, who gets in."""

from __future__ import annotations

import json
import os
import signal
import stat
import time
from pathlib import Path

import pexpect
from shellkit import LOG, PROMPT, SEED_PASSWORD, Shell, eventually, user


def fetch_log(shell: Shell, name: str) -> bool:
    """Fetch sml.log by sftp as a person would, with the seed's password; False if refused."""
    file = shell.home / "sml.log"
    file.unlink(missing_ok=True)
    child = shell.with_password("sftp", user=name, password=SEED_PASSWORD, wait=False)
    if child.expect(["sftp> ", "password: ", "Permission denied"]) != 0:
        child.close(force=True)
        return False
    child.sendline(f"get {LOG}")
    child.expect("sftp> ")
    child.sendline("bye")
    child.expect(pexpect.EOF)
    child.close()
    return file.read_bytes() == shell.layout.smart_log.read_bytes()


def test_the_seeds_sequence_survives_a_restart_and_without_wr_it_does_not(smart: Shell) -> None:
    child = smart.with_password("ssh", user=smart.entry.user, password=smart.entry.password)
    for line in (
        "username sftpuser create",
        f"username sftpuser password {SEED_PASSWORD}",
        "username sftpuser group pfs-privusers ",
    ):
        child.sendline(line)
        child.expect(rf"{smart.serial}\*# ")
    assert fetch_log(smart, "sftpuser"), "it counts at once"
    child.sendline("wr")
    child.expect(rf"{smart.serial}# ")
    child.sendline("reload")
    child.expect("The device restarts")
    child.expect(pexpect.EOF)
    before = smart.ask("running")["shell_pid"]
    eventually(lambda: smart.ask("running")["shell_pid"] not in (0, before))
    eventually(lambda: smart.run("show version").returncode == 0)
    assert fetch_log(smart, "sftpuser"), "it survives a restart"
    for line in (
        "username second create",
        f"username second password {SEED_PASSWORD}",
        "username second group pfs-privusers",
    ):
        smart.does(line)
    assert fetch_log(smart, "second")
    assert smart.refuses("reload") == "unsaved_configuration"
    smart.reload("discard")
    assert not fetch_log(smart, "second"), "without wr it is gone after the restart"
    assert fetch_log(smart, "sftpuser")


def test_unsaved_configuration_outlives_its_faces_and_the_sip_service(pool: Shell) -> None:
    pool.does("username bob create")
    before = pool.ask("running")["shell_pid"]
    os.kill(before, signal.SIGKILL)
    eventually(lambda: pool.ask("running")["shell_pid"] not in (0, before))
    eventually(lambda: pool.run("show version").returncode == 0)
    assert "only `reload` restarts the device" in pool.does("restart")
    assert "username bob create" in pool.does("show running-config")
    assert "username bob create" not in pool.does("show startup-config")
    assert pool.ask("status")["unsaved"]
    # A core that is killed takes it along, and leaves no shell behind.
    running = pool.ask("running")
    pool.lab.kill(pool.name)
    eventually(lambda: not Path(f"/proc/{running['shell_pid']}").exists())
    pool.lab.start(pool.name)
    eventually(lambda: pool.run("show version").returncode == 0)
    assert "bob" not in pool.does("show running-config")
    assert not pool.ask("status")["unsaved"]


def test_a_lost_password_is_mended_on_the_host_running_or_not(smart: Shell) -> None:
    smart.does("username eve create")
    smart.host_command("user", "add", "lost", "--password-file", "-", typed="old-pass-1\n")
    smart.host_command("user", "password", "lost", "--password-file", "-", typed="new-pass-1\n")
    child = smart.with_password("ssh", user="lost", password="new-pass-1")
    child.sendline("exit")
    child.expect(pexpect.EOF)
    startup = json.loads(smart.layout.config.read_text())
    assert [u["name"] for u in startup["users"]] == ["admin", "lost", "root"], "eve is not"
    assert stat.S_IMODE(smart.layout.config.stat().st_mode) == 0o600
    assert "lost" in smart.host_command("user", "list")


def test_each_group_may_what_is_its_own_and_is_told_what_is_not(smart: Shell) -> None:
    user(smart, "op", "operator")
    user(smart, "files", "pfs-privusers")
    for name in ("op", "files"):
        assert "Smart Licensing is" in smart.does("show license status", user=name)
        for command in ("username x create", "wr", "restart", "license smart enable", "reload"):
            assert smart.refuses(command, user=name) == "not_permitted"
    # Files: by sftp, by scp, by the old scp.
    assert smart.sftp(f"get {LOG} mine", user="files").returncode == 0
    assert (smart.home / "mine").read_bytes() == smart.layout.smart_log.read_bytes()
    for old in ((), ("-O",)):
        (smart.home / "mine").unlink()
        done = smart.scp(*old, f"@{LOG}", "mine", user="files")
        assert done.returncode == 0, done
        assert (smart.home / "mine").read_bytes() == smart.layout.smart_log.read_bytes()
    done = smart.sftp(f"get {LOG} not-mine", user="op")
    assert done.returncode != 0
    assert "Files are for the groups pfs-privusers and administrator." in done.stderr
    for old in ((), ("-O",)):
        done = smart.scp(*old, f"@{LOG}", "not-mine", user="op")
        assert done.returncode != 0
        assert "[not_permitted]" in done.stderr
    assert not (smart.home / "not-mine").exists()


def test_rights_are_taken_away_at_once_from_who_is_signed_in(smart: Shell) -> None:
    user(smart, "eve", "administrator")
    child = smart.session("eve")
    sftp = pexpect.spawn(
        "sftp", [*smart.options(), "-P", str(smart.port), f"eve@{smart.host}"],
        encoding="utf-8", timeout=60, cwd=str(smart.home),
    )  # fmt: skip
    sftp.expect("sftp> ")
    smart.does("username eve group operator")
    child.sendline("wr")
    child.expect("not_permitted")
    child.expect(PROMPT)
    sftp.sendline(f"get {LOG} taken")
    sftp.expect("sftp> ")
    assert not (smart.home / "taken").exists()
    sftp.close(force=True)
    smart.does("no username eve")
    child.sendline("show version")
    child.expect("no_such_user")
    child.expect(pexpect.EOF)
    assert smart.run("show version", user="eve").returncode == 255


def test_the_last_administrator_cannot_be_removed_here(pool: Shell) -> None:
    pool.does("username admin group operator")
    assert pool.refuses("no username root") == "last_administrator"
    assert pool.refuses("username root group operator") == "last_administrator"
    pool.does("username admin group administrator")


def test_a_failed_sign_in_is_held_up_journalled_and_limited_by_address_for_all_faces(
    smart: Shell,
) -> None:
    source = "127.0.0.9"
    began = time.monotonic()
    child = smart.with_password("ssh", user="guess", password="wrong-1", source=source, wait=False)
    child.expect("password: ")
    assert time.monotonic() - began > 2.0
    child.sendline("wrong-2")
    child.expect("password: ")
    child.sendline("wrong-3")
    child.expect(["Too many tries", "Permission denied", pexpect.EOF])
    child.close(force=True)
    failed = [e for e in smart.journal() if e["event"] == "sign_in_failed"]
    assert [(e["who"], e["source"], e["via"], e["how"]) for e in failed[-3:]] == [
        ("guess", source, "ssh", "password")
    ] * 3
    # The pages count with it.
    for _ in range(7):
        smart.ask("signed_in", name="x", source=source, via="pages", how="password", ok=False)
    user(smart, "guess", "operator", "right-one-1")
    child = smart.with_password(
        "ssh", user="guess", password="right-one-1", source=source, wait=False
    )
    child.expect("password: ")
    child.close(force=True)
    assert smart.run("show version", more=("-b", source)).returncode == 0, "keys are no guesses"
    child = smart.with_password("ssh", user="guess", password="right-one-1")
    child.close(force=True)


def test_a_factory_reset_needs_the_serial_number_and_leaves_no_user(smart: Shell) -> None:
    child = smart.session()
    child.sendline("factory-reset")
    child.expect("to confirm: ")
    child.sendline("no")
    child.expect("wrong_serial")
    child.expect(PROMPT)
    child.sendline("factory-reset")
    child.expect("to confirm: ")
    child.sendline(smart.serial)
    child.expect("The device is reset")
    child.expect(pexpect.EOF)
    assert smart.run("show version").returncode == 255
    assert smart.ask("config") == {
        "running": [], "startup": [], "unsaved": False, "idle_minutes": 10
    }  # fmt: skip
    smart.host_command("user", "add", "root", "--key-file", f"{smart.key}.pub")
    smart.host_command(
        "user", "add", "admin", "--password-file", "-", typed=f"{smart.entry.password}\n"
    )
    assert smart.does("show version")
