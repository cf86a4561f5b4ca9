"""Running and startup configuration, and the doors of sign-in, as the core holds them."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest
from argon2 import PasswordHasher

from callpool.device import config as c
from callpool.device.config_book import MAX_FAILURES, MAX_NOTES, ConfigBook, Doorkeeper
from callpool.device.config_door import ConfigDoor
from callpool.device.control import Control
from callpool.device.errors import DeviceError
from callpool.device.setup import configure_offline, startup_config
from callpool.device.users import Group, SignIn, User, hash_password
from callpool.licensing.errors import CallpoolError

#: Argon2 at its cheapest, so that these tests stay quick; the real one is used by SignIn's test.
HASH = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash("Test@123")
KEY = "ssh-ed25519 " + "A" * 68 + " me"
ADMIN = (
    c.CreateUser(name="admin"),
    c.SetPassword(name="admin", hash=HASH),
    c.SetGroup(name="admin", group=Group.ADMINISTRATOR),
)


class Notes:
    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, event: str, **details: Any) -> None:
        self.lines.append((event, details))


async def book(tmp_path: Path, notes: Notes | None = None) -> ConfigBook:
    made = ConfigBook(tmp_path / "config.json", notes or Notes())
    await made.start()
    return made


async def changed(made: ConfigBook, *changes: c.Change, durable: bool = False) -> None:
    for change in changes:
        await made.change(change, who="t", durable=durable)


def built(*changes: c.Change) -> c.Config:
    config = c.Config()
    for change in changes:
        config = change.apply(config)
    return config


# -- the values


def test_a_user_is_created_without_any_way_in_and_in_the_least_group() -> None:
    assert built(c.CreateUser(name="Bob.1-x_")).users == (User(name="Bob.1-x_"),)


@pytest.mark.parametrize("name", ["", "1bob", "bob/..", "b ob", "b" * 33, "böb", "-x", "a\n"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(DeviceError) as caught:
        c.CreateUser(name=name).apply(c.Config())
    assert caught.value.code == "bad_user_name"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (c.CreateUser(name="admin"), "user_exists"),
        (c.SetPassword(name="nobody", hash=HASH), "no_such_user"),
        (c.SetGroup(name="nobody", group=Group.FILES), "no_such_user"),
        (c.RemoveUser(name="nobody"), "no_such_user"),
        (c.SetPassword(name="admin", hash="Test@123"), "bad_password"),
        (c.AddKey(name="admin", key="ssh-ed25519 x"), "bad_public_key"),
        (c.AddKey(name="admin", key=KEY + "\x1b[2J"), "bad_public_key"),
        (c.SetIdle(minutes=0), "bad_idle_timeout"),
        (c.SetIdle(minutes=1441), "bad_idle_timeout"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(change: c.Change, code: str) -> None:
    with pytest.raises(DeviceError) as caught:
        change.apply(built(*ADMIN))
    assert caught.value.code == code


def test_users_and_keys_are_bounded() -> None:
    config = built(*(c.CreateUser(name=f"u{n}") for n in range(64)))
    with pytest.raises(DeviceError, match="64 users"):
        c.CreateUser(name="v").apply(config)
    for n in range(8):
        config = c.AddKey(name="u1", key=f"ssh-ed25519 {'A' * 67}{n}").apply(config)
    with pytest.raises(DeviceError, match="8 keys"):
        c.AddKey(name="u1", key=KEY).apply(config)


@pytest.mark.parametrize("password", ["", "short12", "x" * 129, "with\nnewline", "bell\x07bell"])
def test_a_password_that_is_none_is_refused_without_being_repeated(password: str) -> None:
    with pytest.raises(DeviceError) as caught:
        hash_password(password)
    assert caught.value.code == "bad_password"
    assert not password or password not in caught.value.sentence


def test_what_is_shown_and_what_is_journalled_hold_no_secret() -> None:
    changes = (*ADMIN, c.AddKey(name="admin", key=KEY), c.SetIdle(minutes=5))
    config = built(*changes)
    assert c.shown(config) == (
        "idle-timeout 5",
        "username admin create",
        "username admin password ***",
        "username admin group administrator",
        f"username admin key {KEY}",
    )
    told = repr(config) + repr(config.users) + repr(changes) + "".join(x.line for x in changes)
    assert HASH not in told
    assert "argon2" not in told


def test_each_group_may_what_the_one_below_it_may() -> None:
    order = [Group.OPERATOR, Group.FILES, Group.ADMINISTRATOR]
    assert [[a.may(b) for b in order] for a in order] == [
        [True, False, False], [True, True, False], [True, True, True],
    ]  # fmt: skip


# -- running and startup


async def test_a_change_counts_at_once_and_survives_a_restart_only_after_it_is_written(
    tmp_path: Path,
) -> None:
    first = await book(tmp_path)
    await changed(first, *ADMIN)
    assert first.running.user("admin") is not None
    assert first.report().unsaved
    assert (await book(tmp_path)).running == c.Config()
    await first.save(who="t")
    assert not first.report().unsaved
    assert (await book(tmp_path)).running == first.running
    assert stat.S_IMODE((tmp_path / "config.json").stat().st_mode) == 0o600


async def test_what_is_changed_back_is_no_unsaved_change(tmp_path: Path) -> None:
    made = await book(tmp_path)
    await changed(made, c.CreateUser(name="bob"), c.RemoveUser(name="bob"))
    assert not made.report().unsaved


async def test_the_hosts_own_change_stays_and_leaves_what_others_have_not_written(
    tmp_path: Path,
) -> None:
    made = await book(tmp_path)
    await changed(made, *ADMIN, durable=True)
    await changed(made, c.CreateUser(name="bob"), c.CreateUser(name="eve"))
    await changed(made, c.SetPassword(name="bob", hash=HASH), durable=True)
    await changed(made, c.SetIdle(minutes=3), durable=True)
    after = (await book(tmp_path)).running
    assert [u.name for u in after.users] == ["admin", "bob"]
    assert after.user("bob") == made.running.user("bob")
    assert after.idle_minutes == 3
    assert made.running.user("eve") is not None
    assert made.report().unsaved
    await changed(made, c.RemoveUser(name="bob"), durable=True)
    assert [u.name for u in (await book(tmp_path)).running.users] == ["admin"]


@pytest.mark.parametrize(
    "last",
    [
        c.RemoveUser(name="admin"),
        c.SetGroup(name="admin", group=Group.FILES),
    ],
)
async def test_the_last_administrator_goes_only_at_the_host(tmp_path: Path, last: c.Change) -> None:
    made = await book(tmp_path)
    await changed(made, *ADMIN)
    with pytest.raises(DeviceError) as caught:
        await made.change(last, who="t")
    assert caught.value.code == "last_administrator"
    assert made.running == built(*ADMIN)
    await changed(made, c.CreateUser(name="bob"), c.AddKey(name="bob", key=KEY))
    await changed(made, c.SetGroup(name="bob", group=Group.ADMINISTRATOR))
    await made.change(last, who="t")
    with pytest.raises(DeviceError, match="No administrator"):
        await made.change(c.RemoveKeys(name="bob"), who="t")
    await made.change(c.RemoveKeys(name="bob"), who="t", durable=True)


async def test_a_configuration_that_cannot_be_written_is_told_and_nothing_changes(
    tmp_path: Path,
) -> None:
    made = ConfigBook(tmp_path / "gone" / "config.json", Notes())
    await made.start()
    await changed(made, *ADMIN)
    with pytest.raises(DeviceError) as caught:
        await made.save(who="t")
    assert caught.value.code == "config_write_failed"
    assert made.report().unsaved
    with pytest.raises(DeviceError):
        await made.change(c.CreateUser(name="bob"), who="t", durable=True)
    assert made.running == built(*ADMIN)


async def test_a_configuration_that_cannot_be_read_is_set_aside_and_the_device_starts(
    tmp_path: Path,
) -> None:
    (tmp_path / "config.json").write_text("{")
    notes = Notes()
    made = await book(tmp_path, notes)
    assert made.running == c.Config()
    assert notes.lines[0][0] == "config_unreadable"
    assert (tmp_path / "config.unreadable").read_text() == "{"


def test_the_host_configures_a_device_that_does_not_run(tmp_path: Path) -> None:
    from device_world import World

    layout = World(tmp_path / "device").layout
    for change in ADMIN:
        configure_offline(layout, change)
    assert startup_config(layout) == built(*ADMIN)
    with pytest.raises(DeviceError) as caught:
        configure_offline(layout, ADMIN[0])
    assert caught.value.code == "user_exists"
    layout.config.write_text("{")
    with pytest.raises(DeviceError) as caught:
        startup_config(layout)
    assert caught.value.code == "bad_config"


async def test_a_factory_reset_drops_the_users_in_force_and_those_written(tmp_path: Path) -> None:
    from device_world import World

    world = World(tmp_path / "device", enrolled=False)
    notes = Notes()
    made = ConfigBook(world.layout.config, notes)
    await world.start()
    world.agent.on_reset = made.forget
    await changed(made, *ADMIN)
    await made.save(who="t")
    await world.agent.factory_reset("S1", who="admin")
    await world.go(1.0)
    assert made.running == c.Config()
    assert not made.report().unsaved
    assert not world.layout.config.exists()
    assert ("configuration_dropped", {"cause": "reset"}) in notes.lines


# -- who may sign in


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def doors(tmp_path: Path, notes: Notes) -> tuple[Doorkeeper, Clock]:
    made = await book(tmp_path)
    await changed(made, *ADMIN)
    clock = Clock()
    return Doorkeeper(made, notes, clock), clock


def failed(keeper: Doorkeeper, source: str, name: str = "admin") -> None:
    keeper.signed_in(name=name, source=source, via="ssh", how="password", ok=False)


async def test_too_many_failures_close_the_door_to_an_address_and_never_to_a_name(
    tmp_path: Path,
) -> None:
    keeper, clock = await doors(tmp_path, Notes())
    for _ in range(MAX_FAILURES):
        assert keeper.at_door("admin", "192.0.2.1").allowed
        failed(keeper, "192.0.2.1")
    assert not keeper.at_door("admin", "192.0.2.1").allowed
    assert keeper.at_door("admin", "192.0.2.1").user is None
    assert keeper.at_door("admin", "192.0.2.2").allowed
    assert keeper.at_door("admin", "").user is not None, "keys are no matter of passwords"
    clock.now = 60.1
    assert keeper.at_door("admin", "192.0.2.1").allowed


async def test_every_sign_in_is_journalled_with_name_and_address_and_a_flood_is_counted(
    tmp_path: Path,
) -> None:
    notes = Notes()
    keeper, clock = await doors(tmp_path, notes)
    keeper.signed_in(name="admin", source="192.0.2.1", via="ssh", how="public key", ok=True)
    assert notes.lines == [
        ("signed_in", {"who": "admin", "source": "192.0.2.1", "via": "ssh", "how": "public key"})
    ]
    for n in range(5000):
        failed(keeper, f"192.0.2.{n}", "a\nb" + "x" * 100)
    assert len(notes.lines) == 1 + MAX_NOTES
    assert notes.lines[1][1]["who"] == "a?b" + "x" * 61
    assert len(keeper._failures) <= 1024
    clock.now = 61.0
    failed(keeper, "198.51.100.1")
    assert notes.lines[-1][1]["not_journalled"] == 5000 - MAX_NOTES


async def test_a_face_signs_users_in_by_the_core_and_costs_a_stranger_as_much_as_a_user(
    tmp_path: Path,
) -> None:
    notes = Notes()
    made = await book(tmp_path, notes)
    await changed(made, *ADMIN, c.CreateUser(name="keyed"))
    keeper = Doorkeeper(made, notes, Clock())
    control = Control(tmp_path / "s", ConfigDoor(made, keeper).commands())
    await control.start()
    try:
        face = SignIn(tmp_path / "s", "pages")
        user = await face.verify("admin", "Test@123", "192.0.2.1")
        assert user is not None
        assert user.group is Group.ADMINISTRATOR
        assert await face.verify("admin", "Test@124", "192.0.2.1") is None
        assert await face.verify("nobody", "Test@123", "192.0.2.1") is None
        assert await face.verify("keyed", "", "192.0.2.1") is None
        assert (await face.user("keyed")) == User(name="keyed")
        assert await face.user("nobody") is None
        outcomes = [e for e, d in notes.lines if d.get("via") == "pages"]
        assert outcomes == ["signed_in", *["sign_in_failed"] * 3]
        for _ in range(MAX_FAILURES - 3):
            failed(keeper, "192.0.2.1")
        with pytest.raises(DeviceError) as caught:
            await face.verify("admin", "Test@123", "192.0.2.1")
        assert caught.value.code == "too_many_failures"
    finally:
        await control.stop()


async def test_the_socket_takes_no_change_that_is_none(tmp_path: Path) -> None:
    made = await book(tmp_path)
    door = ConfigDoor(made, Doorkeeper(made, Notes(), Clock())).commands()["config"]
    for change in ({}, {"type": "create_user"}, "x", {"type": "drop_all", "name": "admin"}):
        with pytest.raises(CallpoolError):
            await door({"action": "change", "change": change})
    with pytest.raises(DeviceError):
        await door({"action": "erase"})
    told = await door({"action": "change", "change": msgspec.to_builtins(ADMIN[0])})
    assert told.unsaved
