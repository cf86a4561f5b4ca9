"""What the shell's server does by itself, and the host's own commands about it."""

from __future__ import annotations

import asyncio
import json
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import asyncssh
import pytest
from device_world import World
from typer.testing import CliRunner

from callpool.device import config as c
from callpool.device.config_book import ConfigBook, Doorkeeper
from callpool.device.config_door import ConfigDoor
from callpool.device.control import Control
from callpool.device.errors import DeviceError
from callpool.device.faces.shell import server as s
from callpool.device.faces.shell.terminal import plain
from callpool.device.faces.shell.visit import Visit
from callpool.device.public_key import read_public_key
from callpool.device.settings import Layout
from callpool.device.setup import startup_config
from callpool.device.ssh_commands import ssh_app
from callpool.device.ssh_settings import fingerprint, host_key, read_ssh
from callpool.device.user_commands import user_app
from callpool.device.users import Group
from callpool.licensing.errors import CallpoolError


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return World(tmp_path / "device").layout


class Now:
    at = 1000.0

    def __call__(self) -> float:
        return self.at


@pytest.fixture
async def book(layout: Layout) -> AsyncIterator[ConfigBook]:
    made = ConfigBook(layout.config, lambda *_, **__: None)
    keeper = Doorkeeper(made, lambda *_, **__: None, lambda: 0.0)
    control = Control(layout.control, ConfigDoor(made, keeper).commands())
    await control.start()
    yield made
    await control.stop()


# -- who is idle, who is gone


async def test_who_does_nothing_for_too_long_is_closed_and_so_is_who_is_removed(
    layout: Layout, book: ConfigBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s, "WATCH_EVERY", 0.01)
    monkeypatch.setattr(s, "LOOK_EVERY", 0.0)
    for change in (c.CreateUser(name="bob"), c.CreateUser(name="eve"), c.SetIdle(minutes=2)):
        await book.change(change, who="t")
    now, told = Now(), dict[str, list[str]]()
    shell = s.ShellServer(layout)
    looked = asyncio.Event()

    def visit(name: str) -> Visit:
        said = told.setdefault(name, [])

        def close(sentence: str) -> None:
            said.append(sentence)
            looked.set()

        made = Visit("192.0.2.1", close, now=now)
        made.name = name
        shell.doors.visits.add(made)
        return made

    bob = visit("bob")
    visit("")  # a stranger: the time to sign in is another
    watching = asyncio.create_task(shell._watch())
    try:
        now.at += 119.0
        eve = visit("eve")
        await book.change(c.RemoveUser(name="eve"), who="t")
        async with asyncio.timeout(10):
            await looked.wait()
        assert told == {"bob": [], "": [], "eve": ["This user has been removed."]}
        shell.doors.leave(eve)
        looked.clear()
        now.at += 2.0
        async with asyncio.timeout(10):
            await looked.wait()
        assert told["bob"][0] == "Nothing was done for too long."
        shell.doors.leave(bob)
        assert told[""] == []
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


# -- the host's commands


def run(app: object, *words: str, typed: str = "") -> str:
    """Run a command of the host, which must succeed."""
    done = CliRunner().invoke(app, list(words), input=typed, catch_exceptions=False)  # type: ignore[arg-type]  # a Typer
    assert done.exit_code == 0, done.output
    return done.output


def test_the_shell_is_off_until_it_is_set_and_then_on_this_machine_only(layout: Layout) -> None:
    where = ("--dir", str(layout.root))
    assert run(ssh_app, "show", *where) == "The shell is off.\n"
    assert read_ssh(layout.ssh) is None
    said = run(ssh_app, "on", *where)
    assert "listens on 127.0.0.1:22; host key SHA256:" in said
    key = host_key(layout.ssh_host_key)
    assert stat.S_IMODE(layout.ssh_host_key.stat().st_mode) == 0o600
    told = json.loads(run(ssh_app, "on", "--listen", "192.0.2.1:2222", "--json", *where))
    assert told == {"listen": "192.0.2.1:2222", "host_key": fingerprint(layout.ssh_host_key)}
    assert fingerprint(layout.ssh_host_key) == asyncssh.import_private_key(key).get_fingerprint()
    assert host_key(layout.ssh_host_key) == key, "it is kept"
    run(ssh_app, "off", *where)
    assert read_ssh(layout.ssh) is None
    with pytest.raises(CallpoolError):
        run(ssh_app, "on", "--listen", "nowhere", *where)
    layout.ssh.write_text("{")
    with pytest.raises(DeviceError) as caught:
        read_ssh(layout.ssh)
    assert caught.value.code == "bad_ssh_settings"


def test_users_are_made_on_the_host_with_a_password_that_no_process_list_shows(
    layout: Layout, tmp_path: Path
) -> None:
    where = ("--dir", str(layout.root))
    assert "nobody can sign in" in run(user_app, "list", *where)
    run(user_app, "add", "admin", "--password-file", "-", *where, typed="first-pass\n")
    first = startup_config(layout).user("admin")
    assert first is not None
    assert (first.group, first.password[:10]) == (Group.ADMINISTRATOR, "$argon2id$")
    run(user_app, "password", "admin", *where, typed="second-pass\nsecond-pass\n")
    second = startup_config(layout).user("admin")
    assert second is not None
    assert second.password != first.password
    public = tmp_path / "id.pub"
    key = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    public.write_text(key)
    group = ("--group", "pfs-privusers")
    run(user_app, "add", "files", "--key-file", str(public), *group, *where)
    told = json.loads(run(user_app, "list", "--json", *where))
    assert [(u["name"], u["group"], u["password"], len(u["keys"])) for u in told] == [
        ("admin", "administrator", True, 0),
        ("files", "pfs-privusers", False, 1),
    ]
    assert "argon2" not in json.dumps(told)
    run(user_app, "remove", "files", *where)
    assert startup_config(layout).user("files") is None
    with pytest.raises(DeviceError) as caught:
        run(user_app, "password", "admin", "--password-file", "-", *where, typed="short\n")
    assert caught.value.code == "bad_password"
    assert stat.S_IMODE(layout.config.stat().st_mode) == 0o600


# -- public keys


@pytest.mark.parametrize("kind", ["ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"])
def test_public_keys_of_today_are_taken(kind: str) -> None:
    key = asyncssh.generate_private_key(kind, comment="me@home")
    line = key.export_public_key().decode()
    assert read_public_key(f"  {line}\n") == line.strip()


@pytest.mark.parametrize(
    "line",
    [
        "",
        "ssh-ed25519",
        "ssh-ed25519 " + "A" * 68,
        "ssh-rsa " + "A" * 372,
        'command="sh" ssh-ed25519 ' + "A" * 68,
        asyncssh.generate_private_key("ssh-rsa", key_size=1024).export_public_key().decode(),
        asyncssh.generate_private_key("ssh-ed448").export_public_key().decode(),
    ],
)
def test_what_is_no_key_or_too_weak_is_refused(line: str) -> None:
    with pytest.raises(DeviceError) as caught:
        read_public_key(line)
    assert caught.value.code == "bad_public_key"


def test_what_comes_from_elsewhere_cannot_move_a_cursor() -> None:
    assert plain("waits\tuntil \x1b[2J\x9b31m\r\nfree") == "waits   until ?[2J?31m??free"
    assert plain("plain, ünïcode") == "plain, ünïcode"
