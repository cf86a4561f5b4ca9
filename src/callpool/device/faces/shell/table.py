"""The command table: every command of the shell is one row here.

It feeds the parser, `?`, Tab and the reference in docs/shell.md.
"""

from __future__ import annotations

from typing import Final

from callpool.device.faces.shell import act, show
from callpool.device.faces.shell.grammar import Command, Grammar
from callpool.device.users import Group

_ADMIN: Final = Group.ADMINISTRATOR

COMMANDS: Final = (
    Command(words="show license all", help="Everything about licenses", run=show.license_all),
    Command(
        words="show license status",
        help="Registration, authorization, and every deadline with what happens then",
        run=show.license_status,
    ),
    Command(words="show license summary", help="The same in short", run=show.license_summary),
    Command(words="show license usage", help="What is asked for and used", run=show.license_usage),
    Command(words="show license udi", help="The device's identity", run=show.license_udi),
    Command(
        words="show license pool",
        help="Remote, Local, Actual and what is pending",
        run=show.license_pool,
    ),
    Command(
        words="show license tech-support",
        help="Everything that whoever helps needs to see, without secrets",
        run=show.tech_support,
    ),
    Command(
        words="show tech-support",
        help="Everything that whoever helps needs to see, without secrets",
        run=show.tech_support,
    ),
    Command(
        words="show alarms active", help="What is wrong, and what to do", run=show.alarms_active
    ),
    Command(
        words="show alarms history",
        help="Every raise, change and clear, the newest first",
        run=show.alarms_history,
    ),
    Command(
        words="show high-availability status",
        help="The HA pair: role, other unit, whether they are synchronised",
        run=show.high_availability,
    ),
    Command(words="show calls", help="What the gate counts", run=show.calls),
    Command(
        words="show log sml [tail N]", help="The end of the license log, 50 lines", run=show.log
    ),
    Command(
        words="show log sml follow",
        help="New lines of the license log, until a key is pressed",
        run=show.log_follow,
    ),
    Command(
        words="show running-config",
        help="The configuration that counts now",
        run=show.running_config,
    ),
    Command(
        words="show startup-config",
        help="The configuration that counts after a restart of the device",
        run=show.startup_config,
    ),
    Command(words="show history", help="The lines typed in this session", run=act.show_history),
    Command(words="show version", help="Software and serial number", run=show.version),
    Command(
        words="username NAME create",
        help="Add a user, in the group operator, with no way in yet",
        run=act.create_user,
        group=_ADMIN,
    ),
    Command(
        words="username NAME password [SECRET]",
        help="Set a password; asked for, unechoed, where it is not given",
        run=act.set_password,
        group=_ADMIN,
    ),
    Command(
        words="username NAME group administrator|pfs-privusers|operator",
        help="Say what a user may do",
        run=act.set_group,
        group=_ADMIN,
    ),
    Command(
        words="username NAME key PUBLIC-KEY...",
        help="Let a user sign in by an OpenSSH public key",
        run=act.add_key,
        group=_ADMIN,
    ),
    Command(words="no username NAME", help="Remove a user", run=act.remove_user, group=_ADMIN),
    Command(
        words="no username NAME key",
        help="Remove a user's public keys",
        run=act.remove_keys,
        group=_ADMIN,
    ),
    Command(
        words="idle-timeout MINUTES",
        help="Close connections that nobody uses, 10 minutes unless set",
        run=act.set_idle,
        group=_ADMIN,
    ),
    Command(words="no idle-timeout", help="Back to 10 minutes", run=act.default_idle, group=_ADMIN),
    Command(
        words="wr",
        help="Write the running configuration, so that it survives a restart",
        run=act.write,
        group=_ADMIN,
    ),
    Command(
        words="write [memory]",
        help="Write the running configuration, so that it survives a restart",
        run=act.write,
        group=_ADMIN,
    ),
    Command(
        words="configure terminal",
        help="Nothing: there is no configuration mode",
        run=act.configure_terminal,
        group=_ADMIN,
    ),
    Command(
        words="license smart enable",
        help="Turn smart licensing on",
        run=act.smart_enable,
        group=_ADMIN,
    ),
    Command(
        words="license smart disable",
        help="Turn smart licensing off; a registered device leaves its authority first",
        run=act.smart_disable,
        group=_ADMIN,
    ),
    Command(
        words="license smart register idtoken TOKEN [force]",
        help="Register with the authority",
        run=act.smart_register,
        group=_ADMIN,
    ),
    Command(
        words="license smart deregister",
        help="Leave the authority",
        run=act.smart_deregister,
        group=_ADMIN,
    ),
    Command(
        words="license smart renew auth|id",
        help="Renew the authorization, or the ID certificate, now",
        run=act.smart_renew,
        group=_ADMIN,
    ),
    Command(
        words="license smart count N",
        help="Calls a second to ask for, a multiple of 5",
        run=act.smart_count,
        group=_ADMIN,
    ),
    Command(
        words="license key install",
        help="Install a local license key, from the terminal or standard input",
        run=act.key_install,
        group=_ADMIN,
    ),
    Command(
        words="license pool refresh",
        help="Ask the license server now",
        run=act.pool_refresh,
        group=_ADMIN,
    ),
    Command(
        words="restart [save] [graceful SECONDS]",
        help="Restart the SIP service; with save, apply what the pool has sent",
        run=act.restart,
        group=_ADMIN,
    ),
    Command(
        words="restart cancel",
        help="Give up a restart that waits for calls to end",
        run=act.restart_cancel,
        group=_ADMIN,
    ),
    Command(
        words="reload [save|discard]",
        help="Restart the device; what is not saved is lost",
        run=act.reload,
        group=_ADMIN,
    ),
    Command(
        words="factory-reset [SERIAL]",
        help="Drop pool, smart licensing, identity and users; keep the local key",
        run=act.factory_reset,
        group=_ADMIN,
    ),
    Command(
        words="terminal length N",
        help="Lines of a page in this session; 0 for no paging",
        run=act.terminal_length,
    ),
    Command(words="end", help="Nothing: there is no mode to leave", run=act.end),
    Command(words="exit", help="Close the session", run=act.leave),
    Command(words="quit", help="Close the session", run=act.leave),
    Command(words="logout", help="Close the session", run=act.leave),
)

