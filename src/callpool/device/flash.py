"""Durable flash: one sealed record in two generations, atomic, synced, verified when read.

A slot is `MAGIC | secret id | length | digest | seal | body`. The digest tells a damaged slot
(torn, a flipped bit) from one that somebody wrote: a slot whose digest is right and whose
HMAC is not was *altered*, one that names another secret is *foreign*. Damage to one slot
falls back to the other generation; a hand at work is refused outright (law 4).
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from pathlib import Path
from typing import Final

import msgspec

from callpool.device.errors import DeviceError, FlashError
from callpool.device.record import FlashRecord
from callpool.host.files import write_durably

_MAGIC: Final = b"callpool-flash-1"
_HEAD: Final = struct.Struct("!16s16sQ32s32s")
#: The longest flash body that is read, in bytes.
MAX_FLASH: Final = 4 * 1024 * 1024


class _Body(msgspec.Struct, frozen=True, kw_only=True):
    generation: int
    record: FlashRecord


def _secret_id(secret: bytes) -> bytes:
    return hashlib.sha256(b"callpool-flash-secret-id" + secret).digest()[:16]


def _seal(secret: bytes, digest: bytes) -> bytes:
    return hmac.digest(secret, _MAGIC + digest, "sha256")


def _digest(secret_id: bytes, body: bytes) -> bytes:
    return hashlib.sha256(_MAGIC + secret_id + struct.pack("!Q", len(body)) + body).digest()


class Flash:
    """The two slots of one device."""

    def __init__(self, directory: Path, secret: bytes) -> None:
        """Open the flash in `directory`; nothing is read yet."""
        self._directory = directory
        self._secret = secret
        self._generation = 0
        #: Set when the newest generation was damaged and the older one was taken.
        self.fell_back = False

    @property
    def generation(self) -> int:
        """Return the number of the generation last read or written."""
        return self._generation

    def slot(self, generation: int) -> Path:
        """Return the file that holds `generation`."""
        return self._directory / f"flash.{generation % 2}"

    def load(self) -> FlashRecord | None:
        """Return the newest record, None where none was ever written.

        Raises FlashError `flash_corrupt` (no generation can be read), `flash_altered` or
        `flash_foreign`; nothing is changed by a read.
        """
        bodies: list[_Body] = []
        damage: FlashError | None = None
        for file in (self.slot(0), self.slot(1)):
            try:
                raw = file.read_bytes()
            except FileNotFoundError:
                continue
            try:
                bodies.append(self._open(raw, file.name))
            except FlashError as error:
                if error.code != "flash_corrupt":
                    raise
                damage = error
        if not bodies:
            if damage is not None:
                raise damage
            return None
        newest = max(bodies, key=lambda body: body.generation)
        self._generation = newest.generation
        self.fell_back = damage is not None
        return newest.record

    def _open(self, raw: bytes, name: str) -> _Body:
        damaged = FlashError(
            "flash_corrupt",
            f"{name} is damaged and no other generation can be read; "
            "restore the device's directory or set the device up anew.",
        )
        if not _HEAD.size <= len(raw) <= MAX_FLASH:
            raise damaged
        magic, secret_id, length, digest, seal = _HEAD.unpack_from(raw)
        body = raw[_HEAD.size :]
        if magic != _MAGIC or length != len(body) or digest != _digest(secret_id, body):
            raise damaged
        if secret_id != _secret_id(self._secret):
            raise FlashError(
                "flash_foreign",
                f"{name} was written by another device; it is refused and nothing is taken of it.",
            )
        if not hmac.compare_digest(seal, _seal(self._secret, digest)):
            raise FlashError(
                "flash_altered", f"{name} was altered outside of callpool; it is refused."
            )
        try:
            return msgspec.json.decode(body, type=_Body)
        except msgspec.DecodeError as error:
            raise FlashError(
                "flash_unknown_version",
                f"{name} was written by a release with another form: {error}.",
            ) from error

    def store(self, record: FlashRecord) -> None:
        """Write `record` as the next generation; it is on disk before this returns.

        Raises DeviceError `flash_write_failed`; the generation before stands then.
        """
        generation = self._generation + 1
        body = msgspec.json.encode(_Body(generation=generation, record=record))
        secret_id = _secret_id(self._secret)
        digest = _digest(secret_id, body)
        head = _HEAD.pack(_MAGIC, secret_id, len(body), digest, _seal(self._secret, digest))
        try:
            write_durably(self.slot(generation), head + body)
        except OSError as error:
            raise DeviceError(
                "flash_write_failed", f"The flash cannot be written: {error.strerror}."
            ) from error
        self._generation = generation
