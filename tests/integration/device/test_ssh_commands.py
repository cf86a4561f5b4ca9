"""Every command of the shell by `ssh device COMMAND`, and the exit status."""

from __future__ import annotations

import time
from pathlib import Path

from shellkit import POOL, SEED_PASSWORD, SMART, Shell, eventually

from callpool.device.faces.shell.table import COMMANDS
from callpool.lab.handle import LabHandle
from callpool.licensing.capacity import Capacity
from callpool.vendor.office import Office


class Told:
    """Carries out commands, and remembers which rows of the table they were."""

    def __init__(self) -> None:
        self.done: set[str] = set()

    def __call__(
        self, shell: Shell, words: str, command: str, *expected: str, typed: str = ""
    ) -> str:
        self.done.add(words)
        said = shell.does(command, typed=typed)
        for text in expected:
            assert text in said, (command, text, said)
        return said


def test_every_command_does_what_it_says(shells: LabHandle, pool: Shell, smart: Shell) -> None:
    told = Told()
    smart_licensing(told, shells, smart)
    the_pool(told, shells, pool)
    configuration(told, pool)
    # What follows a key is shown elsewhere: `follow`, and the factory reset.
    told.done |= {"show log sml follow", "factory-reset [SERIAL]"}
    assert told.done == {c.words for c in COMMANDS}


def smart_licensing(told: Told, shells: LabHandle, smart: Shell) -> None:
    """From off to registered and back."""
    told(smart, "license smart enable", "license smart enable", "on. State: Unidentified.")
    told(smart, "license smart count N", "lic smart count 50", "Configured: 50 calls/s.")
    token = shells.call("POST", "/smart/tokens", {})["token"]
    told(
        smart, "license smart register idtoken TOKEN [force]",
        f"license smart register idtoken {token}", "in progress", "Registration: complete.",
    )  # fmt: skip
    shells.await_smart(SMART, "Authorized")
    told(smart, "license smart renew auth|id", "lic sm renew auth", "State: Authorized.")
    told(smart, "license smart renew auth|id", "lic sm renew id", "The ID is renewed.")
    told(
        smart, "show license status", "show license status", "Smart Licensing is ENABLED",
        "  Status: REGISTERED", "  Smart Account: acme", "Initial Registration: SUCCEEDED on 20",
        "  Status: AUTHORIZED on 20", "Communication Deadline: 20", "Then: AuthorizationExpired",
    )  # fmt: skip
    told(smart, "show license summary", "sh lic su", "AUTHORIZED", "Count: 50")
    told(smart, "show license usage", "sh lic us", "Enforcement mode: in-compliance", "100 purchas")
    told(smart, "show license udi", "sh lic udi", f"UDI: PID:CALLPOOL-DEVICE,SN:{smart.serial}")
    told(smart, "show license all", "sh lic all", "License Usage", "Agent Version", "Reservation")
    told(smart, "show log sml [tail N]", "show log sml", "Registered")
    assert len(told(smart, "show log sml [tail N]", "show log sml tail 2").splitlines()) == 2
    for words in ("show license tech-support", "show tech-support"):
        bundle = told(smart, words, words, "------ show license all ------", "sml.log")
        assert token not in bundle
        for file in ("secret", "gate.secret", "smart.pem", "identity.pem", "config.json"):
            raw = (smart.layout.root / file).read_bytes()
            for line in raw.decode(errors="ignore").splitlines():
                assert not line[20:] or line not in bundle
    told(smart, "license smart deregister", "license smart deregister", "Deregistered")
    told(smart, "license smart disable", "license smart disable", "off. State: Unconfigured.")
    assert smart.refuses("license smart count 7") == "bad_count"
    assert smart.refuses("license smart register idtoken nonsense") == "bad_token"


