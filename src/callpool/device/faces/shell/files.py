"""What can be fetched by SFTP and scp: a tree of names that exists only here, read only.

No path of a client is ever joined to one of the device's: a name leads to one of the files below,
opened by the server itself, or nowhere. So there is nothing for `..`, links or races to work on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import posixpath
import stat
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import asyncssh

from callpool.device.faces.shell.logs import NAMES, open_plain
from callpool.device.faces.shell.visit import Visit
from callpool.licensing.errors import CallpoolError

#: Where the log lies, as the field knows it (seed 000), and the tech-support bundle.
LOG_DIRECTORY: Final = b"/opt/CUSP/dsnrs/log"
SUPPORT: Final = b"/tech-support.txt"
#: Files that one session may have open.
MAX_OPEN: Final = 16
#: The most that one read returns, in bytes.
MAX_READ: Final = 256 * 1024
#: Bytes that may wait for a client that does not read.
MAX_WAITING: Final = 1024 * 1024
#: Seconds for which one bundle is handed out.
_BUNDLE_FRESH: Final = 60.0

_LOGS: Final = {LOG_DIRECTORY + b"/" + name.encode(): name for name in NAMES}
_DIRECTORIES: Final = frozenset({b"/", b"/opt", b"/opt/CUSP", b"/opt/CUSP/dsnrs", LOG_DIRECTORY})

_FILE_MODE: Final = stat.S_IFREG | 0o440
_DIRECTORY_MODE: Final = stat.S_IFDIR | 0o550


def place(path: bytes) -> bytes:
    """Return where in the tree a client's path leads: lexically, for it holds no links."""
    return posixpath.normpath(b"/" + path.lstrip(b"/"))


class _Open:
    """One file that a client has open: the log as it is now, or bytes."""

    def __init__(self, descriptor: int = -1, content: bytes = b"") -> None:
        self.descriptor, self.content = descriptor, content

    def read(self, offset: int, size: int) -> bytes:
        if self.descriptor < 0:
            return self.content[offset : offset + size]
        return os.pread(self.descriptor, size, min(offset, 2**62))

    def attributes(self) -> asyncssh.SFTPAttrs:
        if self.descriptor < 0:
            return _file(len(self.content), time.time())
        found = os.fstat(self.descriptor)
        return _file(found.st_size, found.st_mtime)

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


