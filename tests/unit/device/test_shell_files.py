"""The tree of files: names that lead to our own files or nowhere."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncssh
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callpool.device.faces.shell.files import LOG_DIRECTORY, MAX_OPEN, MAX_READ, Files, place
from callpool.device.faces.shell.logs import follow, tail
from callpool.device.faces.shell.visit import Visit

LOG = LOG_DIRECTORY + b"/sml.log"


class Channel:
    def __init__(self) -> None:
        self.status: int | None = None

    def get_write_buffer_size(self) -> int:
        return 0

    def exit(self, status: int) -> None:
        self.status = status


class Tree:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.may = True
        self.made = 0
        visit = Visit("192.0.2.1", lambda _: None)
        self.files = Files(
            Channel(), root=root, visit=visit, permitted=self.permitted, bundle=self.bundle
        )

    async def permitted(self) -> bool:
        return self.may

    async def bundle(self) -> bytes:
        self.made += 1
        return b"bundle"

    async def read(self, path: bytes) -> bytes:
        opened = await self.files.open(path, asyncssh.FXF_READ, asyncssh.SFTPAttrs())
        try:
            return await self.files.read(opened, 0, 1 << 31)
        finally:
            self.files.close(opened)


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    (tmp_path / "device").mkdir()
    (tmp_path / "device" / "sml.log").write_bytes(b"a line\n")
    (tmp_path / "device" / "secret").write_bytes(b"SECRET")
    return Tree(tmp_path / "device")


async def names(tree: Tree, path: bytes) -> list[bytes | str]:
    return [n.filename async for n in tree.files.scandir(path)]


async def test_the_log_stands_where_the_field_knows_it(tree: Tree) -> None:
    assert await tree.read(b"/opt/CUSP/dsnrs/log/sml.log") == b"a line\n"
    assert await names(tree, b"/") == [b".", b"..", b"opt", b"tech-support.txt"]
    assert await names(tree, LOG_DIRECTORY) == [b".", b"..", b"sml.log"]
    (tree.root / "sml.log.3").write_bytes(b"older\n")
    assert await names(tree, LOG_DIRECTORY + b"/") == [b".", b"..", b"sml.log", b"sml.log.3"]
    assert (await tree.files.stat(LOG)).size == 7
    assert (await tree.files.stat(b"")).permissions == 0o40550


async def test_the_bundle_is_made_when_it_is_asked_for_and_once(tree: Tree) -> None:
    assert tree.made == 0
    assert (await tree.files.stat(b"/tech-support.txt")).size == 6
    assert await tree.read(b"tech-support.txt") == b"bundle"
    assert tree.made == 1


@pytest.mark.parametrize(
    "path",
    [
        b"/../../../etc/passwd", b"/etc/passwd", b"/opt/CUSP/dsnrs/log/../../../../../etc/passwd",
        b"/secret", b"/opt/CUSP/dsnrs/log/secret", b"/opt/CUSP/dsnrs/log/../log/../../secret",
        b"/opt/CUSP/dsnrs/log/sml.log/../../../../../../secret", b"device.json", b"flash/flash.0",
        b"/opt/CUSP/dsnrs/log/sml.log\0", b"/opt/CUSP/dsnrs/log/sml.log.5", b"~/secret",
        b"/opt/CUSP/dsnrs/log/SML.LOG", b"/proc/self/environ", b"//secret", b"\xff\xfe",
        b"/opt/CUSP/dsnrs/log/sml.log.1/../../../../../secret",
    ],
)  # fmt: skip
async def test_no_path_leads_outside_the_tree(tree: Tree, path: bytes) -> None:
    with pytest.raises(asyncssh.SFTPNoSuchFile):
        await tree.read(path)
    with pytest.raises(asyncssh.SFTPNoSuchFile):
        await tree.files.stat(path)
    with pytest.raises(asyncssh.SFTPNoSuchFile):
        await names(tree, path)


@given(st.lists(st.sampled_from([b"..", b".", b"", b"opt", b"CUSP", b"log", b"etc"]), max_size=12))
def test_every_path_has_its_place_under_the_root(parts: list[bytes]) -> None:
    found = place(b"/".join(parts))
    assert found.startswith(b"/")
    assert b".." not in found.split(b"/")
    assert place(found) == found


def symlink(root: Path) -> None:
    (root / "sml.log").symlink_to("secret")


def hard_link(root: Path) -> None:
    os.link(root / "secret", root / "sml.log")


def directory(root: Path) -> None:
    (root / "sml.log").mkdir()


def pipe(root: Path) -> None:
    os.mkfifo(root / "sml.log")


@pytest.mark.parametrize("plant", [symlink, hard_link, directory, pipe])
async def test_what_is_planted_in_the_place_of_the_log_is_no_file(
    tree: Tree, plant: Callable[[Path], None]
) -> None:
    (tree.root / "sml.log").unlink()
    plant(tree.root)
    with pytest.raises(asyncssh.SFTPNoSuchFile):
        await asyncio.wait_for(tree.read(LOG), 5.0)
    assert await names(tree, LOG_DIRECTORY) == [b".", b".."]
    assert tail(tree.root, 10) == []


async def test_a_log_that_is_swapped_for_a_link_during_a_transfer_is_read_on_as_it_was(
    tree: Tree,
) -> None:
    opened = await tree.files.open(LOG, asyncssh.FXF_READ, asyncssh.SFTPAttrs())
    (tree.root / "sml.log").unlink()
    symlink(tree.root)
    assert await tree.files.read(opened, 0, 100) == b"a line\n"
    assert tree.files.fstat(opened).size == 7
    tree.files.exit()


async def test_a_link_that_comes_and_goes_is_never_followed(tree: Tree) -> None:
    stop = asyncio.Event()
    log, other = tree.root / "sml.log", tree.root / "other"

    def swap() -> None:
        while not stop.is_set():
            other.symlink_to("secret")
            other.replace(log)
            other.write_bytes(b"a line\n")
            other.replace(log)

    swapping = asyncio.create_task(asyncio.to_thread(swap))
    seen = set()
    for _ in range(300):
        try:
            seen.add(await tree.read(LOG))
        except asyncssh.SFTPNoSuchFile:
            seen.add(b"")
    stop.set()
    await swapping
    assert seen == {b"a line\n", b""}


def test_every_request_that_the_library_knows_is_answered_here() -> None:
    inherited = {
        name
        for name, member in inspect.getmembers(asyncssh.SFTPServer, inspect.isfunction)
        if not name.startswith("_") and name not in vars(Files)
    }
    # Neither touches a file: one formats a line, the other turns one kind of value into another.
    assert inherited == {"format_longname", "convert_attrs"}


async def test_everything_is_read_only(tree: Tree) -> None:
    files: Any = tree.files
    attrs = asyncssh.SFTPAttrs()
    for flags in (asyncssh.FXF_WRITE, asyncssh.FXF_READ | asyncssh.FXF_WRITE, asyncssh.FXF_CREAT,
                  asyncssh.FXF_APPEND | asyncssh.FXF_READ, 0):  # fmt: skip
        with pytest.raises(asyncssh.SFTPPermissionDenied):
            await files.open(LOG, flags, attrs)
    with pytest.raises(asyncssh.SFTPPermissionDenied):
        await files.open56(LOG, asyncssh.ACE4_WRITE_DATA, asyncssh.FXF_OPEN_EXISTING, attrs)
    with pytest.raises(asyncssh.SFTPPermissionDenied):
        await files.open56(LOG, asyncssh.ACE4_READ_DATA, asyncssh.FXF_CREATE_NEW, attrs)
    for name, arguments in {
        "write": (None, 0, b"x"), "setstat": (LOG, attrs), "lsetstat": (LOG, attrs),
        "fsetstat": (None, attrs), "remove": (LOG,), "mkdir": (b"/x", attrs), "rmdir": (b"/opt",),
        "rename": (LOG, b"/x"), "posix_rename": (LOG, b"/x"), "symlink": (LOG, b"/x"),
        "link": (LOG, b"/x"), "fsync": (None,), "lock": (None, 0, 1, 0), "unlock": (None, 0, 1),
        "statvfs": (b"/",), "fstatvfs": (None,),
    }.items():  # fmt: skip
        with pytest.raises(asyncssh.SFTPPermissionDenied):
            getattr(files, name)(*arguments)
    for name in ("map_path", "reverse_map_path", "readlink"):
        with pytest.raises(asyncssh.SFTPNoSuchFile):
            getattr(files, name)(LOG)
    assert (tree.root / "sml.log").read_bytes() == b"a line\n"


async def test_who_is_moved_out_of_the_group_gets_nothing_more(tree: Tree) -> None:
    tree.may = False
    for asked in (tree.read(LOG), tree.files.stat(LOG), names(tree, b"/")):
        with pytest.raises(asyncssh.SFTPPermissionDenied):
            await asked


async def test_open_files_and_reads_are_bounded_and_closed_in_the_end(tree: Tree) -> None:
    with (tree.root / "sml.log").open("wb") as log:
        log.truncate(1 << 30)
    before = set(os.listdir("/proc/self/fd"))
    opened = [
        await tree.files.open(LOG, asyncssh.FXF_READ, asyncssh.SFTPAttrs()) for _ in range(MAX_OPEN)
    ]
    with pytest.raises(asyncssh.SFTPFailure):
        await tree.files.open(LOG, asyncssh.FXF_READ, asyncssh.SFTPAttrs())
    assert len(await tree.files.read(opened[0], 0, 1 << 31)) == MAX_READ
    assert await tree.files.read(opened[0], 1 << 63, 10) == b""
    tree.files.exit()
    assert set(os.listdir("/proc/self/fd")) == before


# -- the log's end


def test_a_tail_goes_back_into_older_parts(tree: Tree) -> None:
    (tree.root / "sml.log.1").write_text("one\ntwo\n")
    assert tail(tree.root, 2) == ["two", "a line"]
    assert tail(tree.root, 10) == ["one", "two", "a line"]
    assert tail(tree.root, 0) == []


async def test_following_misses_no_line_though_the_log_is_turned_over(tree: Tree) -> None:
    log = tree.root / "sml.log"
    seen: list[str] = []
    looked = asyncio.Event()

    async def watch() -> None:
        async for line in follow(tree.root):
            if line:
                seen.append(line)
            else:
                looked.set()

    watching = asyncio.create_task(watch())
    try:
        await asyncio.wait_for(looked.wait(), 10)
        with log.open("a") as out:
            out.write("new\nhal")
            out.flush()
            log.replace(tree.root / "sml.log.1")
            log.write_text("first of the next\n")
            out.write("f\n")
        async with asyncio.timeout(10):
            while len(seen) < 3:
                looked.clear()
                await looked.wait()
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
    assert seen == ["new", "half", "first of the next"]
