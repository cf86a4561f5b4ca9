"""The head of the audit log, signed, outside the database: what shows that its end was cut off.

While it runs the manager signs the last line's number and hash and keeps them beside the grant
journal, on another disk where that is. What this shows, and what it cannot, is in
`docs/adr/0009-access.md`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from callpool.host.files import locked, write_durably
from callpool.licensing.errors import CallpoolError, TrustError
from callpool.manager.audit import LOST
from callpool.manager.change import CLOCK
from callpool.manager.identity import Identity
from callpool.wire.envelope import AUDIT_HEAD, read, sign, trust, verify
from callpool.wire.keys import PublicKey

if TYPE_CHECKING:
    from callpool.manager.core import Manager

#: Seconds (manager's time) between two heads at least, while lines are being written.
PACE: Final = 5.0


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """The audit log as it ended at a time."""

    #: The last line's number and hash.
    number: int
    hash: str
    #: Seconds since 1970, by the manager's clock.
    at: float
    #: Whose log it is.
    product_key: str


def read_head(envelope: str | bytes, identity: Identity) -> Head:
    """Return a signed head; raises TrustError as `wire.envelope.verify`."""
    keys = trust(*(PublicKey.from_text(k.public_key) for k in identity.key_book().keys))
    return read(verify(envelope, AUDIT_HEAD, keys), Head)


class Heads:
    """The file of the latest head; several manager processes keep the same one."""

    def __init__(self, file: Path, identity: Identity) -> None:
        """Use `file`, which is made with its first head."""
        self.file = file
        self._identity = identity
        #: The last head that this process knows of.
        self._known: Head | None = None

    def kept(self) -> Head | None:
        """Return the head in the file, None where there is none.

        Raises TrustError where it is not one of this manager's, OSError.
        """
        envelope = self.envelope()
        return read_head(envelope, self._identity) if envelope else None

    def envelope(self) -> str:
        """Return the file's text, '' where there is none; raises OSError."""
        try:
            return self.file.read_text(errors="replace").strip()
        except FileNotFoundError:
            return ""

    def keep(self, manager: Manager, *, at_once: bool = False) -> None:
        """Sign the log's end where it has moved; write down what was lost of it.

        Raises CallpoolError `audit_head_unusable` where the file cannot be written.
        """
        last, known = _last(manager), self._known
        if known is not None and (known.number, known.hash) == (last.number, last.hash):
            return
        try:
            with self._alone():
                self._keep(manager, at_once)
        except OSError as error:
            raise CallpoolError(
                "audit_head_unusable",
                f"The audit log's head {self.file} cannot be kept: {error.strerror}.",
            ) from error

    def _keep(self, manager: Manager, at_once: bool) -> None:
        now = manager.clock.now().wall
        last = _last(manager)
        if (
            self._known is not None
            and not at_once
            and self._known.number < last.number
            and 0 <= now - self._known.at < PACE
        ):
            return
        for known in (self._known, self._from_file()):
            if known is not None and not holds(manager, known):
                _lost(manager, known)
                last = _last(manager)
                break
        head = msgspec.structs.replace(last, at=now)
        signer = self._identity.signer(self._identity.key_book().serial, now)
        write_durably(self.file, sign(signer, AUDIT_HEAD, head).encode() + b"\n")
        self._known = head

    def _from_file(self) -> Head | None:
        try:
            return self.kept()
        except TrustError:
            return None  # `audit_verify` tells of it; the next head takes its place

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(self.file.with_name(f"{self.file.name}.lock")):
            yield


def holds(manager: Manager, head: Head) -> bool:
    """Tell whether the log still has the line that a head names."""
    found = manager.database.read(
        lambda tx: tx.value("SELECT hash FROM journal WHERE entry = :entry", entry=head.number)
    )
    return bool(found == head.hash) or (head.number == 0 and found is None)


def _last(manager: Manager) -> Head:
    row = manager.database.read(
        lambda tx: tx.row(
            "SELECT (SELECT value FROM meta WHERE name = 'product_key') AS product_key, j.entry,"
            " j.hash FROM (SELECT 1 AS one) AS one LEFT JOIN (SELECT entry, hash FROM journal"
            " ORDER BY entry DESC LIMIT 1) AS j ON TRUE"
        )
    )
    assert row is not None  # a LEFT JOIN of one row has one
    return Head(
        number=row["entry"] or 0,
        hash=row["hash"] or "",
        at=0.0,
        product_key=row["product_key"] or "",
    )


def _lost(manager: Manager, known: Head) -> None:
    """Write down that lines are gone which a signed head knows: of the log itself a part."""
    manager.change(
        CLOCK,
        "",
        lambda c: c.journal(LOST, number=known.number, hash=known.hash, at=known.at),
    )