class Files(asyncssh.SFTPServer):
    """The tree, for one session. Every request of the library's base class is answered here."""

    def __init__(
        self,
        channel: Any,
        *,
        root: Path,
        visit: Visit,
        permitted: Callable[[], Awaitable[bool]],
        bundle: Callable[[], Awaitable[bytes]],
    ) -> None:
        """Serve the device in `root`; `permitted` tells whether the user still may fetch files."""
        super().__init__(channel)
        self._root, self._visit = root, visit
        self._permitted, self._make_bundle = permitted, bundle
        self._open_files: set[_Open] = set()
        self._bundle = b""
        self._bundled_at = -_BUNDLE_FRESH

    # -- what can be asked for

    async def open(self, path: bytes, pflags: int, attrs: asyncssh.SFTPAttrs) -> object:
        """Open a file for reading."""
        if pflags & ~asyncssh.FXF_READ or not pflags:
            raise _read_only()
        return await self._open(path)

    async def open56(
        self, path: bytes, desired_access: int, flags: int, attrs: asyncssh.SFTPAttrs
    ) -> object:
        """Open a file for reading, in the later protocol's words."""
        reading = asyncssh.ACE4_READ_DATA | asyncssh.ACE4_READ_ATTRIBUTES
        if desired_access & ~reading or flags != asyncssh.FXF_OPEN_EXISTING:
            raise _read_only()
        return await self._open(path)

    async def _open(self, path: bytes) -> object:
        await self._check()
        if len(self._open_files) >= MAX_OPEN:
            raise asyncssh.SFTPFailure("Too many files are open.")
        found = place(path)
        if found in _DIRECTORIES:
            raise asyncssh.SFTPFileIsADirectory("This is a directory.")
        opened = await self._opened(found)
        self._open_files.add(opened)
        return opened

    async def _opened(self, found: bytes) -> _Open:
        if found == SUPPORT:
            return _Open(content=await self._support())
        name = _LOGS.get(found)
        if name is None:
            raise _nothing()
        try:
            return _Open(await asyncio.to_thread(open_plain, self._root, name))
        except OSError as error:
            raise _nothing() from error

    async def read(self, file_obj: object, offset: int, size: int) -> bytes:
        """Read of an open file, as fast as the client takes it."""
        assert isinstance(file_obj, _Open)
        self._visit.touch()
        # The library tells nobody when a channel has drained.
        while self.channel.get_write_buffer_size() > MAX_WAITING:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        return await asyncio.to_thread(file_obj.read, offset, min(size, MAX_READ))

    def close(self, file_obj: object) -> None:
        """Close an open file."""
        assert isinstance(file_obj, _Open)
        self._open_files.discard(file_obj)
        file_obj.close()

    def fstat(self, file_obj: object) -> asyncssh.SFTPAttrs:
        """Return the attributes of an open file."""
        assert isinstance(file_obj, _Open)
        return file_obj.attributes()

    async def stat(self, path: bytes) -> asyncssh.SFTPAttrs:
        """Return the attributes of what a path leads to."""
        await self._check()
        found = place(path)
        if found in _DIRECTORIES:
            return _directory()
        opened = await self._opened(found)
        try:
            return opened.attributes()
        finally:
            opened.close()

    async def lstat(self, path: bytes) -> asyncssh.SFTPAttrs:
        """Return the same: there are no links."""
        return await self.stat(path)

    async def scandir(self, path: bytes) -> AsyncIterator[asyncssh.SFTPName]:
        """List a directory."""
        await self._check()
        found = place(path)
        if found not in _DIRECTORIES:
            raise _nothing()
        yield asyncssh.SFTPName(b".", attrs=_directory())
        yield asyncssh.SFTPName(b"..", attrs=_directory())
        for other in sorted((*_DIRECTORIES, *_LOGS, SUPPORT)):
            if other == b"/" or posixpath.dirname(other) != found:
                continue
            try:
                attrs = await self.stat(other)
            except asyncssh.SFTPNoSuchFile:
                continue
            yield asyncssh.SFTPName(posixpath.basename(other), attrs=attrs)

    def realpath(self, path: bytes) -> bytes:
        """Return where a path leads."""
        return place(path)

    def exit(self) -> None:
        """Close what the client left open, and tell it that all went well: without an exit status
        OpenSSH's scp takes a whole file for a failure, now and then.
        """  # noqa: D205 - one sentence
        for file in self._open_files:
            file.close()
        self._open_files.clear()
        with contextlib.suppress(OSError):
            self.channel.exit(0)

    def format_user(self, uid: int | None) -> str:
        """Name no account of this machine."""
        return "callpool"

    def format_group(self, gid: int | None) -> str:
        """Name no group of this machine."""
        return "callpool"

    # -- what cannot

    def map_path(self, path: bytes) -> bytes:
        """Lead nowhere: no path of a client is one of this machine."""
        raise _nothing()

    def reverse_map_path(self, path: bytes) -> bytes:
        """Lead nowhere."""
        raise _nothing()

    def _refuse(self, *_: object, **__: object) -> Any:
        raise _read_only()

    write = setstat = lsetstat = fsetstat = remove = mkdir = rmdir = _refuse
    rename = posix_rename = symlink = link = lock = unlock = fsync = _refuse

    def readlink(self, path: bytes) -> bytes:
        """Return nothing: there are no links."""
        raise _nothing()

    def statvfs(self, path: bytes) -> Any:
        """Tell nothing of the machine's disks."""
        raise _read_only()

    def fstatvfs(self, file_obj: object) -> Any:
        """Tell nothing of the machine's disks."""
        raise _read_only()

    # -- rights, and the bundle

    async def _check(self) -> None:
        self._visit.touch()
        try:
            permitted = await self._permitted()
        except CallpoolError as error:
            raise asyncssh.SFTPFailure(error.sentence) from error
        if not permitted:
            raise asyncssh.SFTPPermissionDenied("This user may not fetch files any more.")

    async def _support(self) -> bytes:
        now = time.monotonic()
        if now - self._bundled_at >= _BUNDLE_FRESH:
            try:
                self._bundle, self._bundled_at = await self._make_bundle(), now
            except CallpoolError as error:
                raise asyncssh.SFTPFailure(error.sentence) from error
        return self._bundle


def _file(size: int, changed: float) -> asyncssh.SFTPAttrs:
    at = int(changed)
    return asyncssh.SFTPAttrs(
        type=asyncssh.FILEXFER_TYPE_REGULAR, size=size, uid=0, gid=0, permissions=_FILE_MODE,
        atime=at, mtime=at, nlink=1,
    )  # fmt: skip


def _directory() -> asyncssh.SFTPAttrs:
    return asyncssh.SFTPAttrs(
        type=asyncssh.FILEXFER_TYPE_DIRECTORY, size=0, uid=0, gid=0, permissions=_DIRECTORY_MODE,
        atime=0, mtime=0, nlink=1,
    )  # fmt: skip


def _nothing() -> asyncssh.SFTPNoSuchFile:
    return asyncssh.SFTPNoSuchFile("There is no such file.")


def _read_only() -> asyncssh.SFTPPermissionDenied:
    return asyncssh.SFTPPermissionDenied("Everything here is read only.")
