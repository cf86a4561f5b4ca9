"""The device's own refusals; the code is the contract."""

from __future__ import annotations

from callpool.licensing.errors import CallpoolError, TrustError


class DeviceError(CallpoolError):
    """The device cannot do what was asked of it; nothing has changed."""


class FlashError(TrustError):
    """The flash cannot be believed: `flash_corrupt`, `flash_altered`, `flash_foreign`."""


class LinkError(CallpoolError):
    """The manager was not reached, or refused.

    `retry_after` is what it asked to wait, in seconds; `final` tells that it has read and
    refused the request, so the same bytes need not be sent again.
    """

    def __init__(
        self, code: str, sentence: str, *, retry_after: float | None = None, final: bool = False
    ) -> None:
        """Make the error; `retry_after` in seconds."""
        super().__init__(code, sentence)
        self.retry_after = retry_after
        self.final = final
