"""Addresses as people write them."""

from __future__ import annotations

from callpool.licensing.errors import CallpoolError


def address(text: str) -> tuple[str, int]:
    """Split `host:port`; raises CallpoolError `bad_address`."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 <= int(port) <= 65535:
        raise CallpoolError("bad_address", f"An address is host:port, not {text[:60]!r}.")
    return host.strip("[]"), int(port)