def the_pool(told: Told, shells: LabHandle, pool: Shell) -> None:
    """Remote, Local, Actual; what is pending is applied by a restart with save."""
    # What is applied first is of this test's own, whatever others have left.
    for sessions, save in ((20, True), (10, False)):
        shells.allocate(POOL, sbc_sessions=sessions)
        eventually(lambda n=sessions: shells.row(POOL, "sbc_sessions")["remote"] == n)  # type: ignore[misc]  # a lambda's default
        if save:
            pool.ask("restart", save=True)
    command = "show high-availability status"
    told(pool, command, "show high status", "This device is no unit of an HA pair.")
    told(pool, "license pool refresh", "license pool refresh", "is being asked")
    shown = told(pool, "show license pool", "show license pool", "Mode: License Pool", "Lease Ends")
    assert [x.split()[2:] for x in shown.splitlines() if x.startswith("SBC Sessions")] == [
        ["10", "0", "20", "10", "0"]
    ]
    told(pool, "restart [save] [graceful SECONDS]", "restart save", "the pool has sent is applied")
    assert shells.row(POOL, "sbc_sessions")["actual"] == 10
    told(pool, "restart [save] [graceful SECONDS]", "restart graceful 60", "New calls are refused")
    # There are no calls: it does not wait.
    eventually(lambda: any(e["event"] == "drained" for e in pool.journal()))
    assert pool.refuses("restart cancel") == "no_restart"
    told.done.add("restart cancel")
    key = Office(Path(shells.lab.vendor.directory)).key
    now = int(time.time())
    _, envelope = key(
        serials=[pool.serial], counts=Capacity.of(sbc_sessions=7),
        maximum=Capacity.of(sbc_sessions=250),
        features=frozenset(), now=now + 100,
    )  # fmt: skip
    told(pool, "license key install", "license key install", "is installed", typed=envelope + "\n")
    assert shells.row(POOL, "sbc_sessions")["local"] == 7
    assert pool.refuses("license key install", typed="nonsense\n") == "bad_envelope"
    assert pool.refuses("license key install") == "bad_envelope"
    told(pool, "show calls", "show calls", "sessions ", "in_sync")
    told(pool, "show alarms active", "show alarms active")
    told(pool, "show alarms history", "show alarms history", "[restart_pending]")
    told(pool, "show version", "show version", pool.serial)
    assert pool.refuses("license smart enable") == "mode_fixed"


def configuration(told: Told, pool: Shell) -> None:
    """Users and the rest of what `wr` writes; the session's own commands; the restart."""
    told(pool, "username NAME create", "username bob create")
    told(pool, "username NAME password [SECRET]", f"username bob password {SEED_PASSWORD}")
    told(pool, "username NAME password [SECRET]", "username bob password", typed="by-stdin-1\n")
    told(pool, "username NAME group administrator|pfs-privusers|operator", "user bob gr oper")
    public = Path(f"{pool.key}.pub").read_text().strip()
    told(pool, "username NAME key PUBLIC-KEY...", f"username bob key {public}")
    told(pool, "idle-timeout MINUTES", "idle-timeout 30")
    running = told(
        pool, "show running-config", "show running-config", "idle-timeout 30",
        "username bob password ***", "username bob group operator", f"username bob key {public}",
    )  # fmt: skip
    assert "argon2" not in running
    assert SEED_PASSWORD not in running
    assert "bob" not in told(pool, "show startup-config", "show startup-config")
    told(pool, "write [memory]", "write memory", "is written")
    told(pool, "show startup-config", "show startup-config", "username bob password ***")
    told(pool, "no username NAME key", "no username bob key")
    told(pool, "no username NAME", "no username bob")
    told(pool, "no idle-timeout", "no idle-timeout")
    told(pool, "wr", "wr", "is written")
    told(pool, "configure terminal", "configure terminal", "no configuration mode")
    told(pool, "terminal length N", "terminal length 0")
    for words in ("end", "exit", "quit", "logout"):
        told(pool, words, words)
    told(pool, "show history", "show history")
    pool.reload("save")
    told.done.add("reload [save|discard]")


def test_the_exit_status_says_how_it_went_and_a_refusal_is_one_sentence(pool: Shell) -> None:
    assert pool.run("show version").returncode == 0
    assert pool.refuses("show nonsense", status=2) == "unknown_word"
    assert pool.refuses("show l", status=2) == "ambiguous"
    assert pool.refuses("show license", status=2) == "incomplete"
    assert pool.refuses("username nobody group operator") == "no_such_user"
    assert pool.refuses("username 1x create") == "bad_user_name"
    assert pool.refuses("username bob key ssh-ed25519 " + "A" * 68) == "bad_public_key"
    assert pool.refuses("terminal length 9999") == "bad_number"
    assert pool.refuses("factory-reset") == "wrong_serial"
    assert pool.refuses("factory-reset SN-OTHER") == "wrong_serial"
    assert pool.does("show version | include SERIAL") == f"Serial Number: {pool.serial}\n"
    assert pool.does("show version | include (a+)+$") == ""
    script = "show version\nshow nonsense\nusername 1x create\nshow version\n"
    done = pool.run(typed=script)
    assert done.returncode == 2, "the first failure is the exit status"
    assert done.stdout.count(pool.serial) == 2
    assert done.stderr.count("%") == 2
