"""The service address: keepalived's configuration, and the files where core and keepalived meet.

keepalived says which role it has (`role`), that it lives (`beat`), and reads how much this unit
wants the address (`rank`, added to its priority: nothing restarts at a switchover). It asks
`alive`, a script that looks at the age of `vital`, which the core touches while its Kamailio
answers and its disk can be written.

A fixed priority with `nopreempt` would ignore both: a unit that turns sick would keep the address.
So the unit that has it ranks higher than one that comes back: what nopreempt is for.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import pwd
import time
from pathlib import Path
from typing import Final

from callpool.device.pair_settings import PairSettings
from callpool.host.files import write_whole

#: The priority of a unit, to which the rank is added.
PRIORITY: Final = 100
#: Who has the address keeps it from one that is only as good.
HOLDS: Final = 20
#: Rank of a unit that hands the address over, and of one that cannot serve.
YIELDS: Final = -20
SICK: Final = -60
#: Seconds without a word from keepalived after which it is taken for dead.
BEAT_LIMIT: Final = 5.0

#: keepalived's words for the roles.
MASTER: Final = "MASTER"
BACKUP: Final = "BACKUP"

_CONFIG: Final = """\
# Written by callpool: the service address of an HA pair. Changes are overwritten.
# Run keepalived with it, restarted whenever it ends: keepalived -n -f {config}
global_defs {{
    router_id {serial}
    vrrp_version 3
    vrrp_garp_master_delay 1
    vrrp_garp_master_repeat 3
    script_user {user}
}}
track_file callpool_rank {{
    file "{runtime}/rank"
    weight 1
}}
vrrp_script callpool_alive {{
    script "{runtime}/alive"
    interval 1
    timeout 2
    fall 2
    rise 2
    weight {sick}
    init_fail
}}
vrrp_instance callpool {{
    state BACKUP
    interface {interface}
    virtual_router_id {router}
    priority {priority}
    advert_int {advert:g}
    {family}virtual_ipaddress {{
        {service} dev {interface}
    }}
    track_file {{
        callpool_rank
    }}
    track_script {{
        callpool_alive
    }}
    notify "{runtime}/notify"
}}
"""

_ALIVE: Final = """\
#!/bin/sh
# Written by callpool. Succeeds while the core says that this unit can serve.
: > "{runtime}/beat"
[ -n "$(find "{runtime}/vital" -newermt '3 seconds ago' 2>/dev/null)" ]
"""

_NOTIFY: Final = """\
#!/bin/sh
# Written by callpool. keepalived tells its role: INSTANCE name ROLE priority.
echo "$3" > "{runtime}/role.new" && mv "{runtime}/role.new" "{runtime}/role"
"""


class ServiceAddress:
    """The files of one unit's service address."""

    def __init__(self, settings: PairSettings, serial: str, owner: Path) -> None:
        """Name them; `prepare` makes them. The files are for the user whose directory `owner` is.

        keepalived runs its scripts as that user: who may write them need not be root.
        """
        self._settings, self._serial, self._owner = settings, serial, owner
        self.runtime = settings.runtime_of(serial)
        self.config = self.runtime / "keepalived.conf"
        self._rank: int | None = None
        self._role_file = self.runtime / "role"
        self._rank_file = self.runtime / "rank"

    def text(self) -> str:
        """Return keepalived's configuration."""
        s = self._settings
        user = pwd.getpwuid(self._owner.stat().st_uid).pw_name
        six = ipaddress.ip_interface(s.service).version == 6
        return _CONFIG.format(
            config=self.config, serial=self._serial, runtime=self.runtime, sick=SICK,
            interface=s.interface, router=s.router, priority=PRIORITY, advert=s.advert,
            user=user, service=s.service, family="native_ipv6\n    " if six else "",
        )  # fmt: skip

    def prepare(self) -> None:
        """Write configuration and scripts, by the core or beside it; raises OSError."""
        if not self.runtime.exists():
            self.runtime.mkdir(parents=True, mode=0o755)
            if os.geteuid() == 0:
                found = self._owner.stat()
                os.chown(self.runtime, found.st_uid, found.st_gid)
        self._put(self.config, self.text(), 0o644)
        self._put(self.runtime / "alive", _ALIVE.format(runtime=self.runtime), 0o755)
        self._put(self.runtime / "notify", _NOTIFY.format(runtime=self.runtime), 0o755)
        if not self._rank_file.exists():
            self.rank(0)

    def _put(self, file: Path, text: str, mode: int) -> None:
        if file.exists() and file.read_text() == text:
            return  # keepalived may be reading it
        write_whole(file, text.encode(), mode=mode)

    def rank(self, value: int) -> None:
        """Tell keepalived how much this unit wants the address; raises OSError."""
        if value == self._rank:
            return
        write_whole(self._rank_file, f"{value}\n".encode(), mode=0o644)
        self._rank = value

    def vital(self) -> None:
        """Say that this unit can serve; raises OSError."""
        file = self.runtime / "vital"
        with contextlib.suppress(FileExistsError):
            os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
        os.utime(file)

    def role(self) -> str:
        """Return what keepalived last said of its role; empty where none runs."""
        try:
            age = time.time() - (self.runtime / "beat").stat().st_mtime
            if age > BEAT_LIMIT:
                return ""
            return self._role_file.read_text().strip()
        except OSError:
            return ""