#: What words say that lead to more than one command, and what stands for words in capitals.
WORDS: Final = {
    "show": "Show how things are",
    "license": "Licenses",
    "alarms": "What is or was wrong",
    "high-availability": "The HA pair that the device is a unit of",
    "log": "Logs",
    "sml": "The log of smart licensing",
    "tail": "Only the last lines",
    "username": "Users of the shell and of the pages",
    "password": "Set a password",
    "key": "A key: a user's public key, or the local license key",
    "no": "Undo or remove",
    "group": "Say what a user may do",
    "administrator": "May do everything",
    "pfs-privusers": "May show, and fetch files",
    "operator": "May show",
    "write": "Write the running configuration",
    "configure": "Nothing: there is no configuration mode",
    "smart": "Smart licensing",
    "register": "Register with the authority",
    "idtoken": "By a registration token",
    "force": "Though the device is registered already",
    "renew": "Renew now",
    "auth": "The authorization",
    "id": "The ID certificate",
    "count": "Calls a second to ask for",
    "pool": "The license pool",
    "restart": "Restart the SIP service",
    "save": "Keep: apply what the pool has sent, or write the configuration",
    "discard": "Lose what is not saved",
    "graceful": "Refuse new calls, and wait for those in progress to end",
    "reload": "Restart the device",
    "terminal": "This session's terminal",
    "length": "Lines of a page",
    "idle-timeout": "When connections that nobody uses are closed",
    "factory-reset": "Drop what is not the device's own",
    "NAME": "A user's name",
    "SECRET": "8 to 128 characters; in double quotes where it holds spaces",
    "PUBLIC-KEY...": "Type and base64, as in OpenSSH's .pub files",
    "MINUTES": "1 to 1440",
    "SECONDS": "1 to 3600",
    "N": "A whole number",
    "TOKEN": "The token, as the authority gave it",
    "SERIAL": "This device's serial number",
}

GRAMMAR: Final = Grammar(COMMANDS, WORDS)
