"""OpenSSH against the shells of a real lab: a device of the pool, and a smart one."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pexpect
import pytest

from callpool.device.control import ask
from callpool.device.settings import Layout
from callpool.lab.fleet import Plan, down, up
from callpool.lab.handle import LabHandle
from callpool.licensing.errors import CallpoolError

POOL, SMART = "sbc-a", "proxy-1"
LOG = "/opt/CUSP/dsnrs/log/sml.log"
#: Seconds that anything awaited may take: generous, for it costs only where a test fails.
DEADLINE = 90.0
SEED_PASSWORD = "Test@123"


def eventually(condition: Callable[[], Any], *, within: float = DEADLINE) -> Any:
    """Return the first true value of `condition`; fail after `within` seconds."""
    end = time.monotonic() + within
    while True:
        with contextlib.suppress(CallpoolError):
            if value := condition():
                return value
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.02)


@contextlib.contextmanager
def shell_lab(*, names: tuple[str, ...] = (POOL,), proxies: tuple[str, ...] = (SMART,)) -> Any:
    """A lab whose devices have shells."""
    directory = Path(tempfile.mkdtemp(prefix="cp-"))
    try:
        up(directory, Plan(names=names, proxies=proxies, ssh=True, apply="restart"), lambda _: None)
        yield LabHandle(directory)
    finally:
        if (directory / "lab.json").exists():
            down(directory)
        shutil.rmtree(directory, ignore_errors=True)


class Shell:
    """One device's shell, as OpenSSH sees it. `root` signs in by a key."""

    def __init__(self, lab: LabHandle, name: str) -> None:
        self.lab, self.name = lab, name
        self.entry = lab.device(name)
        self.layout = Layout(Path(self.entry.directory))
        self.host, _, port = self.entry.ssh.rpartition(":")
        self.port = int(port)
        self.home = lab.directory / f"{name}.ssh"
        self.home.mkdir()
        self.key = self.home / "id"
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)], check=True
        )
        self.host_command("user", "add", "root", "--key-file", f"{self.key}.pub")
        eventually(lambda: self.run("show version").returncode == 0)

    @property
    def serial(self) -> str:
        return self.entry.serial

    def ask(self, do: str, **fields: Any) -> Any:
        return ask(self.layout.control, do, timeout=DEADLINE, **fields)

    def host_command(self, *words: str, typed: str = "") -> str:
        """A command of the host's own."""
        done = subprocess.run(
            [sys.executable, "-m", "callpool", "device", *words, "--dir", self.entry.directory],
            input=typed, capture_output=True, text=True, timeout=DEADLINE,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    def options(self, source: str = "") -> list[str]:
        pairs = {
            "UserKnownHostsFile": str(self.home / "known_hosts"),
            "GlobalKnownHostsFile": "/dev/null",
            "StrictHostKeyChecking": "accept-new",
            "IdentityFile": str(self.key),
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "LogLevel": "ERROR",
        }
        if source:
            pairs["BindAddress"] = source
        return ["-F", "/dev/null", *(w for k, v in pairs.items() for w in ("-o", f"{k}={v}"))]

    def _client(
        self, words: list[str], typed: str | bytes = "", cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, input=typed if isinstance(typed, str) else typed.decode(), text=True,
            capture_output=True, timeout=DEADLINE * 2, cwd=cwd, env=_environment(),
        )  # fmt: skip

    def run(
        self, command: str = "", *, user: str = "root", typed: str = "", more: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        """`ssh device "command"`."""
        words = ["ssh", *self.options(), "-o", "BatchMode=yes", "-T", "-p", str(self.port), *more]
        return self._client([*words, f"{user}@{self.host}", *([command] if command else [])], typed)

    def does(self, command: str, *, user: str = "root", typed: str = "") -> str:
        """The same, which must succeed; return what it said."""
        done = self.run(command, user=user, typed=typed)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        assert not done.stderr, (command, done.stderr)
        return done.stdout

    def refuses(self, command: str, *, user: str = "root", typed: str = "", status: int = 1) -> str:
        """The same, which must be refused; return the code of its one sentence."""
        done = self.run(command, user=user, typed=typed)
        assert done.returncode == status, (command, done.stdout, done.stderr)
        said = re.fullmatch(r"% [^\n]+[.>)] \[(\w+)\]\n", done.stderr)
        assert said, (command, done.stderr)
        return said[1]

    def sftp(self, batch: str, *, user: str = "root") -> subprocess.CompletedProcess[str]:
        """`sftp -b` with a batch; files land in `home`."""
        words = ["sftp", *self.options(), "-o", "BatchMode=yes", "-P", str(self.port), "-b", "-"]
        return self._client([*words, f"{user}@{self.host}"], batch, cwd=self.home)

    def scp(self, *words: str, user: str = "root") -> subprocess.CompletedProcess[str]:
        """`scp`; `@` before a path stands for this device."""
        made = [f"{user}@{self.host}:{w[1:]}" if w.startswith("@") else w for w in words]
        options = [*self.options(), "-o", "BatchMode=yes", "-P", str(self.port)]
        return self._client(["scp", *options, *made], cwd=self.home)

    def with_password(
        self, tool: str, *words: str, user: str, password: str, source: str = "", wait: bool = True
    ) -> pexpect.spawn[str]:
        """A client at a terminal, signed in by a password."""
        port = "-p" if tool == "ssh" else "-P"
        options = [*self.options(source), "-o", "PreferredAuthentications=password", port]
        child = pexpect.spawn(
            tool,
            [*options, str(self.port), f"{user}@{self.host}{':' if tool == 'scp' else ''}", *words],
            encoding="utf-8", timeout=DEADLINE, dimensions=(24, 100), cwd=str(self.home),
            env=_environment(),
        )  # fmt: skip
        child.delaybeforesend = None
        child.expect("password: ")
        child.sendline(password)
        if wait:
            child.expect(PROMPT if tool == "ssh" else "sftp> ")
        return child

    def session(self, user: str = "root") -> pexpect.spawn[str]:
        """A person at a prompt, signed in by the key."""
        child = pexpect.spawn(
            "ssh",
            [*self.options(), "-tt", "-p", str(self.port), f"{user}@{self.host}"],
            encoding="utf-8", timeout=DEADLINE, dimensions=(24, 100), env=_environment(),
        )  # fmt: skip
        child.delaybeforesend = None
        child.expect(PROMPT)
        return child

    def journal(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.layout.journal.read_text().splitlines()]

    def reload(self, how: str) -> None:
        """Restart the device by its own command, and wait until it is back."""
        before = self.ask("alarms")["started"]
        assert "The device restarts" in self.does(f"reload {how}")
        eventually(lambda: self.ask("alarms")["started"] != before)
        eventually(lambda: self.run("show version").returncode == 0)
        eventually(lambda: self.ask("calls")["alive"])


#: A prompt: # for an administrator, a star before it for unsaved configuration.
PROMPT = r"[A-Z0-9-]+\*?[#>] "


def _environment() -> dict[str, str]:
    return {k: v for k, v in os.environ.items() if not k.startswith("SSH_")} | {"TERM": "xterm"}


@contextlib.contextmanager
def reset(shell: Shell) -> Iterator[Shell]:
    """After it only `root` and `admin` are left, and nothing is unsaved."""
    yield shell
    for line in shell.does("show running-config").splitlines():
        found = re.fullmatch(r"username (\S+) create", line)
        if found and found[1] not in ("root", "admin"):
            shell.does(f"no username {found[1]}")
    shell.does("wr")


def user(shell: Shell, name: str, group: str, password: str = SEED_PASSWORD) -> None:
    """Create a user who signs in by the test's key, and by a password."""
    shell.does(f"username {name} create")
    shell.does(f"username {name} password {password}")
    shell.does(f"username {name} group {group}")
    shell.does(f"username {name} key {Path(f'{shell.key}.pub').read_text().strip()}")


@pytest.fixture(scope="session")
def shells() -> Iterator[LabHandle]:
    """A lab with a shell on each device; it costs half a minute, so all tests share it."""
    with shell_lab() as made:
        now = int(time.time())
        made.buy({"sbc_sessions": 100}, starts=now - 60, ends=now + 400 * 86_400)
        made.call("POST", "/smart/accounts", {"name": "acme"})
        made.buy({"cps": 100}, starts=now - 60, ends=now + 400 * 86_400, virtual_account="default")
        yield made


@pytest.fixture(scope="session")
def pool_shell(shells: LabHandle) -> Shell:
    return Shell(shells, POOL)


@pytest.fixture(scope="session")
def smart_shell(shells: LabHandle) -> Shell:
    made = Shell(shells, SMART)
    made.does("license smart count 5")  # so that there is a line in sml.log
    return made


@pytest.fixture
def pool(pool_shell: Shell) -> Iterator[Shell]:
    """The shell of a device of the pool."""
    with reset(pool_shell) as made:
        yield made


@pytest.fixture
def smart(smart_shell: Shell) -> Iterator[Shell]:
    """The shell of a smart device."""
    with reset(smart_shell) as made:
        yield made
