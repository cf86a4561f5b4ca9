"""All of the console's routes, and what a manager prepares for them when it starts."""

from __future__ import annotations

from typing import Any, Final

from callpool.manager import resend
from callpool.manager.console import (
    alarms,
    device,
    device_actions,
    overview,
    people,
    pool,
    pool_actions,
    smart,
)
from callpool.manager.console.assets import Asset, load
from callpool.manager.console.page import install
from callpool.manager.core import Manager
from callpool.manager.store.derived import keep_rules

HANDLERS: Final[tuple[Any, ...]] = (
    *overview.HANDLERS,
    *pool.HANDLERS,
    *pool_actions.HANDLERS,
    *device.HANDLERS,
    *device_actions.HANDLERS,
    *smart.HANDLERS,
    *people.HANDLERS,
    *alarms.HANDLERS,
    *resend.HANDLERS,
)


def prepare(manager: Manager) -> dict[str, Asset]:
    """Make ready what pages need; raises CallpoolError `console_files_missing`."""
    assets = load()
    install(assets)
    manager.database.write(keep_rules)
    return assets
