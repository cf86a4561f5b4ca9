"""The device's configuration as the shell and the pages know it: users and the idle timeout.

A change is a value. It counts at once in the *running* configuration, and is there after a
restart of the device only if it was written (`wr`) into the *startup* configuration. Licenses,
certificates, the evaluation and alarms are no configuration: they are always durable.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec.structs import replace

from callpool.device.errors import DeviceError
from callpool.device.users import (
    MAX_KEYS,
    MAX_USERS,
    Group,
    User,
    check_key,
    check_name,
    is_hash,
)

#: Minutes without a key typed or a file read after which a connection is closed.
DEFAULT_IDLE: Final = 10
LONGEST_IDLE: Final = 1440


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One configuration; it holds hashes of passwords, which are secrets."""

    users: tuple[User, ...] = ()
    idle_minutes: int = DEFAULT_IDLE

    def user(self, name: str) -> User | None:
        """Return the user called `name`, None where there is none."""
        return next((u for u in self.users if u.name == name), None)

    def __repr__(self) -> str:
        """Show no hash."""
        return f"Config({len(self.users)} users)"


class CreateUser(msgspec.Struct, frozen=True, kw_only=True, tag="create_user"):
    """`username NAME create`."""

    name: str

    @property
    def line(self) -> str:
        """The command as it is journalled."""
        return f"username {self.name} create"

    def apply(self, config: Config) -> Config:
        """Return the configuration after it; raises DeviceError."""
        if config.user(check_name(self.name)) is not None:
            raise DeviceError("user_exists", f"There is a user {self.name} already.")
        if len(config.users) >= MAX_USERS:
            raise DeviceError("too_many_users", f"There are {MAX_USERS} users, no more fit.")
        users = sorted((*config.users, User(name=self.name)), key=lambda u: u.name)
        return replace(config, users=tuple(users))


class SetPassword(msgspec.Struct, frozen=True, kw_only=True, tag="set_password"):
    """`username NAME password`; only the hash ever reaches the core."""

    name: str
    hash: str

    def __repr__(self) -> str:
        """Show no hash."""
        return f"SetPassword({self.name})"

    @property
    def line(self) -> str:
        """The command as it is journalled."""
        return f"username {self.name} password ***"

    def apply(self, config: Config) -> Config:
        """Return the configuration after it; raises DeviceError."""
        if not is_hash(self.hash):
            raise DeviceError("bad_password", "The core takes the argon2 hash of a password only.")
        return _with(config, replace(_known(config, self.name), password=self.hash))


class SetGroup(msgspec.Struct, frozen=True, kw_only=True, tag="set_group"):
    """`username NAME group GROUP`."""

    name: str
    group: Group

    @property
    def line(self) -> str:
        """The command as it is journalled."""
        return f"username {self.name} group {self.group}"

    def apply(self, config: Config) -> Config:
        """Return the configuration after it; raises DeviceError."""
        return _with(config, replace(_known(config, self.name), group=self.group))


class AddKey(msgspec.Struct, frozen=True, kw_only=True, tag="add_key"):
    """`username NAME key PUBLIC-KEY`."""

    name: str
    key: str

    @property
    def line(self) -> str:
        """The command as it is journalled."""
        return f"username {self.name} key {self.key[:40]}..."

    def apply(self, config: Config) -> Config:
        """Return the configuration after it; raises DeviceError."""
        user, key = _known(config, self.name), check_key(self.key)
        others = [k for k in user.keys if k.split()[1] != key.split()[1]]
        if len(others) >= MAX_KEYS:
            raise DeviceError("too_many_keys", f"{self.name} has {MAX_KEYS} keys, no more fit.")
        return _with(config, replace(user, keys=(*others, key)))


class RemoveKeys(msgspec.Struct, frozen=True, kw_only=True, tag="remove_keys"):
    """`no username NAME key`: all of them."""

    name: str

    @property
    def line(self) -> str:
        """The command as it is journalled."""
        return f"no username {self.name} key"

    def apply(self, config: Config) -> Config:
        """Return the configuration after it; raises DeviceError."""
        return _with(config, replace(_known(config, self.name), keys=()))


class RemoveUser(msgspec.Struct, frozen=True, kw_only=True, tag="remove_user"):
    """`no username NAME`."""

    name: str

    @property
    def line(self) -> str:
        """The command as it is journalled."""
        return f"no username {self.name}"

    def apply(self, config: Config) -> Config:
        """Return the configuration after it; raises DeviceError."""
        gone = _known(config, self.name)
        return replace(config, users=tuple(u for u in config.users if u is not gone))


class SetIdle(msgspec.Struct, frozen=True, kw_only=True, tag="set_idle"):
    """`idle-timeout MINUTES`."""

    minutes: int

    @property
    def line(self) -> str:
        """The command as it is journalled."""
        return f"idle-timeout {self.minutes}"

    def apply(self, config: Config) -> Config:
        """Return the configuration after it; raises DeviceError."""
        if not 1 <= self.minutes <= LONGEST_IDLE:
            raise DeviceError(
                "bad_idle_timeout", f"The idle timeout is 1 to {LONGEST_IDLE} minutes."
            )
        return replace(config, idle_minutes=self.minutes)


#: What can be changed, as the control socket carries it.
Change = CreateUser | SetPassword | SetGroup | AddKey | RemoveKeys | RemoveUser | SetIdle


def _known(config: Config, name: str) -> User:
    user = config.user(name)
    if user is None:
        raise DeviceError(
            "no_such_user", f"There is no user {name[:40]!r}; create it first (username create)."
        )
    return user


def _with(config: Config, user: User) -> Config:
    return replace(config, users=tuple(user if u.name == user.name else u for u in config.users))


def keeps_way_in(before: Config, after: Config) -> bool:
    """Tell whether an administrator is left who can sign in, where there was one."""
    return _way_in(after) or not _way_in(before)


def _way_in(config: Config) -> bool:
    return any(u.group is Group.ADMINISTRATOR and (u.password or u.keys) for u in config.users)


def shown(config: Config) -> tuple[str, ...]:
    """Return the configuration as commands, without any secret."""
    lines = []
    if config.idle_minutes != DEFAULT_IDLE:
        lines.append(f"idle-timeout {config.idle_minutes}")
    for user in config.users:
        lines.append(f"username {user.name} create")
        if user.password:
            lines.append(f"username {user.name} password ***")
        lines.append(f"username {user.name} group {user.group}")
        lines += [f"username {user.name} key {key}" for key in user.keys]
    return tuple(lines)
