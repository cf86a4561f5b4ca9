"""Files by sftp and scp: the log where the field knows it, and nothing else."""

from __future__ import annotations

import os

import pexpect
from shellkit import LOG, Shell, eventually


def test_nothing_outside_the_tree_can_be_had(smart: Shell) -> None:
    root = smart.layout.root
    before = {p.name for p in root.iterdir()}
    listed = smart.sftp(f"pwd\nls -la /\nls -la {LOG.rpartition('/')[0]}\ncd /opt/CUSP\npwd")
    assert listed.returncode == 0
    assert "tech-support.txt" in listed.stdout
    assert "sml.log" in listed.stdout
    assert "secret" not in listed.stdout
    for path in (
        "/etc/passwd", "../../../../../../etc/passwd", f"{LOG}/../../../../../../etc/passwd",
        str(root / "secret"), "/opt/CUSP/dsnrs/log/../../../../secret", "/secret", "config.json",
        str(smart.layout.smart_log), "/proc/self/environ", "/opt/CUSP/dsnrs/log/config.json",
    ):  # fmt: skip
        for done in (smart.sftp(f'get "{path}" out'), smart.scp("-O", f"@{path}", "out")):
            assert done.returncode != 0, path
        assert not (smart.home / "out").exists(), path
    for batch in (
        f"put {smart.key} /x", f"put {smart.key} {LOG}", "mkdir /x", f"rm {LOG}", "rmdir /opt",
        f"rename {LOG} /x", f"ln -s /etc/passwd {LOG}.1", f"ln {LOG} /x", f"chmod 777 {LOG}",
        f"reput {smart.key} {LOG}",
    ):  # fmt: skip
        assert smart.sftp(batch).returncode != 0, batch
    assert smart.scp(str(smart.key), "@/opt/x").returncode != 0
    assert smart.scp("-O", str(smart.key), f"@{LOG}").returncode != 0
    assert {p.name for p in root.iterdir()} == before
    # Links planted in the place of the log's parts.
    (root / "sml.log.1").symlink_to(root / "config.json")
    os.link(root / "secret", root / "sml.log.2")
    os.mkfifo(root / "sml.log.3")
    (root / "sml.log.4").symlink_to("sml.log")
    try:
        listed = smart.sftp(f"ls {LOG.rpartition('/')[0]}")
        assert "sml.log.1" not in listed.stdout
        for number in range(1, 5):
            assert smart.sftp(f"get {LOG}.{number} out").returncode != 0
            assert not (smart.home / "out").exists()
        assert smart.run("show log sml tail 5000").stdout.count("argon2") == 0
    finally:
        for number in range(1, 5):
            (root / f"sml.log.{number}").unlink()


def test_a_transfer_goes_on_with_the_file_that_it_began_though_names_change(
    smart: Shell,
) -> None:
    log, root = smart.layout.smart_log, smart.layout.root
    kept = log.read_bytes()
    big = b"".join(b"%06d %s\n" % (n, b"x" * 90) for n in range(60_000))
    log.write_bytes(big)
    try:
        # Slowed down, so that the names change in the middle of it.
        child = pexpect.spawn(
            "sftp", [*smart.options(), "-l", "8000", "-P", str(smart.port), f"root@{smart.host}"],
            encoding="utf-8", timeout=120, cwd=str(smart.home),
        )  # fmt: skip
        child.expect("sftp> ")
        child.sendline(f"get {LOG} big")
        eventually(lambda: (smart.home / "big").exists() and (smart.home / "big").stat().st_size)
        log.replace(root / "sml.log.1")
        log.symlink_to(root / "config.json")
        child.expect("sftp> ")
        assert (smart.home / "big").read_bytes() == big
        child.sendline(f"get {LOG} link")
        child.expect("sftp> ")
        assert not (smart.home / "link").exists()
        child.close(force=True)
    finally:
        log.unlink()
        (root / "sml.log.1").unlink()
        log.write_bytes(kept)
