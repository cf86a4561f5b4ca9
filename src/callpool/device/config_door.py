"""The core's commands about configuration and sign-in, as the socket brings them."""

from __future__ import annotations

from typing import Any

from callpool.device.config_book import ConfigBook, ConfigReport, Doorkeeper, change_from
from callpool.device.control import Command
from callpool.device.errors import DeviceError
from callpool.device.users import SignedAt


def asker(request: dict[str, Any]) -> str:
    """Return who asks, for the journal: a face names its user and where that one sits."""
    who = request.get("who")
    return who[:120] if isinstance(who, str) and who and who.isprintable() else "local"


class ConfigDoor:
    """One device's configuration at its socket. Whoever opens the socket owns the device."""

    def __init__(self, book: ConfigBook, keeper: Doorkeeper) -> None:
        """Serve `book` and `keeper`."""
        self._book, self._keeper = book, keeper

    def commands(self) -> dict[str, Command]:
        """Return the commands by name."""
        return {"config": self._config, "sign_in": self._sign_in, "signed_in": self._signed_in}

    async def _config(self, request: dict[str, Any]) -> ConfigReport:
        """Show, change or save (`action`); return the configuration after it."""
        action = request.get("action", "show")
        if action == "change":
            durable = request.get("durable") is True
            await self._book.change(change_from(request), who=asker(request), durable=durable)
        elif action == "save":
            await self._book.save(who=asker(request))
        elif action != "show":
            raise DeviceError("unknown_command", "There is no such command.")
        return self._book.report()

    async def _sign_in(self, request: dict[str, Any]) -> SignedAt:
        return self._keeper.at_door(str(request.get("name", "")), str(request.get("source", "")))

    async def _signed_in(self, request: dict[str, Any]) -> None:
        said = {key: str(request.get(key, ""))[:64] for key in ("name", "source", "via", "how")}
        self._keeper.signed_in(**said, ok=request.get("ok") is True)
