"""What is on disk after a power cut at any instant, and what an ill disk leaves of the flash.

A disk keeps what was synced, and of the rest whatever it likes: nothing of it, half of it, or all;
a new name that was not synced in its directory stands or does not. The model follows the calls
that the flash makes to the system and builds every directory that a cut may leave.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from device_world import FakeClock

from callpool.device.errors import DeviceError, FlashError
from callpool.device.flash import Flash
from callpool.device.record import FlashRecord, Marked
from callpool.licensing.instant import HighWaterMark

SECRET = b"s" * 32
FIRST = FlashRecord(serial="S1", mark=Marked.of(HighWaterMark.first(FakeClock().now())))

Image = dict[str, bytes]


def record(number: int) -> FlashRecord:
    return msgspec.structs.replace(FIRST, local_key=f"{number}" * (10 + 300 * (number % 3)))


class Disk:
    """What may be on disk, followed call by call."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, *, syncs: bool) -> None:
        self.directory = directory
        #: Names and contents that are on disk for certain.
        self.durable: Image = {}
        #: Contents that were synced, by inode.
        self._synced: dict[int, bytes] = {}
        #: A name that was given and is not synced, with what may stand behind it.
        self.pending: tuple[str, list[bytes]] | None = None
        self.images: list[tuple[int, Image]] = []
        self.acknowledged = 0
        real_sync, real_replace = os.fsync, os.replace

        def sync(descriptor: int) -> None:
            real_sync(descriptor)
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            if not syncs:
                return
            if path.is_dir():
                if self.pending is not None:
                    name, contents = self.pending
                    self.durable[name], self.pending = contents[-1], None
            else:
                self._synced[os.fstat(descriptor).st_ino] = path.read_bytes()
            self.cut()

        def replace(old: str, new: Path) -> None:
            content, inode = Path(old).read_bytes(), os.stat(old).st_ino
            real_replace(old, new)
            kept = self._synced.get(inode)
            may = [kept] if kept == content and kept is not None else [b"", content[:50], content]
            self.pending = new.name, may
            self.cut()

        monkeypatch.setattr(os, "fsync", sync)
        monkeypatch.setattr(os, "replace", replace)

    def cut(self) -> None:
        """Note every directory that a power cut at this moment may leave."""
        self.images.append((self.acknowledged, dict(self.durable)))
        if self.pending is not None:
            name, contents = self.pending
            for content in contents:
                self.images.append((self.acknowledged, {**self.durable, name: content}))


def outcomes(tmp_path: Path, disk: Disk) -> Iterator[tuple[int, int | str]]:
    """Yield (what was acknowledged, what is read back) for every cut."""
    for number, (acknowledged, image) in enumerate(disk.images):
        left = tmp_path / f"cut-{number}"
        left.mkdir()
        for name, content in image.items():
            (left / name).write_bytes(content)
        try:
            read = Flash(left, SECRET).load()
        except FlashError as error:
            yield acknowledged, error.code
        else:
            yield acknowledged, next(n for n in range(20) if read == (record(n) if n else None))


def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, syncs: bool) -> Disk:
    directory = tmp_path / "flash"
    directory.mkdir()
    disk = Disk(directory, monkeypatch, syncs=syncs)
    flash = Flash(directory, SECRET)
    for number in range(1, 9):
        flash.store(record(number))
        disk.acknowledged = number
        disk.cut()
    monkeypatch.undo()
    return disk


def test_a_power_cut_at_any_instant_leaves_what_was_acknowledged_or_what_was_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = written(tmp_path, monkeypatch, syncs=True)
    assert len(disk.images) > 30
    for acknowledged, read in outcomes(tmp_path, disk):
        assert read in (acknowledged, acknowledged + 1)


def test_the_model_of_a_power_cut_finds_a_flash_that_does_not_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = written(tmp_path, monkeypatch, syncs=False)
    bad = [
        read for acknowledged, read in outcomes(tmp_path, disk) if read not in
        (acknowledged, acknowledged + 1)
    ]  # fmt: skip
    assert bad


def _fail_open(number: int) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize(
    ("where", "name"), [(tempfile, "mkstemp"), (os, "fsync"), (os, "replace"), (os, "fdopen")]
)
def test_an_ill_disk_is_named_and_what_was_written_before_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, where: Any, name: str
) -> None:
    flash = Flash(tmp_path, SECRET)
    flash.store(record(1))
    monkeypatch.setattr(where, name, _fail_open(number))
    with pytest.raises(DeviceError) as failed:
        flash.store(record(2))
    monkeypatch.undo()
    assert failed.value.code == "flash_write_failed"
    assert os.strerror(number) in failed.value.sentence
    assert Flash(tmp_path, SECRET).load() == record(1)
    # The disk is well again: the same generation is written, and nothing else is left.
    flash.store(record(2))
    assert Flash(tmp_path, SECRET).load() == record(2)
    assert sorted(f.name for f in tmp_path.iterdir()) == ["flash.0", "flash.1"]


def test_a_directory_that_cannot_be_synced_acknowledges_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flash = Flash(tmp_path, SECRET)
    flash.store(record(1))
    monkeypatch.setattr("callpool.host.files.sync_directory", _fail_open(errno.EIO))
    with pytest.raises(DeviceError, match="Input/output error"):
        flash.store(record(2))
    monkeypatch.undo()
    # The name may stand or not; either is whole, and the next write goes on from there.
    assert Flash(tmp_path, SECRET).load() in (record(1), record(2))
    flash.store(record(3))
    assert Flash(tmp_path, SECRET).load() == record(3)
